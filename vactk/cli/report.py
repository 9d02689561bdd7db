"""vactk report"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vactk.cli import options
from vactk.cli.display import print_json, print_line, print_table


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders of vactk train, vactk finetune or vactk zeroshot --output."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="HTML file to write; an earlier report is replaced. [default: report.html in the run's folder; of "
            "several runs, comparison.html here]"
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Write the report of a run again from the files in its folder, or set several runs side by side.

    A report is one HTML file without links to elsewhere: accuracies with intervals, curves, confusions,
    calibration, the best and the worst videos, settings and hashes. For example:

        vactk report runs/first
        vactk report runs/first runs/tuned --output first-and-tuned.html
    """
    from vactk.report.page import FILE, write_report

    target = output or (runs[0] / FILE if len(runs) == 1 else Path("comparison.html"))
    figures = write_report(runs, target)
    if json:
        print_json({"report": str(target), **figures})
    else:
        _print(figures, target)


def _print(figures: dict[str, Any], target: Path) -> None:
    rows = [
        [run["run"], one["split"], one["by"], str(one["num_videos"])]
        + [_interval(one[name]) for name in ("top1", "top5", "mean_class")]
        for run in figures["runs"]
        for one in run["sets"]
    ]
    columns = ("run", "split", "by", "videos", "top-1", "top-5", "mean class")
    print_table("Accuracy, %, and its 95 % interval", columns, rows)
    for one in figures["comparison"]:
        first, difference = figures["runs"][0]["run"], one["top1"][1] - one["top1"][0]
        print_line(
            f"{one['run']}, {one['split']}: top-1 {difference:+.2f} against {first} on {one['num_videos']:,} "
            f"videos, p = {one['p']:.2g} (McNemar's exact test)"
        )
    print_line(f"report: {target}")


def _interval(one: dict[str, float]) -> str:
    return f"{one['value']:.1f} ({one['low']:.1f}-{one['high']:.1f})"
