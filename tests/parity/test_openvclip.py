"""Open-VCLIP's variants, its video logits and its weight arithmetic against tensors of its published code."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import vactk.torchvision_ops  # noqa: F401
from vactk.checkpoints.load import load_foreign
from vactk.checkpoints.merge import plan_merge, save_merged
from vactk.checkpoints.merge_inputs import open_merge_input
from vactk.checkpoints.openvclip import rename_openvclip
from vactk.evaluate.classifier import class_embeddings, similarity_scorer
from vactk.models.attention import OpenClipBlock
from vactk.models.backbone import BackboneConfig
from vactk.models.temporal.adapters import NoTemporal, STAdapterConfig
from vactk.models.temporal.frame_attention import (
    CrossFrameAttentionConfig,
    NeighbourAttention,
    NeighbourAttentionConfig,
)
from vactk.models.video_clip import VideoCLIP
from vactk.models.video_model import ModelConfig, new_model
from vactk.models.vision_tower import residual_block
from vactk.text.templates import choose_templates
from vactk.train.class_prompts import ClassPrompts
from vactk.train.interpolated_weights import Anchor, InterpolatedConfig
from vactk.train.optim import OptimConfig, parameter_groups, peak_lr, schedule
from vactk.train.task import TaskConfig, VideoTextTask, choose_trained
from vactk.weights.arithmetic import average, interpolation
from vactk.weights.torch_file import read_state_dict

# isort: split
import open_clip

WINDOWS = {"expand_temporal_view": 1, "expand_temporal_view_step2": 2, "expand_temporal_view_step3": 3}
NOT_BUILT = {"channel_shift"}  # the published code scrambles its buffers


def variants(case):
    """The names before the slash in a manifest's outputs, without what is deliberately not built."""
    names = {name.partition("/")[0] for name, t in case.manifest["tensors"].items() if t["role"] == "output"}
    return sorted(names - NOT_BUILT)


@pytest.mark.fixtures("ov_attention")
def test_attention_variants_alone(case):
    config = case.config
    block = open_clip.transformer.ResidualAttentionBlock(config["width"], config["heads"])
    block.attn.load_state_dict(case.state)
    inputs = case.tensors("input")
    assert variants(case)
    for variant in variants(case):
        module = NeighbourAttention(WINDOWS[variant])
        x = inputs["x"].clone().requires_grad_(True)
        tokens = x.transpose(0, 1)  # (B*T, N, D)
        y = module.attention(OpenClipBlock(block), tokens, config["T"], tokens.shape[1]).transpose(0, 1)
        case.check(f"{variant}/y", y.detach())
        if f"{variant}/grad_x" not in case.manifest["tensors"]:
            continue
        block.zero_grad()
        y.backward(inputs["cotangent"])
        case.check(f"{variant}/grad_x", x.grad)
        for name, parameter in block.attn.named_parameters():
            case.check(f"{variant}/grad/{name}", parameter.grad)


def vision_model(case, temporal):
    """A model whose vision tower has the fixture's weights, given under CLIP's own names."""
    config = case.config
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
    blocks = temporal.build(config["width"], tuple(clip.visual.grid_size), config["layers"])
    model = VideoCLIP(clip, blocks)
    published = {f"model.visual.{name}": tensor for name, tensor in case.state.items()}
    modules = nn.ModuleDict({"clip": model.backbone, "temporal": model.temporal})
    missing, unexpected = modules.load_state_dict(rename_openvclip(published), strict=False)
    assert not unexpected
    assert not [name for name in missing if "visual" in name or "temporal" in name]
    return model.eval()


def encode(case, model):
    """(B*T, E)"""
    frames = case.tensors("input")["frames"].unflatten(0, (case.config["B"], case.config["T"]))
    with torch.no_grad():
        return model.video_features(frames).frames.flatten(0, 1)


@torch.no_grad()
def all_tokens(case, model):
    """(B*T, N, D) after the last block."""
    x = model.vision.embed(case.tensors("input")["frames"])
    for block, added in zip(model.vision.blocks, model.temporal, strict=True):
        x = residual_block(block, added, x, case.config["T"], x.shape[1])
    return x


@pytest.mark.fixtures("ov_visual")
def test_vision_tower_without_new_parameters(case):
    if not any(name.endswith("/features") for name in case.manifest["tensors"]):
        pytest.skip("a variant with parameters of its own: tested below")
    for variant in variants(case):
        window = WINDOWS.get(variant)
        temporal = NoTemporal() if window is None else NeighbourAttentionConfig(window=window)
        model = vision_model(case, temporal)
        case.check(f"{variant}/features", encode(case, model))
        recorded = case.manifest["tensors"].get(f"{variant}/tokens")
        if recorded:
            case.check(f"{variant}/tokens", all_tokens(case, model)[: recorded["shape"][0]])


@pytest.mark.fixtures("ov_visual_cross_frame")
def test_cross_frame_messages_in_the_vision_tower(case):
    temporal = CrossFrameAttentionConfig(heads=case.config["heads"])
    case.check("features", encode(case, vision_model(case, temporal)))


@pytest.mark.fixtures("ov_visual_st_adapter")
def test_st_adapter_in_the_vision_tower(case):
    bottleneck = case.state["transformer.resblocks.0.stadapt_down_1.weight"].shape[0]
    case.check("features", encode(case, vision_model(case, STAdapterConfig(width=bottleneck))))


def original_clip(case, temporal):
    path = case.folder.parent / "containers" / "openai_clip_ov.pt"
    return new_model(
        ModelConfig(backbone=BackboneConfig(name=str(path)), temporal=temporal, similarity="frames")
    )


def averaged_model(case):
    return load_foreign(case.folder.parent / "containers" / "openvclip_swa.pth")


def patched_model(case):
    """Original CLIP times the ratio, in the archive's own precision as published, plus the rest of the average."""
    model = averaged_model(case)
    archive = read_state_dict(case.folder.parent / "containers" / "openai_clip_ov.pt")
    ratio = case.config["ratio_patch"]
    with torch.no_grad():
        for name, parameter in model.video_clip.backbone.named_parameters():
            parameter.copy_(ratio * archive[name] + (1 - ratio) * parameter)
    return model


@pytest.mark.fixtures("ov_video_model")
def test_class_embeddings_and_video_logits(case):
    inputs = case.tensors("input")
    classes = tuple(case.config["class_names"])
    original = original_clip(case, NeighbourAttentionConfig())
    templates = choose_templates("openvclip")
    assert len(templates) == case.config["n_templates"]
    length = case.config["context_length"]
    ids = F.pad(inputs["prompt_tokens"].long(), (0, length - inputs["prompt_tokens"].shape[-1]))
    rows = {  # the fixture's own vocabulary, looked up by the prompts as we write them
        template.format(name): ids[i, j]
        for i, template in enumerate(templates)
        for j, name in enumerate(classes)
    }
    backbone = dataclasses.replace(
        original.backbone, tokenize=lambda prompts: torch.stack([rows[prompt] for prompt in prompts])
    )
    original = dataclasses.replace(original, backbone=backbone)
    text = class_embeddings(original, classes, templates, torch.device("cpu"))
    case.check("text_classifier", text)

    video = inputs["video"].transpose(1, 2)
    models = {"raw": original, "swa": averaged_model(case), "patched": patched_model(case)}
    for name, model in models.items():
        with torch.no_grad():
            features = model.video_clip.video_features(video)
            case.check(f"{name}/frame_features", features.frames)
            score = similarity_scorer(model, text)
            case.check(f"{name}/video_logits", score(features))
            if name == "swa":
                score = similarity_scorer(model, inputs["random_classifier"])
                case.check("swa/video_logits_random_classifier", score(features))


def mixed_file(paths, weights, output):
    """All tensors of the mixture, under CLIP's names."""
    mixture = plan_merge([open_merge_input(path, {}) for path in paths])
    save_merged(output, mixture, lambda _: weights, {})
    return {name.removeprefix("clip."): tensor for name, tensor in load_file(output).items()}


@pytest.mark.fixtures("ov_patching")
def test_interpolation_with_the_original_clip(case, tmp_path):
    containers = case.folder.parent / "containers"
    ratio = case.config["ratio"]  # of the original CLIP
    paths = [containers / "openai_clip_ov.pt", containers / "openvclip_swa.pth"]
    found = mixed_file(paths, interpolation(1 - ratio), tmp_path / "patched.safetensors")
    archive = read_state_dict(paths[0])
    expected = case.load("patched.safetensors")
    scalars = case.manifest["scalars"]
    # the published code rounds to the archive's half precision on the way
    rounding = 2 * scalars["max_abs_difference_to_pure_float32_interpolation"]["value"]
    assert 0 < rounding < min(case.manifest["controls"].values()) / 10
    compared = set()
    for name, tensor in expected.items():
        name = name.removeprefix("model.")
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=rounding)
        compared.add(name)
    text = 2 * scalars["text_tower_max_abs_vs_raw"]["value"]
    for name in found.keys() - compared:
        torch.testing.assert_close(found[name], archive[name].float(), rtol=0, atol=text)


@pytest.mark.fixtures("ov_weight_average")
def test_averaging_of_checkpoints(case, tmp_path):
    config = case.config
    ids = [i for i in config["ckpt_ids"] if config["wa_start"] <= i <= config["wa_end"]]
    assert ids == config["used"]
    paths = []
    for i in ids:  # as the training script writes them
        tensors = case.load(f"checkpoint_epoch_{i:05d}.safetensors")
        paths.append(tmp_path / f"checkpoint_epoch_{i:05d}.pyth")
        torch.save({"epoch": i - 1, "model_state": tensors, "cfg": "x: 1"}, paths[-1])
    found = mixed_file(paths, average(len(paths)), tmp_path / "averaged.safetensors")
    expected = read_state_dict(case.folder.parent / case.manifest["expected_output"])
    atol = 4 * case.manifest["scalars"]["max_abs_vs_float64_mean"]["value"]
    assert {f"model.{name}" for name in found} == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[f"model.{name}"], rtol=0, atol=atol)


@pytest.mark.fixtures("ov_iwo_step")
def test_interpolated_weight_optimisation(case, tmp_path):
    config, inputs = case.config, case.tensors("input")
    original = original_clip(case, NeighbourAttentionConfig())
    originals = {name: t.clone() for name, t in original.module_dict().state_dict().items()}
    present = f"checkpoint_epoch_{config['theta_B_checkpoint_id']:05d}"
    tensors = load_file(case.folder.parent / "ov_weight_average" / f"{present}.safetensors")
    torch.save({"model_state": tensors}, tmp_path / f"{present}.pyth")
    model = load_foreign(tmp_path / f"{present}.pyth")
    choose_trained(model, ("vision", "scale"))
    losses = TaskConfig(contrastive=0, cross_modal=1, masked_words=0, visual=0)
    task = VideoTextTask(model, losses, ClassPrompts(fixed=inputs["text_classifier"]), None)
    iwo = InterpolatedConfig(weight=config["loss_ratio"], alphas=tuple(config["sample_range"]))
    labels = torch.tensor(config["labels"])

    def backward(weight):
        loss = weight * task(inputs["video"].transpose(1, 2), labels, labels)["loss"]
        loss.backward()
        return loss.detach()

    def check_gradients(prefix, weight):
        parameters = dict(model.video_clip.backbone.named_parameters())
        recorded = [name for name in case.tensors("gradient") if name.startswith(prefix)]
        for name in recorded:
            case.check(name, parameters[name.removeprefix(prefix)].grad / weight)
        return len(recorded)

    anchor, alpha = Anchor(model.module_dict().named_parameters(), originals), config["patch_ratio"]
    before = {name: t.clone() for name, t in model.module_dict().state_dict().items()}
    with anchor.mixed(alpha):
        case.check("loss_interpolated_times_ratio", backward(iwo.loss_weight(alpha)))
    assert check_gradients("interpolated/", config["loss_ratio"])
    assert all(torch.equal(t, before[name]) for name, t in model.module_dict().state_dict().items())
    case.check("loss_current", backward(1.0))
    assert check_gradients("merged/", 1.0) == sum(p.requires_grad for p in task.parameters())
    norm = torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
    expected = case.manifest["scalars"]["merged_grad_l2_norm"]["value"]
    torch.testing.assert_close(float(norm), expected, rtol=1e-5, atol=0)
    frozen = {name for name, p in model.video_clip.backbone.named_parameters() if p.grad is None}
    assert frozen == set(case.manifest["no_gradient"])


@pytest.mark.fixtures("ov_training_recipe")
def test_optimiser_groups_and_learning_rate(case):
    config, base = case.config, case.config["BASE_LR"]
    if not config["COSINE_AFTER_WARMUP"]:
        pytest.skip("the cosine begins with the training: no release trains so")
    optim = OptimConfig(
        lr=base,
        base_batch_size=0,
        text_lr_factor=1.0,
        layer_decay=config["LAYER_DECAY"],
        weight_decay=config["WEIGHT_DECAY"],
        weight_decay_on="all_but_vectors",
        betas=tuple(case.manifest["optimizer"]["betas"]),
        warmup_epochs=config["WARMUP_EPOCHS"],
        warmup_start_factor=config["WARMUP_START_LR"] / base,
        min_lr_factor=config["COSINE_END_LR"] / base,
    )
    steps = 10_000  # of an epoch
    total, warmup = round(config["MAX_EPOCH"] * steps), round(optim.warmup_epochs * steps)
    for epoch, lr in case.manifest["lr"]:
        factor = schedule(round(epoch * steps), total, warmup, optim.warmup_start_factor, optim.min_lr_factor)
        assert peak_lr(optim, 1) * factor == pytest.approx(lr, rel=1e-5)
    recorded = {name: group for group in case.manifest["groups"] for name in group["names"]}
    clip = original_clip(case, NoTemporal()).video_clip.backbone
    assert recorded.keys() == {f"model.{name}" for name, _ in clip.named_parameters()}
    groups = parameter_groups(((f"clip.{name}", p) for name, p in clip.named_parameters()), optim)
    found = {id(parameter): group for group in groups for parameter in group["params"]}
    for name, parameter in clip.named_parameters():
        group = found[id(parameter)]
        assert group["weight_decay"] == recorded[f"model.{name}"]["weight_decay"], name
        assert base * group["lr_factor"] == pytest.approx(recorded[f"model.{name}"]["lr"]), name
