"""Files that were made to do harm: each refused with one line, by every way in, and no code of theirs is run."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from vactk.checkpoints.load import open_model
from vactk.errors import VactkError
from vactk.models.backbone import BackboneConfig, load_backbone


@pytest.fixture(scope="module")
def state():
    return load_backbone(BackboneConfig(name="toy")).clip.state_dict()


class Code:
    """Runs a command where it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def with_code(path, state):
    torch.save({"state_dict": state, "x": Code(f"touch {path.parent}/ran")}, path)


def compressed(path, state):
    torch.save(state, path.with_suffix(".plain"))
    with zipfile.ZipFile(path.with_suffix(".plain")) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            data = bytes(2**24) if entry.filename.endswith("data/0") else source.read(entry)
            target.writestr(entry.filename, data, compress_type=zipfile.ZIP_DEFLATED)


def expanded(path, state):
    torch.save(
        {**state, "visual.proj": torch.zeros(1).expand(200_000, 200_000)}, path
    )  # 160 GB once it is used


def archive(path, content, **files):
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("a/constants.pkl", b"")
        target.writestr("a/data.pkl", content)
        for name, data in files.items():
            target.writestr(f"a/data/{name}", data)


def archive_with_code(path, state):
    archive(path, pickle.dumps(Code(f"touch {path.parent}/ran")))


def archive_of_a_huge_text(path, state):
    archive(path, b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x")


def safetensors(path, state, *, change=None, length=None):
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header["visual.proj"].update(change or {})
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", length or len(text)) + text + data[8 + size :])


def not_finite(path, state):
    save_file({**state, "visual.proj": state["visual.proj"] * float("nan")}, path)


CASES = {
    "code.pth": (with_code, "is damaged, or it carries code"),
    "compressed.pth": (compressed, "is not a weights file of torch's: '.*' in it is compressed"),
    "expanded.pth": (expanded, r"other shape: .*visual.proj \(200000, 200000\) instead of \(64, 64\)"),
    "code.pt": (archive_with_code, "it asks for posix.system"),
    "huge.pt": (archive_of_a_huge_text, "is not a TorchScript archive of weights"),
    "outside.safetensors": (
        lambda path, state: safetensors(path, state, change={"data_offsets": [0, 2**40]}),
        "is damaged or not a safetensors file",
    ),
    "shape.safetensors": (
        lambda path, state: safetensors(path, state, change={"shape": [2**31, 2**31]}),
        "is damaged or not a safetensors file",
    ),
    "length.safetensors": (
        lambda path, state: safetensors(path, state, length=2**60),
        "is damaged or not a safetensors file",
    ),
    "nan.safetensors": (not_finite, "holds values that are not finite, the first in .*visual.proj"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_made_to_do_harm_is_refused_with_one_line(tmp_path, state, name):
    make, message = CASES[name]
    path = tmp_path / name
    make(path, state)
    ways = [
        lambda: open_model(path, {"backbone": {"name": "toy"}}),
        lambda: open_model(path),
        lambda: load_backbone(BackboneConfig(name=str(path))),
    ]
    for number, way in enumerate(ways):
        with pytest.raises(VactkError) as refused:
            way()
        assert "\n" not in str(refused.value)
        if number == 0:
            assert refused.match(message)
    assert not (tmp_path / "ran").exists()
