from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vactk.errors import VactkError
from vactk.files.hashing import sha256
from vactk.weights import streaming
from vactk.weights.streaming import (
    DictTensors,
    FileTensors,
    LayeredTensors,
    TensorEntry,
    row_ranges,
    write_tensors,
)

TENSORS = {
    "scalar": torch.tensor(3.5),
    "vector": torch.randn(7),
    "matrix": torch.randn(9, 4),
    "cube": torch.randn(3, 2, 5, dtype=torch.float64),
    "half": torch.randn(5, 3).half(),
    "brain": torch.randn(4).bfloat16(),
    "whole": torch.arange(6).reshape(2, 3),
    "flags": torch.tensor([True, False, True]),
    "empty": torch.zeros(0, 3),
    "наïve": torch.ones(2),
}


def write(path, tensors, metadata=None):
    source = DictTensors(tensors)

    def rows(name):
        return [source.read(name, start, stop) for start, stop in row_ranges(source.entries[name])]

    write_tensors(path, source.entries, rows, metadata or {})


@pytest.mark.parametrize("chunk", [1, 40, 10**6])
def test_what_is_written_in_pieces_is_what_the_library_reads(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(streaming, "CHUNK_BYTES", chunk)
    write(tmp_path / "m.safetensors", TENSORS, {"a": 'quoted "b"'})
    found = load_file(tmp_path / "m.safetensors")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert file.metadata() == {"a": 'quoted "b"'}


def test_a_file_is_read_by_rows_and_under_other_names(tmp_path):
    save_file(TENSORS, tmp_path / "m.safetensors")
    source = FileTensors(tmp_path / "m.safetensors", {"mine": "matrix", "one": "scalar"})
    assert source.entries == {
        "mine": TensorEntry(torch.float32, (9, 4)),
        "one": TensorEntry(torch.float32, ()),
    }
    assert torch.equal(source.read("mine", 2, 5), TENSORS["matrix"][2:5])
    assert torch.equal(source.read("mine"), TENSORS["matrix"])
    assert source.read("one", 0, None) == 3.5


def test_layers_give_what_the_first_of_them_has():
    source = LayeredTensors(
        DictTensors({"a": torch.zeros(1)}), DictTensors({"a": torch.ones(1), "b": torch.ones(2)})
    )
    assert source.read("a") == 0
    assert source.read("b").tolist() == [1, 1]
    assert source.entries.keys() == {"a", "b"}


def test_nothing_is_left_behind_when_a_tensor_fails(tmp_path):
    def rows(name):
        raise VactkError("no")

    with pytest.raises(VactkError, match="no"):
        write_tensors(tmp_path / "m.safetensors", {"a": TensorEntry(torch.float32, (2,))}, rows, {})
    assert not list(tmp_path.iterdir())


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(VactkError, match="there is no file"):
        FileTensors(path)
    write(path, TENSORS)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(VactkError, match="is damaged or not a safetensors file"):
        FileTensors(path)
    with pytest.raises(VactkError, match="there is no file"):
        sha256(tmp_path / "absent")


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x").startswith("ba7816bf8f01cfea")
