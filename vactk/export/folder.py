"""A folder that is either there whole or not there."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from vactk.errors import VactkError
from vactk.weights.atomic import atomic_path


def refuse_existing(path: Path) -> None:
    """Raises VactkError where `path` is a file, or a folder that holds something."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        kind = "is a folder with files in it" if path.is_dir() else "is a file"
        raise VactkError(f"--output '{path}' {kind}; choose another, or delete it first")


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` to write to; on leaving it takes `path`'s place. On failure nothing stays.

    Raises VactkError as `refuse_existing` and `atomic_path` do.
    """
    refuse_existing(path)
    with atomic_path(path) as temporary:
        try:
            temporary.mkdir()
            yield temporary
            for file in sorted(temporary.rglob("*")):
                _flush(file)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _flush(file: Path) -> None:
    if file.is_file():
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
