from __future__ import annotations

import pytest

from tests.video.conftest import write_video
from vactk.data.config import DataConfig
from vactk.distributed import make_accelerator
from vactk.models.backbone import BackboneConfig
from vactk.models.video_model import ModelConfig, new_model
from vactk.retrieval.index.store import IndexMetadata
from vactk.retrieval.index.update import EmbeddingConfig
from vactk.retrieval.index.windows import WindowConfig


@pytest.fixture(scope="session")
def model():
    return new_model(ModelConfig(backbone=BackboneConfig(name="toy")))


@pytest.fixture
def accelerator():
    return make_accelerator("cpu", "fp32")


@pytest.fixture
def folder(tmp_path):
    """Six videos of different lengths at 12 frames per second, four of them in two folders, and a text."""
    folder = tmp_path / "clips"
    for number, place in enumerate(("a/one", "a/two", "b/three", "b/four", "five", "six [1]")):
        path = folder / f"{place}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, num_frames=12 + 6 * number, size=(48, 64 + 8 * number))
    (folder / "notes.txt").write_text("not a video")
    return folder


def reading(length_s: float = 0.0, stride_s: float = 0.0, **data) -> EmbeddingConfig:
    """Three frames of each window, read in this process."""
    return EmbeddingConfig(
        data=DataConfig(num_frames=3, workers=0, **data),
        windows=WindowConfig(length_s=length_s, stride_s=stride_s),
    )


def facts(dim: int = 8) -> IndexMetadata:
    """Of an index of random vectors."""
    return IndexMetadata(
        dim=dim, fingerprint="f", model={"stated": {"backbone": {"name": "toy"}}}, reading=reading().to_json()
    )
