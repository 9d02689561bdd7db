"""vactk retrieve"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vactk.cli import options
from vactk.cli.display import (
    Display,
    describe_conditions,
    is_main_process,
    print_json,
    print_line,
    print_recalls,
    print_table,
    print_unreadable,
)
from vactk.cli.processes import run_on
from vactk.errors import VactkError
from vactk.evaluate.protocol import find_protocol
from vactk.files.atomic import refuse_unwritable

if TYPE_CHECKING:
    from vactk.retrieval.session import IndexSession, RetrieveOptions

INDEX, SEARCH, RESULT, EVALUATION, PAGE = "Index", "Search", "Results", "Evaluation", "Page"


def retrieve(
    index: Annotated[
        str | None,
        typer.Option(
            help="Folder of the index, or its name in --store.",
            show_default="the index of --dataset",
            rich_help_panel=INDEX,
        ),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(
            help="Update the index with a folder, a dataset, a list, or a video file; repeatable.",
            show_default="none",
            rich_help_panel=INDEX,
        ),
    ] = None,
    window: Annotated[
        float,
        typer.Option(min=0, help="Window length in seconds; 0: whole videos.", rich_help_panel=INDEX),
    ] = 0.0,
    stride: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds between the starts of windows; 0: same as --window.", rich_help_panel=INDEX
        ),
    ] = 0.0,
    retry: Annotated[
        bool,
        typer.Option("--retry", help="Retry files that could not be read before.", rich_help_panel=INDEX),
    ] = False,
    search: Annotated[
        Literal["auto", "exact", "approximate"],
        typer.Option(
            help="Exact scan or faiss; auto switches to faiss at 200,000 entries.", rich_help_panel=INDEX
        ),
    ] = "auto",
    store: Annotated[
        str | None,
        typer.Option(
            help="Milvus store of the index: milvus:http://HOST:19530 or milvus:FILE.db.",
            show_default="none: a folder",
            rich_help_panel=INDEX,
        ),
    ] = None,
    query: Annotated[
        list[str] | None,
        typer.Option(help="Text to search for; repeatable.", show_default="none", rich_help_panel=SEARCH),
    ] = None,
    query_file: Annotated[
        Path | None,
        typer.Option(help="Text file with one query per line.", show_default="none", rich_help_panel=SEARCH),
    ] = None,
    like: Annotated[
        list[Path] | None,
        typer.Option(
            help="Video to find similar ones to; repeatable.", show_default="none", rich_help_panel=SEARCH
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(min=1, max=10_000, help="Number of hits per query.", rich_help_panel=SEARCH)
    ] = 10,
    min_score: Annotated[
        float | None,
        typer.Option(
            min=-1,
            max=1,
            help="Lowest cosine similarity of a hit, from -1 to 1.",
            show_default="none",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    path: Annotated[
        str,
        typer.Option(
            help="Only videos whose path contains this; * and ? are wildcards.",
            show_default="all videos",
            rich_help_panel=SEARCH,
        ),
    ] = "",
    label: Annotated[
        str,
        typer.Option(
            help="Only videos with this label, or in this folder.",
            show_default="all videos",
            rich_help_panel=SEARCH,
        ),
    ] = "",
    per_video: Annotated[
        int, typer.Option(min=0, help="Maximum hits per video; 0: no limit.", rich_help_panel=SEARCH)
    ] = 0,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="Write a contact sheet of the hits to this PNG or JPEG.",
            show_default="none",
            rich_help_panel=RESULT,
        ),
    ] = None,
    cut: Annotated[
        Path | None,
        typer.Option(
            help="Write the hits as clips to this folder.", show_default="none", rich_help_panel=RESULT
        ),
    ] = None,
    evaluate: Annotated[
        bool,
        typer.Option(
            "--evaluate",
            help="Measure recall and ranks on --protocol or --dataset.",
            rich_help_panel=EVALUATION,
        ),
    ] = False,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Evaluation protocol: msrvtt/1k-a or msrvtt/full.",
            show_default="none: --dataset",
            rich_help_panel=EVALUATION,
        ),
    ] = None,
    dual_softmax: Annotated[
        bool,
        typer.Option(
            "--dual-softmax",
            help="Apply dual softmax, which uses all test queries at once; the result says so.",
            rich_help_panel=EVALUATION,
        ),
    ] = False,
    unreadable: options.Unreadable = "wrong",
    max_failed: options.MaxFailed = 0.5,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve a local search page.", rich_help_panel=PAGE)
    ] = False,
    host: Annotated[
        str,
        typer.Option(
            help="Address to serve the page at; 127.0.0.1: only this machine can open it.",
            rich_help_panel=PAGE,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the page; 0: any free port.", rich_help_panel=PAGE)
    ] = 8000,
    dataset: options.Dataset = None,
    split: options.Split = None,
    data_root: options.DataRoot = None,
    checkpoint: options.Checkpoint = None,
    temporal: options.Temporal = None,
    backbone: options.Backbone = None,
    pretrained: options.Pretrained = None,
    templates: options.Templates = None,
    frames: options.Frames = None,
    views: options.Views = None,
    decoder: options.Decoder = None,
    workers: options.Workers = None,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    precision: options.Precision = None,
    processes: options.Processes = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Build the index of a dataset without asking.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Search videos by text, or by another video.

    Without --index, search the index of a dataset, MSR-VTT unless --dataset names another; it is
    built on first use. For example:

        vactk retrieve --query "juggling"
        vactk retrieve --index holidays --add ~/Videos --window 10
        vactk retrieve --index holidays --query "a dog in the snow" --sheet hits.png
        vactk retrieve --index holidays --serve
        vactk retrieve --evaluate --protocol msrvtt/1k-a --checkpoint runs/first
    """
    given = SimpleNamespace(**locals(), searches=bool(query or query_file or like))
    _check(given)
    queries = [*(query or ()), *_read_queries(query_file)]
    for video in like or ():
        if not video.is_file():
            raise VactkError(f"--like: there is no video '{video}'")
    refuse_unwritable(
        {"--index": Path(index) if index and add and not store else None, "--sheet": sheet, "--cut": cut}
    )
    if protocol is not None:
        find_protocol(protocol)
    options.check_settings(checkpoint, options.read_settings(retrieve, vars(given)))
    run_on(processes, device)

    from vactk.retrieval import session as sessions
    from vactk.retrieval.hits import SearchFilter
    from vactk.retrieval.results.write import check_outputs, write_hits

    chosen = _choose(given)
    limits = SearchFilter(top=top, min_score=min_score, path=path, label=label, per_video=per_video)
    check_outputs(sheet, cut)
    with Display() as display:
        if evaluate:
            result, show = _evaluate(chosen, given, display), _print_evaluation
        else:
            session, sources = sessions.open_index(chosen, add or (), display, _confirm(display, yes, json))
            result, show = session.update(sources, display, retry=retry), _print_index
            if not is_main_process():
                return
        if given.searches:
            found = sessions.search(session.searcher(), queries, like or (), limits, display.message)
            updated = {"index": result} if add else {}
            if not any(found.hits.values()) and (path or min_score is not None):
                display.message("no hits: loosen --path and --min-score, or leave them out")
            files = write_hits(found.hits, sheet, cut, display)
            result, show = {**found.to_json(), **session.describe(), **updated, **files}, _print_hits
    if serve:
        _serve(session, host, port, result, as_json=json)
    else:
        (print_json if json else show)(result)


def _check(given: SimpleNamespace) -> None:
    """Raises VactkError for options that contradict each other."""
    options.refuse({
        "--protocol requires --evaluate": given.protocol and not given.evaluate,
        "--dual-softmax requires --evaluate": given.dual_softmax and not given.evaluate,
        "--evaluate uses no index: remove --index, --add, --query, --like and --serve": given.evaluate
        and (given.index or given.add or given.searches or given.serve),
        "--evaluate embeds whole videos: remove --window": given.evaluate and given.window,
        "a protocol defines its dataset and splits: remove --dataset and --split": given.protocol
        and (given.dataset or given.split),
        "--add requires --index FOLDER": given.add and not given.index,
        "--sheet and --cut require --query or --like": (given.sheet or given.cut) and not given.searches,
        "--dataset searches without --index; to add a dataset to an index, use --add NAME": given.index
        and given.dataset,
        "nothing to do: give --query TEXT, --like VIDEO, --index DIR --add FOLDER, --evaluate or --serve": not (
            given.index or given.searches or given.serve or given.evaluate
        ),
    })  # fmt: skip


def _choose(given: SimpleNamespace) -> RetrieveOptions:
    from vactk.data.windows import WindowConfig
    from vactk.retrieval.session import RetrieveOptions

    return RetrieveOptions(
        index=given.index,
        store=given.store,
        dataset=given.dataset,
        split=given.split,
        data_root=given.data_root,
        checkpoint=given.checkpoint,
        overrides=options.read_settings(retrieve, vars(given)),
        windows=WindowConfig(length_s=given.window, stride_s=given.stride),
        search=given.search,
    )


def _evaluate(chosen: RetrieveOptions, given: SimpleNamespace, display: Display) -> dict[str, Any]:
    from vactk.retrieval.session import evaluate

    return evaluate(
        chosen,
        given.protocol,
        display,
        dual=given.dual_softmax,
        unreadable=given.unreadable,
        max_failed=given.max_failed,
    )


def _serve(session: IndexSession, host: str, port: int, result: dict[str, Any], *, as_json: bool) -> None:
    from vactk.retrieval.server import serve

    def ready(url: str) -> None:
        print_json({**result, "url": url}) if as_json else print_line(f"open {url} (Ctrl-C ends it)")

    title = Path(session.store.name).name
    serve(session.searcher(), host=host, port=port, title=title, ready=ready)


def _confirm(display: Display, yes: bool, json: bool) -> Callable[[str], None]:
    def confirm(question: str) -> None:
        if yes:
            return
        if json or not sys.stdin.isatty():
            raise VactkError(f"{question} Confirm with --yes")
        if not display.confirm(question):
            raise VactkError("cancelled: the index was not built")

    return confirm


def _read_queries(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise VactkError(f"cannot read queries from '{file}': {error}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise VactkError(f"'{file}' holds no queries: write one per line")
    return lines


def _print_hits(result: dict[str, Any]) -> None:
    for found in result["results"]:
        title = f'"{found["query"]}"' if "query" in found else f"like {found['like']}"
        if not found["hits"]:
            print_line(f"{title}: no hits")
            continue
        rows = [
            [str(hit["rank"]), f"{hit['score']:.3f}", _span(hit), hit["label"], hit["video"]]
            for hit in found["hits"]
        ]
        print_table(title, ("", "score", "time", "label", "video"), rows)
    latency_ms = result["latency_ms"] / max(1, len(result["results"]))
    print_line(
        f"{result['videos']:,} videos, {result['entries']:,} entries, {result['search']} search, "
        f"{latency_ms:.0f} ms per query"
    )
    if "sheet" in result:
        print_line(f"contact sheet: {result['sheet']}")
    for clip in result.get("clips", ()):
        print_line(f"clip: {clip}")


def _print_index(result: dict[str, Any]) -> None:
    rows = [["videos", f"{result['videos']:,}"], ["entries", f"{result['entries']:,}"]]
    for name in ("added", "replaced", "unchanged", "dropped"):
        if name in result:
            rows.append([name, f"{result[name]:,}"])
    for name in ("failed", "partial", "missing"):
        if result.get(name):
            rows.append([name, f"{len(result[name]):,}"])
    rows.append(["search", result["search"]])
    print_table(f"Index {result['index']}", ("", ""), rows)
    print_unreadable(result)


def _print_evaluation(result: dict[str, Any]) -> None:
    dual = ", dual softmax over all test queries" if result["dual_softmax"] else ""
    title = (
        f"{result['protocol']}: {result['num_videos']:,} videos, {result['num_texts']:,} texts, "
        f"by {result['model']}{dual}\n{describe_conditions(result)}"
    )
    print_recalls(title, result)
    for note in result["notes"]:
        print_line(f"note: {note}")
    if result["texts_cut"]:
        print_line(f"{result['texts_cut']:,} captions were truncated to the length that the text tower reads")
    print_unreadable(result)


def _span(hit: dict[str, Any]) -> str:
    return f"{_clock(hit['start_s'])}-{_clock(hit['end_s'])}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
