"""What is fuzzed: every kind of file that vactk reads, as it reads it."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from tests.data import trees
from tests.data.annotation_formats import FORMATS, read_annotations
from tests.fuzzing import Kind
from tests.video.conftest import write_video
from vactk.checkpoints.checkpoint import load_model, save_model
from vactk.checkpoints.load import open_model
from vactk.config import build, parse_overrides, read_yaml, to_yaml
from vactk.data.annotations.descriptions import read_descriptions
from vactk.data.clip_cache import FrameCache, build_cache
from vactk.data.datasets import find_dataset
from vactk.data.file_tree import INDEX_NAME, FileTree
from vactk.data.records import Record
from vactk.data.tools.check import read_excluded
from vactk.errors import VactkError
from vactk.files.atomic import write_json
from vactk.models.video_model import Heads, ModelConfig, new_model
from vactk.recipes import read_recipe, recipe_names
from vactk.train.recipe import Recipe
from vactk.train.run_dir import RunDir
from vactk.video.reader import sample_video
from vactk.video.sampling import uniform_segments
from vactk.weights.streaming import FileTensors
from vactk.weights.torch_file import read_state_dict

LARGEST_SEED = 300_000  # bytes of a real video that is mutated: larger ones take long and tell no more


def kinds(data: Path | None) -> list[Kind]:
    """All kinds; with `data`, a folder of real files, these are mutated too."""
    return [
        Kind("videos", lambda folder: make_videos(folder, data), read_video("auto")),
        Kind("videos, decord", lambda folder: make_videos(folder, data), read_video("decord")),
        Kind("safetensors", make_checkpoints, read_checkpoint),
        Kind("pickles", make_pickles, read_pickle),
        Kind("TorchScript", make_archives, read_pickle),
        Kind("saved states", make_states, read_state),
        Kind("lists", make_lists, read_user_list, is_text=True, whole_folder=True),
        Kind("official annotations", make_official(data), read_official, is_text=True),
        Kind("descriptions", make_descriptions, read_descriptions, is_text=True),
        Kind("recipes", make_recipes, read_config, is_text=True),
        Kind("settings", make_settings, read_settings, is_text=True),
        Kind("clip caches", make_caches, read_cache, is_text=True, whole_folder=True),
        Kind("indices, exclusions", make_small, read_small, is_text=True, whole_folder=True),
    ]


def make_videos(folder: Path, data: Path | None) -> list[Path]:
    """Drawn clips in several codecs, and real ones."""
    made = [
        write_video(folder / "h264.mp4"),
        write_video(folder / "mpeg4.avi", codec="mpeg4"),
        write_video(folder / "vp9.webm", codec="libvpx-vp9", num_frames=8),
        write_video(folder / "rotated.mov", rotation=90),
        write_video(folder / "variable.mkv", times_s=[0.1 * n + 0.01 * n * n for n in range(24)]),
        write_video(folder / "stream.ts"),
    ]
    real = sorted((data / "videos").rglob("*")) if data is not None else []
    for number, path in enumerate(path for path in real if path.is_file()):
        if 0 < path.stat().st_size <= LARGEST_SEED:
            made.append(folder / f"{number}_{path.name}")
            shutil.copyfile(path, made[-1])
    return made


def read_video(decoder: str) -> Callable[[Path], object]:
    """Frames as a command reads them; "decord" is the decoder's own way in, where it takes the file."""

    def read(path: Path) -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sample_video(
                path, lambda timeline: uniform_segments(timeline.num_frames, 4).flatten(), decoder=decoder
            )

    return read


def make_checkpoints(folder: Path) -> list[Path]:
    """A checkpoint of adapters, one of whole weights, and bare tensors."""
    config = build(ModelConfig, {"backbone": {"name": "toy"}, "temporal": "ted_adapter"})
    model = new_model(config, Heads(classes=("a", "b"), class_head=True))
    save_model(folder / "adapters.safetensors", model, towers=(), info={"recipe": {}, "step": 3})
    save_file({"x": torch.randn(4, 5), "y": torch.arange(3)}, folder / "bare.safetensors")
    plain = new_model(build(ModelConfig, {"backbone": {"name": "toy"}}))
    save_model(folder / "scale.safetensors", plain, towers=("scale",), info={"step": 1})
    return sorted(folder.iterdir())


def read_checkpoint(path: Path) -> object:
    """As a checkpoint, and piece by piece as `vactk interpolate` does. Raises what the first raises."""
    try:
        source = FileTensors(path)
        for name in source.entries:
            source.read(name, 0, 1)
    except VactkError:
        pass
    if path.name == "bare.safetensors":
        return read_state_dict(path)
    return load_model(path)


class Net(nn.Module):
    """Something small to be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(2).half())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * self.scale.float().sum()


def make_pickles(folder: Path) -> list[Path]:
    """State dicts as projects save them, in the present and the old format."""
    tensors = Net().state_dict()
    torch.save({"state_dict": tensors, "epoch": 3}, folder / "wrapped.pth")
    torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, folder / "old.pt",
               _use_new_zipfile_serialization=False)  # fmt: skip
    clip = new_model(build(ModelConfig, {"backbone": {"name": "toy"}})).video_clip.backbone.state_dict()
    small = {f"model.{name}": tensor[:2].clone() for name, tensor in clip.items() if tensor.ndim}
    torch.save({"model_state": small}, folder / "openvclip.pth")
    return sorted(folder.iterdir())


def make_archives(folder: Path) -> list[Path]:
    """TorchScript archives, as OpenAI released its weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(Net().eval(), torch.randn(1, 4)), folder / "archive.pt")
    return [folder / "archive.pt"]


def read_pickle(path: Path) -> object:
    """The tensors, and where they are a video checkpoint, the model."""
    tensors = read_state_dict(path)
    if "openvclip" in path.name:
        return open_model(path)
    return tensors


def make_states(folder: Path) -> list[Path]:
    """A state to go on from."""
    parameter = nn.Parameter(torch.randn(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    state = {
        "step": 3,
        "failed": {1: "no"},
        "modules": {"x": torch.randn(5)},
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, folder / "step-000000003.pt")
    return [folder / "step-000000003.pt"]


def read_state(path: Path) -> object:
    """As `--resume` does: a damaged one is left out, with a word."""
    run = RunDir(path.parent)
    run.states = path.parent
    return run.load_state(lambda text: None)


def make_lists(folder: Path) -> list[Path]:
    """Lists of the user's own in every form, beside the videos that they name."""
    names = [f"run/clip {n}.mp4" if n % 2 else f"jump/clip_{n}.mp4" for n in range(6)]
    for name in names:
        trees.touch(folder / name)
    label = ["run" if n % 2 else "jump" for n in range(6)]
    rows = list(zip(names, label, strict=True))
    lists = {
        "named.csv": "path,label,start,end\n"
        + "".join(f'"{v}",{c},0.5,{n + 1}\n' for n, (v, c) in enumerate(rows)),
        "split.tsv": "path\tlabel\tsplit\n" + "".join(f"{v}\t{c}\ttrain\n" for v, c in rows),
        "bare.csv": "".join(f"{v},{c}\n" for v, c in rows),
        "blank.txt": "".join(f"{v} {n % 2}\n" for n, (v, _) in enumerate(rows)),
        "lines.jsonl": "".join(
            json.dumps({"video": v, "label": c, "caption": ["a", "b"]}) + "\n" for v, c in rows
        ),
        "array.json": json.dumps([{"video": v, "label": c, "start": 1} for v, c in rows]),
    }
    for name, text in lists.items():
        (folder / name).write_text(text)
    return [folder / name for name in lists]


def read_user_list(path: Path) -> object:
    """As `--dataset LIST` does: every split."""
    dataset = find_dataset(str(path))
    return [dataset.load(split) for split in (dataset.train_split, *dataset.eval_splits, dataset.test_split)]


def make_official(data: Path | None) -> Callable[[Path], Sequence[Path]]:
    """The benchmarks' own files: small ones in their layout, and the first lines of real ones."""

    def make(folder: Path) -> list[Path]:
        made = []
        for build_tree in (trees.hmdb51, trees.ucf101, trees.kinetics, trees.ssv2, trees.msrvtt):
            root = build_tree(folder / "trees" / build_tree.__name__)
            made += [path for path in root.rglob("*") if path.suffix in (".txt", ".csv", ".json")]
        real = sorted((data / "annotations").rglob("*")) if data is not None else []
        for number, path in enumerate(path for path in real if path.suffix in (".txt", ".csv", ".json")):
            head = path.read_bytes()[:20_000]
            made.append(folder / "real" / f"{number}_{path.name}")
            made[-1].parent.mkdir(exist_ok=True)
            made[-1].write_bytes(head)
        return sorted(made)

    return make


def read_official(path: Path) -> object:
    """By every format: one that reads it is enough, and the others must refuse it in words."""
    found, refused = [], None
    for form in FORMATS:
        try:
            found.append(read_annotations(path.parent if form.endswith("-splits") else path, form))
        except VactkError as error:
            refused = error
    if not found and refused is not None:
        raise refused
    return found


def make_descriptions(folder: Path) -> list[Path]:
    lines = [
        json.dumps({"video": f"v{n}.mp4", "descriptions": ["A dog runs.", "It stops."]}) for n in range(5)
    ]
    (folder / "descriptions.jsonl").write_text("\n".join(lines))
    return [folder / "descriptions.jsonl"]


def make_recipes(folder: Path) -> list[Path]:
    """The packaged recipes, and one with every setting."""
    for name in recipe_names():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(read_recipe(name)))
    (folder / "whole.yaml").write_text(to_yaml(build(Recipe, read_recipe("m2clip-shapes"))))
    return sorted(folder.iterdir())


def read_config(path: Path) -> object:
    return build(Recipe, read_yaml(path))


def make_settings(folder: Path) -> list[Path]:
    """key=value lines, as on the command line."""
    items = ["optim.lr=1e-3", "model.temporal={name: st_adapter, width: 8}", "task.towers=[vision, text]"]
    items += [
        "run.epochs=2",
        "interpolated.alphas=[0.1,0.5]",
        "templates=a {} here",
        "data.sampling={name: dense, stride: 4}",
    ]
    (folder / "settings.txt").write_text("\n".join(items))
    return [folder / "settings.txt"]


def read_settings(path: Path) -> object:
    items = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")  # as the system gives arguments
    return build(Recipe, parse_overrides(items))


def make_caches(folder: Path) -> list[Path]:
    """The index of a cache of clips, beside its frames."""
    videos = [write_video(folder.parent / f"{n}.mp4", num_frames=6) for n in range(2)]
    records = [Record(video=video, label=n) for n, video in enumerate(videos)]
    build_cache(records, folder, num_frames=4, short_side=32, workers=0)
    return [path for path in folder.iterdir() if path.suffix == ".json"]


def read_cache(path: Path) -> object:
    cache = FrameCache(path.parent)
    sources = sorted(path.parent.parent.glob("*.mp4"))
    records = [Record(video=video, label=n) for n, video in enumerate(sources)]

    def sampler(timeline):
        return uniform_segments(timeline.num_frames, 2).flatten()

    return [cache.sample(record, sampler) for record in records]


def make_small(folder: Path) -> list[Path]:
    """Files that vactk itself leaves beside data."""
    for name in ("run/1.mp4", "jump/2.mp4"):
        trees.touch(folder / name)
    write_json(folder / INDEX_NAME, FileTree.scan(folder).to_json())
    (folder / "vactk-exclude.txt").write_text(f"{folder / 'run/1.mp4'}\n")
    (folder / "result.json").write_text(json.dumps({"run_dir": "x", "metrics": {}}))
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": n, "loss": 1.0}) + "\n" for n in range(9))
    )
    (folder / "run.json").write_text(json.dumps({"segments": [{"seed": 1}]}))
    return sorted(path for path in folder.iterdir() if path.is_file())


def read_small(path: Path) -> object:
    if path.name == "vactk-exclude.txt":
        return read_excluded(path)
    if path.name == INDEX_NAME:
        return find_dataset(str(path.parent)).load("all")
    run = RunDir(path.parent)
    run.drop_lines_after(4)
    run.add_provenance({"seed": 2})
    return run.finished()
