"""M2-CLIP against tensors of its published code."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vactk.torchvision_ops  # noqa: F401
from vactk.checkpoints.m2clip import rename_m2clip
from vactk.models.heads import ClassHead, MaskedWordHead
from vactk.models.losses import contrastive_loss, cross_modal_loss, masked_word_loss
from vactk.models.temporal.adapters import FrameAdapter, FrameAdapterConfig, TEDAdapter, TEDAdapterConfig
from vactk.models.text_tower import TextAdapter, TextAdapterConfig
from vactk.models.video_clip import VideoCLIP
from vactk.text.words import PromptMasker
from vactk.train.optim import OptimConfig, parameter_groups
from vactk.weights.torch_file import read_state_dict

# isort: split
import open_clip

PLACEMENT = {(False, True): "pre_mlp", (True, False): "pre_attn", (True, True): "both"}


def check_module(case, module, prefix, call):
    """Load a module under its name in vactk, then compare its output and all gradients."""
    own = rename_m2clip({prefix[0] + name: tensor for name, tensor in case.state.items()}, 12)
    module.load_state_dict({name.removeprefix(prefix[1]): tensor for name, tensor in own.items()})
    inputs = case.tensors("input")
    x = inputs["x"].clone().requires_grad_(True)
    y = call(module, x)
    case.check("y", y)
    if "cotangent" not in inputs:  # only the forward pass was recorded
        return
    y.backward(inputs["cotangent"].view_as(y))
    case.check("grad_x", x.grad)
    back = {
        next(iter(rename_m2clip({prefix[0] + name: torch.zeros(1)}, 12))).removeprefix(prefix[1]): name
        for name in case.state
    }
    for name, parameter in module.named_parameters():
        recorded = f"grad/{back[name]}"
        shape = case.manifest["tensors"][recorded]["shape"]
        case.check(recorded, parameter.grad.reshape(shape))


@pytest.mark.fixtures("m2_ted_adapter")
def test_ted_adapter(case):
    config = case.config
    module = TEDAdapter(
        config["in_channels"], config["adapter_channels"], tuple(config["grid"]), config["kernel_size"]
    )
    prefix = ("visual.transformer.resblocks.0.adapter_pre_mlp.", "temporal.0.pre_mlp_adapter.")
    check_module(case, module, prefix, lambda m, x: m(x, config["T"]))


@pytest.mark.fixtures("m2_output_temporal_adapter")
def test_frame_adapter(case):
    config = case.config
    state = case.state
    width, dim = state["fc1.weight"].shape
    module = FrameAdapter(dim, width, state["conv.weight"].shape[-1])
    prefix = ("visual.t_adapter.", "frame_adapter.")
    check_module(case, module, prefix, lambda m, x: m(x.reshape(-1, config["T"], dim)).reshape(x.shape))


@pytest.mark.fixtures("m2_text_adapter")
def test_text_adapter(case):
    width, dim = case.state["textad_fc1.weight"].shape
    prefix = ("transformer.resblocks.0.adapter_pre_mlp.", "text_adapters.0.pre_mlp_adapter.")
    check_module(case, TextAdapter(dim, width), prefix, lambda m, x: m(x))


def vision_model(case_state, config, *, vision_width, layers, embed_dim, adapter_width):
    """A VideoCLIP whose vision tower has the case's shape; the text tower is a stand-in."""
    clip = open_clip.CLIP(
        embed_dim,
        {
            "image_size": config["image_size"],
            "patch_size": config["patch_size"],
            "width": vision_width,
            "layers": layers,
            "head_width": vision_width // config["heads"],
        },
        {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 1, "layers": 1},
        quick_gelu=True,
    )
    placement = PLACEMENT[config["adapter_pre_attn"], config["adapter_pre_mlp"]]
    ted = TEDAdapterConfig(
        width=adapter_width, placement=placement, kernel_size=config["adapter_kernel_size"]
    )
    grid = tuple(clip.visual.grid_size)
    frames = FrameAdapterConfig(enabled=True, width=case_state["t_adapter.fc1.weight"].shape[0])
    return VideoCLIP(clip, ted.build(vision_width, grid, layers), frame_adapter=frames.build(embed_dim))


@pytest.mark.fixtures("m2_visual")
def test_vision_tower(case):
    config, state = case.config, case.state
    model = vision_model(
        state,
        config,
        vision_width=config["width"],
        layers=config["layers"],
        embed_dim=config["output_dim"],
        adapter_width=config["adapter_width"],
    ).eval()
    head = ClassHead(config["width"], config["num_classes"]).eval()
    own = rename_m2clip({f"visual.{name}": tensor for name, tensor in state.items()}, 12)
    head.load_state_dict(
        {n.removeprefix("class_head."): t for n, t in own.items() if n.startswith("class_head.")}
    )
    rest = {name: tensor for name, tensor in own.items() if not name.startswith("class_head.")}
    modules = nn.ModuleDict(
        {"clip": model.backbone, "temporal": model.temporal, "frame_adapter": model.frame_adapter}
    )
    missing, unexpected = modules.load_state_dict(rest, strict=False)
    assert not unexpected
    assert not [name for name in missing if ".visual." in name or name.startswith(("temporal", "frame"))]
    with torch.no_grad():
        features = model.video_features(case.tensors("input")["video"].transpose(1, 2))
    case.check("frame_features", features.frames)
    case.check("video_feature", features.frames.mean(dim=1))
    with torch.no_grad():
        case.check("class_logits", head(features.pooled))


def full_model(case, clip_state):
    """The whole model of a case, heads and all, with its recorded weights."""
    config = case.config
    num_text_blocks = config["transformer_layers"] - 1
    clip = open_clip.CLIP(
        config["embed_dim"],
        {
            "image_size": config["image_size"],
            "patch_size": config["patch_size"],
            "width": config["vision_width"],
            "layers": config["vision_layers"],
            "head_width": config["vision_width"] // config["vision_heads"],
        },
        {
            "context_length": config["context_length"],
            "vocab_size": config["vocab_size"],
            "width": config["text_width"],
            "heads": config["transformer_heads"],
            "layers": num_text_blocks,
        },
        quick_gelu=True,
    )
    ted = TEDAdapterConfig(
        width=config["vision_adapter_width"],
        placement=PLACEMENT[config["vision_adapter_pre_attn"], config["vision_adapter_pre_mlp"]],
    )
    text = TextAdapterConfig(
        width=config["text_adapter_width"],
        placement=PLACEMENT[config["text_adapter_pre_attn"], config["text_adapter_pre_mlp"]],
        layers=config["text_adapter_layers"] - 1,  # the published count takes in the cross-attention block
    )
    width = case.state["visual.t_adapter.fc1.weight"].shape[0]
    model = VideoCLIP(
        clip,
        ted.build(config["vision_width"], tuple(clip.visual.grid_size), config["vision_layers"]),
        text.build(config["text_width"], num_text_blocks),
        FrameAdapterConfig(enabled=True, width=width).build(config["embed_dim"]),
    )
    modules = nn.ModuleDict(
        {
            "clip": clip,
            "temporal": model.temporal,
            "text_adapters": model.text_adapters,
            "frame_adapter": model.frame_adapter,
            "class_head": ClassHead(config["vision_width"], len(config["class_names"])),
            "word_head": MaskedWordHead(
                config["text_width"],
                config["embed_dim"],
                config["mlm_head_len"],
                text.block(config["text_width"]),
            ),
        }
    )
    modules.load_state_dict(rename_m2clip({**clip_state, **case.state}, num_text_blocks))
    modules.requires_grad_(True)
    for parameter in clip.parameters():
        parameter.requires_grad_(False)
    return model.eval(), modules.eval()


def clip_state(reference):
    """The raw CLIP beneath the fixture."""
    archive = read_state_dict(reference / "containers" / "openai_clip_m2.pt")
    integers = {"input_resolution", "context_length", "vocab_size"}
    return {name: tensor.float() for name, tensor in archive.items() if name not in integers}


@pytest.mark.fixtures("m2_full")
def test_whole_model_losses_and_gradients(case, reference):
    model, modules = full_model(case, clip_state(reference))
    inputs = case.tensors("input")
    labels, text = inputs["labels"].long(), model.text

    features = model.video_features(inputs["video"].transpose(1, 2))
    video = F.normalize(features.frames.mean(dim=1), dim=-1)
    class_logits = modules["class_head"](features.pooled)
    masked_tokens = inputs["masked_tokens"].long()
    through = text.hidden(masked_tokens)
    masked_text = text.pool(through)
    last_block = text.blocks[-1]
    cross = modules["word_head"].cross_hidden(last_block, through.hidden, features.frames)
    word_logits = modules["word_head"](text, through.hidden, features.frames)
    class_tokens = text.trim(inputs["class_tokens"].long())  # cut: the results must be the same
    class_text = F.normalize(text.pool(text.finish(text.frozen_part(class_tokens))), dim=-1)
    scale = model.logit_scale
    logits = scale * video @ F.normalize(masked_text, dim=-1).T
    for name, found in {
        "video_feature": features.frames.mean(dim=1),
        "frame_features": features.frames,
        "image_embedding": video,
        "class_logits": class_logits,
        "text_features_masked": masked_text,
        "text_features_clean": model.encode_text(inputs["clean_tokens"].long()),
        "text_hidden": through.hidden,
        "cross_hidden": cross,
        "mlm_logits": word_logits,
        "logits_per_image": logits,
        "logits_per_text": logits.T,
        "class_text_features": class_text,
        "similarity_logits": 100 * video @ class_text.T,
        "eval_scores": (100 * video @ class_text.T).softmax(dim=-1),
        "eval_fc_scores": class_logits.softmax(dim=-1),
    }.items():
        case.check(name, found.detach())

    contrastive = contrastive_loss(video, F.normalize(masked_text, dim=-1), labels, scale)
    cross_modal = cross_modal_loss(video, class_text, labels, torch.tensor(100.0), doubled_softmax=True)
    visual = F.cross_entropy(class_logits, labels)
    words = masked_word_loss(word_logits, inputs["mlm_labels"].long())
    total = (contrastive + cross_modal) / 2 + visual + words / 10
    case.check("loss_contrastive", contrastive.detach())
    case.check("loss_cross_modal", cross_modal.detach())
    case.check("loss_fc", visual.detach())
    case.check("mlm_loss", words.detach())
    case.check("total", total.detach())

    total.backward()
    num_text_blocks = case.config["transformer_layers"] - 1
    parameters = dict(modules.named_parameters())
    checked = 0
    for recorded, expected in case.tensors("gradient").items():
        name = recorded.removeprefix("grad/")
        (ours,) = rename_m2clip({name: expected}, num_text_blocks)
        gradient = parameters[ours].grad
        found = torch.zeros_like(parameters[ours]) if gradient is None else gradient
        case.check(recorded, found.reshape(expected.shape))
        checked += 1
    assert checked == len(case.tensors("gradient"))


@pytest.mark.fixtures("m2_full")
def test_optimiser_groups(case, reference):
    _, modules = full_model(case, clip_state(reference))
    config = OptimConfig(weight_decay_on="all_but_biases", weight_decay=0.01)
    found = {}
    for group in parameter_groups(modules.named_parameters(), config):
        for parameter in group["params"]:
            found[id(parameter)] = (group["lr_factor"], group["weight_decay"])
    parameters = dict(modules.named_parameters())
    recorded = 0
    for group in case.manifest["optimizer_groups"]:
        for name in group["names"]:
            (ours,) = rename_m2clip({name: torch.zeros(1)}, case.config["transformer_layers"] - 1)
            assert found[id(parameters[ours])] == (group["lr_factor"], group["weight_decay"]), name
            recorded += 1
    assert recorded == len(found)


@pytest.mark.fixtures("m2_full")
def test_parameters_that_are_not_trained_are_those_without_gradient(case, reference):
    model, modules = full_model(case, clip_state(reference))
    unread = {id(parameter) for parameter in model.unused_parameters()}
    names = {name for name, parameter in modules.named_parameters() if id(parameter) in unread}
    num_text_blocks = case.config["transformer_layers"] - 1
    zero = rename_m2clip({name: torch.zeros(1) for name in case.manifest["zero_gradient"]}, num_text_blocks)
    assert names == set(zero)


@pytest.mark.fixtures("m2_masking")
def test_masking(case):
    manifest = case.manifest
    vocabulary = sorted(manifest["mlm_vocabulary"], key=manifest["mlm_vocabulary"].get)
    for example in manifest["cases"]:
        tokenizer = open_clip.SimpleTokenizer(context_length=example["context_length"])
        masker = PromptMasker(
            vocabulary,
            tokenizer.encode,
            start=tokenizer.sot_token_id,
            end=tokenizer.eot_token_id,
            context_length=example["context_length"],
            rate=example["masked_rate"],
        )
        masked = masker.mask(example["text"], example["position_order"])
        listed = len(example["tokens"])
        assert masked.num_masked == example["n_masked"]
        assert masked.tokens[:listed].tolist() == example["tokens"]
        pairs = list(zip(masked.labels[:listed].tolist(), example["labels"], strict=True))
        differing = [pair for pair in pairs if pair[0] != pair[1]]
        # the published code trains words that it does not know towards word 0; vactk leaves them out and says so
        assert differing == [(-100, 0)] * len(masked.unknown)
        assert not masked.tokens[listed:].any()
        assert (masked.labels[listed:] == -100).all()
