from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vactk.data.batch_sampler import TrainBatches
from vactk.data.config import DataConfig, ImageSpec
from vactk.data.records import Record, VideoSet
from vactk.data.shapes import clips
from vactk.data.shapes.clips import Split
from vactk.data.video_dataset import VideoDataset, eval_loader, train_loader
from vactk.distributed import make_accelerator
from vactk.errors import VactkError
from vactk.evaluate.classifier import class_embeddings, similarity_scorer
from vactk.evaluate.config import EvalConfig
from vactk.evaluate.scoring import image_spec, score_videos
from vactk.models.backbone import BackboneConfig
from vactk.models.video_model import ModelConfig, new_model
from vactk.video.transforms import TransformConfig

CPU = torch.device("cpu")
PICTURE = ImageSpec(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture
def videos(monkeypatch, tmp_path):
    split = Split(classes=("star moving left", "key moving up"), videos_per_class=3, seed=4)
    monkeypatch.setitem(clips.SPLITS, "seen", split)
    return clips.load_shapes("seen", root=tmp_path)


@pytest.fixture(scope="module")
def model():
    return new_model(ModelConfig(backbone=BackboneConfig(name="toy")))


def test_class_embeddings_are_normalised_means_over_templates(model):
    words, templates = ("red star", "key"), ("a {}", "a small {} over stripes", "{}")
    found = class_embeddings(model, words, templates, CPU)
    for row, word in zip(found, words, strict=True):
        texts = model.backbone.tokenize([template.format(word) for template in templates])
        with torch.no_grad():
            each = F.normalize(model.video_clip.backbone.encode_text(texts), dim=-1)
        torch.testing.assert_close(row, F.normalize(each.mean(0), dim=-1), rtol=1e-4, atol=1e-5)


def test_scores_are_means_of_softmaxes_over_views_in_record_order(model, videos):
    config = DataConfig(num_frames=3, views=2, workers=0, transform=TransformConfig(eval_crops=3))
    embeddings = class_embeddings(model, videos.words, ("a {}",), CPU)
    scorers = {"similarity": similarity_scorer(model, embeddings)}
    accelerator = make_accelerator("cpu", "fp32")
    scores = score_videos(model, videos, scorers, EvalConfig(data=config, batch_size=4), accelerator)
    assert scores.indices.tolist() == list(range(6))
    dataset = VideoDataset(videos.records, config, image_spec(model), train=False)
    for place, row in enumerate(scores.probabilities["similarity"]):
        views = dataset[0, place].views
        assert views.shape == (6, 3, 3, 64, 64)  # 2 views in time, 3 crops of each
        with torch.no_grad():
            video = F.normalize(model.video_clip.encode_video(views), dim=-1)
            expected = (model.video_clip.logit_scale * video @ embeddings.T).softmax(dim=-1).mean(dim=0)
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("world", [1, 2, 4, 7])
def test_shards_hold_every_record_once_however_uneven(videos, world):
    dataset = VideoDataset(videos.records, DataConfig(num_frames=1, workers=0), PICTURE, train=False)
    places = [
        place
        for rank in range(world)
        for batch in eval_loader(dataset, 2, rank=rank, world=world)
        for place in batch.indices.tolist()
    ]
    assert sorted(places) == list(range(6))


def test_training_draws_follow_the_key_and_not_the_order_of_reading(videos):
    config = DataConfig(num_frames=2, workers=0)
    dataset = VideoDataset(videos.records, config, PICTURE, train=True, seed=3)
    first = dataset[1, 2].views
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    assert torch.equal(dataset[1, 2].views, first)
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's random state is left alone
    assert not torch.equal(dataset[2, 2].views, first)
    batches = TrainBatches(6, 3, seed=0, steps=range(2))
    keys = list(batches)
    for batch, expected in zip(train_loader(dataset, batches), keys, strict=True):
        for view, key in zip(batch.video, expected, strict=True):
            assert torch.equal(view, dataset[key].views)


def test_windows_of_a_video_are_read_by_their_times(videos):
    whole = videos.records[0].video
    config = DataConfig(num_frames=2, workers=0)
    start, end = (
        VideoDataset((Record(video=whole, start_s=a, end_s=b),), config, PICTURE, train=False)[0, 0].views
        for a, b in ((0.0, 0.2), (0.8, 1.0))
    )
    assert not torch.equal(start, end)


def test_unreadable_videos_are_listed_and_the_rest_is_scored(model, videos, tmp_path):
    (tmp_path / "page.mp4").write_text("<html>")
    records = (videos.records[0], Record(video=tmp_path / "page.mp4", label=0), videos.records[3])
    mixed = VideoSet(name="x", split="y", classes=videos.classes, words=videos.words, records=records)
    embeddings = class_embeddings(model, videos.words, ("a {}",), CPU)
    scorers = {"similarity": similarity_scorer(model, embeddings)}
    accelerator = make_accelerator("cpu", "fp32")
    config = EvalConfig(data=DataConfig(workers=1), batch_size=2)
    scores = score_videos(model, mixed, scorers, config, accelerator)
    assert scores.indices.tolist() == [0, 2]
    (failure,) = scores.failures
    assert failure.record_index == 1
    assert "page.mp4" in failure.message


def test_a_precision_that_the_machine_lacks_is_named():
    if torch.cuda.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(VactkError, match="cannot run with --device cpu --precision fp16"):
        make_accelerator("cpu", "fp16")


@pytest.mark.parametrize("settings", [{"num_frames": 0}, {"views": 0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(VactkError, match="must be at least 1"):
        DataConfig(**settings)
