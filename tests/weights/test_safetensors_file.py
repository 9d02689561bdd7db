from __future__ import annotations

import errno
import os

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from vactk.errors import VactkError
from vactk.files import atomic
from vactk.files.atomic import atomic_path, write_text
from vactk.weights import safetensors_file
from vactk.weights.safetensors_file import (
    fingerprint,
    load_exactly,
    read_metadata,
    read_tensors,
    save_tensors,
)


def test_tensors_and_metadata_come_back(tmp_path):
    tensors = {"a": torch.randn(3, 2).T, "b": torch.arange(4)}
    save_tensors(tmp_path / "x.safetensors", tensors, {"classes": ["ü", "b"], "step": 3})
    assert read_metadata(tmp_path / "x.safetensors") == {"classes": ["ü", "b"], "step": 3}
    read = read_tensors(tmp_path / "x.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_a_failed_write_keeps_the_former_file_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "model.safetensors"
    save_tensors(path, {"a": torch.zeros(2)}, {})
    former = path.read_bytes()
    with pytest.raises(RuntimeError, match="half way"), atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        raise RuntimeError("half way")
    assert path.read_bytes() == former
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_full_disk_says_so_and_keeps_the_former_file(tmp_path, monkeypatch):
    path = tmp_path / "notes.txt"
    write_text(path, "old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic, "_flush", full)
    with pytest.raises(
        VactkError, match=r"cannot write '.*notes\.txt': No space left on device; free some space"
    ):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_while_tensors_are_written(tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors_file, "save_file", full)
    with pytest.raises(VactkError, match="No space left"):
        save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {})
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_ours_is_named(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(
        VactkError, match=r"plain\.safetensors' is a safetensors file but not a vactk checkpoint"
    ):
        read_metadata(tmp_path / "plain.safetensors")


@pytest.mark.parametrize("reader", [read_metadata, read_tensors])
def test_damaged_and_absent_files_are_named(tmp_path, reader):
    good = tmp_path / "good.safetensors"
    save_tensors(good, {"a": torch.randn(1000)}, {"step": 1})
    data = good.read_bytes()
    cases = {
        "truncated": data[:-100],
        "header_only": data[:20],
        "empty": b"",
        "text": b"not a safetensors file at all",
        "huge_header": (2**60).to_bytes(8, "little") + data[8:],
    }
    for name, content in cases.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(VactkError, match=rf"{name}\.safetensors' is damaged or not a safetensors file"):
            reader(path)
    with pytest.raises(VactkError, match="there is no file"):
        reader(tmp_path / "absent.safetensors")
    with pytest.raises(VactkError, match="is a folder"):
        reader(tmp_path)


def test_load_exactly_names_what_does_not_fit():
    module = nn.Linear(3, 2)
    with pytest.raises(VactkError, match=r"x does not fit the model; missing: bias; not in the model: extra"):
        load_exactly(
            module, {"weight": torch.zeros(2, 3), "extra": torch.zeros(1)}, may_lack=set(), source="x"
        )
    with pytest.raises(VactkError, match=r"other shape: weight \(3, 2\) instead of \(2, 3\)"):
        load_exactly(module, {"weight": torch.zeros(3, 2)}, may_lack={"bias"}, source="x")
    load_exactly(module, {"weight": torch.ones(2, 3)}, may_lack={"bias"}, source="x")
    assert torch.equal(module.weight, torch.ones(2, 3))


def test_fingerprints_tell_models_apart():
    one = {"a": torch.zeros(3), "b": torch.ones(2)}
    assert fingerprint(one) == fingerprint(dict(reversed(one.items())))
    assert fingerprint(one) != fingerprint({**one, "a": torch.tensor([0.0, 0.0, 1e-3])})
    assert fingerprint(one) != fingerprint({"c": one["a"], "b": one["b"]})
