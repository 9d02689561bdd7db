"""vactk data"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vactk.cli import options
from vactk.cli.display import Display, print_json, print_line, print_problems, print_table
from vactk.errors import VactkError
from vactk.files.atomic import refuse_unwritable
from vactk.files.paths import cache_folder

if TYPE_CHECKING:
    from vactk.data.tools.check import CheckReport

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
Name = Annotated[str, typer.Argument(metavar="NAME", help="Benchmark, such as hmdb51.")]
Source = Annotated[
    str, typer.Argument(metavar="NAME|PATH", help="Benchmark, folder of videos, or list of videos.")
]
TIMEOUT_HELP = "Seconds after which reading a video is given up."


@data_app.callback()
def data() -> None:
    """Prepare and verify datasets."""


@data_app.command("list")
def list_datasets(data_root: options.DataRoot = None, json: options.Json = False) -> None:
    """List the datasets, their folders on this machine, and how complete they are."""
    from vactk.data.benchmarks import BENCHMARKS, DatasetNotFoundError
    from vactk.data.tools.prepare import inspect_benchmark
    from vactk.evaluate.protocol import protocols

    found: list[dict[str, Any]] = [_describe_shapes(data_root)]
    notes = []
    for name, benchmark in BENCHMARKS.items():
        item: dict[str, Any] = {"dataset": name, "title": benchmark.title, "page": benchmark.page}
        item["protocols"] = [p for p, protocol in protocols().items() if protocol.dataset == name]
        try:
            item |= {"found": True, **inspect_benchmark(benchmark, data_root).to_json()}
        except VactkError as error:
            item |= {"found": False, "reason": str(error)}
            absent = isinstance(error, DatasetNotFoundError)
            notes.append(f"{name}: {f'available from {benchmark.page}' if absent else error}")
        found.append(item)
    if json:
        print_json({"datasets": found})
        return
    rows = [
        [
            item["dataset"],
            item["title"],
            item["root"] if item["found"] else "not found",
            _split_counts(item["splits"]) or ", ".join(item["generated"]) if item["found"] else "-",
        ]
        for item in found
    ]
    print_table("Datasets", ("name", "title", "folder", "videos on disk/listed"), rows)
    for note in notes:
        print_line(note)
    print_line("--dataset also takes your own data: a folder per class, or a list of paths and labels.")


@data_app.command()
def prepare(name: Name, data_root: options.DataRoot = None, json: options.Json = False) -> None:
    """Unpack downloaded archives, check the counts, and write the record file.

    Nothing is downloaded: put the official archives and annotation files into one folder. For example:

        vactk data prepare hmdb51 --data-root /data/hmdb51
    """
    from vactk.data.benchmarks import find_benchmark
    from vactk.data.tools.prepare import prepare as run

    with Display() as display:
        status = run(find_benchmark(name), data_root, display.progress("archives"))
    if json:
        print_json({"dataset": name, **status.to_json(), "records": str(status.records)})
        return
    if status.unpacked:
        print_line(f"unpacked: {', '.join(status.unpacked)}")
    rows = [
        [split, str(s.listed), str(s.on_disk), "-" if s.published is None else str(s.published)]
        for split, s in status.splits.items()
    ]
    title = f"{name} in {status.root}: {status.num_classes} classes, {status.num_files:,} videos"
    print_table(title, ("split", "listed", "on disk", "published"), rows)
    for problem in status.problems:
        print_line(f"note: {problem}")
    print_line(f"records: {status.records}")


@data_app.command()
def check(
    source: Source,
    split: Annotated[
        str | None,
        typer.Option(help="Split of the dataset.", show_default="all videos", rich_help_panel=options.DATA),
    ] = None,
    data_root: options.DataRoot = None,
    output: Annotated[Path, typer.Option(help="Report file.")] = Path("vactk-check.json"),
    exclude: Annotated[
        Path, typer.Option(help="List of unusable videos; train without them with data.exclude=FILE.")
    ] = Path("vactk-exclude.txt"),
    min_frames: Annotated[int, typer.Option(min=1, help="Videos with fewer frames are too short.")] = 8,
    whole: Annotated[
        bool, typer.Option("--whole", help="Decode every frame, not eight frames per video.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help=TIMEOUT_HELP)] = 120.0,
    workers: options.Workers = None,
    json: options.Json = False,
) -> None:
    """Open every video and report problems of the files, the list and the labels.

    The exit code is 0 whatever is found. For example:

        vactk data check hmdb51 --split test1
        vactk data check my_clips/
    """
    from vactk.data.tools.check import check_videos, load_for_check, write_report

    refuse_unwritable({"--output": output, "--exclude": exclude})
    videos = load_for_check(source, split, data_root)
    with Display() as display:
        for line in videos.report.lines() if videos.report else ():
            display.message(line)
        report = check_videos(
            videos,
            workers=_num_workers(workers),
            timeout_s=timeout,
            min_frames=min_frames,
            whole=whole,
            progress=display.progress("videos"),
        )
    write_report(report, output, exclude)
    if json:
        print_json({**report.to_json(), "report": str(output), "exclude": str(exclude)})
    else:
        _print_check(report, output, exclude)


@data_app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Folder of videos, such as a benchmark's.")],
    output: Annotated[Path, typer.Option(help="Folder for the converted dataset.")],
    short_side: Annotated[int, typer.Option(min=16, help="Short side in pixels; never enlarged.")] = 256,
    crf: Annotated[
        int, typer.Option(min=0, max=51, help="H.264 constant rate factor; lower is better.")
    ] = 18,
    keyframe_every: Annotated[int, typer.Option(min=1, help="Keyframe interval in frames.")] = 12,
    timeout: Annotated[float, typer.Option(min=0.1, help=TIMEOUT_HELP)] = 600.0,
    workers: options.Workers = None,
    json: options.Json = False,
) -> None:
    """Re-encode a folder of videos for fast reading: smaller H.264, every frame kept at its time.

    Annotation files are copied. The same command resumes after an interruption.
    """
    from dataclasses import asdict

    from vactk.data.tools.convert import Encoding
    from vactk.data.tools.convert import convert as run

    refuse_unwritable({"--output": output})
    with Display() as display:
        result = run(
            source,
            output,
            Encoding(short_side=short_side, crf=crf, keyframe_every=keyframe_every),
            workers=_num_workers(workers),
            timeout_s=timeout,
            progress=display.progress("videos"),
        )
    if json:
        print_json({**asdict(result), "output": str(output)})
        return
    print_line(f"{result.converted:,} videos converted, {result.existing:,} existing: {output}")
    print_problems("Converted in part", result.partial)
    print_problems("Unreadable", result.unreadable)


@data_app.command()
def cache(
    source: Source,
    output: Annotated[Path, typer.Option(help="Cache folder; train from it with data.cache=FOLDER.")],
    split: Annotated[
        str | None,
        typer.Option(
            help="Split of the dataset.", show_default="its training split", rich_help_panel=options.DATA
        ),
    ] = None,
    data_root: options.DataRoot = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames per video, evenly spaced.")] = 16,
    short_side: Annotated[
        int, typer.Option(min=16, help="Short side in pixels; the model's size or more.")
    ] = 224,
    timeout: Annotated[float, typer.Option(min=0.1, help=TIMEOUT_HELP)] = 120.0,
    workers: options.Workers = None,
    json: options.Json = False,
) -> None:
    """Decode a dataset once, by default its training split, for training on machines with few cores."""
    from vactk.data.clip_cache import build_cache
    from vactk.data.datasets import find_dataset

    refuse_unwritable({"--output": output})
    dataset = find_dataset(source)
    videos = dataset.load(split or dataset.train_split, root=data_root).present()
    with Display() as display:
        result = build_cache(
            videos.records,
            output,
            num_frames=frames,
            short_side=short_side,
            workers=_num_workers(workers),
            timeout_s=timeout,
            progress=display.progress("videos"),
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
    print_problems("Unreadable", result.unreadable)


def _describe_shapes(data_root: Path | None) -> dict[str, Any]:
    """Describe the dataset that comes with vactk, whose files are made on first use."""
    from vactk.data.datasets import DATASETS

    shapes = DATASETS["shapes"]
    splits = (shapes.train_split, *shapes.eval_splits, shapes.retrieval_split)
    return {
        "dataset": "shapes",
        "title": "drawn shapes in motion, made on first use",
        "page": "",
        "protocols": [],
        "found": True,
        "root": str(data_root or cache_folder()),
        "splits": {},
        "generated": list(dict.fromkeys(splits)),
    }


def _num_workers(workers: int | None) -> int:
    """Return the number of workers, by default the CPU count: nothing else needs the CPUs here."""
    from vactk.data.worker_pool import usable_processors

    return usable_processors() if workers in (None, -1) else int(workers or 0)


def _split_counts(splits: dict[str, Any]) -> str:
    return "\n".join(f"{name} {split['on_disk']:,}/{split['listed']:,}" for name, split in splits.items())


def _print_check(report: CheckReport, output: Path, exclude: Path) -> None:
    rows = ([outcome, f"{count:,}"] for outcome, count in report.counts().items())
    print_table(f"{report.num_videos:,} videos", ("outcome", "videos"), rows)
    for outcome, found in report.problems.items():
        print_problems(outcome, found)
    print_problems("Not on disk", dict.fromkeys(report.missing, "no such file"))
    print_problems("Duplicates", {group[0]: ", ".join(group[1:]) for group in report.duplicates})
    named = {str(c.video): f"listed as '{c.listed}', named as '{c.named}'" for c in report.contradictions}
    print_problems("Named as another class", named)
    print_line(f"report: {output}\nexcluded from training: {exclude} ({len(report.excluded()):,} videos)")
