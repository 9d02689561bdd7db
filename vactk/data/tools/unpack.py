"""Unpacks archives: whole or not at all, and nothing outside the folder that they are unpacked to."""

from __future__ import annotations

import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, cast

import rarfile

from vactk.errors import VactkError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# Python's own check, where it has one; ours comes before it.
TAR_FILTER: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
PART = re.compile(r"(?P<stem>.+)-(?P<number>\d\d)")  # of a tar that was cut up: Something-Something's
RAR_PROGRAMS = "unrar, unar, 7z, bsdtar"  # any of these that rarfile finds


def find_archives(folder: Path) -> list[tuple[Path, ...]]:
    """Archives in a folder, each as its file or the parts that it was cut into, in order."""
    whole: list[tuple[Path, ...]] = []
    parts: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        part = PART.fullmatch(path.name)
        if path.is_file() and path.name.lower().endswith((".zip", ".rar", *TAR_SUFFIXES)):
            whole.append((path,))
        elif path.is_file() and part:
            parts.setdefault(part["stem"], []).append(path)
    return whole + [tuple(found) for found in parts.values()]


def archive_name(archive: Sequence[Path]) -> str:
    """The name of the folder that an archive is unpacked to."""
    name = archive[0].name
    part = PART.fullmatch(name)
    if part and len(archive) >= 1 and not name.lower().endswith((".zip", ".rar", *TAR_SUFFIXES)):
        return part["stem"]
    for suffix in (".tar.gz", ".tar.bz2", ".tar.xz"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(name).stem


def unpack(archive: Sequence[Path], target: Path) -> None:
    """Unpack an archive, and the archives in it, so that `target` holds its content. Nothing if it is there.

    Raises VactkError, with nothing left behind, for a damaged archive, one with paths out of its folder or
    links, and where no program for its kind is installed.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as name:
        made = Path(name) / "content"
        made.mkdir()
        _unpack_one(archive, made)
        for inner in [path for path in made.rglob("*") if path.suffix.lower() in (".rar", ".zip")]:
            inside = inner.with_suffix("")
            inside.mkdir(exist_ok=True)
            _unpack_one((inner,), inside)
            inner.unlink()
        made.rename(target)


def _unpack_one(archive: Sequence[Path], folder: Path) -> None:
    path = archive[0]
    unpacker = _unpack_tar
    if path.suffix.lower() in (".zip", ".rar"):
        unpacker = {".zip": _unpack_zip, ".rar": _unpack_rar}[path.suffix.lower()]
    try:
        unpacker(archive, folder)
    except (zipfile.BadZipFile, tarfile.TarError, rarfile.Error, EOFError, OSError) as error:
        raise VactkError(f"cannot unpack '{path}': {error or 'it is cut short'}; fetch it again") from error


def _unpack_zip(archive: Sequence[Path], folder: Path) -> None:
    with zipfile.ZipFile(archive[0]) as file:
        _check_names(archive[0], (info.filename for info in file.infolist()))
        for info in file.infolist():
            if info.external_attr >> 28 == 0xA:
                raise _refused(archive[0], info.filename, "is a link")
        _check_room(archive[0], folder, sum(info.file_size for info in file.infolist()))
        file.extractall(folder)


def _unpack_tar(archive: Sequence[Path], folder: Path) -> None:
    """Read as a stream: parts come one after another, and no list of names is made first."""
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in archive]
        with tarfile.open(fileobj=cast(IO[bytes], _Joined(files)), mode="r|*") as tar:
            for member in tar:
                _check_names(archive[0], [member.name])
                if not (member.isfile() or member.isdir()):
                    raise _refused(archive[0], member.name, "is neither a file nor a folder")
                tar.extract(member, folder, set_attrs=False, **TAR_FILTER)


def _unpack_rar(archive: Sequence[Path], folder: Path) -> None:
    """Names and links are checked from the headers; compressed files are decoded by an installed program."""
    path = archive[0]
    with rarfile.RarFile(path, errors="strict") as file:
        _check_names(path, (info.filename for info in file.infolist()))
        for info in file.infolist():
            if not (info.is_file() or info.is_dir()):
                raise _refused(path, info.filename, "is a link")
        _check_room(path, folder, sum(info.file_size or 0 for info in file.infolist()))
        try:
            file.extractall(folder)
        except rarfile.RarCannotExec as error:
            raise VactkError(
                f"'{path}' is a RAR archive, which needs a program to unpack: install one of {RAR_PROGRAMS}, "
                "or unpack it yourself and run this again"
            ) from error


def _check_names(archive: Path, names: Iterable[str]) -> None:
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if ".." in parts or name.startswith(("/", "\\")) or PureWindowsPath(name).drive:
            raise _refused(archive, name, "would be written outside of its folder")


def _check_room(archive: Path, folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise VactkError(
            f"'{archive}' unpacks to {size / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free in "
            f"'{folder.parent}'"
        )


def _refused(archive: Path, name: str, why: str) -> VactkError:
    return VactkError(f"'{archive}' is refused: its entry '{name}' {why}")


class _Joined:
    """Files read one after another as if they were one."""

    def __init__(self, files: Sequence[IO[bytes]]) -> None:
        self._files = list(files)

    def read(self, size: int) -> bytes:
        data = b""
        while self._files and len(data) < size:
            more = self._files[0].read(size - len(data))
            data += more
            if not more:
                self._files.pop(0)
        return data
