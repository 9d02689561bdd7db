from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from vactk.data.shapes.stills import color_names, load_stills, shape_names
from vactk.models.backbone import BackboneConfig, load_backbone
from vactk.models.toy import toy_config, toy_state_dict

ROOT = Path(__file__).parents[2]
TOY_FILE = ROOT / "vactk" / "models" / "toy.safetensors"


@pytest.fixture(scope="module")
def toy():
    return load_backbone(BackboneConfig(name="toy"))


def similarities(toy, stills, words):
    pictures = (stills.images / 255 - torch.tensor(toy.mean)[:, None, None]) / torch.tensor(toy.std)[
        :, None, None
    ]
    with torch.no_grad():
        images = F.normalize(toy.clip.encode_image(pictures), dim=-1)
        texts = F.normalize(toy.clip.encode_text(toy.tokenize(words)), dim=-1)
    return images @ texts.T


def test_the_shipped_file_is_small():
    assert TOY_FILE.stat().st_size < 4_000_000


@pytest.mark.parametrize("seed", range(3))
def test_the_toy_knows_shapes_and_colours_of_pictures_it_never_saw(toy, seed):
    stills = load_stills("test", 400, seed)
    shapes = similarities(toy, stills, [f"a {name}" for name in shape_names()]).argmax(dim=1)
    colors = similarities(toy, stills, [f"a {name} object" for name in color_names()]).argmax(dim=1)
    assert (shapes == stills.shapes).float().mean() > 0.85
    assert (colors == stills.colors).float().mean() > 0.9


def test_motions_that_it_never_read_of_are_near_each_other_and_not_the_same(toy):
    texts = [
        f"a star {motion}"
        for motion in ("moving left", "moving right", "turning clockwise", "getting larger")
    ]
    with torch.no_grad():
        embeddings = F.normalize(toy.clip.encode_text(toy.tokenize(texts)), dim=-1)
    assert (embeddings @ embeddings.T).fill_diagonal_(0).max() < 0.9995


def test_tokens_it_never_read_keep_their_first_embedding():
    table = toy_state_dict()["token_embedding.weight"]
    assert len(table.unique(dim=0)) == toy_config()["model_cfg"]["text_cfg"]["vocab_size"]
    assert 0.015 < float(table.std()) < 0.03


def test_the_script_that_made_it_learns_the_same(tmp_path):
    """A fifth of its training: colours are known, and shapes begin to be, well above the chance of 1 in 12."""
    command = [
        sys.executable,
        str(ROOT / "examples" / "make_toy_clip.py"),
        "--output",
        str(tmp_path / "toy.safetensors"),
    ]
    done = subprocess.run(
        [*command, "--num-stills", "8000", "--epochs", "8"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found = re.search(r"shape ([\d.]+)%, color ([\d.]+)%", done.stdout)
    assert found, done.stdout
    assert float(found.group(1)) > 20
    assert float(found.group(2)) > 85
    read = toy_state_dict(tmp_path / "toy.safetensors")
    assert {n: t.shape for n, t in read.items()} == {n: t.shape for n, t in toy_state_dict().items()}
