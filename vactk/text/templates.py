"""Prompt templates, and class names as words."""

from __future__ import annotations

import re

from vactk.errors import VactkError, pick

_MEDIA = ("a photo of", "a video of", "a example of", "a demonstration of")  # "a example": as published
_ACTIONS = (
    "",
    "a person ",
    "a person using ",
    "a person doing ",
    "a person during ",
    "a person performing ",
    "a person practicing ",
)


def choose_templates(name: str) -> tuple[str, ...]:
    """Return the set of templates called `name`, or `name` itself if it is a template with one `{}` for the class.

    Raises VactkError when it is neither.
    """
    if " " in name.strip() and "{" not in name:
        raise VactkError(
            f"the template '{name}' has no {{}} for the class: write it as '{name.strip()} {{}}'"
        )
    if "{" not in name:
        return pick(TEMPLATES, name, "set of templates")
    if name.count("{}") != 1 or name.count("{") != 1 or name.count("}") != 1:
        raise VactkError(f"a template needs exactly one {{}} for the class, got '{name}'")
    return (name,)


def as_words(label: str) -> str:
    """Return a label as lower-case words, as in a sentence: "HandstandPushups" as "handstand pushups"."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", label)
    return " ".join(spaced.replace("_", " ").split()).lower()


_OPENVCLIP = tuple(f"{medium} {action}{{}}." for medium in _MEDIA for action in _ACTIONS)
TEMPLATES = {
    "plain": ("{}",),
    "object": ("a {}",),
    "photo": ("a photo of {}",),
    "video": ("a video of {}",),
    "openvclip": _OPENVCLIP,
    "froster": _OPENVCLIP,
}
