"""Read the audio of a time span of a video, ready to be re-encoded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.filter import Graph

from vactk.video.container import open_container

RATE = 48000  # samples per second
FRAME_SAMPLES = 1024  # of an AAC frame
LEAD_S = 1.0  # decoding starts this long before the span: decoders need a few frames to settle


def audio_frames(path: Path, start_s: float, end_s: float) -> Iterator[av.AudioFrame]:
    """Yield the audio of [start_s, end_s), relative to the first frame: mono or stereo, 48 kHz, times from 0.

    Gaps are filled with silence. Yields nothing if a file has no audio, and ends where it does not decode.
    """
    container, video = open_container(path)
    with container:
        sound = container.streams.best("audio")
        if not isinstance(sound, AudioStream) or sound.codec_context is None:
            return
        first_picture_s = float((video.start_time or 0) * (video.time_base or 0))
        yield from _cut(container, sound, start_s + first_picture_s, end_s + first_picture_s)


def _cut(
    container: InputContainer, sound: AudioStream, start_s: float, end_s: float
) -> Iterator[av.AudioFrame]:
    with contextlib.suppress(av.FFmpegError, OSError, ValueError):  # damaged audio ends there
        graph = _graph(sound, start_s, end_s)
        if start_s > LEAD_S and sound.time_base:
            container.seek(int((start_s - LEAD_S) / sound.time_base), stream=sound)
        for frame in _timed_frames(container, sound):
            if frame.time is not None and frame.time >= end_s:
                break
            graph.push(frame)
            yield from _pull(graph)
        graph.push(None)
        yield from _pull(graph)


def _timed_frames(container: InputContainer, sound: AudioStream) -> Iterator[av.AudioFrame]:
    """Yield decoded frames; timestamps that are missing, as in AMR, continue from the frame before."""
    for packet in container.demux(sound):
        following = packet.pts
        for frame in packet.decode():
            if frame.pts is None and following is not None:
                frame.pts, frame.time_base = following, packet.time_base
            if frame.pts is not None and frame.time_base:
                following = frame.pts + round(frame.samples / (frame.sample_rate * frame.time_base))
            yield frame


def _graph(sound: AudioStream, start_s: float, end_s: float) -> Graph:
    layout = "mono" if sound.codec_context.layout.nb_channels == 1 else "stereo"
    filters = (
        ("atrim", f"start={start_s:.6f}:end={end_s:.6f}"),
        ("asetpts", f"PTS-{start_s:.6f}/TB"),
        ("aresample", f"{RATE}:async=1:first_pts=0"),
        ("aformat", f"sample_fmts=fltp:channel_layouts={layout}"),
        ("asetnsamples", f"{FRAME_SAMPLES}:p=0"),
        ("abuffersink", None),
    )
    graph = Graph()
    chain = [graph.add_abuffer(template=sound), *(graph.add(name, options) for name, options in filters)]
    graph.link_nodes(*chain).configure()
    return graph


def _pull(graph: Graph) -> Iterator[av.AudioFrame]:
    with contextlib.suppress(av.BlockingIOError, av.EOFError):
        while True:
            frame = graph.pull()
            if isinstance(frame, av.AudioFrame):
                yield frame
