"""vactk retrieve"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vactk.cli import options
from vactk.cli.display import display, is_main_process, print_json, print_line
from vactk.cli.processes import run_on
from vactk.cli.retrieval import RetrieveOptions, Session
from vactk.cli.retrieval_files import check_files, write_files
from vactk.cli.retrieval_output import print_hits, print_index, print_measured
from vactk.config import nest
from vactk.errors import VactkError

INDEX, SEARCH, RESULT, MEASURE, PAGE = "Index", "Search", "Results", "Evaluation", "Page"


def retrieve(
    index: Annotated[
        str | None,
        typer.Option(
            help="The folder of the index; with --store, its name. Without it, the index of --dataset.",
            rich_help_panel=INDEX,
        ),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(
            help="Bring the index up to date with a folder, a dataset, a list, or a file; may be repeated.",
            rich_help_panel=INDEX,
        ),
    ] = None,
    window: Annotated[
        float,
        typer.Option(help="Seconds of a window; 0: videos as a whole.", rich_help_panel=INDEX),
    ] = 0.0,
    stride: Annotated[
        float,
        typer.Option(
            help="Seconds from one window's start to the next; 0: as --window.", rich_help_panel=INDEX
        ),
    ] = 0.0,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try files again that could not be read.", rich_help_panel=INDEX)
    ] = False,
    search: Annotated[
        Literal["auto", "exact", "approximate"],
        typer.Option(
            help="A scan of all, or faiss; auto: faiss from 200,000 entries on.", rich_help_panel=INDEX
        ),
    ] = "auto",
    store: Annotated[
        str | None,
        typer.Option(
            help="Keep the index on a Milvus server: milvus:http://HOST:19530, or milvus:FILE.db.",
            rich_help_panel=INDEX,
        ),
    ] = None,
    query: Annotated[
        list[str] | None,
        typer.Option(help="What to look for, in words; may be repeated.", rich_help_panel=SEARCH),
    ] = None,
    query_file: Annotated[
        Path | None, typer.Option(help="A file with a query on each line.", rich_help_panel=SEARCH)
    ] = None,
    like: Annotated[
        list[Path] | None,
        typer.Option(help="A video: look for others like it; may be repeated.", rich_help_panel=SEARCH),
    ] = None,
    top: Annotated[int, typer.Option(help="Hits of each query.", rich_help_panel=SEARCH)] = 10,
    min_score: Annotated[
        float | None,
        typer.Option(help="Leave out hits of a lower cosine similarity.", rich_help_panel=SEARCH),
    ] = None,
    path: Annotated[
        str,
        typer.Option(help="Only videos whose path has this in it; * and ? match.", rich_help_panel=SEARCH),
    ] = "",
    label: Annotated[
        str, typer.Option(help="Only videos of this label or folder.", rich_help_panel=SEARCH)
    ] = "",
    per_video: Annotated[
        int, typer.Option(help="Most windows of one video; 0: any.", rich_help_panel=SEARCH)
    ] = 0,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Write a picture with frames of the hits.", rich_help_panel=RESULT),
    ] = None,
    cut: Annotated[
        Path | None,
        typer.Option(help="Write the hits as clips into a folder.", rich_help_panel=RESULT),
    ] = None,
    evaluate: Annotated[
        bool,
        typer.Option(
            "--evaluate",
            help="Measure recalls and ranks of --protocol or --dataset.",
            rich_help_panel=MEASURE,
        ),
    ] = False,
    protocol: Annotated[
        str | None,
        typer.Option(help="msrvtt/1k-a or msrvtt/full.", rich_help_panel=MEASURE),
    ] = None,
    dual_softmax: Annotated[
        bool,
        typer.Option(
            "--dual-softmax",
            help="Let all test queries compete for each video; the result says so.",
            rich_help_panel=MEASURE,
        ),
    ] = False,
    unreadable: Annotated[
        Literal["wrong", "skip"],
        typer.Option(help="Videos that cannot be read rank last, or are left out.", rich_help_panel=MEASURE),
    ] = "wrong",
    max_failed: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of such videos above which to stop.", rich_help_panel=MEASURE),
    ] = 0.5,
    serve: Annotated[
        bool, typer.Option("--serve", help="Open a local page to search with.", rich_help_panel=PAGE)
    ] = False,
    host: Annotated[
        str, typer.Option(help="Who can see the page; the default: this machine.", rich_help_panel=PAGE)
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any.", rich_help_panel=PAGE)] = 8000,
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
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Build a dataset's index without asking.")] = False,
    json: options.Json = False,
) -> None:
    """Search videos by text, or by another video.

    Without --index, the index of a dataset is searched, MSR-VTT unless --dataset names another; it is built on
    first use. For example:

        vactk retrieve --query "juggling"
        vactk retrieve --index holidays --add ~/Videos --window 10
        vactk retrieve --index holidays --query "a dog in the snow" --sheet hits.png
        vactk retrieve --index holidays --serve
        vactk retrieve --evaluate --protocol msrvtt/1k-a --checkpoint runs/first
    """
    overrides = nest({
        "data_root": None if data_root is None else str(data_root),
        "model.backbone.name": backbone,
        "model.backbone.pretrained": pretrained,
        "model.temporal": options.read_yaml_value("--temporal", temporal),
        "data.num_frames": frames,
        "data.decoder": decoder,
        "data.workers": workers,
        "run.eval_batch_size": batch_size,
        "run.device": device,
        "run.precision": precision,
    })  # fmt: skip
    asked = RetrieveOptions(
        index=index, store=store, dataset=dataset, split=split, checkpoint=checkpoint, overrides=overrides,
        views=views, window_s=window, stride_s=stride, search=search, templates=templates, yes=yes,
    )  # fmt: skip
    wanted = {"top": top, "min_score": min_score, "path": path, "label": label, "per_video": per_video}
    queries = [*(query or ()), *_lines(query_file)]
    _check(
        asked, evaluate, protocol, dual_softmax, bool(queries or like), bool(add), serve, bool(sheet or cut)
    )
    run_on(processes, device)
    check_files(sheet, cut)
    with display() as shown:
        session = Session(asked, shown, may_ask=not json)
        if evaluate:
            result, show = session.measure(protocol, dual_softmax, unreadable, max_failed), print_measured
        else:
            result, show = session.bring_up_to_date(add or (), retry=retry), print_index
        if not is_main_process():
            return
        if queries or like:
            changed = {"index": result} if add else {}
            result, show = {**session.search(queries, like or (), wanted), **changed}, print_hits
            result |= write_files(session.hits, sheet, cut, shown)
    if not serve:
        (print_json if json else show)(result)
        return

    def ready(url: str) -> None:
        page = {**result, "url": url}
        print_json(page) if json else print_line(f"open {url} (Ctrl-C ends it)")

    session.serve(host, port, ready)


def _check(
    asked: RetrieveOptions,
    evaluate: bool,
    protocol: str | None,
    dual_softmax: bool,
    searches: bool,
    adds: bool,
    serve: bool,
    shows: bool,
) -> None:
    """Raises VactkError for options that contradict each other."""
    refused = {
        "--protocol goes with --evaluate": protocol and not evaluate,
        "--dual-softmax goes with --evaluate": dual_softmax and not evaluate,
        "--evaluate needs no index: leave out --index, --add, --query, --like and --serve": evaluate
        and (asked.index or adds or searches or serve),
        "a protocol names its own splits: leave out --dataset and --split": protocol
        and (asked.dataset or asked.split),
        "--add needs --index: where is the index to be?": adds and not asked.index,
        "--sheet and --cut show hits: add --query or --like": shows and not searches,
        "--dataset is for searching without --index; to put it into one, say --add NAME": asked.index
        and asked.dataset,
        "what to look for? --query TEXT, --like VIDEO, --index DIR --add FOLDER, --evaluate or --serve": not (
            asked.index or searches or serve or evaluate
        ),
    }
    for message, holds in refused.items():
        if holds:
            raise VactkError(message)


def _lines(file: Path | None) -> list[str]:
    """The queries of a file."""
    if file is None:
        return []
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise VactkError(f"cannot read queries from '{file}': {error}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise VactkError(f"'{file}' holds no queries: write one on each line")
    return lines
