"""Unpacking archives: whole or not at all, and never outside of the target folder."""

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
# Python's own check, where it has one, comes after ours.
TAR_FILTER: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
VOLUME = re.compile(r"(?P<stem>.+)-(?P<number>\d\d)")  # of a split tar, such as Something-Something's
RAR_PROGRAMS = "unrar, unar, 7z, bsdtar"  # any of these that rarfile finds


def find_archives(folder: Path) -> list[tuple[Path, ...]]:
    """Return the archives in a folder, each as the tuple of its volumes, in order."""
    single: list[tuple[Path, ...]] = []
    volumes: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        volume = VOLUME.fullmatch(path.name)
        if path.is_file() and path.name.lower().endswith((".zip", ".rar", *TAR_SUFFIXES)):
            single.append((path,))
        elif path.is_file() and volume:
            volumes.setdefault(volume["stem"], []).append(path)
    return single + [tuple(found) for found in volumes.values()]


def archive_name(archive: Sequence[Path]) -> str:
    """Return the name of the folder that an archive is unpacked to."""
    name = archive[0].name
    volume = VOLUME.fullmatch(name)
    if volume and not name.lower().endswith((".zip", ".rar", *TAR_SUFFIXES)):
        return volume["stem"]
    for suffix in (".tar.gz", ".tar.bz2", ".tar.xz"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(name).stem


def unpack(archive: Sequence[Path], target: Path) -> None:
    """Unpack an archive, and the archives in it, to the folder `target`, unless that exists.

    Raises VactkError, with nothing left behind, for a damaged archive, for one with links or with paths that lead
    out of the folder, when the disk is too small, and for a RAR that no installed program can read.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as name:
        content = Path(name) / "content"
        content.mkdir()
        _unpack_one(archive, content)
        for inner in [path for path in content.rglob("*") if path.suffix.lower() in (".rar", ".zip")]:
            inside = inner.with_suffix("")
            inside.mkdir(exist_ok=True)
            _unpack_one((inner,), inside)
            inner.unlink()
        content.rename(target)


def _unpack_one(archive: Sequence[Path], folder: Path) -> None:
    path = archive[0]
    unpacker = _unpack_tar
    if path.suffix.lower() in (".zip", ".rar"):
        unpacker = {".zip": _unpack_zip, ".rar": _unpack_rar}[path.suffix.lower()]
    try:
        unpacker(archive, folder)
    except (zipfile.BadZipFile, tarfile.TarError, rarfile.Error, EOFError, OSError) as error:
        raise VactkError(f"cannot unpack '{path}': {error or 'it is truncated'}; fetch it again") from error


def _unpack_zip(archive: Sequence[Path], folder: Path) -> None:
    with zipfile.ZipFile(archive[0]) as file:
        _check_names(archive[0], (info.filename for info in file.infolist()))
        for info in file.infolist():
            if info.external_attr >> 28 == 0xA:
                raise _refused(archive[0], info.filename, "is a link")
        _check_room(archive[0], folder, sum(info.file_size for info in file.infolist()))
        file.extractall(folder)


def _unpack_tar(archive: Sequence[Path], folder: Path) -> None:
    """Unpack a tar as a stream, its volumes one after another."""
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in archive]
        with tarfile.open(fileobj=cast(IO[bytes], _Joined(files)), mode="r|*") as tar:
            for member in tar:
                _check_names(archive[0], [member.name])
                if not (member.isfile() or member.isdir()):
                    raise _refused(archive[0], member.name, "is neither a file nor a folder")
                tar.extract(member, folder, set_attrs=False, **TAR_FILTER)


def _unpack_rar(archive: Sequence[Path], folder: Path) -> None:
    """Check names and links in the headers, then extract; compressed files need an installed program."""
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
            raise _refused(archive, name, "would be written outside of the target folder")


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
    """Reads several files as if they were one."""

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
