"""Provenance of a run: what it takes to repeat it, and to see why another machine's run differs."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import vactk
from vactk.distributed import Accelerator
from vactk.evaluate.versions import versions
from vactk.train.recipe import Recipe

GIT_S = 10.0  # timeout of git: a repository on a sleeping network disk must not hold up the run


def describe_run(recipe: Recipe, accelerator: Accelerator, *, from_step: int) -> dict[str, Any]:
    """Describe one segment of a run for run.json: from its start, or from where it was resumed."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "from_step": from_step,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "folder": str(Path.cwd()),
        "seed": recipe.run.seed,
        "deterministic": recipe.run.deterministic,
        "processes": accelerator.num_processes,
        "distributed": str(accelerator.distributed_type).rpartition(".")[2],
        "device": accelerator.device.type,
        "precision": accelerator.mixed_precision,
        "versions": versions(),
        "git": git_state(Path(vactk.__file__).parent),
        "machine": machine(),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit of the repository at `folder`, and whether files differ from it; None without one."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(changed)}


def machine() -> dict[str, Any]:
    """Describe the machine of this process."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def _git(folder: Path, *args: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *args], capture_output=True, text=True, check=True, timeout=GIT_S
    )
    return done.stdout.strip()
