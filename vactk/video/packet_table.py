"""The packet table: each frame's time and position in the file, found without decoding.

Headers and packets can be misleading: edit lists hide frames, packets hold no or two frames, stamps are missing.
So a table is built only where the packets prove that each gives exactly one shown frame, in the order of the time
stamps: for codecs and containers in `PROOFS`, without signs of damage. All other files are decoded from the start.
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

HEVC_SHOWN = {*range(10), 19, 20, 21}  # slice types whose frame is always shown, if decoding began before
HEVC_ENDS = {36, 37}  # ends of a sequence: frames after them may be dropped

Data = memoryview


class PacketInfo(Enum):
    """The content of a packet."""

    UNPROVEN = 0  # not exactly one shown frame, or damaged
    PLAIN = 1
    START = 2  # the decoder can start here: later frames refer to nothing before


ROW = [
    ("shown_at", "i8"),
    ("seek_to", "i8"),
    ("frame", "i8"),
    ("marked", "?"),
    ("hidden", "?"),
]  # of a packet
Proof = Callable[[Data], PacketInfo]


@dataclass(frozen=True, kw_only=True)
class PacketTable:
    """One row per packet, in the order of the file. Time stamps are in units of the stream's time base."""

    shown_at: np.ndarray  # (N,) int64, presentation time stamps
    seek_to: np.ndarray  # (N,) int64, decoding time stamps, for seeking
    starts: np.ndarray  # (N,) bool, where decoding can start
    marked: np.ndarray  # (N,) bool, keyframes according to the file
    hidden: np.ndarray  # (N,) bool, removed by an edit list: decoded for other frames, never shown
    order: np.ndarray  # int64, packet of the i-th shown frame

    @property
    def is_closed(self) -> bool:
        """Whether no frame is hidden, nor shown before a marked packet that precedes it in the file."""
        latest = np.where(self.marked, self.shown_at, np.iinfo(np.int64).min)
        runs_back = self.shown_at < np.maximum.accumulate(latest)
        return bool((self.starts | ~self.marked).all()) and not (runs_back | self.hidden).any()

    def start_for(self, frame: int) -> int:
        """Return the last packet from which decoding can start to show this frame."""
        shown_at = self.shown_at[self.order[frame]]
        usable = self.starts[: self.order[frame] + 1] & (self.shown_at[: self.order[frame] + 1] <= shown_at)
        return int(np.flatnonzero(usable)[-1])


def packet_table(container: InputContainer, stream: VideoStream) -> PacketTable | None:
    """Read all packets, in about 1% of the decoding time, and return their table; None where they prove nothing."""
    proof = _proof(container, stream)
    if proof is None:
        return None
    try:
        packets = (packet for packet in container.demux(stream) if not _is_end(packet))
        rows = np.fromiter((_row(packet, proof) for packet in packets), dtype=ROW)
    except (av.FFmpegError, OSError, _UnprovenError):
        return None
    if not len(rows) or len(rows) < stream.frames:  # fewer than stated: truncated
        return None
    shown_at, seek_to, frames, marked, hidden = (rows[name].copy() for name, _ in ROW)
    starts = (frames == PacketInfo.START.value) & marked
    by_time = np.argsort(shown_at, kind="stable")
    order = by_time[~hidden[by_time]]
    increasing = (np.diff(shown_at[by_time]) > 0).all()
    if not (starts[0] and by_time[0] == 0 and increasing and len(order) and shown_at[order[0]] >= 0):
        return None
    return PacketTable(
        shown_at=shown_at, seek_to=seek_to, starts=starts, marked=marked, hidden=hidden, order=order
    )


def parameter_sets_change(container: InputContainer, stream: VideoStream) -> bool:
    """Whether H.264 packets contain parameter sets, such as another size, that are not in the header."""
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


class _UnprovenError(Exception):
    """A packet that does not give exactly one shown frame."""


def _row(packet: Packet, proof: Proof) -> tuple[int, int, int, bool, bool]:
    if packet.pts is None or packet.size == 0 or packet.is_corrupt:
        raise _UnprovenError
    frame = proof(memoryview(packet))
    if frame is PacketInfo.UNPROVEN:
        raise _UnprovenError
    seek_to = packet.pts if packet.dts is None else packet.dts
    return packet.pts, seek_to, frame.value, packet.is_keyframe, packet.is_discard


def _proof(container: InputContainer, stream: VideoStream) -> Proof | None:
    codec = stream.codec_context.codec.canonical_name
    make_proof, formats = PROOFS.get(codec, (None, ""))
    if make_proof is None or container.format.name.split(",")[0] not in formats.split():
        return None
    return make_proof(stream.codec_context.extradata or b"")


def _units(data: Data, length_bytes: int) -> list[Data] | None:
    """Return the NAL units of a packet, or None where their lengths do not add up, as in damaged data."""
    units, at = [], 0
    while at + length_bytes < len(data):
        start = at + length_bytes
        at = start + int.from_bytes(data[at:start], "big")
        if at == start or at > len(data):
            return None
        units.append(data[start:at])
    return units if at == len(data) else None


def _h264(extradata: bytes) -> Proof | None:
    if len(extradata) < 7 or extradata[0] != 1:  # not in the length-prefixed format
        return None
    length_bytes = (extradata[4] & 3) + 1

    def proof(data: Data) -> PacketInfo:
        slices = [
            unit for unit in _units(data, length_bytes) or () if 1 <= unit[0] & 31 <= 5 and len(unit) > 1
        ]
        kinds = {unit[0] & 31 for unit in slices}
        begun = sum(unit[1] >> 7 for unit in slices)  # first_mb_in_slice = 0 is coded as a one bit
        if kinds not in ({1}, {5}) or begun not in {1, 2}:  # 2: the fields of one frame
            return PacketInfo.UNPROVEN
        return PacketInfo.START if kinds == {5} else PacketInfo.PLAIN

    return proof


def _parameter_sets(extradata: bytes) -> set[bytes]:
    """Return the sequence and picture parameter sets of H.264 in the length-prefixed format."""
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

    def proof(data: Data) -> PacketInfo:
        units = _units(data, length_bytes) or []
        types = {unit[0] >> 1 & 63 for unit in units}
        slices = [unit for unit in units if unit[0] >> 1 & 63 < 32 and len(unit) > 2]
        kinds = types & set(range(32))
        begun = sum(unit[2] >> 7 for unit in slices)  # first slices of a frame
        if len(kinds) != 1 or not kinds <= HEVC_SHOWN or begun != 1 or types & HEVC_ENDS:
            return PacketInfo.UNPROVEN
        return PacketInfo.START if min(kinds) >= 19 else PacketInfo.PLAIN

    return proof


def _vp8(extradata: bytes) -> Proof:
    def proof(data: Data) -> PacketInfo:
        if not data[0] >> 4 & 1:  # a hidden frame
            return PacketInfo.UNPROVEN
        return PacketInfo.PLAIN if data[0] & 1 else PacketInfo.START

    return proof


def _vp9_frames(data: Data) -> list[Data]:
    """Return the frames of a packet, split by the index at its end if there is one."""
    mark = data[-1]
    count, size_bytes = (mark & 7) + 1, (mark >> 3 & 3) + 1
    index = len(data) - 2 - count * size_bytes
    if mark >> 5 != 0b110 or index < 0 or data[index] != mark:
        return [data]
    frames, at = [], 0
    for position in range(index + 1, len(data) - 1, size_bytes):
        size = int.from_bytes(data[position : position + size_bytes], "little")
        frames.append(data[at : min(at + size, index)])
        at += size
    return frames


def _vp9(extradata: bytes) -> Proof:
    def proof(data: Data) -> PacketInfo:
        frames = _vp9_frames(data)
        if not all(len(frame) and frame[0] >> 6 == 2 for frame in frames):
            return PacketInfo.UNPROVEN
        headers = [frame[0] << (frame[0] & 0x30 == 0x30) for frame in frames]  # profile 3 has one more bit
        shown = sum(bool(header & 0b1010) for header in headers)  # shows an existing frame, or itself
        if shown != 1:
            return PacketInfo.UNPROVEN
        return PacketInfo.START if not headers[0] & 0b1100 else PacketInfo.PLAIN

    return proof


def _av1(extradata: bytes) -> Proof:
    def proof(data: Data) -> PacketInfo:
        at = 0
        while at < len(data):
            header = data[at]
            if header & 0x83 != 0x02:  # first and last bit are 0, and a length follows
                return PacketInfo.UNPROVEN
            at += 1 + (header >> 2 & 1)
            length = shift = 0
            for byte in data[at : at + 8]:  # seven bits each, the lowest first
                length |= (byte & 0x7F) << shift
                shift, at = shift + 7, at + 1
                if byte < 0x80:
                    break
            at += length
        # By the standard each packet shows one frame, and decoding can start at marked ones.
        return PacketInfo.START if at == len(data) else PacketInfo.UNPROVEN

    return proof


def _mpeg4(extradata: bytes) -> Proof:
    def proof(data: Data) -> PacketInfo:
        code = bytes(data).split(b"\x00\x00\x01\xb6")
        if len(code) != 2 or len(code[1]) < 16:  # shorter ones may mean "no new frame"
            return PacketInfo.UNPROVEN
        return {0: PacketInfo.START, 1: PacketInfo.PLAIN}.get(code[1][0] >> 6, PacketInfo.UNPROVEN)

    return proof


def _mjpeg(extradata: bytes) -> Proof:
    return lambda data: (
        PacketInfo.START if data[:2] == b"\xff\xd8" and data[-2:] == b"\xff\xd9" else PacketInfo.UNPROVEN
    )


# Per codec: the proof of its packets, and the containers with reliable time stamps.
PROOFS: dict[str, tuple[Callable[[bytes], Proof | None], str]] = {
    "h264": (_h264, "mov matroska"),
    "hevc": (_hevc, "mov matroska"),
    "vp8": (_vp8, "mov matroska"),
    "vp9": (_vp9, "mov matroska"),
    "av1": (_av1, "mov matroska"),
    "mpeg4": (_mpeg4, "mov matroska avi"),
    "mjpeg": (_mjpeg, "mov matroska avi"),
}
