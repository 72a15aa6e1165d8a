"""The files that hold checkpoints: PyTorch's zip, its older stream, bare pickles, safetensors.

`read_checkpoint` opens each of them and returns plain data: dictionaries, lists, numbers, text,
inert nodes and `Stored` tensors, which are views of the file until somebody asks for one.
``torch.load`` is not used, not even with ``weights_only=True``: its allow-list cannot hold the
objects of NVIDIA's and TensorFlow's files, and one reader for all of them is easier to keep
safe than two.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from gprior.checkpoints.inert import STORAGES, Global, Storage, Stored
from gprior.checkpoints.pickles import Budget, check_depth, parse
from gprior.checks import InputError

__all__ = ["open_file", "read_checkpoint"]

MAGIC = 0x1950A86A20F9469CFC6C  # of PyTorch's older stream
PROTOCOL = 1001
ENTRIES = 50_000  # of a zip archive
HEADER = 1 << 24  # bytes of a safetensors header
PATH = re.compile(r"[\w.-]+(/[\w.-]+)*", re.ASCII)
END = struct.Struct("<4s4H2IH")  # of a zip archive, and each entry there, and where it is
END64 = struct.Struct("<4s12x2I4Q")
ENTRY = struct.Struct("<4s4x2H4x3I3H8xI")
LOCAL = struct.Struct("<4s18xI2H")
SAFE = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
}
OTHERS = {
    b"\x89HDF": "an HDF5 file (Keras?)",
    b"\x1f\x8b": "a gzip file; unpack it first",
    b"BZh": "a bzip2 file; unpack it first",
    b"\xfd7zXZ": "an xz file; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"\x93NUMPY": "a NumPy array",
    b"GGUF": "a GGUF file",
    b"<!DOC": "a web page: the download went wrong",
    b"<html": "a web page: the download went wrong",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself with `git lfs pull`",
}


def open_file(path: Path) -> memoryview:
    """Return the bytes of a regular file, mapped and not read.

    Raises
    ------
    ValueError
        If it is empty, a folder, a device or a pipe.
    OSError
        If it cannot be opened.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
        raise InputError("it is not a regular file")
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise InputError("it is empty")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def read_checkpoint(path: Path) -> Any:
    """Return what a checkpoint holds, as inert data.

    Parameters
    ----------
    path : Path
        A file of PyTorch (either format), a pickle, or safetensors.

    Returns
    -------
    object
        Dictionaries, lists, tuples, numbers, text, `Node` and `Stored`.

    Raises
    ------
    ValueError
        If the file is of another kind, damaged, too large for its bytes, or more than data.
    OSError
        If it cannot be opened.
    """
    data = open_file(path)
    start = bytes(data[:24])
    if start[4:9] == b"\0\0\0\0{":
        return _read_safetensors(path, data)
    if start[:4] == b"PK\x03\x04":
        return _read_zip(data)
    if start[:1] == b"\x80" and MAGIC.to_bytes(10, "little") in start:
        return _read_stream(data, Budget(), _nested)
    if start[:1] == b"\x80":
        tree, end = parse(data, 0, Budget(), nested=_nested)
        return _whole(tree, end, data)
    for magic, what in OTHERS.items():
        if start.startswith(magic):
            raise InputError(f"it is {what}")
    if bytes(data[257:262]) == b"ustar":
        raise InputError("it is a tar archive; unpack it first")
    if start[:1] == b"\x08" and (b"onnx" in data[:4096].tobytes() or b"pytorch" in start):
        raise InputError("it is an ONNX file: run it yourself, and give gprior the function")
    raise InputError(
        "it is no checkpoint that gprior reads: its native format is .safetensors, and it reads "
        "the .pt, .pth, .pkl and .bin files of StyleGAN2 and BigGAN"
    )


def _whole(tree: Any, end: int, data: memoryview) -> Any:
    """Return the tree of a file that ends where it should and is not too deep."""
    if end != len(data):
        raise InputError("its end is followed by other bytes")
    check_depth(tree)
    return tree


class Storages:
    """The storages that persistent ids name, each with one type and size."""

    def __init__(self, locate: Callable[[str, Storage], None] | None = None) -> None:
        self.found: dict[str, Storage] = {}
        self.locate = locate

    def __call__(self, identity: Any) -> Storage:
        """Return the storage of ("storage", type, key, device, numel[, view])."""
        if not isinstance(identity, tuple) or len(identity) not in (5, 6):
            raise InputError("its pickle refers to something that is no storage")
        word, kind, key, _, numel, *view = identity
        plain = isinstance(kind, Global) and kind in STORAGES
        if word != "storage" or not plain or not isinstance(key, str):
            raise InputError("its pickle refers to something that is no storage of plain numbers")
        if view and view[0] is not None:
            raise InputError("its storages are views of others; save clones of the tensors")
        if type(numel) is not int or not 0 <= numel <= 1 << 40:
            raise InputError("a storage has a size that is no count")
        if key not in self.found:
            self.found[key] = Storage(STORAGES[kind], numel)
            if self.locate:
                self.locate(key, self.found[key])
        storage = self.found[key]
        if (storage.dtype, storage.numel) != (STORAGES[kind], numel):
            raise InputError("a storage is named with two types or sizes")
        return storage


def _read_stream(
    data: memoryview, budget: Budget, nested: Callable[[memoryview, Budget], Any] | None
) -> Any:
    """Read PyTorch's older format: magic, version, system, data, keys, then the storages."""
    storages, parts, at = Storages(), [], 0
    for persistent in (None, None, None, storages, None):
        part, at = parse(data, at, budget, persistent, nested)
        parts.append(part)
    magic, protocol, system, tree, keys = parts
    if magic != MAGIC or protocol != PROTOCOL:
        raise InputError("it is a file of PyTorch of an unknown version")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise InputError("its numbers are not little-endian")
    named = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not named or sorted(keys) != sorted(storages.found):
        raise InputError("its storages are not those that its pickle names")
    for key in keys:
        storage = storages.found[key]
        if at + 8 + storage.nbytes > len(data):
            raise InputError("it is cut short")
        if struct.unpack("<q", data[at : at + 8])[0] != storage.numel:
            raise InputError("a storage has another size than its pickle says")
        storage.place(data[at + 8 : at + 8 + storage.nbytes])
        at += 8 + storage.nbytes
    return _whole(tree, at, data)


def _nested(data: memoryview, budget: Budget) -> Storage:
    """Read the one storage of a stream inside a pickle."""
    storage = _read_stream(data, budget, None)
    if not isinstance(storage, Storage):
        raise InputError("a stream inside its pickle is no storage")
    return storage


# --- Zip -------------------------------------------------------------------------------------


def _read_zip(data: memoryview) -> Any:
    """Read PyTorch's zip: FOLDER/data.pkl, and FOLDER/data/KEY for each storage."""
    entries = _entries(data)
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in entries):
        raise InputError("it is a TorchScript file: run it yourself, and give gprior the function")
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise InputError("it is a zip archive without one data.pkl, not a checkpoint of PyTorch")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in entries and bytes(entries[f"{folder}byteorder"][0]) != b"little":
        raise InputError("its numbers are not little-endian")

    def locate(key: str, storage: Storage) -> None:
        if f"{folder}data/{key}" not in entries:
            raise InputError("its pickle names a storage that the archive has not")
        storage.place(*entries[f"{folder}data/{key}"])

    pickle, checksum = entries[pickles[0]]
    if zlib.crc32(pickle) != checksum:
        raise InputError("the checksum of its pickle is wrong: the file is damaged")
    tree, end = parse(pickle, 0, Budget(), Storages(locate), None)
    return _whole(tree, end, pickle)


def _entries(data: memoryview) -> dict[str, tuple[memoryview, int]]:
    """Return the bytes and the checksum of every entry, from the directory at the end.

    Nothing is unpacked: PyTorch stores entries as they are. An entry that is compressed,
    encrypted, named twice, named outside the archive, or lies over another is refused.
    """
    at = len(data) - END.size  # PyTorch adds no comment
    try:
        sign, disk, first, here, count, size, start, _ = END.unpack_from(data, at)
        whole = sign == b"PK\5\6"
        if bytes(data[at - 20 : at - 16]) == b"PK\6\7":  # the same once more, in 64 bits
            at -= 20 + END64.size
            again, disk, first, here, count, size, start = END64.unpack_from(data, at)
            whole = whole and again == b"PK\6\6"
        if not whole or disk or first or here != count or count > ENTRIES or start + size != at:
            raise InputError(
                f"its zip directory is cut off, or not of at most {ENTRIES:,} entries; "
                "download it again"
            )
        found: dict[str, tuple[memoryview, int]] = {}
        places = []
        for _ in range(count):
            name, content, begin, end, start = _entry(data, at, start)
            if name in found:
                raise InputError("its zip archive has a name twice")
            found[name] = content
            places.append((begin, end))
    except (struct.error, UnicodeError) as error:
        raise InputError("its zip directory is damaged; download it again") from error
    if start != at:
        raise InputError("its zip directory is longer than it says; download it again")
    places.sort()
    if any(end > begin for (_, end), (begin, _) in pairwise(places)):
        raise InputError("its zip entries lie over one another")
    return found


def _entry(
    data: memoryview, directory: int, at: int
) -> tuple[str, tuple[memoryview, int], int, int, int]:
    """Return an entry's name, its bytes and checksum, its place, and where the next one is."""
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
            "its zip entries are compressed or encrypted, as PyTorch's never are: it is another "
            "archive; unpack it first, or give the checkpoint itself"
        )
    if not PATH.fullmatch(name) or ".." in name.split("/"):
        raise InputError("its zip archive has a name that is no plain path inside it")
    if start + size > directory:
        raise InputError("its zip entries are cut short")
    return name, (data[start : start + size], checksum), begin, start + size, at + sum(lengths)


# --- Safetensors -----------------------------------------------------------------------------


def _read_safetensors(path: Path, data: memoryview) -> dict[str, Stored]:
    """Read a safetensors file of tensors without an architecture."""
    (size,) = struct.unpack("<Q", data[:8])
    if size > min(HEADER, len(data) - 8):
        raise InputError("it is no whole safetensors file; download it again")
    try:
        with safe_open(path, "pt"):  # every check of the format's own library
            pass
        header = json.loads(bytes(data[8 : 8 + size]))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"it is no whole safetensors file ({error}); download it again") from error
    found: dict[str, Stored] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in SAFE:
            raise InputError(f"it has tensors of type {entry['dtype']}, which are not read here")
        storage = Storage(SAFE[entry["dtype"]], math.prod(entry["shape"]))
        begin, end = entry["data_offsets"]
        storage.place(data[8 + size + begin : 8 + size + end])
        strides = [math.prod(entry["shape"][k + 1 :]) for k in range(len(entry["shape"]))]
        found[name] = Stored().define(storage, 0, entry["shape"], strides)
    return found
