"""Recipes: settings of training runs as YAML, packaged or the user's own."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path
from typing import Any

from vactk.config import merge, read_yaml
from vactk.errors import pick


def recipe_names() -> list[str]:
    """Return the names of the packaged recipes."""
    return sorted(_packaged())


def recipe_purposes() -> dict[str, str]:
    """Return what each packaged recipe is for: the first sentence of its file."""
    found = {}
    for name, path in sorted(_packaged().items()):
        lines = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
        text = " ".join(line.lstrip("# ") for line in lines)
        found[name] = re.split(r"(?<=[^.]\.) (?=[A-Z])", text)[0].rstrip(".")
    return found


def read_recipe(name: str) -> dict[str, Any]:
    """Return the settings of a packaged recipe, or of a YAML file laid over the packaged one named by its `base`.

    Raises VactkError when there is no such recipe.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return _with_base(read_yaml(path))
    return _packaged_recipe(name)


def _packaged_recipe(name: str) -> dict[str, Any]:
    return _with_base(read_yaml(pick(_packaged(), name, "recipe")))


def _with_base(values: dict[str, Any]) -> dict[str, Any]:
    base = values.pop("base", None)
    return values if base is None else merge(_packaged_recipe(str(base)), values)


def _packaged() -> dict[str, Path]:
    return {path.stem: path for path in Path(__file__).parent.glob("*.yaml")}
