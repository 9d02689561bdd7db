"""Descriptions of videos for `vactk finetune --descriptions`: captions of frames, merged by a language model.

    pip install 'vactk[describe]'
    hf download Salesforce/blip-image-captioning-base
    hf download Qwen/Qwen2.5-1.5B-Instruct
    python examples/describe_videos.py videos/ --output descriptions.jsonl \\
        --captioner Salesforce/blip-image-captioning-base --language-model Qwen/Qwen2.5-1.5B-Instruct

Makes fine-grained descriptions as Open-VCLIP++ uses them; its own code for that was not released. Evenly spread
frames are captioned one by one, repeated captions are dropped, and a language model merges the rest. It sees the
captions and nothing else (PROMPT in local_models.py): no file name, no folder, no class. Without --language-model,
the distinct captions are the descriptions.

Models are read from this machine only, as folders or from the Hugging Face cache, and no code that comes with them
is run. Decoding is greedy, and the frames of a video form a batch of their own, so that a text does not depend on
what else is described. Each finished video is one line:

    {"video": "a/b.mp4", "descriptions": [TEXT, ...], "captions": [TEXT, ...], "made_by": {SETTING: VALUE, ...}}

with the path relative to the folder. The same command continues where it was stopped, or with new videos.
"""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from local_models import DTYPES, Captioner, LanguageModel, NothingSaidError, silence_transformers
from torch import Tensor

from vactk.cli.display import Display, print_line, print_table
from vactk.data.datasets import find_dataset
from vactk.data.records import VideoSet
from vactk.distributed import make_accelerator
from vactk.errors import VactkError
from vactk.video import Timeline, VideoError, VideoWarning, is_video_name, sample_video, uniform_segments

LINE_START = b'{"video": '


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that the texts of a file depend on."""

    captioner: str
    language_model: str | None
    frames: int
    max_new_tokens: int
    precision: str


@dataclass
class Summary:
    """Counts of described, kept and failed videos."""

    described: int = 0
    kept: int = 0  # described in an earlier run
    failed: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)  # described from the frames that could be read


def distinct(captions: Sequence[str]) -> list[str]:
    """Return the non-empty captions in order, without repeats that differ in case, spaces or full stop."""
    found: dict[str, str] = {}
    for caption in captions:
        text = " ".join(caption.split())
        key = text.casefold().rstrip(" .")
        if key:
            found.setdefault(key, text)
    return list(found.values())


class Lines:
    """The output file: complete lines of earlier runs stay; new ones are on disk when `add` returns."""

    def __init__(self, path: Path, settings: Settings) -> None:
        """Raises VactkError if the file has lines that were not made with the same settings."""
        self.path = path
        self.made_by = asdict(settings)
        content = path.read_bytes() if path.exists() else b""
        lines = content.split(b"\n")
        torn = lines.pop()  # by a process killed in the middle of it
        if torn and not torn[: len(LINE_START)] == LINE_START[: len(torn)]:
            raise self._foreign(len(lines) + 1)
        self.videos = {self._video(number, line) for number, line in enumerate(lines, start=1)}
        if torn:
            os.truncate(path, len(content) - len(torn))

    def add(self, video: str, descriptions: list[str], captions: list[str]) -> None:
        """Write the line of one video. Raises VactkError if the disk is full or read-only."""
        line = {"video": video, "descriptions": descriptions, "captions": captions, "made_by": self.made_by}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(json.dumps(line).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise VactkError(
                f"cannot write '{self.path}': {error.strerror or error}; finished videos are kept, "
                "the same command goes on"
            ) from error
        self.videos.add(video)

    def _video(self, number: int, line: bytes) -> str:
        try:
            entry = json.loads(line)
            video, made_by = entry["video"], dict(entry["made_by"])
        except (ValueError, KeyError, TypeError) as error:
            raise self._foreign(number) from error
        changed = [key for key in self.made_by if made_by.get(key) != self.made_by[key]]
        if changed:
            old, new = made_by.get(changed[0]), self.made_by[changed[0]]
            raise VactkError(
                f"'{self.path}' was made with {changed[0]} {json.dumps(old)}, not {json.dumps(new)}: give the "
                "same again, or choose another --output"
            )
        return str(video)

    def _foreign(self, number: int) -> VactkError:
        return VactkError(
            f"line {number} of '{self.path}' was not written by this script: choose another --output"
        )


def describe(
    videos: dict[str, Path],
    settings: Settings,
    lines: Lines,
    *,
    device: str,
    batch_size: int,
    display: Display,
) -> Summary:
    """Append a line for each video that has none. A video that cannot be described is in the summary."""
    waiting = {name: path for name, path in videos.items() if name not in lines.videos}
    summary = Summary(kept=len(videos) - len(waiting))
    if not waiting:
        return summary
    place: dict[str, Any] = {
        "max_new_tokens": settings.max_new_tokens,
        "device": make_accelerator(device, "fp32").device,
        "dtype": DTYPES[settings.precision],
    }
    captioner = Captioner(settings.captioner, **place)
    merger = LanguageModel(settings.language_model, **place) if settings.language_model else None
    progress = display.progress("describing")
    for done, (name, path) in enumerate(waiting.items()):
        progress(summary.kept + done, len(videos))
        try:
            captions = caption_video(path, captioner, settings.frames, batch_size, summary)
            texts = captions if merger is None else distinct([merger.merge(captions)])
            if not texts:
                raise NothingSaidError("the language model's answer is empty")
        except VideoError as error:
            summary.failed.append(str(error))
        except NothingSaidError as error:
            summary.failed.append(f"cannot describe '{path}': {error}")
        else:
            lines.add(name, texts, captions)
            summary.described += 1
    progress(len(videos), len(videos))
    return summary


def caption_video(
    path: Path, captioner: Captioner, num_frames: int, batch_size: int, summary: Summary
) -> list[str]:
    """Return the distinct captions of evenly spread frames. Raises VideoError, NothingSaidError."""

    def sampler(timeline: Timeline) -> Tensor:
        return uniform_segments(timeline.num_frames, num_frames).unique()  # short videos repeat frames

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)  # it comes with the sample
        sample = sample_video(path, sampler)
    captions = distinct(
        [text for part in sample.frames.split(batch_size) for text in captioner.caption(part)]
    )
    if not captions:
        raise NothingSaidError("the captioner says nothing about its frames")
    if sample.warning is not None:
        summary.partial.append(sample.warning)
    return captions


def find_videos(folder: Path) -> dict[str, Path]:
    """Return the visible video files under `folder`, by relative path."""
    if not folder.is_dir():
        raise VactkError(f"there is no folder '{folder}'")
    inside = {file.relative_to(folder): file for file in sorted(folder.rglob("*")) if is_video_name(file)}
    found = {
        name.as_posix(): file
        for name, file in inside.items()
        if file.is_file() and not any(part.startswith(".") for part in name.parts)
    }
    if not found:
        raise VactkError(f"there are no videos in '{folder}'")
    return found


def dataset_videos(videos: VideoSet) -> dict[str, Path]:
    """Return the files of a dataset's split, by path relative to their common folder."""
    parts = {(record.video, record.start_s, record.end_s) for record in videos.records}
    files = dict.fromkeys(record.video for record in videos.records)
    if len(parts) > len(files) or any(start is not None or end is not None for _, start, end in parts):
        raise VactkError(
            f"{videos.name} is made of parts of videos, and descriptions are found by file: cut the parts out "
            "and describe their folder"
        )
    folder = Path(os.path.commonpath([file.parent for file in files]))
    return {file.relative_to(folder).as_posix(): file for file in files}


def print_summary(summary: Summary, output: Path) -> None:
    """Print the counts, and a line for each video with a problem."""
    counts = {
        "described": summary.described,
        "already there": summary.kept,
        "could be read in part": len(summary.partial),
        "failed": len(summary.failed),
    }
    print_table("Descriptions", ("", "videos"), ([name, str(count)] for name, count in counts.items()))
    for title, texts in {"Failed": summary.failed, "Could be read in part": summary.partial}.items():
        if texts:
            print_table(title, ("reason",), ([text] for text in texts))
    if output.exists():
        print_line(f"descriptions: {output}")


def main(
    output: Annotated[Path, typer.Option(help="The JSON-lines file; an existing one is continued.")],
    captioner: Annotated[str, typer.Option(help="An image captioner: a folder, or OWNER/NAME in the cache.")],
    folder: Annotated[Path | None, typer.Argument(help="A folder of videos, searched recursively.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A vactk dataset, instead of a folder.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of the dataset; by default the training split.")
    ] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of the dataset's files.")] = None,
    language_model: Annotated[
        str | None,
        typer.Option(help="Model that merges the captions; without one, they are the descriptions."),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames to caption per video.")] = 8,
    batch_size: Annotated[int, typer.Option(min=1, help="Batch size of the captioner, in frames.")] = 8,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest caption or merged text, in tokens.")
    ] = 75,
    device: Annotated[
        Literal["auto", "cpu"], typer.Option(help="auto: an accelerator if there is one.")
    ] = "auto",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="Precision of the models.")
    ] = "fp32",
) -> None:
    """Describe videos with an image captioner and a language model, one line per video."""
    settings = Settings(
        captioner=captioner,
        language_model=language_model,
        frames=frames,
        max_new_tokens=max_new_tokens,
        precision=precision,
    )
    try:
        if importlib.util.find_spec("transformers") is None:
            raise VactkError("describing videos needs a package: pip install 'vactk[describe]'")
        if (folder is None) == (dataset is None):
            raise VactkError("give either a folder of videos or a --dataset")
        silence_transformers()
        with Display() as display:
            if folder is not None:
                videos = find_videos(folder)
            else:
                found = find_dataset(str(dataset))
                videos = dataset_videos(
                    found.load(
                        split or found.train_split, root=data_root, progress=display.progress(f"{dataset}")
                    )
                )
            summary = describe(
                videos,
                settings,
                Lines(output, settings),
                device=device,
                batch_size=batch_size,
                display=display,
            )
        print_summary(summary, output)
        if len(summary.failed) == len(videos):
            raise VactkError(f"no video could be described; the first: {summary.failed[0]}")
    except VactkError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("Interrupted: finished videos are kept, the same command goes on", err=True)
        raise typer.Exit(130) from None


if __name__ == "__main__":
    typer.run(main)
