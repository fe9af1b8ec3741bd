"""Whether the end of a sound file is there: the bytes that its header announces against those that follow.

libsndfile reads what is left of an uncompressed file or of an Ogg stream, and says nothing about the rest. Only heads
of chunks are read here, so that every file of a data set can be looked at.
"""

from __future__ import annotations

import os
import re
import struct
from typing import BinaryIO, NamedTuple

# By so many bytes a header may be wrong: some count themselves.
_SLACK = 128
# First four bytes -> the head of a chunk (name, size), where the first one is, to what sizes are rounded up, whether a
# size counts the head too, and from which size on it stands for "not known", as whoever writes a stream puts it.
_LAYOUTS = {
    b"RIFF": ("<4sI", 12, 2, False, 0x7FFFF000),
    b"RF64": ("<4sI", 12, 2, False, 1 << 62),
    b"BW64": ("<4sI", 12, 2, False, 1 << 62),
    b"RIFX": (">4sI", 12, 2, False, 0x7FFFF000),
    b"FORM": (">4sI", 12, 2, False, 0x7FFFF000),
    b"caff": (">4sq", 8, 1, False, 1 << 62),
    b"riff": ("<16sq", 40, 8, True, 1 << 62),
}
# Wave, AIFF and 8SVX.
_SAMPLES = (b"data", b"SSND", b"BODY")
_IN_DS64 = 0xFFFFFFFF
_PAGE_HEAD = struct.Struct("<4s22xB")
_LARGEST_PAGE = _PAGE_HEAD.size + 255 + 255 * 255


class Samples(NamedTuple):
    """The samples of an uncompressed file: their first byte, how many bytes of them are announced (None where that is
    not known), and how many are there."""

    offset: int
    announced: int | None
    there: int


def shortage(file: BinaryIO) -> str | None:
    """What of a file is missing, such as "its header announces 64000 bytes of samples, 31978 are there".

    None where nothing is missing, and where no header tells: of streams, and of formats not known here.
    """
    file.seek(0)
    if file.read(4) == b"OggS":
        return _cut_page(file)
    samples = find_samples(file)
    if samples is None or samples.announced is None or samples.there >= samples.announced - _SLACK:
        return None
    return f"its header announces {samples.announced} bytes of samples, {samples.there} are there"


def find_samples(file: BinaryIO) -> Samples | None:
    """Look for the samples of a WAV (RIFF, RIFX, RF64, W64), AIFF, CAF, AU or NIST file; None in anything else."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(1024)
    if start[:4] in (b".snd", b"dns."):
        return _au_samples(start, end)
    if start.startswith(b"NIST_1A"):
        return _nist_samples(start, end)
    if start[:4] not in _LAYOUTS:
        return None
    form, position, multiple, counts_head, unknown = _LAYOUTS[start[:4]]
    head, long_size = struct.Struct(form), -1
    while position + head.size <= end:
        file.seek(position)
        name, size = head.unpack(file.read(head.size))
        size -= head.size * counts_head
        position += head.size
        if name == b"ds64":
            long_size = struct.unpack("<8xq", file.read(16).ljust(16, b"\0"))[0]
        if name[:4] in _SAMPLES:
            size = long_size if size == _IN_DS64 else size
            is_known = 0 < size < unknown or (size == 0 and _are_chunks(file, position, end))
            return Samples(position, size if is_known else None, end - position)
        if size < 0:
            return None
        position += size + -size % multiple
    return None


def _are_chunks(file: BinaryIO, position: int, end: int) -> bool:
    """Whether the rest of a RIFF file is chunks and no samples."""
    while position + 8 <= end:
        file.seek(position)
        name, size = struct.unpack("<4sI", file.read(8))
        if not (name.isascii() and name.decode().isprintable()):
            return False
        position += 8 + size + size % 2
    return position == end


def _au_samples(start: bytes, end: int) -> Samples | None:
    order = ">" if start[:4] == b".snd" else "<"
    if len(start) < 12:
        return None
    offset, size = struct.unpack(f"{order}II", start[4:12])
    return Samples(offset, None if size in (0, _IN_DS64) else size, end - offset)


def _nist_samples(start: bytes, end: int) -> Samples | None:
    fields = {name: int(value) for name, value in re.findall(rb"(\w+) -i (\d+)", start)}
    offset = re.match(rb"NIST_1A\s+(\d+)", start)
    # Samples that are not PCM are compressed, to no length that is known.
    if offset is None or b"pcm" not in start or not {b"sample_count", b"sample_n_bytes"} <= fields.keys():
        return None
    announced = fields[b"sample_count"] * fields[b"sample_n_bytes"] * fields.get(b"channel_count", 1)
    return Samples(int(offset[1]), announced, end - int(offset[1]))


def _cut_page(file: BinaryIO) -> str | None:
    """The same for Ogg, whose last page says how long it is."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - _LARGEST_PAGE))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < _PAGE_HEAD.size:
        return "its last page has no head"
    segments = _PAGE_HEAD.unpack_from(page)[1]
    table = page[_PAGE_HEAD.size : _PAGE_HEAD.size + segments]
    length = _PAGE_HEAD.size + segments + sum(table)
    if len(table) == segments and len(page) >= length:
        return None
    return f"its last page announces {length} bytes, {len(page)} are there"
