"""How protocols and their results are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vactk.cli.display import percent, print_json, print_line, print_table

if TYPE_CHECKING:
    from vactk.evaluate.protocol import Published


def list_protocols(*, as_json: bool) -> None:
    """All protocols that vactk knows, each with the numbers that were published by it."""
    from vactk.evaluate.protocol import protocols, published

    numbers = {name: [row for row in published() if row.protocol == name] for name in protocols()}
    if as_json:
        known = [
            {
                "protocol": p.name,
                "task": p.task,
                "title": p.title,
                "source": p.source,
                "num_classes": p.num_classes,
                "num_videos": list(p.num_videos),
                "hash": p.hash,
                "published": [
                    {key: value for key, value in vars(row).items() if key != "protocol"}
                    for row in numbers[p.name]
                ],
            }
            for p in protocols().values()
        ]
        print_json({"protocols": known})
        return
    rows = (
        [p.name, p.title, _counts(p.num_videos), p.hash or "-", _published(numbers[p.name])]
        for p in protocols().values()
    )
    title = "Protocols, with published numbers in % (base / novel / harmonic mean); --json has their sources"
    print_table(title, ("protocol", "what is measured", "videos", "content", "published"), rows)


def describe_conditions(result: dict[str, Any]) -> str:
    """Frames, views, crops, templates and content of a result, on two lines."""
    skipped = ", unreadable videos left out" if result["unreadable"] == "skip" else ""
    return (
        f"{result['frames']} frames x {result['views']} views x {result['crops']} crops, "
        f"templates: {result['templates']}\ncontent {result['hash']}{skipped}"
    )


def print_protocol(result: dict[str, Any]) -> None:
    """A result: a row for each draw, then their mean."""
    rows = [
        [
            draw["name"],
            str(draw["num_classes"]),
            str(draw["num_videos"]),
            str(draw["num_unreadable"]),
            percent(draw["top1"]),
            percent(draw["top5"]),
        ]
        for draw in result["draws"]
    ]
    if "harmonic_mean" in result:
        rows.append(["harmonic mean", "", "", "", percent(result["harmonic_mean"]), ""])
    elif len(rows) > 1:
        means = [f"{percent(result[k])} +- {percent(result[f'{k}_sd'])}" for k in ("top1", "top5")]
        rows.append(["mean +- sd", "", "", "", *means])
    title = (
        f"{result['protocol']}: {result['title']}\n{result['num_classes']} classes, "
        f"{result['num_videos']:,} videos in all, by {result['model']}, accuracy in %\n"
        f"{describe_conditions(result)}"
    )
    print_table(title, ("result", "classes", "videos", "unreadable", "top-1", "top-5"), rows)
    for note in result["notes"]:
        print_line(f"note: {note}")


def _published(rows: Sequence[Published]) -> str:
    """A line for each method and backbone."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        value = f"{row.value:g}" if row.sd is None else f"{row.value:g} +- {row.sd:g}"
        lines.setdefault(f"{row.method} {row.backbone}", []).append(value)
    return "\n".join(f"{method}: {' / '.join(values)}" for method, values in lines.items()) or "-"


def _counts(counts: tuple[int, ...]) -> str:
    return ", ".join(f"{count:,}" for count in counts) or "-"
