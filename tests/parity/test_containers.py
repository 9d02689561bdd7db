"""Files in the formats users have: imported as they are, written for open_clip, read again, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vactk.checkpoints.load import open_model
from vactk.data.config import DataConfig
from vactk.errors import VactkError
from vactk.export.formats import ExportConfig, export_model
from vactk.export.graph_specs import Samples
from vactk.export.metadata import InferenceSpec
from vactk.models.backbone import OPENAI_ENTRIES
from vactk.weights.torch_file import read_state_dict

SERVING = InferenceSpec(data=DataConfig(num_frames=2), templates=("a photo of {}",), source={})


def imported(case, name: str):
    """The model of a container, on the first archive that fits where it lacks a CLIP."""
    path = case.folder / name
    archives = [case.folder / other for other in case.manifest["files"] if other.endswith(".pt")]
    problems: list[Exception] = []
    for stated in ({}, *({"backbone": {"name": str(archive)}} for archive in archives if archive != path)):
        try:
            return open_model(path, stated)
        except VactkError as error:
            problems.append(error)
    raise AssertionError(problems)


@pytest.mark.fixtures("containers")
def test_every_container_is_imported_whole(case):
    for name in case.manifest["files"]:
        report = imported(case, name).info["import"]
        num_tensors = len(read_state_dict(case.folder / name))
        assert report["mapped"] + len(report["left_over"]) == num_tensors, name
        assert num_tensors == case.manifest["files"][name]["n_tensors"], name
        assert report["mapped"] > 0.5 * num_tensors, name


@pytest.mark.fixtures("containers")
def test_plain_containers_come_back_from_open_clip_to_the_last_bit(case, tmp_path: Path):
    for name in case.manifest["files"]:
        path = case.folder / name
        model = imported(case, name)
        if model.info["import"]["format"] == "M2-CLIP":
            continue
        model.video_clip.backbone.eval()
        export_model(model, tmp_path / name, ExportConfig(format="open_clip"), SERVING, Samples())
        again = open_model(tmp_path / name).video_clip.backbone.state_dict()
        stored = read_state_dict(path)
        for theirs, tensor in stored.items():
            ours = theirs.removeprefix("model.")
            if ours not in OPENAI_ENTRIES and ours in again:
                assert torch.equal(again[ours], tensor.float()), ours
        assert len(again.keys() & {n.removeprefix("model.") for n in stored}) >= 0.9 * len(again)
