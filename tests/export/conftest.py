"""A small CLIP in a folder of open_clip's, and models of it with random values in everything that was added."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

import vactk.torchvision_ops  # noqa: F401

# isort: split
import open_clip

from vactk.data.config import DataConfig
from vactk.export.graph_specs import Samples
from vactk.export.metadata import InferenceSpec, Labels
from vactk.models.backbone import BackboneConfig
from vactk.models.video_model import Heads, ModelConfig, new_model

SMALL = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory):
    """The folder of the small CLIP."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    state = {
        name: 0.15 * torch.randn(tensor.shape)
        for name, tensor in open_clip.CLIP(**SMALL).state_dict().items()
    }
    state["logit_scale"] = torch.tensor(3.0)
    save_file(state, folder / "open_clip_model.safetensors")
    config = {"model_cfg": SMALL, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def small_model(small_folder):
    """Builds a model of the small CLIP with random values in what is added."""

    def build(*, classes=(), **added):
        torch.manual_seed(0)
        heads = Heads(classes=classes, class_head=bool(classes))
        config = ModelConfig(backbone=BackboneConfig(name=str(small_folder)), **added)
        model = new_model(config, heads)
        with torch.no_grad():
            for name, parameter in model.module_dict().named_parameters():
                if not name.startswith("clip."):
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    return build


@pytest.fixture
def inference():
    """How the models are fed: three frames, and three classes where they are wanted."""

    def build(*, classes=("run", "jump", "swim"), answer="similarity", **data):
        generator = torch.Generator().manual_seed(1)
        embeddings = torch.nn.functional.normalize(torch.randn(len(classes), 24, generator=generator), dim=-1)
        return InferenceSpec(
            data=DataConfig(**{"num_frames": 3, **data}),
            templates=("a video of {}",),
            source={"name": "small", "recipe": {"dataset": "shapes"}},
            labels=Labels(classes, classes, embeddings) if classes else None,
            answer=answer,
        )

    return build


@pytest.fixture
def samples():
    """Pictures of bright bands instead of noise, and texts."""
    ramp = torch.linspace(-1, 1, 32).expand(1, 3, 3, 32, 32)
    return Samples(
        videos=[ramp + torch.arange(3.0)[:, None, None, None]], texts=("a dog", "a red star moving left")
    )
