"""The user's configuration and cache folders."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def config_path() -> Path:
    """Return the path of the user's configuration file: VACTK_CONFIG, else config.yaml in the system's folder."""
    if "VACTK_CONFIG" in os.environ:
        return Path(os.environ["VACTK_CONFIG"]).expanduser()
    return platformdirs.user_config_path("vactk", appauthor=False, roaming=True) / "config.yaml"


def cache_folder() -> Path:
    """Return the folder for files that can be made again: VACTK_CACHE, else the system's cache folder."""
    if "VACTK_CACHE" in os.environ:
        return Path(os.environ["VACTK_CACHE"]).expanduser()
    return platformdirs.user_cache_path("vactk", appauthor=False, opinion=False)
