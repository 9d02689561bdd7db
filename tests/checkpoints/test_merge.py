from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vactk.checkpoints import merge_inputs
from vactk.checkpoints.checkpoint import load_model, save_model
from vactk.checkpoints.merge import plan_merge, save_merged
from vactk.checkpoints.merge_inputs import open_merge_input
from vactk.data.config import DataConfig
from vactk.errors import VactkError
from vactk.export.formats import ExportConfig, export_model
from vactk.export.graph_specs import Samples
from vactk.export.metadata import InferenceSpec
from vactk.models.backbone import BackboneConfig
from vactk.models.temporal.adapters import FrameAdapterConfig, STAdapterConfig, TEDAdapterConfig
from vactk.models.temporal.frame_attention import NeighbourAttentionConfig
from vactk.models.text_tower import TextAdapterConfig
from vactk.models.video_model import Heads, ModelConfig, clip_tower_of, new_model
from vactk.weights.arithmetic import average, interpolation, task_vector

TOY = BackboneConfig(name="toy")
ADAPTERS = {
    "temporal": TEDAdapterConfig(width=8, layers=(-1,)),
    "text_adapter": TextAdapterConfig(layers=1, width=8),
    "frame_adapter": FrameAdapterConfig(enabled=True, width=8),
}
HEADS = Heads(classes=("a", "b"), class_head=True)


def trained(path, towers=(), seed=1, heads=None, **config):
    """A checkpoint as training leaves it: made from a seed, then changed where it is trained."""
    torch.manual_seed(seed)
    model = new_model(ModelConfig(backbone=TOY, **config), heads)
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for name, parameter in model.module_dict().named_parameters():
            if clip_tower_of(name) in (None, *towers):
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_model(path, model, towers=towers, info={"recipe": {"templates": "object"}})
    return {name: tensor.clone() for name, tensor in model.module_dict().state_dict().items()}


def mixed(tmp_path, paths, weights, *, with_original=False, heads=True, stated=None):
    """The mixture's planning, and all the tensors of the model that its file gives."""
    mixture = plan_merge(
        [open_merge_input(path, stated or {}) for path in paths], with_original=with_original, heads=heads
    )
    output = tmp_path / "mixed.safetensors"
    output.unlink(missing_ok=True)
    save_merged(output, mixture, lambda _: weights, {"alpha": 0.5})
    return mixture, load_model(output)


def tensors(model):
    return model.module_dict().state_dict()


def original(**config):
    return tensors(new_model(ModelConfig(backbone=TOY, **config)))


@pytest.mark.parametrize("towers", [(), ("vision",), ("vision", "text", "scale")])
def test_two_of_a_kind(tmp_path, towers):
    a = trained(tmp_path / "a.safetensors", towers, seed=1, **ADAPTERS)
    b = trained(tmp_path / "b.safetensors", towers, seed=2, **ADAPTERS)
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    mixture, model = mixed(tmp_path, paths, interpolation(0.3))
    assert mixture.metadata["towers"] == list(towers)
    for name, tensor in tensors(model).items():
        torch.testing.assert_close(tensor, 0.7 * a[name] + 0.3 * b[name])
    assert model.info["recipe"] == {"templates": "object"}
    assert model.info["initial"] is None  # the sides started from different values
    assert not mixture.notes


def test_towards_the_original_clip_everything_goes_back_to_where_it_began(tmp_path):
    b = trained(tmp_path / "b.safetensors", ("vision",), seed=5, heads=HEADS, **ADAPTERS)
    torch.manual_seed(5)
    start = tensors(new_model(ModelConfig(backbone=TOY, **ADAPTERS), HEADS))
    mixture, model = mixed(tmp_path, [tmp_path / "b.safetensors"], interpolation(0.25), with_original=True)
    assert mixture.notes == (
        "added parameters that a checkpoint lacks have their initial values: drawn again from seed 5",
    )
    for name, tensor in tensors(model).items():
        expected = b[name] if name.startswith("class_head") else 0.75 * start[name] + 0.25 * b[name]
        torch.testing.assert_close(tensor, expected)
    _, at_zero = mixed(tmp_path, [tmp_path / "b.safetensors"], interpolation(0.0), with_original=True)
    plain = new_model(ModelConfig(backbone=TOY))
    video = torch.randn(1, 3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            at_zero.video_clip.encode_video(video), plain.video_clip.encode_video(video)
        )
    (tmp_path / "mixed.safetensors").rename(tmp_path / "once.safetensors")
    again, _ = mixed(tmp_path, [tmp_path / "once.safetensors"], interpolation(0.5), with_original=True)
    assert "drawn again from seed 5" in again.notes[0]  # a mixture still knows where it began


def test_without_the_seed_the_nearest_identity_stands_in(tmp_path, monkeypatch):
    b = trained(tmp_path / "b.safetensors", (), seed=5, **ADAPTERS)
    path = tmp_path / "b.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["vactk"])
    save_file(
        load_file(path),
        path,
        metadata={"vactk": json.dumps({**metadata, "initial": {"seed": 6, "fingerprint": "0"}})},
    )
    mixture, model = mixed(tmp_path, [path], interpolation(0.25), with_original=True)
    assert "the identity nearest to the trained values" in mixture.notes[0]
    found = tensors(model)
    down, up = "temporal.-.pre_mlp_adapter.down.weight", "temporal.-.pre_mlp_adapter.conv.weight"
    last = str(len(model.video_clip.temporal) - 1)
    down, up = down.replace("-", last), up.replace("-", last)
    assert torch.equal(found[down], b[down])  # random at first: its trained value
    torch.testing.assert_close(found[up], 0.25 * b[up])  # zero at first
    _, at_zero = mixed(tmp_path, [path], interpolation(0.0), with_original=True)
    video = torch.randn(1, 3, 3, 64, 64)
    with torch.no_grad():
        plain = new_model(ModelConfig(backbone=TOY)).video_clip.encode_video(video)
        torch.testing.assert_close(at_zero.video_clip.encode_video(video), plain)


def test_adapters_only_with_a_fine_tuned_clip(tmp_path):
    a = trained(tmp_path / "a.safetensors", (), seed=1, **ADAPTERS)
    b = trained(tmp_path / "b.safetensors", ("vision",), seed=2)
    paths = [tmp_path / "b.safetensors", tmp_path / "a.safetensors"]
    mixture, model = mixed(tmp_path, paths, interpolation(0.5))
    assert mixture.metadata["towers"] == ["vision"]
    torch.manual_seed(1)
    start = tensors(new_model(ModelConfig(backbone=TOY, **ADAPTERS)))
    for name, tensor in tensors(model).items():
        torch.testing.assert_close(tensor, (b.get(name, start[name]) + a[name]) / 2)


def test_vision_of_one_and_text_of_the_other(tmp_path):
    a = trained(tmp_path / "a.safetensors", ("vision",), seed=1)
    b = trained(tmp_path / "b.safetensors", ("text",), seed=2)
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    mixture, model = mixed(tmp_path, paths, average(2))
    assert mixture.metadata["towers"] == ["vision", "text"]
    for name, tensor in tensors(model).items():
        torch.testing.assert_close(tensor, (a[name] + b[name]) / 2)


def test_plain_weights_as_a_side(tmp_path):
    b = trained(tmp_path / "b.safetensors", ("vision",), temporal=NeighbourAttentionConfig())
    clip = new_model(ModelConfig(backbone=TOY)).video_clip.backbone.state_dict()
    save_file(clip, tmp_path / "clip.safetensors")
    torch.save({"state_dict": {f"module.{name}": t for name, t in clip.items()}}, tmp_path / "clip.pt")
    for plain in ("clip.safetensors", "clip.pt"):
        paths = [tmp_path / plain, tmp_path / "b.safetensors"]
        mixture, model = mixed(tmp_path, paths, interpolation(0.4))
        assert mixture.metadata["towers"] == ["vision"]  # the text towers are the same
        assert model.config.temporal == NeighbourAttentionConfig()
        for name, tensor in tensors(model).items():
            torch.testing.assert_close(tensor, 0.6 * clip[name.removeprefix("clip.")] + 0.4 * b[name])


def test_plain_weights_of_another_clip_make_a_whole_checkpoint(tmp_path):
    a = trained(tmp_path / "a.safetensors", (), **ADAPTERS)
    clip = {
        n: t + 0.01 for n, t in new_model(ModelConfig(backbone=TOY)).video_clip.backbone.state_dict().items()
    }
    save_file(clip, tmp_path / "clip.safetensors")
    mixture, model = mixed(
        tmp_path, [tmp_path / "clip.safetensors", tmp_path / "a.safetensors"], interpolation(0.5)
    )
    assert mixture.metadata["towers"] == ["vision", "text", "scale"]
    assert any("differ in towers that they did not train" in note for note in mixture.notes)
    for name, tensor in clip.items():
        torch.testing.assert_close(tensors(model)[f"clip.{name}"], (tensor + a[f"clip.{name}"]) / 2)


def test_task_vectors_between_models_with_and_without_adapters(tmp_path):
    a = trained(tmp_path / "a.safetensors", ("vision",), seed=1)
    b = trained(tmp_path / "b.safetensors", ("vision",), seed=2)
    c = trained(tmp_path / "c.safetensors", ("vision",), seed=3)
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    _, model = mixed(tmp_path, paths, task_vector(0.5))
    for name, tensor in tensors(model).items():
        torch.testing.assert_close(tensor, a[name] + 0.5 * (b[name] - c[name]))


def test_plain_files_alone_stay_plain(tmp_path):
    a, b = ({"x": torch.randn(4), "y": torch.randn(2, 2)} for _ in range(2))
    save_file(a, tmp_path / "a.safetensors")
    save_file(b, tmp_path / "b.safetensors")
    sides = [open_merge_input(tmp_path / f"{name}.safetensors", {}) for name in "ab"]
    mixture = plan_merge(sides)
    save_merged(tmp_path / "m.safetensors", mixture, lambda _: average(2), {"alpha": 0.5})
    found = load_file(tmp_path / "m.safetensors")
    torch.testing.assert_close(found["x"], (a["x"] + b["x"]) / 2)
    with pytest.raises(VactkError, match="not a vactk checkpoint"):
        load_model(tmp_path / "m.safetensors")
    with pytest.raises(VactkError, match="does not say what it started from"):
        plan_merge(sides[:1], with_original=True)


def test_heads(tmp_path):
    other = Heads(classes=("c", "d"), class_head=True)
    a = trained(tmp_path / "a.safetensors", seed=1, heads=HEADS, **ADAPTERS)
    b = trained(tmp_path / "b.safetensors", seed=2, heads=HEADS, **ADAPTERS)
    trained(tmp_path / "c.safetensors", seed=3, heads=other, **ADAPTERS)
    trained(tmp_path / "d.safetensors", seed=4, **ADAPTERS)
    path = {name: tmp_path / f"{name}.safetensors" for name in "abcd"}
    key = "class_head.fc.weight"
    _, model = mixed(tmp_path, [path["a"], path["b"]], interpolation(0.5))
    torch.testing.assert_close(tensors(model)[key], (a[key] + b[key]) / 2)
    _, model = mixed(tmp_path, [path["d"], path["b"]], interpolation(0.1))
    assert torch.equal(tensors(model)[key], b[key])
    with pytest.raises(VactkError, match=r"class heads know different classes; .*--drop-heads"):
        mixed(tmp_path, [path["a"], path["c"]], average(2))
    _, model = mixed(tmp_path, [path["a"], path["c"]], average(2), heads=False)
    assert model.class_head is None


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        (
            {"temporal": TEDAdapterConfig(width=8)},
            {"temporal": STAdapterConfig()},
            "do not match; temporal: TEDAdapter .*'width': 8.* and STAdapter",
        ),
        (
            {"text_adapter": TextAdapterConfig(layers=1)},
            {"text_adapter": TextAdapterConfig(layers=-1)},
            "do not match; text_adapter: TextAdapter",
        ),
        ({}, {"similarity": "frames"}, "compare videos with text in different ways; .*'video' and 'frames'"),
    ],
)
def test_architectures_that_do_not_match_are_named(tmp_path, one, two, message):
    trained(tmp_path / "a.safetensors", **one)
    trained(tmp_path / "b.safetensors", **two)
    with pytest.raises(VactkError, match=message):
        mixed(tmp_path, [tmp_path / "a.safetensors", tmp_path / "b.safetensors"], average(2))


def test_plain_weights_of_another_architecture_are_named(tmp_path, tiny_clip):
    trained(tmp_path / "a.safetensors", ("vision",))
    save_file(dict(tiny_clip.state_dict()), tmp_path / "tiny.safetensors")
    with pytest.raises(
        VactkError, match=r"do not match; other shape: clip\.ln_final.bias \(32,\) instead of \(64,\)"
    ):
        mixed(tmp_path, [tmp_path / "tiny.safetensors", tmp_path / "a.safetensors"], average(2))


def test_a_backbone_with_other_weights_is_refused(tmp_path, monkeypatch):
    trained(tmp_path / "a.safetensors", (), seed=1, **ADAPTERS)
    trained(tmp_path / "b.safetensors", ("vision",), seed=2)
    whole = merge_inputs.load_backbone

    def changed(config, **options):
        backbone = whole(config, **options)
        with torch.no_grad():
            backbone.clip.visual.proj.add_(1)
        return backbone

    monkeypatch.setattr("vactk.checkpoints.merge_inputs.load_backbone", changed)
    with pytest.raises(VactkError, match=r"a.safetensors' was trained on other weights .*--pretrained FILE"):
        mixed(tmp_path, [tmp_path / "a.safetensors", tmp_path / "b.safetensors"], average(2))


@pytest.mark.parametrize("changes", [{"format": 9}, {"towers": 3}, {"model": None}])
def test_damaged_metadata_are_named(tmp_path, changes):
    path = tmp_path / "a.safetensors"
    trained(path)
    with safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["vactk"])
    save_file(load_file(path), path, metadata={"vactk": json.dumps({**metadata, **changes})})
    with pytest.raises(VactkError, match=r"has checkpoint format 9|the metadata of .* are damaged"):
        open_merge_input(path, {})


def test_another_projects_safetensors_are_opened_as_that_project_and_not_as_a_plain_clip(tmp_path):
    clip = new_model(ModelConfig(backbone=TOY)).video_clip.backbone.state_dict()
    save_file({f"model.{name}": t + 0.01 for name, t in clip.items()}, tmp_path / "swa.safetensors")
    stated = {"backbone": {"name": "toy"}}
    _, model = mixed(
        tmp_path, [tmp_path / "swa.safetensors"], interpolation(0.5), with_original=True, stated=stated
    )
    assert model.config.temporal == NeighbourAttentionConfig()  # as Open-VCLIP published it
    assert model.config.similarity == "frames"
    torch.testing.assert_close(tensors(model)["clip.visual.proj"], clip["visual.proj"] + 0.005)


@pytest.fixture
def toy_folders(tmp_path):
    """The toy CLIP, exported to a folder of open_clip's and one of Hugging Face's."""
    toy = new_model(ModelConfig(backbone=TOY))
    spec = InferenceSpec(data=DataConfig(num_frames=1), templates=("{}",), source={"name": "toy"})
    for name in ("open_clip", "huggingface"):
        export_model(toy, tmp_path / name, ExportConfig(format=name), spec, Samples())
    return toy.video_clip.backbone.state_dict()


def test_folders_of_open_clip_and_hugging_face_are_merged(tmp_path, toy_folders):
    b = trained(tmp_path / "b.safetensors", ("vision",), temporal=NeighbourAttentionConfig())
    for folder in ("open_clip", "huggingface"):
        _, model = mixed(tmp_path, [tmp_path / folder, tmp_path / "b.safetensors"], interpolation(0.4))
        assert (model.config.temporal, model.config.backbone) == (
            NeighbourAttentionConfig(),
            model.backbone.config,
        )
        assert model.config.backbone.name == "toy"  # the name, where one of two has a name
        for name, tensor in tensors(model).items():
            torch.testing.assert_close(tensor, 0.6 * toy_folders[name.removeprefix("clip.")] + 0.4 * b[name])
    both = [open_merge_input(tmp_path / folder, {}) for folder in ("open_clip", "huggingface")]
    assert all(len(one.sha256) == 64 for one in both)
    assert plan_merge(both).metadata["towers"] == ["vision", "text", "scale"]
    with pytest.raises(VactkError, match="does not say what it started from"):
        plan_merge(both[:1], with_original=True)
