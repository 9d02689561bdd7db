"""The packet table: each frame's time and place in the file, known without decoding.

A table saves decoding, but headers and packets lie: edit lists hide frames, packets hold no picture or two,
time stamps are missing. So a table is made only where the packets prove that each gives exactly one shown
picture, in the order of its time stamps: codecs and containers of `PROOFS`, and no sign of damage. For all
other files there is no table, and they are decoded from the start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

HEVC_SHOWN = {
    *range(10),
    19,
    20,
    21,
}  # kinds of slices whose picture is always shown, if decoding began before
HEVC_ENDS = {36, 37}  # ends of a sequence: pictures after them can be left out

Data = memoryview


class Picture(Enum):
    """What a packet holds."""

    UNPROVEN = 0  # not exactly one shown picture, or damaged
    PLAIN = 1
    START = 2  # the decoder can start here: what is shown later needs nothing that comes before


Proof = Callable[[Data], Picture]


@dataclass(frozen=True, kw_only=True)
class PacketTable:
    """One row per packet, in the order of the file. Time stamps are in units of the stream's time base."""

    shown_at: np.ndarray  # (N,) int64, presentation time stamps
    seek_to: np.ndarray  # (N,) int64, decoding time stamps, by which files are searched
    starts: np.ndarray  # (N,) bool, where decoding can start
    marked: np.ndarray  # (N,) bool, where the file says that decoding can start
    hidden: np.ndarray  # (N,) bool, what an edit list cuts away: decoded for others' sake, never shown
    order: np.ndarray  # int64, the packet of the i-th frame shown

    @property
    def is_closed(self) -> bool:
        """Whether nothing is hidden, or shown before a marked packet that precedes it in the file."""
        latest = np.where(self.marked, self.shown_at, np.iinfo(np.int64).min)
        runs_back = self.shown_at < np.maximum.accumulate(latest)
        return bool((self.starts | ~self.marked).all()) and not (runs_back | self.hidden).any()

    def start_for(self, frame: int) -> int:
        """The last packet from which the decoder can start to show this frame."""
        shown_at = self.shown_at[self.order[frame]]
        usable = self.starts[: self.order[frame] + 1] & (self.shown_at[: self.order[frame] + 1] <= shown_at)
        return int(np.flatnonzero(usable)[-1])


def packet_table(container: InputContainer, stream: VideoStream) -> PacketTable | None:
    """Reads through all packets, which takes about 1% of decoding; None where they prove nothing."""
    proof = _proof(container, stream)
    if proof is None:
        return None
    try:
        rows = [_row(packet, proof) for packet in container.demux(stream) if not _is_end(packet)]
    except (av.FFmpegError, OSError):
        return None
    proven = [row for row in rows if row is not None]
    if not proven or len(proven) < max(len(rows), stream.frames):  # fewer than promised: cut short
        return None
    shown_at, seek_to, pictures, marked, hidden = (np.array(column) for column in zip(*proven, strict=True))
    starts = (pictures == Picture.START.value) & marked
    by_time = np.argsort(shown_at, kind="stable")
    order = by_time[~hidden[by_time]]
    increasing = (np.diff(shown_at[by_time]) > 0).all()
    if not (starts[0] and by_time[0] == 0 and increasing and len(order) and shown_at[order[0]] >= 0):
        return None
    return PacketTable(
        shown_at=shown_at, seek_to=seek_to, starts=starts, marked=marked, hidden=hidden, order=order
    )


def parameter_sets_change(container: InputContainer, stream: VideoStream) -> bool:
    """Whether H.264 goes on with other parameter sets, such as of another size, than those in its header."""
    extradata = stream.codec_context.extradata or b""
    if stream.codec_context.codec.canonical_name != "h264" or extradata[:1] != b"\1":
        return False
    known = _parameter_sets(extradata)
    container.seek(0, stream=stream)
    for packet in container.demux(stream):
        units = _units(memoryview(packet), (extradata[4] & 3) + 1) or []
        if packet.has_sidedata("new_extradata") or not known.issuperset(
            bytes(unit) for unit in units if unit[0] & 31 in {7, 8}
        ):
            return True
    return False


def _is_end(packet: Packet) -> bool:
    return packet.size == 0 and packet.pts is None and packet.dts is None


def _row(packet: Packet, proof: Proof) -> tuple[int, int, int, bool, bool] | None:
    if packet.pts is None or packet.size == 0 or packet.is_corrupt:
        return None
    picture = proof(memoryview(packet))
    if picture is Picture.UNPROVEN:
        return None
    seek_to = packet.pts if packet.dts is None else packet.dts
    return packet.pts, seek_to, picture.value, packet.is_keyframe, packet.is_discard


def _proof(container: InputContainer, stream: VideoStream) -> Proof | None:
    codec = stream.codec_context.codec.canonical_name
    make_proof, formats = PROOFS.get(codec, (None, ""))
    if make_proof is None or container.format.name.split(",")[0] not in formats.split():
        return None
    return make_proof(stream.codec_context.extradata or b"")


def _units(data: Data, length_bytes: int) -> list[Data] | None:
    """The NAL units of a packet, or None where their lengths do not add up, as in damaged data."""
    units, at = [], 0
    while at + length_bytes < len(data):
        start = at + length_bytes
        at = start + int.from_bytes(data[at:start], "big")
        if at == start or at > len(data):
            return None
        units.append(data[start:at])
    return units if at == len(data) else None


def _h264(extradata: bytes) -> Proof | None:
    if len(extradata) < 7 or extradata[0] != 1:  # not in the form with lengths
        return None
    length_bytes = (extradata[4] & 3) + 1

    def proof(data: Data) -> Picture:
        slices = [
            unit for unit in _units(data, length_bytes) or () if 1 <= unit[0] & 31 <= 5 and len(unit) > 1
        ]
        kinds = {unit[0] & 31 for unit in slices}
        begun = sum(unit[1] >> 7 for unit in slices)  # "first macroblock: 0" is coded as a one bit
        if kinds not in ({1}, {5}) or begun not in {1, 2}:  # 2: the fields of one frame
            return Picture.UNPROVEN
        return Picture.START if kinds == {5} else Picture.PLAIN

    return proof


def _parameter_sets(extradata: bytes) -> set[bytes]:
    """The sequence and picture parameter sets of H.264 in the form with lengths."""
    found, at = set(), 5
    for mask in (0x1F, 0xFF):
        count = extradata[at] & mask if at < len(extradata) else 0
        at += 1
        for _ in range(count):
            end = at + 2 + int.from_bytes(extradata[at : at + 2], "big")
            found.add(extradata[at + 2 : end])
            at = end
    return found


def _hevc(extradata: bytes) -> Proof | None:
    if len(extradata) < 23 or extradata[0] != 1:
        return None
    length_bytes = (extradata[21] & 3) + 1

    def proof(data: Data) -> Picture:
        units = _units(data, length_bytes) or []
        types = {unit[0] >> 1 & 63 for unit in units}
        slices = [unit for unit in units if unit[0] >> 1 & 63 < 32 and len(unit) > 2]
        kinds = types & set(range(32))
        begun = sum(unit[2] >> 7 for unit in slices)  # slices that are the first of a picture
        if len(kinds) != 1 or not kinds <= HEVC_SHOWN or begun != 1 or types & HEVC_ENDS:
            return Picture.UNPROVEN
        return Picture.START if min(kinds) >= 19 else Picture.PLAIN

    return proof


def _vp8(extradata: bytes) -> Proof:
    def proof(data: Data) -> Picture:
        if not data[0] >> 4 & 1:  # a hidden picture
            return Picture.UNPROVEN
        return Picture.PLAIN if data[0] & 1 else Picture.START

    return proof


def _vp9_parts(data: Data) -> list[Data]:
    """The pictures of a packet, by the index at its end if there is one."""
    mark = data[-1]
    count, size_bytes = (mark & 7) + 1, (mark >> 3 & 3) + 1
    index = len(data) - 2 - count * size_bytes
    if mark >> 5 != 0b110 or index < 0 or data[index] != mark:
        return [data]
    parts, at = [], 0
    for place in range(index + 1, len(data) - 1, size_bytes):
        size = int.from_bytes(data[place : place + size_bytes], "little")
        parts.append(data[at : min(at + size, index)])
        at += size
    return parts


def _vp9(extradata: bytes) -> Proof:
    def proof(data: Data) -> Picture:
        parts = _vp9_parts(data)
        if not all(len(part) and part[0] >> 6 == 2 for part in parts):
            return Picture.UNPROVEN
        headers = [part[0] << (part[0] & 0x30 == 0x30) for part in parts]  # profile 3 has one more bit
        shown = sum(bool(header & 0b1010) for header in headers)  # shows a known picture, or itself
        if shown != 1:
            return Picture.UNPROVEN
        return Picture.START if not headers[0] & 0b1100 else Picture.PLAIN

    return proof


def _av1(extradata: bytes) -> Proof:
    def proof(data: Data) -> Picture:
        at = 0
        while at < len(data):
            header = data[at]
            if header & 0x83 != 0x02:  # its first and last bit are 0, and the length is there
                return Picture.UNPROVEN
            at += 1 + (header >> 2 & 1)
            length = shift = 0
            for byte in data[at : at + 8]:  # seven bits each, the lowest first
                length |= (byte & 0x7F) << shift
                shift, at = shift + 7, at + 1
                if byte < 0x80:
                    break
            at += length
        # By the standard each packet shows one picture, and marked ones need nothing before them.
        return Picture.START if at == len(data) else Picture.UNPROVEN

    return proof


def _mpeg4(extradata: bytes) -> Proof:
    def proof(data: Data) -> Picture:
        code = bytes(data).split(b"\x00\x00\x01\xb6")
        if len(code) != 2 or len(code[1]) < 16:  # shorter ones can stand for "no new picture"
            return Picture.UNPROVEN
        return {0: Picture.START, 1: Picture.PLAIN}.get(code[1][0] >> 6, Picture.UNPROVEN)

    return proof


def _mjpeg(extradata: bytes) -> Proof:
    return lambda data: (
        Picture.START if data[:2] == b"\xff\xd8" and data[-2:] == b"\xff\xd9" else Picture.UNPROVEN
    )


# For each codec: how its packets prove themselves, and the containers whose time stamps are true.
PROOFS: dict[str, tuple[Callable[[bytes], Proof | None], str]] = {
    "h264": (_h264, "mov matroska"),
    "hevc": (_hevc, "mov matroska"),
    "vp8": (_vp8, "mov matroska"),
    "vp9": (_vp9, "mov matroska"),
    "av1": (_av1, "mov matroska"),
    "mpeg4": (_mpeg4, "mov matroska avi"),
    "mjpeg": (_mjpeg, "mov matroska avi"),
}
