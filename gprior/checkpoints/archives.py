"""Reads the directory of a zip archive whose entries are stored without compression.

PyTorch writes such archives, and `gprior.checkpoints.containers` reads them. Python's `zipfile` is
not used, because it would unpack entries and accepts archives that are made to deceive a reader.
"""

from __future__ import annotations

import re
import struct
from itertools import pairwise

from gprior.checks import InputError

__all__ = ["read_entries"]

MAX_ENTRIES = 50_000
ENTRY_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*", re.ASCII)
# The records of an archive, without the fields that are not needed here.
END = struct.Struct("<4s4H2IH")  # end of the directory
END64 = struct.Struct("<4s12x2I4Q")  # the same in 64 bits
ENTRY = struct.Struct("<4s4x2H4x3I3H8xI")  # one entry of the directory
LOCAL = struct.Struct("<4s18xI2H")  # header in front of the bytes of an entry


def read_entries(data: memoryview) -> dict[str, tuple[memoryview, int]]:
    """Return the bytes and the checksum of every entry, by its name.

    Parameters
    ----------
    data : memoryview
        The file.

    Raises
    ------
    InputError
        If the directory is damaged, or if entries are compressed or encrypted, overlap, share a
        name, or have a name outside the archive. Checksums are not compared here.
    """
    at = len(data) - END.size  # where the record of the end is: PyTorch adds no comment after it
    try:
        sign, disk, first, here, count, size, start, _ = END.unpack_from(data, at)
        complete = sign == b"PK\5\6"
        if bytes(data[at - 20 : at - 16]) == b"PK\6\7":  # there is a record in 64 bits as well
            at -= 20 + END64.size
            sign, disk, first, here, count, size, start = END64.unpack_from(data, at)
            complete = complete and sign == b"PK\6\6"
        complete = complete and start + size == at and here == count and not disk and not first
        if not complete or count > MAX_ENTRIES:
            raise InputError(
                f"its zip directory is cut off, or has more than {MAX_ENTRIES:,} entries; "
                "download it again"
            )
        entries: dict[str, tuple[memoryview, int]] = {}
        extents = []
        for _ in range(count):
            name, content, extent, start = _entry(data, start, limit=at)
            if name in entries:
                raise InputError("its zip archive has two entries with one name")
            entries[name] = content
            extents.append(extent)
    except (struct.error, UnicodeError) as error:
        raise InputError("its zip directory is damaged; download it again") from error
    if start != at:
        raise InputError("its zip directory is longer than it says; download it again")
    extents.sort()
    if any(end > begin for (_, end), (begin, _) in pairwise(extents)):
        raise InputError("its zip entries overlap")
    return entries


def _entry(
    data: memoryview, at: int, limit: int
) -> tuple[str, tuple[memoryview, int], tuple[int, int], int]:
    """Read one entry of a zip directory.

    Parameters
    ----------
    data : memoryview
        The file.
    at : int
        Where the record of this entry begins.
    limit : int
        Where the bytes of every entry must have ended: at the end of the directory.

    Returns
    -------
    name : str
    content : (memoryview, int)
        The bytes and their checksum.
    extent : (int, int)
        Where the local header begins, and where the bytes end.
    next : int
        Where the record of the next entry begins.
    """
    sign, flags, method, checksum, packed, size, *lengths, begin = ENTRY.unpack_from(data, at)
    at += ENTRY.size
    name = str(data[at : at + lengths[0]], "utf-8")
    local, _, n, extra = LOCAL.unpack_from(data, begin)
    start = begin + LOCAL.size + n + extra
    same = bytes(data[begin + LOCAL.size :][:n]) == name.encode()
    if sign != b"PK\1\2" or local != b"PK\3\4" or not same:
        raise InputError("its zip directory is damaged; download it again")
    if method or packed != size or flags & 0x41:
        raise InputError(
            "its zip entries are compressed or encrypted, but those of PyTorch never are: it is "
            "another archive; unpack it first, or give the checkpoint itself"
        )
    if not ENTRY_NAME.fullmatch(name) or ".." in name.split("/"):
        raise InputError("its zip archive has an entry whose name is no plain path inside it")
    if start + size > limit:
        raise InputError("its zip entries are cut short")
    content = (data[start : start + size], checksum)
    return name, content, (begin, start + size), at + sum(lengths)
