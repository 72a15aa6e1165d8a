"""Damages files at random, for the tests and for benchmarks/fuzz_checkpoints.py."""

from __future__ import annotations

import io
import random
import zipfile

# Instructions of a pickle, among them all that call a function, name one or build an object.
CODES = b"cRibo\x81\x92\x93Q0(.]}ahjqrsutelN\x88\x89\x85\x86\x87\x94\x95BCX\x8aKMJ"
SNIPPETS = (
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"\x8c\x02os\x94\x8c\x06system\x94\x93",
    b"R",
    b"\x85R",
    b"b",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00\x00\x00\x00\x80",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"PK\x01\x02",
    b"PK\x05\x06",
)


def mutant(data: bytes, rng: random.Random) -> bytes:
    """Return a copy with changed bits, bytes or instructions, or with parts cut, repeated or moved.

    Most of the damage is at the ends of a file and around text, where a file describes itself.
    """
    if data[:4] == b"PK\3\4" and rng.random() < 0.7:  # otherwise checksums refuse nearly all
        return _inside(data, rng)
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at, n = _place(damaged, rng), rng.choice((1, 1, 2, 4, 8, 64, 1024))
        kind = rng.randrange(8)
        if not damaged:
            break
        if kind == 0:
            damaged[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            damaged[at] = rng.choice(CODES)
        elif kind == 2:
            damaged[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif kind == 3:
            del damaged[at : at + n]
        elif kind == 4:
            damaged[at:at] = damaged[at : at + n]
        elif kind == 5:
            damaged[at:at] = rng.choice(SNIPPETS)
        elif kind == 6:
            other = _place(damaged, rng)
            damaged[at : at + n] = damaged[other : other + n]
        elif rng.random() < 0.2:
            del damaged[at:]
        else:
            snippet = rng.choice(SNIPPETS)
            damaged[at : at + len(snippet)] = snippet
    return bytes(damaged)


def _inside(data: bytes, rng: random.Random) -> bytes:
    """Return an archive whose pickle is damaged and whose other entries are not."""
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
            if len(set(old.namelist())) < len(old.namelist()):
                raise ValueError("two entries have one name")
            for info in old.infolist():
                content = old.read(info) if info.file_size <= len(data) else b""
                pickled = info.filename.endswith("data.pkl")
                new.writestr(info.filename, mutant(content, rng) if pickled else content)
    except Exception:  # zipfile refuses some of the hostile archives
        return data[: rng.randrange(len(data))]
    return out.getvalue()


def _place(data: bytearray, rng: random.Random) -> int:
    """Return a position: anywhere, near one of the ends, or near a known word."""
    size = max(len(data), 1)
    where = rng.randrange(4)
    if where == 0:
        return rng.randrange(size)
    if where == 1:
        return rng.randrange(min(size, 2000))
    if where == 2:
        return size - 1 - rng.randrange(min(size, 2000))
    mark = rng.choice((b"torch", b"numpy", b"weight", b"state", b"_modules", b"storage", b"\x85R"))
    at = data.find(mark, rng.randrange(size))
    return max(0, min(size - 1, at + rng.randrange(-12, 24))) if at >= 0 else rng.randrange(size)
