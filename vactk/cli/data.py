"""vactk data"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vactk.cli import options
from vactk.cli.display import display, print_json, print_line, print_table
from vactk.errors import VactkError

if TYPE_CHECKING:
    from vactk.data.records import VideoSet
    from vactk.data.tools.check import CheckReport
    from vactk.data.tools.prepare import BenchmarkStatus

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
Name = Annotated[str, typer.Argument(metavar="NAME", help="A benchmark, such as hmdb51.")]
Source = Annotated[
    str, typer.Argument(metavar="NAME|PATH", help="A benchmark, a folder of videos, or a list of them.")
]
SHOWN_PROBLEMS = 20


@data_app.callback()
def data() -> None:
    """Prepare and verify datasets."""


@data_app.command("list")
def list_datasets(data_root: options.DataRoot = None, json: options.Json = False) -> None:
    """Show the benchmarks: where they are on this machine, and how complete."""
    from vactk.data.benchmarks import BENCHMARKS
    from vactk.data.tools.prepare import inspect_benchmark
    from vactk.evaluate.protocol import protocols

    found: list[dict[str, Any]] = []
    for name, benchmark in BENCHMARKS.items():
        item: dict[str, Any] = {"dataset": name, "title": benchmark.title, "page": benchmark.page}
        item["protocols"] = [p for p, protocol in protocols().items() if protocol.dataset == name]
        try:
            item |= {"found": True, **_state_json(inspect_benchmark(benchmark, data_root))}
        except VactkError as error:
            item |= {"found": False, "reason": str(error)}
        found.append(item)
    if json:
        print_json({"datasets": found})
        return
    rows = [
        [
            item["dataset"],
            item["title"],
            item["root"] if item["found"] else "not here",
            _shown_splits(item) if item["found"] else "-",
        ]
        for item in found
    ]
    print_table("Datasets", ("name", "title", "where", "splits: on disk/listed"), rows)
    for item in found:
        if not item["found"]:
            print_line(_why_not(item))
    print_line(
        "A folder with a folder for each class, and a list of paths and labels, go anywhere a name does."
    )


@data_app.command()
def prepare(name: Name, data_root: options.DataRoot = None, json: options.Json = False) -> None:
    """Unpack the official archives that you have, check the counts, and write the record file.

    Nothing is downloaded: put the archives and annotation files into one folder. For example:

        vactk data prepare hmdb51 --data-root /data/hmdb51
    """
    from vactk.data.benchmarks import find_benchmark
    from vactk.data.tools.prepare import RECORDS_NAME
    from vactk.data.tools.prepare import prepare as run

    with display() as shown:
        state = run(find_benchmark(name), data_root, shown.progress("archives"))
    if json:
        print_json({"dataset": name, **_state_json(state), "records": str(state.root / RECORDS_NAME)})
        return
    if state.unpacked:
        print_line(f"unpacked: {', '.join(state.unpacked)}")
    rows = [
        [split, str(s.listed), str(s.on_disk), "-" if s.published is None else str(s.published)]
        for split, s in state.splits.items()
    ]
    title = f"{name} in {state.root}: {state.num_classes} classes, {state.num_files:,} videos"
    print_table(title, ("split", "listed", "on disk", "published"), rows)
    for problem in state.problems:
        print_line(f"note: {problem}")
    print_line(f"records: {state.root / RECORDS_NAME}")


@data_app.command()
def check(
    source: Source,
    split: options.Split = None,
    data_root: options.DataRoot = None,
    output: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("vactk-check.json"),
    exclude: Annotated[
        Path, typer.Option(help="Where the list of unusable videos goes: train with data.exclude=FILE.")
    ] = Path("vactk-exclude.txt"),
    min_frames: Annotated[int, typer.Option(min=1, help="Fewer frames than this are too short.")] = 8,
    whole: Annotated[
        bool, typer.Option("--whole", help="Decode every frame, not eight of each video.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds after which a video is given up.")] = 120.0,
    workers: options.Workers = None,
    json: options.Json = False,
) -> None:
    """Open every video and report what is wrong: with the files, with the list, and with its labels.

    Exits with 0 whatever was found; the report says it. For example:

        vactk data check hmdb51 --split test1
        vactk data check my_clips/
    """
    from vactk.data.tools.check import check_videos, write_report

    videos = _videos(source, split, data_root)
    with display() as shown:
        for line in videos.report.lines() if videos.report else ():
            shown.message(line)
        report = check_videos(
            videos,
            workers=_num_workers(workers),
            timeout_s=timeout,
            min_frames=min_frames,
            whole=whole,
            progress=shown.progress("videos"),
        )
    write_report(report, output, exclude)
    if json:
        print_json({**report.to_json(), "report": str(output), "exclude": str(exclude)})
    else:
        _print_check(report, output, exclude)


@data_app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A folder of videos, such as a benchmark's.")],
    output: Annotated[Path, typer.Option(help="The folder for the converted dataset.")],
    short_side: Annotated[int, typer.Option(min=16, help="Pixels; smaller videos keep their size.")] = 256,
    crf: Annotated[int, typer.Option(min=0, max=51, help="Quality of H.264: lower is better.")] = 18,
    keyframe_every: Annotated[int, typer.Option(min=1, help="Frames; fewer make single frames faster.")] = 12,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds after which a video is given up.")] = 600.0,
    workers: options.Workers = None,
    json: options.Json = False,
) -> None:
    """Re-encode a folder of videos for fast reading: H.264, smaller, every frame kept at its time.

    Annotation files are copied along. The same command goes on where it was interrupted.
    """
    from dataclasses import asdict

    from vactk.data.tools.convert import convert as run

    with display() as shown:
        result = run(
            source,
            output,
            short_side=short_side,
            crf=crf,
            keyframe_every=keyframe_every,
            workers=_num_workers(workers),
            timeout_s=timeout,
            progress=shown.progress("videos"),
        )
    if json:
        print_json({**asdict(result), "output": str(output)})
        return
    print_line(f"{result.converted:,} videos converted, {result.there:,} were there: {output}")
    _print_problems("Converted in part", result.partial)
    _print_problems("Could not be read", result.unreadable)


@data_app.command()
def cache(
    source: Source,
    output: Annotated[Path, typer.Option(help="The folder for the cache: train with data.cache=FOLDER.")],
    split: options.Split = None,
    data_root: options.DataRoot = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames kept of each video, evenly spread.")] = 16,
    short_side: Annotated[int, typer.Option(min=16, help="Pixels: the model's size, or more.")] = 224,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds after which a video is given up.")] = 120.0,
    workers: options.Workers = None,
    json: options.Json = False,
) -> None:
    """Decode a dataset once, so that training on a small machine need not: by default its training split."""
    from vactk.data.clip_cache import build_cache
    from vactk.data.datasets import find_dataset

    dataset = find_dataset(source)
    videos = dataset.load(split or dataset.train_split, root=data_root).present()
    with display() as shown:
        result = build_cache(
            videos.records,
            output,
            num_frames=frames,
            short_side=short_side,
            workers=_num_workers(workers),
            timeout_s=timeout,
            progress=shown.progress("videos"),
        )
    if json:
        print_json(
            {
                "output": str(output),
                "num_videos": result.num_videos,
                "num_bytes": result.num_bytes,
                "unreadable": result.unreadable,
            }
        )
        return
    print_line(f"{result.num_videos:,} videos, {result.num_bytes / 2**20:,.0f} MiB: {output}")
    _print_problems("Could not be read", result.unreadable)


def _videos(source: str, split: str | None, root: Path | None) -> VideoSet:
    """The records to check: a split, or by default all that the source lists. Files may be missing."""
    from vactk.data.benchmarks import ALIASES, BENCHMARKS
    from vactk.data.custom_dataset import is_user_data, open_user_data
    from vactk.data.datasets import find_dataset

    name = ALIASES.get(source.lower(), source)
    if name in BENCHMARKS:
        found = BENCHMARKS[name].open(root)
        everything = next((s for s in ("all", "full") if s in found.annotations.splits), None)
        return BENCHMARKS[name].read(
            found, split or everything or next(iter(found.annotations.splits)), strict=False
        )
    if is_user_data(source):
        return open_user_data(Path(source)).load(split or "all", root=root, strict=False)
    dataset = find_dataset(source)
    return dataset.load(split or dataset.test_split, root=root)


def _num_workers(asked: int | None) -> int:
    """Unlike loading beside training, nothing else needs the processors."""
    from vactk.data.worker_pool import usable_processors

    return usable_processors() if asked in (None, -1) else int(asked or 0)


def _state_json(state: BenchmarkStatus) -> dict[str, Any]:
    return {
        "root": str(state.root),
        "complete": state.complete,
        "num_files": state.num_files,
        "num_classes": state.num_classes,
        "splits": {name: vars(split) for name, split in state.splits.items()},
        "problems": list(state.problems),
        "unpacked": list(state.unpacked),
    }


def _why_not(item: dict[str, Any]) -> str:
    """The page to fetch a dataset from, or what is wrong with its files."""
    reason = f"fetch it from {item['page']}" if "is not there" in item["reason"] else item["reason"]
    return f"{item['dataset']}: {reason}"


def _shown_splits(item: dict[str, Any]) -> str:
    return "\n".join(
        f"{name} {split['on_disk']:,}/{split['listed']:,}" for name, split in item["splits"].items()
    )


def _print_check(report: CheckReport, output: Path, exclude: Path) -> None:
    counts = {
        "good": report.good,
        **{name: len(found) for name, found in report.problems.items()},
        "not on disk": len(report.missing),
        "copies of another": sum(len(group) - 1 for group in report.duplicates),
        "named as another class": len(report.contradictions),
    }
    rows = ([name, f"{count:,}"] for name, count in counts.items())
    print_table(f"{report.num_videos:,} videos", ("outcome", "videos"), rows)
    for name, found in report.problems.items():
        _print_problems(name, found)
    _print_problems("Not on disk", dict.fromkeys(report.missing, "no such file"))
    _print_problems("The same content", {group[0]: ", ".join(group[1:]) for group in report.duplicates})
    named = {str(c.video): f"listed as '{c.listed}', named as '{c.named}'" for c in report.contradictions}
    _print_problems("Named as another class", named)
    print_line(f"report: {output}\nto leave out of training: {exclude} ({len(report.excluded()):,} videos)")


def _print_problems(title: str, problems: dict[str, str]) -> None:
    if not problems:
        return
    shown = list(problems.items())[:SHOWN_PROBLEMS]
    print_line(f"{title}:")
    for video, message in shown:
        print_line(f"  {message}" if video in message else f"  {video}: {message}")
    if len(problems) > len(shown):
        print_line(f"  and {len(problems) - len(shown):,} more")
