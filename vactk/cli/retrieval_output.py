"""How `vactk retrieve` shows what it found."""

from __future__ import annotations

from typing import Any

from vactk.cli.display import describe_conditions, percent, print_line, print_table

SHOWN_PROBLEMS = 10


def print_hits(result: dict[str, Any]) -> None:
    """A table for each query."""
    for found in result["results"]:
        asked = f'"{found["query"]}"' if "query" in found else f"like {found['like']}"
        if not found["hits"]:
            print_line(f"{asked}: no hits")
            continue
        rows = [
            [str(hit["rank"]), f"{hit['score']:.3f}", _span(hit), hit["label"], hit["video"]]
            for hit in found["hits"]
        ]
        print_table(asked, ("", "score", "time", "label", "video"), rows)
    latency_ms = result["latency_ms"] / max(1, len(result["results"]))
    print_line(
        f"{result['videos']:,} videos, {result['entries']:,} entries, {result['search']} search, "
        f"{latency_ms:.0f} ms a query"
    )
    if "sheet" in result:
        print_line(f"contact sheet: {result['sheet']}")
    for clip in result.get("clips", ()):
        print_line(f"clip: {clip}")


def print_index(result: dict[str, Any]) -> None:
    """What an index holds, and what has changed."""
    rows = [["videos", f"{result['videos']:,}"], ["entries", f"{result['entries']:,}"]]
    for name in ("added", "replaced", "unchanged", "dropped"):
        if name in result:
            rows.append([name, f"{result[name]:,}"])
    for name in ("failed", "partial", "missing"):
        if result.get(name):
            rows.append([name, f"{len(result[name]):,}"])
    rows.append(["search", result["search"]])
    print_table(f"Index {result['index']}", ("", ""), rows)
    _print_problems(result)


def print_measured(result: dict[str, Any]) -> None:
    """Both directions of retrieval."""
    rows = [
        [
            name,
            *(percent(result[key][f"R@{k}"]) for k in (1, 5, 10)),
            _rank(result[key]["MdR"]),
            _rank(result[key]["MnR"]),
        ]
        for name, key in (("text to video", "t2v"), ("video to text", "v2t"))
    ]
    dual = ", dual softmax over all test queries" if result["dual_softmax"] else ""
    title = (
        f"{result['protocol']}: {result['num_videos']:,} videos, {result['num_texts']:,} texts, "
        f"by {result['model']}{dual}\n{describe_conditions(result)}"
    )
    print_table(title, ("", "R@1", "R@5", "R@10", "median rank", "mean rank"), rows)
    for note in result["notes"]:
        print_line(f"note: {note}")
    if result["texts_cut"]:
        print_line(f"{result['texts_cut']:,} captions were cut to what the text tower reads")
    _print_problems(result)


def _print_problems(result: dict[str, Any]) -> None:
    for key, title in (("failed", "Could not be read"), ("partial", "Could be read in part")):
        problems = result.get(key) or []
        if problems:
            print_table(title, ("reason",), ([item["error"]] for item in problems[:SHOWN_PROBLEMS]))
        if len(problems) > SHOWN_PROBLEMS:
            print_line(f"and {len(problems) - SHOWN_PROBLEMS:,} more: --json lists all")


def _span(hit: dict[str, Any]) -> str:
    return f"{_clock(hit['start_s'])}-{_clock(hit['end_s'])}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def _rank(value: float) -> str:
    return f"{value:.1f}"
