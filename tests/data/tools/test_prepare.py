from __future__ import annotations

import io
import json
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
import rarfile

from tests.data import trees
from vactk.data.benchmarks import BENCHMARKS
from vactk.data.datasets import find_dataset
from vactk.data.file_tree import INDEX_NAME
from vactk.data.tools import unpack as unpacking
from vactk.data.tools.prepare import RECORDS_NAME, inspect_benchmark, prepare
from vactk.data.tools.unpack import archive_name, find_archives, unpack
from vactk.errors import VactkError


def zip_tree(source: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for found in sorted(source.rglob("*")):
            file.write(found, found.relative_to(source))
    return path


def tar_tree(source: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for found in sorted(source.iterdir()):
            file.add(found, found.name)
    return path


def test_a_benchmark_is_made_ready_from_its_archives(tmp_path):
    made = trees.hmdb51(tmp_path / "made")
    root = tmp_path / "hmdb51"
    root.mkdir()
    tar_tree(made / "videos", root / "hmdb51_org.tar.gz")
    zip_tree(made / "testTrainMulti_7030_splits", root / "test_train_splits.zip")
    state = prepare(BENCHMARKS["hmdb51"], root)
    assert set(state.unpacked) == {"hmdb51_org.tar.gz", "test_train_splits.zip"}
    assert (state.num_files, state.num_classes, state.complete) == (12, 3, False)
    assert vars(state.splits["test1"]) == {"listed": 3, "on_disk": 3, "published": 1530}
    assert prepare(BENCHMARKS["hmdb51"], root).unpacked == ()
    assert len(find_dataset("hmdb51").load("train1", root=root).records) == 6


def test_what_is_unpacked_already_is_not_unpacked_again(tmp_path):
    root = trees.hmdb51(tmp_path / "hmdb51")
    tar_tree(root / "videos", root / "hmdb51_org.tar.gz")
    assert prepare(BENCHMARKS["hmdb51"], root).unpacked == ()
    sorted((root / "videos/kick").iterdir())[0].unlink()
    assert prepare(BENCHMARKS["hmdb51"], root).unpacked == ("hmdb51_org.tar.gz",)


def test_the_record_file_is_a_dataset_and_the_index_saves_walking(tmp_path, monkeypatch):
    root = trees.hmdb51(tmp_path)
    prepare(BENCHMARKS["hmdb51"], root)
    records = find_dataset(str(root / RECORDS_NAME)).load("test1")
    official = BENCHMARKS["hmdb51"].load("test1", root=root)
    assert {(r.video, records.classes[r.label]) for r in records.records} == {
        (r.video, official.classes[r.label]) for r in official.records
    }
    monkeypatch.setattr("vactk.data.file_tree._walk", lambda root: pytest.fail("walked"))
    assert BENCHMARKS["hmdb51"].load("test1", root=root) == official


def test_files_that_came_after_the_index_are_found(tmp_path):
    root = trees.hmdb51(tmp_path)
    late = sorted((root / "videos/kick").iterdir())[2]
    late.rename(tmp_path / "elsewhere")
    prepare(BENCHMARKS["hmdb51"], root)
    (tmp_path / "elsewhere").rename(late)
    assert not BENCHMARKS["hmdb51"].load("test1", root=root).missing
    (root / INDEX_NAME).write_text("{damaged")
    assert not BENCHMARKS["hmdb51"].load("test1", root=root).missing


def test_retrieval_records_keep_their_captions(tmp_path):
    root = trees.msrvtt(tmp_path)
    prepare(BENCHMARKS["msrvtt"], root)
    lines = [json.loads(line) for line in (root / RECORDS_NAME).read_text().splitlines()]
    assert {"video": "videos/all/video3.mp4", "captions": ["a dog, running"], "split": "test1k"} in lines


def test_what_is_there_and_what_is_not(tmp_path):
    root = trees.ucf101(tmp_path / "ucf")
    sorted((root / "UCF-101/YoYo").iterdir())[0].unlink()
    state = inspect_benchmark(BENCHMARKS["ucf101"], root)
    assert (state.splits["test1"].on_disk, state.splits["test1"].listed) == (2, 3)
    with pytest.raises(
        VactkError, match=r"ucf101 was not found: looked in .*: no such folder. Fetch UCF101.rar"
    ):
        prepare(BENCHMARKS["ucf101"], tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        VactkError, match=r"no annotation files of ucf101. Fetch UCF101.rar; UCF101Train.*zip from"
    ):
        prepare(BENCHMARKS["ucf101"], tmp_path / "empty")


def test_parts_of_a_tar_are_joined(tmp_path):
    made = trees.ssv2(tmp_path / "made")
    whole = tar_tree(made / "videos", tmp_path / "whole").read_bytes()
    root = tmp_path / "ssv2"
    root.mkdir()
    for number in range(3):
        part = whole[number * len(whole) // 3 : (number + 1) * len(whole) // 3]
        (root / f"20bn-something-something-v2-{number:02d}").write_bytes(part)
    (archive,) = find_archives(root)
    assert [len(archive), archive_name(archive)] == [3, "20bn-something-something-v2"]
    unpack(archive, root / archive_name(archive))
    assert sorted(p.name for p in (root / "20bn-something-something-v2").iterdir()) == [
        "6.mp4",
        "7.webm",
        "8.mp4",
        "9.webm",
    ]


def test_archives_within_archives_are_unpacked(tmp_path):
    made = trees.hmdb51(tmp_path / "made")
    outer = tmp_path / "outer"
    outer.mkdir()
    for label in ("kick", "kick_ball"):
        zip_tree(made / "videos" / label, outer / f"{label}.zip")
    unpack((zip_tree(outer, tmp_path / "hmdb51_org.zip"),), tmp_path / "out")
    assert len(list((tmp_path / "out/kick_ball").iterdir())) == 4
    assert not list((tmp_path / "out").glob("*.zip"))


def test_msrvtts_zips_are_unpacked_as_they_are_downloaded(tmp_path):
    common, official = tmp_path / "common", tmp_path / "official"
    common.mkdir()
    zip_tree(trees.msrvtt_archive(tmp_path / "made/MSRVTT").parent, common / "MSRVTT.zip")
    state = prepare(BENCHMARKS["msrvtt"], common)
    assert {
        name: (s.listed, s.on_disk) for name, s in state.splits.items() if "1k" in name or "9k" in name
    } == {
        "test1k": (1, 1),
        "train9k": (3, 3),
    }
    whole = trees.msrvtt(tmp_path / "whole")
    content = json.loads((whole / "MSRVTT_data.json").read_text())
    for name, splits, folder in (
        ("train_val", ("train", "validate"), "TrainValVideo"),
        ("test", ("test",), "TestVideo"),
    ):
        videos = [video for video in content["videos"] if video["split"] in splits]
        ids = {video["video_id"] for video in videos}
        sentences = [sentence for sentence in content["sentences"] if sentence["video_id"] in ids]
        info, files = tmp_path / name / "info", tmp_path / name / "files"
        (files / folder).mkdir(parents=True)
        info.mkdir()
        (info / f"{name}_videodatainfo.json").write_text(
            json.dumps({"videos": videos, "sentences": sentences})
        )
        for video in ids:
            trees.touch(files / folder / f"{video}.mp4")
        official.mkdir(exist_ok=True)
        zip_tree(
            info,
            official
            / ("train_val_annotation.zip" if name == "train_val" else f"{name}_videodatainfo.json.zip"),
        )
        zip_tree(files, official / f"{name}_videos.zip")
    state = prepare(BENCHMARKS["msrvtt"], official)
    assert {name: (split.listed, split.on_disk) for name, split in state.splits.items()} == {
        "train": (2, 2),
        "val": (1, 1),
        "test": (1, 1),
        "full": (4, 4),
    }


def evil_zip(path: Path, name: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("good.txt", "x")
        file.writestr(name, "x")
    return path


def evil_tar(path: Path, name: str, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w") as file:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, "/etc/passwd" if kind == tarfile.SYMTYPE else "", 1
        file.addfile(member, io.BytesIO(b"x"))
    return path


@pytest.mark.parametrize(
    "name", ["../evil.txt", "a/../../evil.txt", "/evil.txt", "..\\evil.txt", "C:\\evil.txt"]
)
@pytest.mark.parametrize("make", [evil_zip, evil_tar])
def test_paths_out_of_the_folder_are_refused_and_nothing_is_left(tmp_path, make, name):
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)
    archive = make(folder / ("a.zip" if make is evil_zip else "a.tar"), name)
    if make is evil_zip and "\\" in name and os.sep == "/":
        assert name in zipfile.ZipFile(archive).namelist()
    with pytest.raises(
        VactkError, match=r"is refused: its entry .* would be written outside of the target folder"
    ):
        unpack((archive,), folder / "out")
    assert [path.name for path in folder.iterdir()] == [archive.name]
    assert not list(tmp_path.rglob("evil*"))


def test_links_in_archives_are_refused(tmp_path):
    with pytest.raises(VactkError, match="its entry 'link' is neither a file nor a folder"):
        unpack((evil_tar(tmp_path / "a.tar", "link", tarfile.SYMTYPE),), tmp_path / "out")
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    with pytest.raises(VactkError, match="its entry 'link' is a link"):
        unpack((tmp_path / "a.zip",), tmp_path / "out")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_damaged_archives_are_named(tmp_path, name):
    made = trees.hmdb51(tmp_path / "made")
    path = (zip_tree if name == "a.zip" else tar_tree)(made, tmp_path / name)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(VactkError, match=rf"cannot unpack '.*{name}': .*; fetch it again"):
        unpack((path,), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    path = evil_zip(tmp_path / "a.zip", "b")
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1}))
    with pytest.raises(VactkError, match=r"unpacks to 0.0 GB, but only 0.0 GB are free"):
        unpack((path,), tmp_path / "out")


def write_rar(path: Path, content: dict[str, bytes], *, method: int = 0x30, mode: int = 0o100644) -> Path:
    """A RAR 3 archive of files that are stored as they are; another `method` says that they are compressed."""

    def block(kind: int, flags: int, rest: bytes) -> bytes:
        header = struct.pack("<BHH", kind, flags, 7 + len(rest)) + rest
        return struct.pack("<H", zlib.crc32(header) & 0xFFFF) + header

    archive = b"Rar!\x1a\x07\x00" + block(0x73, 0, bytes(6))
    for name, data in content.items():
        coded, size = name.encode(), len(data)
        fields = (size, size, 3, zlib.crc32(data), 0, 29, method, len(coded), mode)
        archive += block(0x74, 0x8000, struct.pack("<LLBLLBBHL", *fields) + coded) + data
    path.write_bytes(archive + block(0x7B, 0x4000, b""))
    return path


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder of programs, the only ones that are found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(rarfile, "CURRENT_SETUP", None)  # which program was found before
    return folder


def test_stored_rar_needs_no_program(tmp_path, programs):
    made = {"x/1.avi": b"one", "x/2.avi": b"two"}
    unpack((write_rar(tmp_path / "a.rar", made),), tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in made} == made


def test_rar_inside_another_archive_is_unpacked_too(tmp_path, programs):
    inner = write_rar(tmp_path / "kick.rar", {"1.avi": b"one"}).read_bytes()
    unpack((write_rar(tmp_path / "hmdb51_org.rar", {"kick.rar": inner}),), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["kick", "1.avi"]


@pytest.mark.parametrize("name", ["../1.avi", "x/../../1.avi", "/1.avi", "..\\1.avi", "C:/1.avi"])
def test_rar_with_paths_outside_of_its_folder_is_refused(tmp_path, programs, name):
    with pytest.raises(VactkError, match=r"a.rar' is refused: its entry '.*1.avi' would be written outside"):
        unpack((write_rar(tmp_path / "a.rar", {"good": b"", name: b"one"}),), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"a.rar", "bin"}


def test_rar_with_a_link_is_refused(tmp_path, programs):
    path = write_rar(tmp_path / "a.rar", {"link": b"/etc/passwd"}, mode=0o120777)
    with pytest.raises(VactkError, match="its entry 'link' is a link"):
        unpack((path,), tmp_path / "out")


@pytest.mark.parametrize("damage", [lambda data: data[:40], lambda data: data.replace(b"one", b"ono")])
def test_damaged_rar_is_named(tmp_path, programs, damage):
    path = write_rar(tmp_path / "a.rar", {"1.avi": b"one"})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(VactkError, match=r"cannot unpack '.*a.rar': .*; fetch it again"):
        unpack((path,), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_compressed_rar_needs_a_program_and_names_those_that_will_do(tmp_path, programs):
    path = write_rar(tmp_path / "a.rar", {"1.avi": b"one"}, method=0x33)
    with pytest.raises(
        VactkError, match=r"a.rar' is a RAR archive, .* install one of unrar, unar, 7z, bsdtar, or"
    ):
        unpack((path,), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_compressed_rar_is_decoded_by_the_program_that_is_there(tmp_path, programs):
    path = write_rar(tmp_path / "a.rar", {"x/1.avi": b"one"}, method=0x33)
    program = programs / "unrar"
    program.write_text('#!/bin/sh\n[ "$1" = p ] && printf one || exit 0\n')
    program.chmod(0o755)
    unpack((path,), tmp_path / "out")
    assert (tmp_path / "out/x/1.avi").read_bytes() == b"one"
    program.write_text('#!/bin/sh\n[ "$1" = p ] && exit 3 || exit 0\n')
    with pytest.raises(VactkError, match=r"cannot unpack '.*a.rar': .*; fetch it again"):
        unpack((path,), tmp_path / "other")
