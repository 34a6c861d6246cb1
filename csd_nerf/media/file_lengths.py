"""How long a film's file must be, by the sizes that it names itself: so it is seen if it is cut.

Matroska and WebM name the size of their segment, AVI those of its RIFF chunks, MP4 and its
relatives those of their boxes. A transport stream consists of packets of one size. Films that are
recorded live may name none.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067
_BOXES = {
    *(b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"mfra", b"sidx", b"free", b"skip", b"wide"),
    *(b"uuid", b"udta", b"meta", b"pnot", b"emsg", b"prft"),
}
"""Boxes of MP4 and QuickTime; what other programs append to a file has no sizes."""
_SYNC = 0x47
_PACKETS = ((188, 0), (192, 4), (204, 0))
"""Sizes of a transport stream's packets, and where in them their sync byte is."""


def least_length(path: Path) -> int:
    """Bytes that a whole film has at least; 0 if the file names no size."""
    with path.open("rb") as file:
        head = file.read(512)
        file.seek(0)
        if head[:4] == _EBML.to_bytes(4, "big"):
            return _matroska(file)
        if head[:4] == b"RIFF":
            return _riff(file)
        if head[4:8] in _BOXES:
            return _boxes(file)
    size = path.stat().st_size
    for packet, place in _PACKETS:
        if len(head) > packet + place and head[place] == head[packet + place] == _SYNC:
            return -(-size // packet) * packet
    return 0


def _matroska(file: BinaryIO) -> int:
    for wanted in (_EBML, _SEGMENT):
        size = None
        if int.from_bytes(file.read(4), "big") == wanted:
            size = _variable(file)
        if size is None:
            return 0
        if wanted == _EBML:
            file.seek(size, 1)
    return file.tell() + size


def _variable(file: BinaryIO) -> int | None:
    """EBML's integer, whose first bits say how long it is; None if all are set: unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(length - 1), "big") & ((1 << 7 * length) - 1)
    return None if value == (1 << 7 * length) - 1 else value


def _riff(file: BinaryIO) -> int:
    """The end of the last RIFF chunk: an AVI of more than a gigabyte has several."""
    end = 0
    while file.read(4) == b"RIFF":
        size = int.from_bytes(file.read(4), "little")
        if size in (0, 0xFFFFFFFF):
            return end
        # The 8 bytes before it don't count, but some programs count them.
        end = file.tell() - 8 + size
        file.seek(size + size % 2, 1)
    return end


def _boxes(file: BinaryIO) -> int:
    end = 0
    while (head := file.read(8))[4:] in _BOXES:
        size, begin = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, begin = int.from_bytes(file.read(8), "big"), 16
        if size < begin:
            return end
        end += size
        file.seek(end)
    return end
