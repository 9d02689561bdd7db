"""Files that are either there whole or not there: written under a temporary name, flushed, renamed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

from vactk.errors import VactkError

TEMPORARY = r"\.([0-9a-f]{6})-(\d+)\.[0-9a-f]{8}\.tmp"  # ends the names of unfinished files: host, process
_LEFTOVER = re.compile(rf"\..+{TEMPORARY}")


@contextlib.contextmanager
def atomic_path(path: Path, option: str = "--output") -> Iterator[Path]:
    """A temporary path beside `path` to write to; on leaving it is flushed to disk and takes `path`'s place.

    Whatever goes wrong, `path` keeps its former content and the temporary file goes. Raises VactkError, with
    the way out, when the disk is full or the folder cannot be written; `option` is what chose the path.
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
    """`text` into `path`, atomically. Raises VactkError as `atomic_path` does."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files in `folder` of processes of this machine that were killed while they wrote."""
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
