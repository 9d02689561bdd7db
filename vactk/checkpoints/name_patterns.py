"""Select tensors by tower, block, or a name with wildcards."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping

from vactk.errors import VactkError
from vactk.models import text_tower, vision_tower

VISION = ("clip.visual.", "temporal.", "frame_adapter.")
HEADS = ("class_head.", "word_head.")
_ADDED_BLOCK = re.compile(r"(?:temporal|text_adapters)\.(\d+)\.")
_BLOCKS = re.compile(r"(vision|text)\.(\d+)(?:-(\d+))?")


def tower_of(name: str) -> str:
    """ "vision", "text" or "heads", for a tensor's name in a checkpoint."""
    if name.startswith(HEADS):
        return "heads"
    return "vision" if name.startswith(VISION) else "text"


def matcher(pattern: str) -> Callable[[str], bool]:
    """Match names by `pattern`: vision, text, heads, vision.3, text.0-5, or a pattern with * and ?."""
    if pattern in ("vision", "text", "heads"):
        return lambda name: tower_of(name) == pattern
    blocks = _BLOCKS.fullmatch(pattern)
    if blocks is None:
        return lambda name: fnmatch.fnmatchcase(name, pattern)
    tower, first, last = blocks.group(1), int(blocks.group(2)), int(blocks.group(3) or blocks.group(2))

    def inside(name: str) -> bool:
        return tower_of(name) == tower and first <= _block_number(name) <= last

    return inside


def _block_number(name: str) -> int:
    """The block that a tensor belongs to, or -1."""
    if added := _ADDED_BLOCK.match(name):
        return int(added.group(1))
    if not name.startswith("clip."):
        return -1
    number = (vision_tower if tower_of(name) == "vision" else text_tower).layer_number(name)
    return -1 if number is None else number


def select_by_pattern(chosen: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """Return the value of every name that a pattern in `chosen` matches; later patterns win.

    Raises VactkError for a pattern that matches nothing.
    """
    names = list(names)
    values = {}
    for pattern, value in chosen.items():
        matches = matcher(pattern)
        found = [name for name in names if matches(name)]
        if not found:
            raise VactkError(
                f"no tensor of these checkpoints matches '{pattern}'; give vision, text, heads, blocks as "
                f"vision.3 or text.0-5, or names with * such as '{names[0]}'"
            )
        values.update(dict.fromkeys(found, value))
    return values
