"""Atomic writes: under a temporary name, flushed to disk, renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vactk.errors import VactkError

TEMPORARY = r"\.([0-9a-f]{6})-(\d+)\.[0-9a-f]{8}\.tmp"  # ends the names of unfinished files: host, process
_LEFTOVER = re.compile(rf"\..+{TEMPORARY}")


@contextlib.contextmanager
def atomic_path(path: Path, option: str = "--output") -> Iterator[Path]:
    """Yield a temporary path to write to; on leaving, it is flushed to disk and replaces `path`.

    On any error `path` keeps its content and the temporary file is removed. Raises VactkError, which names the
    command-line `option` that chose the path, when the disk is full or the folder is not writable.
    """
    temporary = path.with_name(f".{path.name}.{_host()}-{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise VactkError(
            f"cannot write '{path}': {error.strerror or error}; {_way_out(error, option)}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8. Raises VactkError as `atomic_path` does."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Write `value` to `path` atomically, as JSON. Raises VactkError as `atomic_path` does."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files in `folder` that killed processes of this machine left."""
    for path in folder.glob(".*.tmp"):
        found = _LEFTOVER.fullmatch(path.name)
        if found and found.group(1) == _host() and not _is_alive(int(found.group(2))):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _host() -> str:
    return hashlib.blake2b(socket.gethostname().encode(), digest_size=3).hexdigest()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open folders; its rename is journaled
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _way_out(error: OSError, option: str) -> str:
    if isinstance(error, PermissionError):
        return f"choose a folder that you may write to with {option}"
    return f"free some space or choose another {option}; files written earlier are intact"


def refuse_existing(path: Path) -> None:
    """Raise VactkError if `path` is a file, or a folder that is not empty."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        kind = "is a folder with files in it" if path.is_dir() else "is a file"
        raise VactkError(f"--output '{path}' {kind}; choose another, or delete it first")


def refuse_unwritable(outputs: Mapping[str, Path | None]) -> None:
    """Raise VactkError, before long work, for a path that cannot be written, by the option that names it."""
    for option, path in outputs.items():
        if path is None:
            continue
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir():
            raise VactkError(f"{option} '{path}' is inside of '{folder}', which is a file: choose a folder")
        if not os.access(folder, os.W_OK):
            raise VactkError(f"{option} '{path}' cannot be written: choose a folder that you may write to")


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to write to; on leaving, it becomes `path`. On failure nothing is left.

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
