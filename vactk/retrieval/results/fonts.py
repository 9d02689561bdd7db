"""Find installed fonts for texts in any script."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageFont

# Fonts of Linux, macOS and Windows with many scripts, for characters that Pillow's own font, Aileron, lacks.
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
    """Return Pillow's own font, or the installed font that lacks the fewest characters of `text`."""
    candidates = (_font(name, size) for name in ("", *OTHER_FONTS))
    missing = [(_count_missing(found, text), found) for found in candidates if found is not None]
    return min(missing, key=lambda pair: pair[0])[1]


def fitted(text: str, size: int, width: int) -> str:
    """Return `text` on one line, with its middle elided if it is wider than `width` pixels."""
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
    """Count the characters that the font lacks: it draws them like one that no font has."""
    blank = bytes(drawn.getmask("\uffff"))
    letters = set(text) - set(" \t\n")
    return sum(bytes(drawn.getmask(letter)) == blank for letter in letters if ord(letter) > 126)
