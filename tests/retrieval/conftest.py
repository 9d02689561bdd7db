from __future__ import annotations

import pytest

from tests.retrieval.pages import KEY, Fake, entry
from tests.video.conftest import write_video
from vactk.data.config import DataConfig
from vactk.data.isolated_read import IsolatedReader
from vactk.data.windows import WindowConfig
from vactk.distributed import make_accelerator
from vactk.models.backbone import BackboneConfig
from vactk.models.video_model import ModelConfig, new_model
from vactk.retrieval.index.store import IndexMetadata
from vactk.retrieval.index.update import EmbeddingConfig


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


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """Four videos of 8 seconds, one of them in a codec that no browser plays, and a secret beside them."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("dog.mp4", "cat.mp4", "bird <b>.mp4"):
        write_video(folder / name, num_frames=96, size=(96, 128))
    write_video(folder / "old.avi", num_frames=96, size=(96, 128), codec="mpeg4")
    (folder / "secret.txt").write_text("secret")
    return folder


@pytest.fixture
def fake(videos):
    """An index of these videos."""
    names = ("dog.mp4", "cat.mp4", "bird <b>.mp4", "old.avi")
    labels = ("pets", "pets", "birds", "old")
    return Fake(
        entry(KEY + n, videos / name, label=label)
        for n, (name, label) in enumerate(zip(names, labels, strict=True))
    )


@pytest.fixture(scope="session")
def reader():
    """The processes in which the page reads."""
    with IsolatedReader(preload=["vactk.retrieval.previews"]) as reader:
        yield reader


@pytest.fixture
def client(fake, reader, tmp_path):
    """Asks the page of `fake`; clips go to `tmp_path`."""
    testclient = pytest.importorskip("starlette.testclient", reason="needs pip install 'vactk[serve]'")
    from vactk.retrieval.server import make_app

    app = make_app(fake, reader, tmp_path, title="holidays")
    with testclient.TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


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
