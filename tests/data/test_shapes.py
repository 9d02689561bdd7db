from __future__ import annotations

import json
import multiprocessing

import numpy as np
import pytest
import torch

from vactk.data.shapes import clips
from vactk.data.shapes.clips import SPLITS, Split, load_shapes, plan, render
from vactk.data.shapes.stills import color_names, load_stills, shape_names
from vactk.data.shapes.world import MOTIONS, SIZE, Look, draw, track
from vactk.errors import VactkError
from vactk.video import open_video

OPPOSITES = list(zip(list(MOTIONS)[::2], list(MOTIONS)[1::2], strict=True))
TINY = Split(classes=("star moving left", "star moving right"), videos_per_class=2, seed=9)


@pytest.fixture
def tiny(monkeypatch):
    """A split small enough to be made in every test."""
    monkeypatch.setitem(SPLITS, "train", TINY)


@pytest.mark.parametrize(("one", "other"), OPPOSITES)
def test_opposite_motions_are_the_same_frames_in_reverse(one, other):
    """No frame, and no unordered set of frames, tells a motion from its opposite."""
    look = Look(shape="fish", color="red", background="stripes")
    first, second = (
        draw(look, track(motion, 12, np.random.default_rng(5)), np.random.default_rng(6))
        for motion in (one, other)
    )
    assert np.array_equal(first, second[::-1])
    assert not np.array_equal(first[0], first[-1])


def test_a_clip_fixes_its_frames_and_seeds_differ():
    planned = plan(SPLITS["seen"])
    assert np.array_equal(render(planned[3]), render(plan(SPLITS["seen"])[3]))
    assert not np.array_equal(render(planned[3]), render(planned[4]))
    assert render(planned[0]).shape == (clips.NUM_FRAMES, SIZE, SIZE, 3)


def test_splits_share_no_clip_and_unseen_classes_are_not_trained():
    assert not set(clips.SEEN) & set(clips.UNSEEN)
    seen_words = {word for name in clips.SEEN for word in name.split()}
    for name in clips.UNSEEN:
        shape, motion = name.split(" ", 1)
        assert motion.split()[-1] in seen_words
        assert shape in seen_words or shape in clips.STILL_SHAPES
    assert set(clips.MOVING_SHAPES) | set(clips.STILL_SHAPES) <= set(shape_names())
    seeds = [clip.seed for split in SPLITS.values() for clip in plan(split)]
    assert len(set(seeds)) == len(seeds)


def test_every_retrieval_caption_names_one_clip():
    captions = [clip.caption for clip in plan(SPLITS["retrieval"])]
    assert len(set(captions)) == len(captions)
    assert all(not caption.endswith(" ") and "  " not in caption for caption in captions)


@pytest.mark.usefixtures("tiny")
def test_clips_are_videos_that_show_what_was_drawn(tmp_path):
    videos = load_shapes("train", root=tmp_path)
    assert [record.label for record in videos.records] == [0, 0, 1, 1]
    for record, clip in zip(videos.records, plan(TINY), strict=True):
        with open_video(record.video) as video:
            assert video.num_frames == clips.NUM_FRAMES
            frames = video.read(list(range(clips.NUM_FRAMES)))
        drawn = torch.from_numpy(render(clip)).permute(0, 3, 1, 2)
        assert (frames.float() - drawn.float()).abs().mean() < 6  # of 255: the codec's loss
        assert record.captions == (clip.caption,)


@pytest.mark.usefixtures("tiny")
def test_the_same_bytes_are_made_again_and_kept(tmp_path):
    one = load_shapes("train", root=tmp_path / "a")
    two = load_shapes("train", root=tmp_path / "b")
    for first, second in zip(one.records, two.records, strict=True):
        assert first.video.read_bytes() == second.video.read_bytes()
    made = one.records[0].video.stat().st_mtime_ns
    load_shapes("train", root=tmp_path / "a")
    assert one.records[0].video.stat().st_mtime_ns == made


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("damage", ["stamp", "clip", "short clip"])
def test_a_half_made_folder_is_made_again(tmp_path, damage):
    videos = load_shapes("train", root=tmp_path)
    folder = videos.records[0].video.parent
    if damage == "stamp":
        (folder / clips.STAMP).unlink()
    elif damage == "clip":
        videos.records[1].video.unlink()
    else:
        videos.records[1].video.write_bytes(b"half")
    load_shapes("train", root=tmp_path)
    assert videos.records[1].video.stat().st_size > 100
    assert json.loads((folder / clips.STAMP).read_text())
    assert [path.name for path in folder.parent.iterdir()] == ["train"]


def _load(root, results):
    results.put(len(load_shapes("seen", root=root).records))


def test_two_processes_at_once_both_end_with_whole_clips(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_load, args=(tmp_path, results)) for _ in range(2)]
    for process in processes:
        process.start()
    counts = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert counts == [len(plan(SPLITS["seen"]))] * 2
    assert [path.name for path in tmp_path.glob("*/*")] == ["seen"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(
        VactkError, match=r"cannot generate the videos of shapes in '.*file.*--data-root or VACTK_CACHE"
    ):
        load_shapes("train", root=tmp_path / "file")


def test_an_unknown_split_is_named():
    with pytest.raises(VactkError, match="unknown split of shapes 'tran'; did you mean 'train'"):
        load_shapes("tran")


def test_stills_are_drawn_from_their_seed_and_say_what_they_show():
    stills, again = load_stills("test", 40, seed=1), load_stills("test", 40, seed=1)
    assert torch.equal(stills.images, again.images)
    assert stills.captions == again.captions
    assert not torch.equal(stills.images, load_stills("train", 40, seed=1).images)
    for caption, shape, color in zip(stills.captions, stills.shapes, stills.colors, strict=True):
        words = caption.split()
        assert shape_names()[shape] in words
        assert not (set(color_names()) - {color_names()[color]}) & set(words)


def test_captions_of_stills_never_tell_of_motion():
    captions = load_stills("train", 2000, seed=0).captions
    words = {word for caption in captions for word in caption.split()}
    assert not words & {"moving", "getting", "turning"}
    assert {"left", "right", "up", "down", "larger", "smaller", "clockwise", "counterclockwise"} <= words
