"""report.html: the numbers of one run, or of several side by side, as one page without links to elsewhere."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import vactk
from vactk.errors import VactkError
from vactk.files.atomic import write_text
from vactk.report.charts import calibration_chart, confusion_matrix, line_chart
from vactk.report.compare import compare_runs, run_names
from vactk.report.contact_sheets import Shown, common_folder, contact_sheet
from vactk.report.figures import SHOWN_SPLITS, SHOWN_VIDEOS, Figures, best_and_worst, run_figures
from vactk.report.heat_maps import read_heat_maps
from vactk.report.metrics_log import Curve
from vactk.report.predictions import VideoKey, first_answers
from vactk.report.run_folder import RunFolder, read_run

FILE = "report.html"
MARK = '<meta name="generator" content="vactk report">'  # by which an earlier report is known
PACKAGES = ("matplotlib", "jinja2")
HOW_TO_GET = "pip install 'vactk[report]'"
LISTED_CLASSES = 40  # of a long list, the classes that are shown at once


class Chart(NamedTuple):
    """A picture of a page."""

    title: str
    address: str
    width_in: float = 0.0  # at which its labels can be read; 0: at any


def can_write_pages() -> bool:
    """Return whether the packages of the extra `report` are installed."""
    return all(importlib.util.find_spec(name) is not None for name in PACKAGES)


def write_report(folders: Sequence[Path], output: Path) -> Figures:
    """Write the page of a run, or of several, to `output`, and return its numbers.

    Raises VactkError where a package or a file lacks, a file is damaged, or `output` is no earlier report.
    """
    if not can_write_pages():
        raise VactkError(f"a report needs {' and '.join(PACKAGES)}: {HOW_TO_GET}")
    _check_output(output)
    runs = [read_run(folder) for folder in folders]
    names = run_names(runs)
    figures: Figures = {
        "runs": [
            {"run": name, **run_figures(run.rows), "curves": run.curves and run.curves.to_json()}
            for name, run in zip(names, runs, strict=True)
        ],
        "comparison": compare_runs(names, runs),
    }
    context = _one_run(runs[0], figures["runs"][0]) if len(runs) == 1 else _several_runs(names, runs, figures)
    sets = [(own["run"], one) for own in figures["runs"] for one in own["sets"]]
    write_text(
        output,
        _render({"title": f"Report of {', '.join(names)}", "figures": figures, "sets": sets, **context}),
    )
    return figures


def _one_run(run: RunFolder, figures: Figures) -> dict[str, Any]:
    by_split = first_answers(run.rows)
    shown = list(by_split.items())[:SHOWN_SPLITS]
    method, heat_maps = read_heat_maps(run.path)
    splits = []
    for split, rows in shown:
        matrix, width_in = confusion_matrix(rows)
        count = SHOWN_VIDEOS // len(shown) // 2
        common = common_folder(rows)
        best, worst = (contact_sheet(own, common) for own in best_and_worst(rows, count))
        splits.append({
            "name": split,
            "set": next(one for one in figures["sets"] if one["split"] == split),
            **figures["details"][split],
            "matrix": Chart("", matrix, width_in),
            "calibration_chart": Chart("", calibration_chart(figures["details"][split]["calibration"])),
            "common": common,
            "sheets": [("Wrong, and most certain", worst), ("Right, and most certain", best)],
            "heat_maps": _with_maps([*worst, *best], heat_maps),
            "unread": [row for row in rows if not row.top],
        })  # fmt: skip
    return {
        "run": run,
        "splits": splits,
        "num_splits": len(by_split),
        "method": method,
        "charts": _curves({run.name: run}),
    }


def _several_runs(names: Sequence[str], runs: Sequence[RunFolder], figures: Figures) -> dict[str, Any]:
    differing = sorted({key for run in runs for key in run.settings
                        if len({other.settings.get(key) for other in runs}) > 1})  # fmt: skip
    return {
        "run": None,
        "names": names,
        "runs": runs,
        "comparisons": figures["comparison"],
        "charts": _curves(dict(zip(names, runs, strict=True))),
        "differing": {key: [run.settings.get(key, "") for run in runs] for key in differing},
    }


def _with_maps(shown: Sequence[Shown], maps: Mapping[VideoKey, str]) -> list[tuple[Shown, str]]:
    return [(one, maps[one.row.key]) for one in shown if one.row.key in maps]


def _curves(runs: Mapping[str, RunFolder]) -> list[Chart]:
    """Draw losses, accuracies and learning rates over the steps; of several runs, the total loss of each."""
    alone = len(runs) == 1
    losses: dict[str, Curve] = {}
    accuracy: dict[str, Curve] = {}
    evaluations: dict[str, Curve] = {}
    lr: dict[str, Curve] = {}
    for name, run in runs.items():
        if run.curves is None:
            continue
        label = "" if alone else f"{name}: "
        own = run.curves.losses if alone else {"loss": run.curves.losses.get("loss", [])}
        losses |= {f"{label}{loss}": curve for loss, curve in own.items() if curve}
        accuracy |= {f"{label}training, {key}": curve for key, curve in run.curves.training_accuracy.items()}
        evaluations |= {f"{label}{key}": curve for key, curve in run.curves.evaluations.items()}
        lr |= {f"{label}learning rate": run.curves.lr} if run.curves.lr else {}
    charts = [
        ("Losses", losses, "loss"),
        ("Accuracy during training", {**accuracy, **evaluations}, "accuracy (%)"),
        ("Learning rate", lr, "learning rate"),
    ]
    return [
        Chart(title, line_chart(curves, unit, dotted=list(evaluations)))
        for title, curves, unit in charts
        if curves
    ]


def _render(context: Mapping[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html.j2")
    return template.render(context, version=vactk.__version__, listed_classes=LISTED_CLASSES)


def _check_output(output: Path) -> None:
    """Raise VactkError where the page would replace what is no report."""
    if output.suffix.lower() not in (".html", ".htm"):
        raise VactkError(f"--output must end in .html, got '{output}'")
    if output.is_dir():
        raise VactkError(f"--output '{output}' is a folder; name a file in it, such as '{output / FILE}'")
    if output.exists():
        with output.open("rb") as file:
            if MARK.encode() not in file.read(1000):
                raise VactkError(
                    f"--output '{output}' exists and is no report; choose another, or delete it first"
                )
