"""Cases from a folder of reference tensors: every fixture whose name begins as a test asks for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One fixture: its manifest, and its tensors in float32."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        return self.manifest["config"]

    def load(self, file: str) -> dict[str, Tensor]:
        tensors = load_file(self.folder / file)
        return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}

    def rows(self, file: str) -> Any:
        """What a JSON file of the fixture holds."""
        return json.loads((self.folder / file).read_text())

    @property
    def state(self) -> dict[str, Tensor]:
        return self.load("state.safetensors")

    def tensors(self, role: str) -> dict[str, Tensor]:
        """All tensors of a role: "input", "output", "intermediate", "gradient"."""
        wanted = {name: t["file"] for name, t in self.manifest["tensors"].items() if t["role"] == role}
        files = {file: self.load(file) for file in set(wanted.values())}
        return {name: files[file][name.removeprefix("grad/") if name not in files[file] else name]
                for name, file in wanted.items()}  # fmt: skip

    def check(self, name: str, found: Tensor) -> None:
        """`found` against the recorded tensor or scalar `name`, within its suggested tolerance."""
        if name in self.manifest["tensors"]:
            entry = self.manifest["tensors"][name]
            stored = self.load(entry["file"])
            expected = stored[name] if name in stored else stored[name.removeprefix("grad/")]
        else:
            entry = self.manifest["scalars"][name]
            expected = torch.tensor(entry["value"])
        if "full_shape" in entry:
            assert list(found.shape) == entry["full_shape"]
            found = found[..., :: entry["stride"], :: entry["stride"]]
        atol = entry["suggested_atol"]
        message = f"{self.folder.name}: {name}"
        torch.testing.assert_close(found, expected, rtol=0, atol=atol, msg=lambda m: f"{message}: {m}")


def find_cases(folder: Path, prefix: str) -> list[Case]:
    manifests = sorted(folder.glob(f"{prefix}*/manifest.json"))
    return [Case(path.parent, json.loads(path.read_text())) for path in manifests]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("fixtures")
    if marker is None:
        return
    folder = metafunc.config.getoption("--reference")
    cases = find_cases(folder, marker.args[0])
    missing = pytest.param(None, marks=pytest.mark.skip(reason=f"no {marker.args[0]}* in {folder}"))
    metafunc.parametrize("case", cases or [missing], ids=[case.folder.name for case in cases] or ["none"])
