"""Structure of the package by plain `ast`: sizes, long functions, docstrings, who knows what, import circles.

python -m tests.benchmarks.structure --root . --root OTHER
"""

from __future__ import annotations

import ast
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

TOWER_NAMES = {  # attributes of open_clip's towers and their blocks
    "resblocks", "in_proj_weight", "in_proj_bias", "_embeds", "_pool", "ln_1", "ln_2", "ln_pre", "ln_post", "ls_1",
    "ls_2", "attn_pool", "pool_type", "positional_embedding", "class_embedding", "token_embedding", "conv1",
    "patch_dropout", "grid_size",
}  # fmt: skip
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LONG, MANY_ARGUMENTS = 40, 7


class Module:
    """One file: its tree and the names of vactk modules that it imports."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        return (node for node in ast.walk(self.tree) if isinstance(node, FUNCTIONS))

    def imports(self) -> Iterator[str]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    def names_a_tower(self) -> bool:
        """Whether code takes a tower apart; names in strings, as in tables that rename tensors, do not count."""
        return any(
            isinstance(node, ast.Attribute) and node.attr in TOWER_NAMES for node in ast.walk(self.tree)
        )


def read_package(root: Path) -> dict[str, Module]:
    """Modules of the package below `root`, by dotted name."""
    found = {}
    for path in sorted((root / "vactk").rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found[name] = Module(name, path)
    return found


def length(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1


def num_arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Arguments of a function, `self` and `cls` left out."""
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def is_typer_signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return "typer." in ast.unparse(node.args) or "options." in ast.unparse(node.args)


def body_length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function; of a command, those after its options."""
    return node.end_lineno - node.body[0].lineno + 1 if is_typer_signature(node) else length(node)


def imported_modules(modules: dict[str, Module]) -> dict[str, set[str]]:
    """For each module the modules of the package that any of its import statements names."""
    edges: dict[str, set[str]] = {name: set() for name in modules}
    for name, module in modules.items():
        for target in module.imports():
            while target not in modules and "." in target:
                target = target.rpartition(".")[0]
            if target in modules and target != name and not name.startswith(f"{target}."):
                edges[name].add(target)
    return edges


def circles(modules: dict[str, Module]) -> list[list[str]]:
    """Groups of modules that import each other: those that reach one another along imports."""
    edges = imported_modules(modules)

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        left = [start]
        while left:
            new = edges[left.pop()] - seen
            seen |= new
            left.extend(new)
        return seen

    reach = {name: reached(name) for name in modules}
    groups = {
        tuple(sorted(o for o in reach[name] if name in reach[o])) for name in modules if name in reach[name]
    }
    return [list(group) for group in sorted(groups)]


def describe(root: Path) -> dict[str, object]:
    """The figures of one checkout."""
    modules = read_package(root)
    functions = [node for module in modules.values() for node in module.functions()]
    documented = [
        node
        for module in modules.values()
        for node in ast.walk(module.tree)
        if isinstance(node, (ast.ClassDef, *FUNCTIONS)) and not node.name.startswith("_")
    ]
    docstrings = [
        text
        for module in modules.values()
        for node in ast.walk(module.tree)
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and (text := ast.get_docstring(node))
    ]
    sizes = {name: len(module.text.splitlines()) for name, module in modules.items()}
    classes = defaultdict(int)
    for module in modules.values():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                classes[node.name] += 1
    longest = max(sizes, key=lambda name: sizes[name])
    return {
        "lines": sum(sizes.values()),
        "files": len(modules),
        "longest file": f"{sizes[longest]} ({longest})",
        "median function": statistics.median(length(node) for node in functions),
        f"functions over {LONG} lines (commands: below their options)": sum(
            body_length(node) > LONG for node in functions
        ),
        f"functions over {LONG} lines, options counted": sum(length(node) > LONG for node in functions),
        f"functions with over {MANY_ARGUMENTS} arguments, commands left out": sum(
            num_arguments(node) > MANY_ARGUMENTS and not is_typer_signature(node) for node in functions
        ),
        "public names with a docstring": f"{sum(bool(ast.get_docstring(n)) for n in documented)}/{len(documented)}",
        "docstrings": len(docstrings),
        "docstrings that begin with What or Of": sum(
            text.startswith(("What ", "Of ")) for text in docstrings
        ),
        "class names defined twice or more": sum(count > 1 for count in classes.values()),
        "files that name a tower's insides": sum(m.names_a_tower() for m in modules.values()),
        "files that import accelerate": sum(
            any(name.split(".")[0] == "accelerate" for name in module.imports())
            for module in modules.values()
        ),
        "import circles": len(circles(modules)),
    }


def main(
    root: Annotated[list[Path], typer.Option(help="Checkouts to describe, side by side.")],
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    found = [describe(path) for path in root]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for key in found[0]:
        typer.echo(f"{key:66} " + "   ".join(str(figures[key]) for figures in found))


if __name__ == "__main__":
    typer.run(main)
