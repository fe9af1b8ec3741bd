"""Whether the end of a sound file is there: the bytes that its header announces against those that follow.

libsndfile reads what is left of an uncompressed file or of an Ogg stream, and says nothing about the rest; of some mp3
and Ogg files that are whole it reads a part. Only heads of chunks, pages and frames are read here, so that every file
of a data set can be looked at.
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
# More are no header, but what somebody made to be walked through for ever.
_MOST_CHUNKS = 10_000
_PAGE_HEAD = struct.Struct("<4s22xB")
_LARGEST_PAGE = _PAGE_HEAD.size + 255 + 255 * 255
# Kilobits per second of layer III by their index, of MPEG 1 and of MPEG 2 and 2.5; samples per second by the version.
_KILOBITS = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
# About 26 s of frames.
_FRAMES_LOOKED_AT = 1000


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


def is_read_in_part(file: BinaryIO) -> bool:
    """Whether libsndfile reads the beginning of a file for the whole: of an mp3 whose bit rate varies and that does not
    say its length, which is then guessed by the first frame; of several Ogg streams behind one another the first."""
    file.seek(0)
    start = file.read(18)
    if start.startswith(b"OggS"):
        return _last_page(file)[14:18] not in (start[14:], b"")
    return _is_mp3_of_unknown_length(file, start)


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
    for _ in range(_MOST_CHUNKS):
        if position + head.size > end:
            break
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
    for _ in range(_MOST_CHUNKS):
        if position + 8 > end:
            break
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
    return Samples(offset, None if size in (0, _IN_DS64) else size, max(0, end - offset))


def _nist_samples(start: bytes, end: int) -> Samples | None:
    fields = {name: int(value) for name, value in re.findall(rb"(\w+) -i (\d+)", start)}
    offset = re.match(rb"NIST_1A\s+(\d+)", start)
    # Samples that are not PCM are compressed, to no length that is known.
    if offset is None or b"pcm" not in start or not {b"sample_count", b"sample_n_bytes"} <= fields.keys():
        return None
    announced = fields[b"sample_count"] * fields[b"sample_n_bytes"] * fields.get(b"channel_count", 1)
    return Samples(int(offset[1]), announced, max(0, end - int(offset[1])))


def _cut_page(file: BinaryIO) -> str | None:
    """The same for Ogg, whose last page says how long it is."""
    page = _last_page(file)
    if len(page) < _PAGE_HEAD.size:
        return "its last page has no head"
    segments = _PAGE_HEAD.unpack_from(page)[1]
    table = page[_PAGE_HEAD.size : _PAGE_HEAD.size + segments]
    length = _PAGE_HEAD.size + segments + sum(table)
    if len(table) == segments and len(page) >= length:
        return None
    return f"its last page announces {length} bytes, {len(page)} are there"


def _last_page(file: BinaryIO) -> bytes:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - _LARGEST_PAGE))
    tail = file.read()
    return tail[tail.rfind(b"OggS") :]


def _is_mp3_of_unknown_length(file: BinaryIO, start: bytes) -> bool:
    position = 0
    if start.startswith(b"ID3"):
        position = 10 + sum(byte << shift for byte, shift in zip(start[6:10], (21, 14, 7, 0), strict=True))
    rates = set()
    for number in range(_FRAMES_LOOKED_AT):
        file.seek(position)
        frame = file.read(4 if number else 200)
        length, kilobits = _mp3_frame(frame)
        # The first frame may hold the number of all.
        if not length or any(name in frame for name in (b"Xing", b"Info", b"VBRI")):
            break
        rates.add(kilobits)
        position += length
    return len(rates) > 1


def _mp3_frame(head: bytes) -> tuple[int, int]:
    """Bytes and kilobits per second of a frame of layer III; 0 bytes for what is none."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0, 0
    version, index, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or index in (0, 15) or rate == 3:
        return 0, 0
    kilobits = _KILOBITS[3 if version == 3 else 2][index]
    return (144 if version == 3 else 72) * 1000 * kilobits // _RATES[version][rate] + (head[2] >> 1 & 1), kilobits
