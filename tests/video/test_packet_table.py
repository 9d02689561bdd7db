import pytest

from tests.video.conftest import write_video
from vactk.video.container import open_container
from vactk.video.packet_table import PROOFS, PacketInfo, packet_table

AVC = bytes([1, 66, 0, 30, 255, 225, 0])  # the head of an avcC record: lengths take four bytes
HEVC = bytes([1] + 20 * [0] + [3, 0])


def unit(*data: int) -> bytes:
    return len(data).to_bytes(4, "big") + bytes(data)


FIRST, LATER = 0x80, 0x40  # the slice that begins a picture, and another
CASES = [
    ("h264", unit(0x65, FIRST, 0), PacketInfo.START),
    (
        "h264",
        unit(0x67, 1) + unit(0x06, 6) + unit(0x65, FIRST) + unit(0x65, LATER) + unit(10),
        PacketInfo.START,
    ),
    ("h264", unit(0x41, FIRST, 0), PacketInfo.PLAIN),
    ("h264", unit(0x41, FIRST) + unit(0x41, FIRST), PacketInfo.PLAIN),  # two fields
    ("h264", unit(0x67, 1), PacketInfo.UNPROVEN),  # no picture
    ("h264", unit(0x41, LATER), PacketInfo.UNPROVEN),
    ("h264", 3 * unit(0x41, FIRST), PacketInfo.UNPROVEN),
    ("h264", unit(0x65, FIRST) + bytes(40), PacketInfo.UNPROVEN),  # zeros written over it
    ("h264", unit(0x65, FIRST) + b"\0\0\0\xff\x41", PacketInfo.UNPROVEN),  # longer than the packet
    ("h264", unit(0x65, FIRST) + b"\0\0", PacketInfo.UNPROVEN),
    ("hevc", unit(19 << 1, 1, FIRST), PacketInfo.START),
    ("hevc", unit(21 << 1, 1, FIRST), PacketInfo.START),
    ("hevc", unit(1 << 1, 1, FIRST) + unit(1 << 1, 1, LATER), PacketInfo.PLAIN),
    ("hevc", unit(16 << 1, 1, FIRST), PacketInfo.UNPROVEN),  # pictures after it are left out
    ("hevc", unit(1 << 1, 1, FIRST) + unit(36 << 1, 1), PacketInfo.UNPROVEN),
    ("hevc", unit(1 << 1, 1, FIRST) + unit(1 << 1, 1, FIRST), PacketInfo.UNPROVEN),
    ("vp8", bytes([0x10, 0, 0]), PacketInfo.START),
    ("vp8", bytes([0x11, 0, 0]), PacketInfo.PLAIN),
    ("vp8", bytes([0x01, 0, 0]), PacketInfo.UNPROVEN),  # hidden
    ("vp9", bytes([0x82, 0, 0]), PacketInfo.START),
    ("vp9", bytes([0x86, 0, 0]), PacketInfo.PLAIN),
    ("vp9", bytes([0x8A]), PacketInfo.PLAIN),  # shows a picture that is known
    ("vp9", bytes([0xB1, 0, 0]), PacketInfo.START),  # profile 3
    ("vp9", bytes([0x84, 0, 0]), PacketInfo.UNPROVEN),  # hidden
    ("vp9", bytes([0x00, 0, 0]), PacketInfo.UNPROVEN),
    ("vp9", bytes([0x84, 9, 0x86, 9, 9, 0xC1, 2, 3, 0xC1]), PacketInfo.PLAIN),  # one hidden, one shown
    ("vp9", bytes([0x86, 9, 0x86, 9, 9, 0xC1, 2, 3, 0xC1]), PacketInfo.UNPROVEN),  # two shown
    ("av1", bytes([0x12, 0, 0x32, 0x81, 1, *range(129)]), PacketInfo.START),
    ("av1", bytes([0x12, 0, 0x36, 8, 2, 9, 9]), PacketInfo.START),  # with an extension byte
    ("av1", bytes([0x12, 0, 0x32, 5, 1, 2]), PacketInfo.UNPROVEN),  # longer than the packet
    ("av1", bytes([0x12, 0, 0, 0, 0]), PacketInfo.UNPROVEN),
    ("mpeg4", b"\0\0\1\xb6\x10" + bytes(30), PacketInfo.START),
    ("mpeg4", b"\0\0\1\xb3\0\0\1\xb6\x50" + bytes(30), PacketInfo.PLAIN),
    ("mpeg4", b"\0\0\1\xb6\x90" + bytes(30), PacketInfo.UNPROVEN),  # shown in another order
    ("mpeg4", b"\0\0\1\xb6\x50" + bytes(3), PacketInfo.UNPROVEN),  # "as before"
    ("mpeg4", 2 * (b"\0\0\1\xb6\x50" + bytes(30)), PacketInfo.UNPROVEN),
    ("mjpeg", b"\xff\xd8....\xff\xd9", PacketInfo.START),
    ("mjpeg", b"\xff\xd8....", PacketInfo.UNPROVEN),
]


@pytest.mark.parametrize(("codec", "data", "picture"), CASES)
def test_what_a_packet_proves(codec, data, picture):
    proof = PROOFS[codec][0]({"h264": AVC, "hevc": HEVC}.get(codec, b""))
    assert proof(memoryview(data)) is picture


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_streams_without_lengths_prove_nothing(codec):
    assert PROOFS[codec][0](b"\0\0\0\1\x67" + bytes(30)) is None
    assert PROOFS[codec][0](b"") is None


def test_starts_are_where_decoding_can_begin(tmp_path):
    path = write_video(tmp_path / "video.mp4", num_frames=30, keyframe_every=10)
    container, stream = open_container(path)
    with container:
        table = packet_table(container, stream)
    assert table.starts.nonzero()[0].tolist() == [0, 10, 20]
    assert [table.start_for(frame) for frame in (0, 9, 10, 29)] == [0, 0, 10, 20]
    assert table.is_closed


def test_open_groups_of_pictures_are_no_place_to_start(tmp_path):
    options = {"x264-params": "open-gop=1:bframes=3:keyint=8:min-keyint=8"}
    container, stream = open_container(write_video(tmp_path / "video.mp4", options=options))
    with container:
        table = packet_table(container, stream)
    assert table.marked.sum() > 1
    assert table.starts.nonzero()[0].tolist() == [0]
    assert not table.is_closed
