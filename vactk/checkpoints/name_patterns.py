"""The parts of a model that a user can name: towers, their blocks, and names with wildcards."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping

from vactk.errors import VactkError

VISION = ("clip.visual.", "temporal.", "frame_adapter.")
HEADS = ("class_head.", "word_head.")
_BLOCK = re.compile(r"(?:resblocks|temporal|text_adapters)\.(\d+)\.")
_BLOCKS = re.compile(r"(vision|text)\.(\d+)(?:-(\d+))?")


def tower_of(name: str) -> str:
    """ "vision", "text" or "heads", for a tensor's name in a checkpoint."""
    if name.startswith(HEADS):
        return "heads"
    return "vision" if name.startswith(VISION) else "text"


def matcher(part: str) -> Callable[[str], bool]:
    """Whether a name belongs to `part`: vision, text, heads, vision.3, text.0-5, or a pattern with * and ?."""
    if part in ("vision", "text", "heads"):
        return lambda name: tower_of(name) == part
    blocks = _BLOCKS.fullmatch(part)
    if blocks is None:
        return lambda name: fnmatch.fnmatchcase(name, part)
    tower, first, last = blocks.group(1), int(blocks.group(2)), int(blocks.group(3) or blocks.group(2))

    def inside(name: str) -> bool:
        block = _BLOCK.search(name)
        return tower_of(name) == tower and block is not None and first <= int(block.group(1)) <= last

    return inside


def select_by_pattern(chosen: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """The value of every name that a part in `chosen` holds; later parts win.

    Raises VactkError for a part that holds nothing.
    """
    names = list(names)
    values = {}
    for part, value in chosen.items():
        matches = matcher(part)
        found = [name for name in names if matches(name)]
        if not found:
            raise VactkError(
                f"no tensor of these checkpoints belongs to '{part}'; parts are vision, text, heads, blocks as "
                f"vision.3 or text.0-5, or names with * such as '{names[0]}'"
            )
        values.update(dict.fromkeys(found, value))
    return values
