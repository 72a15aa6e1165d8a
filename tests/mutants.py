"""Damage done to files on purpose, for the tests and for benchmarks/fuzz_checkpoints.py."""

from __future__ import annotations

import io
import random
import zipfile

# Instructions of a pickle, among them all that call, name or build.
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
    """Return a damaged copy: bits, instructions, cuts, repeats, insertions, exchanges.

    Most of the damage is done where a file says what it is: at its ends, and around text.
    """
    if data[:4] == b"PK\3\4" and rng.random() < 0.7:  # else the checksums refuse nearly all
        return _inside(data, rng)
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at, n = _place(found, rng), rng.choice((1, 1, 2, 4, 8, 64, 1024))
        kind = rng.randrange(8)
        if not found:
            break
        if kind == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at] = rng.choice(CODES)
        elif kind == 2:
            found[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif kind == 3:
            del found[at : at + n]
        elif kind == 4:
            found[at:at] = found[at : at + n]
        elif kind == 5:
            found[at:at] = rng.choice(SNIPPETS)
        elif kind == 6:
            other = _place(found, rng)
            found[at : at + n] = found[other : other + n]
        elif rng.random() < 0.2:
            del found[at:]
        else:
            snippet = rng.choice(SNIPPETS)
            found[at : at + len(snippet)] = snippet
    return bytes(found)


def _inside(data: bytes, rng: random.Random) -> bytes:
    """Return an archive with a damaged pickle, whole otherwise."""
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
            if len(set(old.namelist())) < len(old.namelist()):
                raise ValueError("a name twice")
            for info in old.infolist():
                content = old.read(info) if info.file_size <= len(data) else b""
                pickled = info.filename.endswith("data.pkl")
                new.writestr(info.filename, mutant(content, rng) if pickled else content)
    except Exception:  # what zipfile says of the hostile ones
        return data[: rng.randrange(len(data))]
    return out.getvalue()


def _place(data: bytearray, rng: random.Random) -> int:
    """Return a place: anywhere, near an end, or just before a letter's run."""
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
