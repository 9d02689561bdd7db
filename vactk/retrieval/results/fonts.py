"""Fonts for texts in any script, as far as the machine has them."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageFont

# For what Pillow's own font, Aileron, has not: common fonts of Linux, macOS and Windows with many scripts.
OTHER_FONTS = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSans-Regular.ttf",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "segoeui.ttf",
)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def font(text: str, size: int) -> Font:
    """Pillow's own font, or for what it cannot write the first font of the machine that can."""
    candidates = (_font(name, size) for name in ("", *OTHER_FONTS))
    missing = [(_count_missing(found, text), found) for found in candidates if found is not None]
    return min(missing, key=lambda pair: pair[0])[1]


def fitted(text: str, size: int, width: int) -> str:
    """`text` on one line, its middle left out where it is wider than `width` pixels."""
    text = " ".join(text.split())
    drawn = font(text, size)
    if drawn.getlength(text[:1000]) <= width and len(text) <= 1000:
        return text
    kept = min(len(text), width)  # no letter is narrower than a pixel
    while kept > 1 and drawn.getlength(_without_middle(text, kept)) > width:
        kept -= 1
    return _without_middle(text, kept)


def _without_middle(text: str, kept: int) -> str:
    end = kept // 2
    return text[: kept - end] + "..." + text[len(text) - end :]


@lru_cache(maxsize=64)
def _font(name: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    except OSError:
        return None


def _count_missing(drawn: Font, text: str) -> int:
    """How many letters the font has not: it draws them as it draws what no font has."""
    blank = bytes(drawn.getmask("\uffff"))
    letters = set(text) - set(" \t\n")
    return sum(bytes(drawn.getmask(letter)) == blank for letter in letters if ord(letter) > 126)
