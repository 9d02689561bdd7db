"""Readings that hang, each in another way."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time

import av

from vactk.retrieval.previews import make_still


def hang_in_python(hit, at_s):
    """As a still whose making never ends, on one file."""
    while hit.video.name == "dog.mp4":
        time.sleep(0.01)
    return make_still(hit, at_s)


def hang_on_a_path(path):
    """As a file that was sent, whose reading never ends."""
    while path:
        time.sleep(0.01)


def hang_in_ffmpeg(hit, at_s):
    """FFmpeg waits for a pipe into which nobody writes."""
    pipe = hit.video.with_name("pipe")
    with contextlib.suppress(FileExistsError):
        os.mkfifo(pipe)
    av.open(str(pipe))


def hang_with_the_lock(hit, at_s):
    """A decoder that never comes back to Python, and keeps its lock so that no other thread runs either."""
    ctypes.PyDLL(None).pause()
