"""The user's configuration and cache folders."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def config_path() -> Path:
    """The user's configuration file: VACTK_CONFIG, else config.yaml in the system's usual place."""
    if "VACTK_CONFIG" in os.environ:
        return Path(os.environ["VACTK_CONFIG"]).expanduser()
    if os.name == "nt":
        return Path(os.environ.get("APPDATA", Path.home() / "AppData" / "Roaming")) / "vactk" / "config.yaml"
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base else Path.home() / ".config") / "vactk" / "config.yaml"


def cache_folder() -> Path:
    """Where vactk keeps what it can make again."""
    if "VACTK_CACHE" in os.environ:
        return Path(os.environ["VACTK_CACHE"]).expanduser()
    if "XDG_CACHE_HOME" in os.environ:
        return Path(os.environ["XDG_CACHE_HOME"]) / "vactk"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "vactk"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "vactk"
    return Path.home() / ".cache" / "vactk"
