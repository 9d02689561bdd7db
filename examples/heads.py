"""M2-CLIP's four losses on the embedded benchmark: all of them, and each one turned off in turn.

    python examples/heads.py --seeds 3 --output runs/heads

Prints the accuracy on seen and unseen classes, and how well masked words are guessed from the video: against
chance, and against the best that can be guessed from the rest of the sentence alone. Runs that are already in
the output folder are kept.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from pathlib import Path
from typing import Annotated

import typer
from phenomena import spread

from vactk.cli.display import Display, print_line, print_table
from vactk.config import build, merge, parse_overrides
from vactk.data.shapes import load_shapes
from vactk.recipes import read_recipe
from vactk.text.templates import choose_templates
from vactk.text.words import build_vocabulary, num_to_mask
from vactk.train.recipe import Recipe
from vactk.train.run import train

RECIPE = "m2clip-shapes"
VARIANTS = {
    "all four": "",
    "no contrastive": "task.contrastive=0",
    "no cross-modal": "task.cross_modal=0",
    "no masked words": "task.masked_words=0",
    "no class head": "task.visual=0",
}


def main(
    output: Annotated[Path, typer.Option(help="Folder for the runs.")] = Path("runs/heads"),
    seeds: Annotated[int, typer.Option(help="Seeds per variant.")] = 3,
    settings: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE")] = None,
) -> None:
    """Train every variant with every seed, and print the tables."""
    rows, words = [], []
    for name, change in VARIANTS.items():
        runs, folders = [], []
        for seed in range(seeds):
            folder = output / f"{name.replace(' ', '-')}-{seed}"
            overrides = parse_overrides(
                [*([change] if change else []), f"run.seed={seed}", *(settings or [])]
            )
            recipe = build(Recipe, merge(read_recipe(RECIPE), overrides))
            with Display() as display:
                display.message(f"{name}, seed {seed}")
                runs.append(train(recipe, folder, resume=True, reporter=display).metrics)
            folders.append(folder)
        text = [spread([run[split]["top1"] for run in runs]) for split in ("seen", "unseen")]
        heads = [run["seen"].get("class_head", {}).get("top1") for run in runs]
        rows.append([name, *text, spread(heads) if None not in heads else "-"])
        if recipe.task.masked_words:
            words.append([name, *word_progress(folders)])
    title = f"shapes, top-1 in % (mean +- standard deviation of {seeds} seeds)"
    print_table(title, ("heads", "seen, by text", "unseen, by text", "seen, by class head"), rows)
    columns = ("heads", "words masked in a run", "right, first epoch", "right, last epoch")
    print_table("Masked words guessed from the video, %", columns, words)
    print_line(chance(build(Recipe, read_recipe(RECIPE))))


def word_progress(folders: list[Path]) -> list[str]:
    """Return the number of masked words of a run, and the accuracy on them in its first and last epoch."""
    masked, first, last = [], [], []
    for folder in folders:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if "word_accuracy" in line]
        batch = build(Recipe, read_recipe(str(folder / "config.yaml"))).run.batch_size
        masked.append(sum(line["num_masked_words"] for line in steps) * batch)
        end = steps[-1]["epoch"]
        first.append(statistics.mean(line["word_accuracy"] for line in steps if line["epoch"] <= 1))
        last.append(statistics.mean(line["word_accuracy"] for line in steps if line["epoch"] > end - 1))
    return [f"{statistics.mean(masked):,.0f}", spread(first), spread(last)]


def chance(recipe: Recipe) -> str:
    """Return the accuracy of chance, and of the best guess from the sentence without the video."""
    videos = load_shapes("train")
    prompts = [t.format(word) for t in choose_templates(recipe.templates) for word in videos.words]
    vocabulary = build_vocabulary(prompts)
    contexts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for prompt in prompts:
        words = prompt.split()
        assert num_to_mask(len(words), recipe.task.mask_rate) == 1
        for place, word in enumerate(words):
            contexts[(*words[:place], "mask", *words[place + 1 :])][word] += 1
    best = sum(max(words.values()) for words in contexts.values())
    asked = sum(sum(words.values()) for words in contexts.values())
    return (
        f"{len(vocabulary)} words: chance is {100 / len(vocabulary):.1f}%; "
        f"the best guess without seeing the video gets {100 * best / asked:.1f}%"
    )


if __name__ == "__main__":
    typer.run(main)
