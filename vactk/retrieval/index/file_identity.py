"""Files as an index knew them, and the way to open one only while it is still the same."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path
from typing import NamedTuple

from vactk.errors import VactkError

END_BYTES = 65_536  # of the start and of the end of a file, which tell it from another
NO_LINKS: int = getattr(os, "O_NOFOLLOW", 0)
READ_ONLY: int = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # no pipe keeps us


class FileState(NamedTuple):
    """Size and time of a file: they show that it has changed."""

    size: int  # bytes
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileState | None:
        """Return the state of a file; None where there is none."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_size, found.st_mtime_ns)


class FileIdentity(NamedTuple):
    """Proof that a file is the one that was indexed, even where another was made to look like it."""

    size: int = 0
    mtime_ns: int = 0
    is_link: bool = False  # a symbolic link, which may be followed again
    digest: str = ""  # of both ends; empty where the file is not known: no file is the same as that

    @classmethod
    def of(cls, path: Path, state: FileState) -> FileIdentity:
        """Return the identity of a file that was in this state when it was listed."""
        try:
            with io.FileIO(os.open(path, READ_ONLY)) as file:
                digest = _digest(file) if _is_in(file, state) else ""
                return cls(*state, path.is_symlink(), digest)
        except OSError:
            return cls(*state)


UNKNOWN = FileIdentity()


class StaleError(VactkError):
    """A file that is no longer what was indexed."""


def open_same(path: Path, known: FileIdentity) -> io.FileIO:
    """Open a file, once, if it is still the one that was indexed.

    Raises StaleError where it is gone, has changed, or has become a symbolic link.
    """
    changed = StaleError(f"'{path.name}' has changed since it was indexed: add its folder again to see it")
    try:
        file = io.FileIO(os.open(path, READ_ONLY | (0 if known.is_link else NO_LINKS)))
    except PermissionError as error:
        raise StaleError(f"'{path.name}' may no longer be read") from error
    except OSError as error:
        if path.is_symlink():
            raise changed from error
        raise StaleError(f"'{path.name}' is no longer on disk") from error
    try:
        if not _is_in(file, FileState(known.size, known.mtime_ns)) or _digest(file) != known.digest:
            raise changed
        file.seek(0)
    except BaseException as error:
        file.close()
        if isinstance(error, OSError):
            raise changed from error
        raise
    return file


def _is_in(file: io.FileIO, state: FileState) -> bool:
    found = os.fstat(file.fileno())
    return stat.S_ISREG(found.st_mode) and FileState(found.st_size, found.st_mtime_ns) == state


def _digest(file: io.FileIO) -> str:
    size = os.fstat(file.fileno()).st_size
    digest = hashlib.sha256()
    for start in (0, max(0, size - END_BYTES)):
        file.seek(start)
        digest.update(file.read(END_BYTES))
    return digest.hexdigest()
