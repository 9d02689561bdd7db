"""Open-VCLIP's variants against tensors of its published code."""

from __future__ import annotations

import pytest
import torch

import vactk.torchvision_ops  # noqa: F401
from vactk.models.temporal import STAdapterConfig
from vactk.models.video_clip import VideoCLIP

# isort: split
import open_clip

ST_NAMES = {
    "stadapt_down_1": "down",
    "stadapt_conv3d_1": "conv",
    "stadapt_up_1": "up",
}


@pytest.mark.fixtures("ov_visual_st_adapter")
def test_st_adapter_in_the_vision_tower(case):
    config, state = case.config, case.state
    clip = open_clip.CLIP(
        config["output_dim"],
        {
            "image_size": config["image_size"],
            "patch_size": config["patch_size"],
            "width": config["width"],
            "layers": config["layers"],
            "head_width": config["width"] // config["heads"],
        },
        {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 1, "layers": 1},
        quick_gelu=True,
    )
    bottleneck = state["transformer.resblocks.0.stadapt_down_1.weight"].shape[0]
    adapters = STAdapterConfig(width=bottleneck)
    model = VideoCLIP(clip, adapters.build(config["width"], tuple(clip.visual.grid_size), config["layers"]))
    own = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if len(parts) > 3 and parts[3] in ST_NAMES:
            part = ST_NAMES[parts[3]]
            shape = tensor.shape[:3] if part == "conv" else tensor.shape[:2]
            tensor = tensor.reshape(shape) if tensor.ndim == 5 else tensor
            own[f"temporal.{parts[2]}.pre_attn_adapter.{part}.{parts[4]}"] = tensor
        else:
            own[f"clip.visual.{name}"] = tensor
    missing, unexpected = model.load_state_dict(own, strict=False)
    assert not unexpected
    assert not [name for name in missing if "visual" in name or "temporal" in name]
    frames = case.tensors("input")["frames"].unflatten(0, (config["B"], config["T"]))
    with torch.no_grad():
        features = model.eval().video_features(frames)
    case.check("features", features.frames.flatten(0, 1))
