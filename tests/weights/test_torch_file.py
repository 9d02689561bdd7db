from __future__ import annotations

import pickle
import zipfile

import pytest
import torch
from torch import nn

from vactk.errors import VactkError
from vactk.weights.torch_file import is_torchscript, read_state_dict


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.projection = nn.Parameter(torch.randn(2, 5).half())
        self.inner = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 3, bias=False))
        self.register_buffer("resolution", torch.tensor(32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.fc(x)) + self.projection.float().sum()


@pytest.fixture
def archive(tmp_path):
    """A TorchScript archive as OpenAI released them, and its tensors."""
    net = Net().eval()
    traced = torch.jit.trace(net, torch.randn(1, 4))
    path = tmp_path / "archive.pt"
    torch.jit.save(traced, path)
    return path, net.state_dict()


def rewrite(source, target, change):
    """A copy of a zip archive in which `change(name, data)` gives each entry's data, or None to leave it out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)


def test_a_torchscript_archive_gives_its_state_dict(archive):
    path, expected = archive
    assert is_torchscript(path)
    read = read_state_dict(path)
    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


@pytest.mark.parametrize("wrap", [None, "state_dict", "model_state", "model"])
def test_state_dicts_are_unwrapped(tmp_path, wrap):
    tensors = {f"module.{name}": tensor for name, tensor in Net().state_dict().items()}
    torch.save(tensors if wrap is None else {wrap: tensors, "epoch": 3}, tmp_path / "x.pth")
    read = read_state_dict(tmp_path / "x.pth")
    assert read.keys() == Net().state_dict().keys()


class Attack:
    def __reduce__(self):
        return (print, ("code that a checkpoint carried was run",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    torch.save({"state_dict": Attack()}, tmp_path / "evil.pth")
    with pytest.raises(VactkError, match=r"evil\.pth' is damaged, or it carries code"):
        read_state_dict(tmp_path / "evil.pth")
    assert "was run" not in capsys.readouterr().out


def test_an_archive_that_would_run_code_is_refused(archive, tmp_path, capsys):
    evil = tmp_path / "evil.pt"
    rewrite(
        archive[0], evil, lambda name, data: pickle.dumps(Attack()) if name.endswith("/data.pkl") else data
    )
    with pytest.raises(
        VactkError, match=r"not a TorchScript archive of weights \(it asks for builtins\.print"
    ):
        read_state_dict(evil)
    assert "was run" not in capsys.readouterr().out


def test_an_archive_without_some_tensor_is_refused(archive, tmp_path):
    rewrite(archive[0], tmp_path / "x.pt", lambda name, data: None if name.endswith("data/0") else data)
    with pytest.raises(VactkError, match="not a TorchScript archive of weights"):
        read_state_dict(tmp_path / "x.pt")


def test_an_archive_whose_tensor_is_cut_short_is_refused(archive, tmp_path):
    rewrite(archive[0], tmp_path / "x.pt", lambda name, data: data[:-2] if name.endswith("data/0") else data)
    with pytest.raises(VactkError, match="the size of tensor 0 is wrong"):
        read_state_dict(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 broken", b"\x80\x04."])
def test_files_that_are_no_weights_are_named(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(VactkError, match=r"model\.pt' is damaged"):
        read_state_dict(path)


def test_a_file_without_tensors_is_named(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(VactkError, match="holds no weights"):
        read_state_dict(tmp_path / "x.pth")
