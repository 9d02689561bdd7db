from __future__ import annotations

import pytest
import torch

from tests.processes import run_processes
from tests.retrieval.conftest import reading
from tests.retrieval.index.test_update import Made
from vactk.data.records import Record, VideoSet
from vactk.distributed import make_accelerator
from vactk.evaluate.config import EvalConfig
from vactk.evaluate.retrieval import evaluate_retrieval


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("set_up", [reading(), reading(0.5, 0.25)])
def test_an_index_by_several_processes_is_that_of_one(
    model, accelerator, folder, tmp_path, world, set_up, monkeypatch
):
    monkeypatch.setattr("vactk.data.windows.CHUNK", 3)  # videos in pieces, on different processes
    (folder / "broken.mp4").write_bytes(b"not a video")
    one = Made(model, accelerator, folder, tmp_path / "one", set_up)
    change = one.add()

    def add(rank):
        torch.manual_seed(rank)
        made = Made(model, make_accelerator("cpu", "fp32"), folder, tmp_path / "many", set_up)
        if rank:  # the main process alone writes
            made.store.begin = made.store.finish = made.store.write = lambda *args: None
        return made.add().to_json()

    answers = run_processes(world, add)
    assert answers == [change.to_json()] * world
    many = Made(model, accelerator, folder, tmp_path / "many", set_up)
    assert many.files() == one.files()
    assert many.store.known() == one.store.known()


def test_retrieval_measured_by_several_processes_is_that_of_one(model, accelerator, folder):
    (folder / "broken.mp4").write_bytes(b"not a video")
    paths = sorted(folder.rglob("*.mp4"))
    records = tuple(Record(video=path, captions=(path.stem, "a video")) for path in paths)
    videos = VideoSet(name="mine", split="all", classes=(), words=(), records=records)

    def measure(accelerator):
        config = EvalConfig(data=reading().data, batch_size=2)
        return evaluate_retrieval(model, videos, config, accelerator).to_json()

    many = run_processes(3, lambda rank: measure(make_accelerator("cpu", "fp32")))
    assert many == [measure(accelerator)] * 3
