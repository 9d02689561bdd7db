"""README, the guides and CONTRIBUTING: every command runs as typed; every option, setting and file named exists.

Each document has a folder with a small stand-in for all that it takes for granted (`template`), and commands get
further arguments that keep them small (SMALL). A block ```bash no-run: REASON is parsed only.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shlex
import shutil
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner

from tests import reproduction
from tests.checkpoints.test_load import openvclip_file
from tests.checkpoints.test_plain_clip import vificlip
from tests.data import trees
from tests.export.conftest import small_folder as tiny_clip  # noqa: F401 - a fixture
from tests.video.conftest import write_video
from vactk.checkpoints.checkpoint import save_model
from vactk.cli.app import app
from vactk.data.shapes import clips
from vactk.data.shapes.clips import Split
from vactk.evaluate.protocol import published
from vactk.models.backbone import BackboneConfig
from vactk.models.video_model import TOWERS, ModelConfig, new_model
from vactk.train.recipe import Recipe

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "README.md", *sorted(ROOT.glob("examples/guides/*.md"))]
DOCUMENTS = [*GUIDES, ROOT / ".github/CONTRIBUTING.md"]
OTHER_PROGRAMS = {"python", ".", "pip", "pytest", "sbatch", "pre-commit"}
LAUNCHERS = {"accelerate", "torchrun"}

TINY = ("--backbone", "tiny_clip")  # two blocks in each tower, as the tests of export make it
STAND_INS = {  # patterns of what a document names, and what stands for it
    "ViT-B-16": ("tiny_clip",),
    "/data": ("data",),
    r"openvclip_swa\.pth|openvclip-.*/swa_2_22\.pth|models/froster-.*\.pth": ("openvclip_swa.pth", *TINY),
    r"models/(vifi-clip|clip)-.*\.pth": ("vifi_clip.pth",),
}
ONNX_ONLY = {"--precision", "--quantize", "--opset"}  # without these TorchScript stands for it, and is quick
QUICK = ("--frames", "2", "--workers", "0")
TRAINING = (*QUICK, *TINY, "--batch-size", "8", "--epochs", "0.5", "--processes", "1")
SMALL = {  # arguments after a command's own, of which the last counts
    "train": (*TRAINING, "run.accumulate=1"),
    "finetune": (*TRAINING, "average.start_epoch=0"),
    "zeroshot": (*QUICK, "--processes", "1"),
    "interpolate": QUICK,
    "retrieve": ("--workers", "0", "--processes", "1", "--yes"),
    "export": ("--frames", "2"),
    "data check": ("--workers", "1"),
    "data convert": ("--workers", "1"),
    "data cache": ("--workers", "1", "--short-side", "64"),
}
SHAPES = {
    "train": Split(classes=("star moving left", "star moving right"), videos_per_class=4, seed=0),
    "seen": Split(classes=("star moving left", "star moving right"), videos_per_class=3, seed=1),
    "unseen": Split(classes=("key moving left", "key moving right"), videos_per_class=1, seed=2),
    "retrieval": Split(classes=("star moving left", "key moving right"), videos_per_class=2, seed=3),
}


class Block(NamedTuple):
    """A fenced block of a document."""

    language: str
    reason: str  # not to run it; empty: it is run
    text: str

    def commands(self) -> list[list[str]]:
        """The words of each of its lines, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    return [
        Block(*found) for found in re.findall(r"^```(\w*)(?: no-run: (.+))?\n(.*?)^```$", text, re.M | re.S)
    ]


def inline_code(document: Path) -> list[str]:
    prose = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def vactk_arguments(words: list[str]) -> list[str] | None:
    """What follows `vactk`, also behind a launcher; None for another program's command."""
    if words[0] == "vactk" or (words[0] in LAUNCHERS and "vactk" in words):
        return words[words.index("vactk") + 1 :]
    assert words[0] in OTHER_PROGRAMS | LAUNCHERS, f"is `{words[0]}` a command?"
    return None


def split_name(arguments: list[str]) -> tuple[str, list[str]]:
    size = 2 if arguments[0] == "data" else 1
    return " ".join(arguments[:size]), arguments[size:]


@functools.cache
def click_command(name: str) -> Any:
    command: Any = typer.main.get_command(app)
    for word in name.split():
        command = command.commands[word]
    return command


def options(command: Any) -> set[str]:
    """All options of a command and of those below it."""
    own = {option for parameter in command.params for option in parameter.opts if option.startswith("-")}
    return own.union(*(options(child) for child in getattr(command, "commands", {}).values()))


@pytest.fixture(scope="module")
def template(tmp_path_factory, tiny_clip):  # noqa: F811
    """A folder with a small stand-in for all that the documents take for granted."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        for name, split in SHAPES.items():
            patch.setitem(clips.SPLITS, name, split)
        patch.setenv("VACTK_CONFIG", str(folder / "no-config.yaml"))
        patch.setenv("VACTK_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        shutil.copytree(tiny_clip, folder / "tiny_clip")
        make_videos(folder)
        make_checkpoints(folder)
        run_vactk(shlex.split("train --dataset shapes --output runs/first"))
        shutil.copytree(tiny_clip, folder / "clip_folder")
        yield folder


def make_videos(folder: Path) -> None:
    names = [f"my_dataset/{label}/{n}.mp4" for label in ("dancing", "cooking") for n in range(3)]
    for number, name in enumerate([*names, "videos/2024/a.mp4", "videos/dancing/b.mp4", "clip.mp4"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / name, num_frames=12 + number)
    rows = [f"{name},{Path(name).parts[1]}" for name in names]
    (folder / "my_list.csv").write_text("\n".join(["path,label", *rows]))
    captions = [f"{name},a video of {Path(name).parts[1]},{n}" for n, name in enumerate(names)]
    (folder / "my_captions.csv").write_text("\n".join(["path,caption,number", *captions]))
    (folder / "queries.txt").write_text("a sunset\na dog\n")
    lines = [f'{{"video": "{name}", "descriptions": ["Video {n}."]}}' for n, name in enumerate(names)]
    (folder / "descriptions.jsonl").write_text("\n".join(lines))
    for make in (trees.hmdb51, trees.ucf101, trees.msrvtt, trees.k400, trees.k600, trees.ssv2):
        make(folder / "data" / make.__name__, trees.tiny_video)
    videos = sorted((folder / "data/k400/train").iterdir())
    lines = [f'{{"video": "{video.stem}", "descriptions": ["Video {n}."]}}' for n, video in enumerate(videos)]
    (folder / "k400.jsonl").write_text("\n".join(lines))


def make_checkpoints(folder: Path) -> None:
    for seed, name in enumerate("abc"):
        torch.manual_seed(seed)
        model = new_model(ModelConfig(backbone=BackboneConfig(name="tiny_clip")))
        with torch.no_grad():
            for parameter in model.video_clip.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        save_model(folder / f"{name}.safetensors", model, towers=TOWERS, info={})
    openvclip_file(folder / "openvclip_swa.pth", model)
    vificlip(folder / "vifi_clip.pth", "tiny_clip")


def stand_ins(word: str) -> tuple[str, ...]:
    return next((found for pattern, found in STAND_INS.items() if re.fullmatch(pattern, word)), (word,))


def run_vactk(arguments: list[str], small: Mapping[str, tuple[str, ...]] = SMALL) -> str:
    """Run a command with what stands for the large things that it names; what it prints."""
    name, _ = split_name(arguments)
    words = [stand_in for word in arguments for stand_in in stand_ins(word)]
    if name == "export" and not ONNX_ONLY & {*words}:
        words = ["torchscript" if word in ("onnx", "pt2") else word for word in words]
    names_model = {"--checkpoint", "--backbone"} & {*words} or ("--index" in words and "--add" not in words)
    if name in ("zeroshot", "retrieve", "export") and not names_model:
        words += TINY  # else ViT-B-16
    result = CliRunner().invoke(app, [*words, *small.get(name, ())], prog_name="vactk")
    assert result.exit_code == 0, f"vactk {shlex.join(arguments)}\n{result.stderr}{result.exception!r}"
    return result.stdout


@pytest.fixture
def sandbox(template, tmp_path, monkeypatch):
    """A copy of the template, as the working folder."""
    folder = shutil.copytree(template, tmp_path / "sandbox")
    monkeypatch.setenv("VACTK_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("document", GUIDES, ids=lambda path: path.stem)
def test_a_documents_commands_run_in_order(sandbox, document):
    if "--output runs/first" in document.read_text(encoding="utf-8"):
        shutil.rmtree(sandbox / "runs")  # it makes its own
    for block in blocks(document):
        for words in block.commands() if block.language == "bash" and not block.reason else ():
            arguments = vactk_arguments(words)
            if arguments is not None:
                run_vactk(arguments)


def test_the_tables_of_published_results_are_those_of_the_data():
    text = reproduction.GUIDE.read_text(encoding="utf-8")
    assert reproduction.written(text) == text, "run: python -m tests.reproduction"
    assert {(row.protocol, row.method, row.backbone) for row in published()} < {
        (row.protocol, row.method, row.backbone) for row in reproduction.results()
    }


def test_every_command_of_these_tables_runs_and_reads_what_its_row_says(sandbox):
    """Every model is made; those of three sizes, whose files are the same here, are evaluated once."""
    reading = ("--workers", "0", "--processes", "1", "--json")
    small = SMALL | {
        "finetune": (*SMALL["finetune"], "--shots", "0"),
        "zeroshot": reading,
        "retrieve": (*SMALL["retrieve"], "--json"),
    }
    found: dict[tuple[str, ...], str] = {}
    for row in reproduction.results():
        model = reproduction.model_of(row)
        for command in (*model.commands, reproduction.command(row)):
            words = vactk_arguments(shlex.split(command))
            if words[0] in ("zeroshot", "retrieve"):
                words = [re.sub(r"-(b32|l14)\.", "-b16.", word) for word in words]
            key = tuple(stand_in for word in words for stand_in in stand_ins(word))
            if key not in found:
                found[key] = run_vactk(words, small)
        result = json.loads(found[key])
        assert result["protocol"] == row.protocol
        if result.get("crops"):
            trained = any("finetune" in command or " train" in command for command in model.commands)
            frames, rest = reproduction.read_of_videos(row).split(" ", 1)
            expected = f"{2 if trained else frames} {rest}"
            assert f"{result['frames']} x {result['views']} x {result['crops']}" == expected, command


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_commands_that_are_not_run_are_at_least_understood(document):
    for block in blocks(document):
        for words in block.commands() if block.language == "bash" else ():
            arguments = vactk_arguments(words)
            if arguments is not None:
                name, rest = split_name(arguments)
                click_command(name).make_context(name, rest)  # raises UsageError
            elif script := next((word for word in words if word.startswith("examples/")), None):
                source = (ROOT / script).read_text(encoding="utf-8")
                named = {word[2:].replace("-", "_") for word in words if re.match(r"--\w", word)}
                assert words[0] != "python" or all(re.search(rf"\b{name}\b", source) for name in named), (
                    script
                )


def setting_names(kind: Any, prefix: str = "") -> set[str]:
    """The dotted names of all settings in a configuration class, whichever entry of a table is chosen."""
    found = {prefix.rstrip(".")}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            for each in field.metadata.get("choices", {"": hints[field.name]}).values():
                found |= setting_names(each, f"{prefix}{field.name}.")
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_options_and_settings_in_the_prose_exist(document):
    settings = setting_names(Recipe)
    sections = {name.split(".")[0] for name in settings if "." in name}
    for code in inline_code(document):
        words = code.split()
        if words[0] == "vactk" or code.startswith("--"):
            of_one = words[0] == "vactk" and len(words) > 1 and words[1].islower() and words[1][0] != "-"
            command = click_command(split_name(words[1:])[0] if of_one else "")
            named = {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)}
            unknown = named - options(command) - {"--help", "--install-completion"}
            assert not unknown, f"`{code}`: there is no {', '.join(sorted(unknown))}"
        setting = re.match(r"([a-z]+)(\.[a-z_]+)+(?<!\.json)(?<!\.yaml)(?<!\.safetensors)(?==|$)", code)
        if setting and setting[1] in sections:
            assert setting[0] in settings, f"`{code}`: there is no such setting"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_files_modules_and_links_exist(document):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8")):
        assert (document.parent / link).exists(), link
    for code in inline_code(document):
        for word in code.split():
            if re.match(r"(vactk|tests|examples|\.github|\.ci)/[\w/.-]*\w", word):
                assert (ROOT / word).exists(), f"`{code}`"
            if re.match(r"tests\.[a-z_.]+$", word):
                assert (ROOT / f"{word.replace('.', '/')}.py").is_file(), f"`{code}`"


def test_yaml_in_the_guides_is_yaml():
    found = [block for document in GUIDES for block in blocks(document) if block.language == "yaml"]
    assert found
    assert all(isinstance(yaml.safe_load(block.text), dict) for block in found)


def test_readme_stays_short_and_every_guide_is_listed():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 300
    assert all(f"(examples/guides/{guide.name})" in readme for guide in GUIDES[1:])
