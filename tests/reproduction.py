"""The tables of examples/guides/reproduction.md: every published result, with the commands that measure it.

    python -m tests.reproduction

writes them between the marks in the guide, from vactk/evaluate/published.yaml, the protocols and the recipes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from vactk.checkpoints.openvclip import OPENVCLIP_RECIPE
from vactk.checkpoints.vificlip import VIFICLIP_RECIPE
from vactk.config import merge, read_yaml
from vactk.data.benchmarks import BENCHMARKS
from vactk.evaluate import protocol
from vactk.evaluate.config import eval_config
from vactk.evaluate.protocol import protocols, published
from vactk.recipes import read_recipe

GUIDE = Path(__file__).parents[1] / "examples/guides/reproduction.md"
NOT_IN_REACH = "not in reach here"
SIZES = {"ViT-B-32": "b32", "ViT-B-16": "b16", "ViT-L-14": "l14"}
RECIPES = {"b32": "openvclip-k400-b32", "b16": "openvclip-k400", "l14": "openvclip-k400-l14"}
ALPHAS = {"b32": 0.5, "b16": 0.5, "l14": 0.4}  # of the release's tests, which count from the other end


class Result(NamedTuple):
    """A row of a paper's or project's table: one method on one protocol."""

    protocol: str
    method: str
    backbone: str
    numbers: str
    source: str


class Model(NamedTuple):
    """How a method's model is had, and how it is evaluated."""

    name: str  # in the guide; models of a name are had in the same way
    fetch: str  # beside the dataset that is evaluated
    commands: tuple[str, ...]  # that make it of what was fetched
    options: str  # of the evaluation
    reading: str  # frames x views x crops


def results() -> list[Result]:
    """All results, those of a protocol together."""
    found = [
        Result(*key, " / ".join(_number(row) for row in rows), rows[0].source)
        for key, group in groupby(published(), lambda row: (row.protocol, row.method, row.backbone))
        for rows in [list(group)]
    ]
    for row in read_yaml(Path(protocol.__file__).parent / "published.yaml")["unread"]:
        found += [
            Result(name, method, backbone, NOT_IN_REACH, f"see {row['source']}")
            for name in row["protocols"]
            for method in row["methods"]
            for backbone in row["backbones"]
        ]
    order = list(protocols())
    return sorted(found, key=lambda row: order.index(row.protocol))


def _number(row: protocol.Published) -> str:
    return f"{row.value:.1f}" if row.sd is None else f"{row.value:.1f} +- {row.sd:.1f}"


def model_of(result: Result) -> Model:
    """The model that a result was measured with."""
    dataset, _, variant = result.protocol.partition("/")
    part = {"base-to-novel": f"{dataset}-base"}.get(variant, "k400")
    if variant.startswith("few-shot"):
        part = f"{dataset}-{variant.removeprefix('few-shot-')}-shot"
    return MODELS[result.method](result, part)


def _clip(result: Result, part: str) -> Model:
    file = "models/clip-b16.safetensors"
    mix = f"vactk interpolate openvclip-b16/swa_2_22.pth --alpha 0 --temporal none --output {file}"
    fetch = "`openvclip-b16/swa_2_22.pth`, Open-VCLIP's release"
    return Model("CLIP", fetch, (mix,), f"--checkpoint {file}", reading(OPENVCLIP_RECIPE))


def _openvclip(result: Result, part: str) -> Model:
    size = SIZES[result.backbone]
    if part != "k400":
        return _openvclip_base(part)
    output = f"models/openvclip-{size}.safetensors"
    mix = f"vactk interpolate openvclip-{size}/swa_2_22.pth --alpha {ALPHAS[size]} --output {output}"
    fetch = f"`openvclip-{size}/swa_2_22.pth`, Open-VCLIP's release"
    return Model(f"Open-VCLIP {size}", fetch, (mix,), f"--checkpoint {output}", reading(OPENVCLIP_RECIPE))


def _openvclip_base(part: str) -> Model:
    dataset = part.partition("-")[0]
    recipe, run = "openvclip-ssv2" if dataset == "ssv2" else "openvclip-k400", f"runs/openvclip-{part}"
    train = f"vactk finetune --recipe {recipe} --dataset {dataset}/base --shots 16 --data-root /data --output {run}"
    title = BENCHMARKS[dataset].title
    return Model(f"Open-VCLIP {part}", title, (train,), f"--checkpoint {run}", reading(read_recipe(recipe)))


def _openvclip_plus(result: Result, part: str) -> Model:
    size = SIZES[result.backbone]
    run, output = f"runs/openvclip-plus-{size}", f"models/openvclip-plus-{size}.safetensors"
    train = (
        f"vactk finetune --recipe {RECIPES[size]} --descriptions k400.jsonl --data-root /data --output {run}"
    )
    mix = f"vactk interpolate {run} --alpha {ALPHAS[size]} --output {output}"
    fetch = "Kinetics-400, and descriptions of its videos as `k400.jsonl`"
    name = f"Open-VCLIP++ {size}"
    return Model(name, fetch, (train, mix), f"--checkpoint {output}", reading(read_recipe(RECIPES[size])))


def _froster(result: Result, part: str) -> Model:
    file = f"models/froster-{part}.pth"
    return Model(f"FROSTER {part}", f"`{file}`", (), f"--checkpoint {file}", reading(OPENVCLIP_RECIPE))


def _vificlip(result: Result, part: str) -> Model:
    name = result.method.replace(" ", "-").lower()
    settings, more = VIFICLIP_RECIPE, ""
    if result.protocol == "k400/val":
        part, more = "k400-16-frames", " --frames 16"
        settings = merge(settings, {"data": {"num_frames": 16}})
    file = f"models/{name}-{part}.pth"
    options = f"--checkpoint {file} --backbone {result.backbone}{more}"
    return Model(f"{result.method} {part}", f"`{file}`", (), options, reading(settings))


def _m2clip(result: Result, part: str) -> Model:
    recipe = "m2clip-ssv2" if result.protocol == "ssv2/val" else "m2clip-k400"
    run = f"runs/{recipe}"
    train = f"vactk train --recipe {recipe} --data-root /data --output {run}"
    by = " --by ensemble" if result.protocol in ("k400/val", "ssv2/val") else ""
    title = BENCHMARKS[recipe.partition("-")[2]].title
    return Model(
        f"M2-CLIP, {title}", title, (train,), f"--checkpoint {run}{by}", reading(read_recipe(recipe))
    )


def _clip4clip(result: Result, part: str) -> Model:
    recipe, run = "clip4clip-msrvtt", "runs/clip4clip"
    train = f"vactk finetune --recipe {recipe} --dataset msrvtt --data-root /data --output {run}"
    return Model(result.method, "MSR-VTT", (train,), f"--checkpoint {run}", reading(read_recipe(recipe)))


MODELS = {
    "CLIP": _clip,
    "Open-VCLIP": _openvclip,
    "Open-VCLIP++": _openvclip_plus,
    "FROSTER": _froster,
    "ViFi-CLIP": _vificlip,
    "CLIP image-FT": _vificlip,
    "CLIP text-FT": _vificlip,
    "M2-CLIP": _m2clip,
    "CLIP4Clip (meanP)": _clip4clip,
}


def reading(settings: dict) -> str:
    """What is read of each video in evaluation: frames x views x crops."""
    data = eval_config(settings).data
    return f"{data.num_frames} x {data.views} x {data.transform.eval_crops}"


def read_of_videos(result: Result) -> str:
    """What the command of a result reads of each video; retrieval takes one view of the whole."""
    found = model_of(result).reading
    retrieval = protocols()[result.protocol].task == "retrieval"
    return f"{found.partition(' ')[0]} x 1 x 1" if retrieval else found


def command(result: Result) -> str:
    """The command that measures a result."""
    retrieval = protocols()[result.protocol].task == "retrieval"
    verb = "retrieve --evaluate" if retrieval else "zeroshot"
    return f"vactk {verb} --protocol {result.protocol} --data-root /data {model_of(result).options}"


def result_tables() -> Iterator[str]:
    """A section for each dataset."""
    for dataset, rows in groupby(results(), lambda row: row.protocol.partition("/")[0]):
        benchmark = BENCHMARKS[dataset]
        yield f"### {benchmark.title}\n\nFetch {'; '.join(benchmark.fetch)}: {benchmark.page}\n\n"
        yield _line(
            "protocol",
            "content",
            "method",
            "backbone",
            "published",
            "source",
            "frames x views x crops",
            "command",
        )
        yield _line(*["---"] * 8)
        for row in rows:
            yield _line(
                f"`{row.protocol}`",
                protocols()[row.protocol].hash or "with the data",
                row.method,
                row.backbone,
                row.numbers,
                row.source,
                read_of_videos(row),
                f"`{command(row)}`",
            )
        yield "\n"


def model_table() -> Iterator[str]:
    """A row for each model that is made by commands."""
    yield _line("model", "fetch", "commands")
    yield _line(*["---"] * 3)
    models = {model.name: model for model in map(model_of, results()) if model.commands}
    for model in models.values():
        yield _line(model.name, model.fetch, "<br>".join(f"`{line}`" for line in model.commands))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


TABLES = {"models": model_table, "results": result_tables}


def written(text: str) -> str:
    """The guide's text with its tables made anew."""
    for name, table in TABLES.items():
        inside = rf"(?s)(?<=<!-- {name}: python -m tests.reproduction -->\n).*?(?=<!-- end -->)"
        body = f"\n{''.join(table()).strip()}\n\n"
        text, count = re.subn(inside, lambda _, body=body: body, text)
        assert count == 1, f"the guide has no place for {name}"
    return text


if __name__ == "__main__":
    GUIDE.write_text(written(GUIDE.read_text(encoding="utf-8")), encoding="utf-8")
