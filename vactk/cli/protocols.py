"""How protocols and their results are shown."""

from __future__ import annotations

from typing import Any

from vactk.cli.display import percent, print_json, print_line, print_table


def list_protocols(*, as_json: bool) -> None:
    """All protocols that vactk knows."""
    from vactk.evaluate.protocol import protocols

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
            }
            for p in protocols().values()
        ]
        print_json({"protocols": known})
        return
    rows = ([p.name, p.title, _counts(p.num_videos), p.hash or "-"] for p in protocols().values())
    print_table("Protocols", ("protocol", "what is measured", "videos", "content"), rows)


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


def _counts(counts: tuple[int, ...]) -> str:
    return ", ".join(f"{count:,}" for count in counts) or "-"
