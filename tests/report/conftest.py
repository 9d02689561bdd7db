"""Predictions that a generator draws, without a model."""

from __future__ import annotations

import random

import pytest

from vactk.report.predictions import Guess, PredictedVideo, write_predictions


def drawn(num_classes, per_class, *, seed=0, video="/gone/{}_{}.mp4", names="class {:03}", skill=0.6):
    """Rows of a model that is right with a probability of `skill`; the last video is unreadable."""
    chance = random.Random(seed)
    labels = [names.format(n) for n in range(num_classes)]
    rows = []
    for number, label in enumerate(labels):
        for n in range(per_class):
            own = chance.sample([one for one in labels if one != label], min(4, num_classes - 1))
            own.insert(0 if chance.random() < skill else min(2, len(own)), label)
            raw = sorted((chance.random() + 0.01 for _ in own), reverse=True)
            shares = [value / (sum(raw) + 0.05) for value in raw]
            top = tuple(Guess(*guess, 0.3) for guess in zip(own, shares, strict=True))
            known = {"split": "test", "by": "similarity", "num_classes": num_classes, "label": label}
            rows.append(PredictedVideo(**known, video=video.format(number, n), rank=own.index(label) + 1,
                                       label_probability=shares[own.index(label)], top=top,
                                       frames_s=(0.0, 0.5)))  # fmt: skip
    rows.append(PredictedVideo(**known, video="/gone/broken.mp4", error="'/gone/broken.mp4': it is damaged"))
    return rows


@pytest.fixture
def make_run(tmp_path):
    """A function that writes a folder with drawn predictions."""

    def make(name="run", *args, **settings):
        folder = tmp_path / name
        folder.mkdir()
        write_predictions(folder, drawn(*(args or (6, 5)), **settings))
        return folder

    return make
