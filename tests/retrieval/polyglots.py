"""GIF pictures, as FFmpeg reads them, that are a script or a document to whoever reads them as one."""

from __future__ import annotations

import io

from PIL import Image

TAKEN = "document.title='taken over'"


def as_script() -> bytes:
    """To JavaScript: the name GIF89a, a comment, `=1`, what is to run, a comment."""
    return _gif(b"/*", f"*/=1;{TAKEN};/*".encode()) + b"*/"


def as_document() -> bytes:
    """To HTML: some characters, a script, some more."""
    return _gif(b"\x10\0", f"<html><script>{TAKEN}</script>".encode())


def _gif(width: bytes, comment: bytes) -> bytes:
    """Two frames; `width`: the two bytes of the canvas's, which may be wider than they are."""
    frames = [Image.new("L", (16, 16), shade) for shade in (40, 200)]
    made = io.BytesIO()
    frames[0].save(made, "GIF", save_all=True, append_images=frames[1:], duration=100)
    data = made.getvalue()
    colours = 13 + 3 * 2 ** ((data[10] & 7) + 1)  # the end of the table of colours
    extension = b"!\xfe" + bytes([len(comment)]) + comment + b"\0"
    return data[:6] + width + data[8:colours] + extension + data[colours:]
