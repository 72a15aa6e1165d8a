"""Reads the file formats of checkpoints: PyTorch's two formats, bare pickles and safetensors.

`read_data` detects the format from the first bytes and returns plain data: dictionaries,
lists, numbers, text, inert nodes, and `StoredTensor` objects, which are views of the file until
their ``tensor()`` is called. ``torch.load`` is not used, not even with ``weights_only=True``: its
list of allowed names cannot have the objects in NVIDIA's files, and one reader for all
formats is easier to keep safe than two.

`read_checkpoint` is the same for users: its errors name the file.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from gprior.checkpoints.archives import read_entries
from gprior.checkpoints.inert import STORAGES, Global, Storage, StoredTensor
from gprior.checkpoints.pickles import Budget, check_depth, parse
from gprior.checks import InputError

__all__ = ["open_file", "read_checkpoint", "read_data"]

MAGIC = 0x1950A86A20F9469CFC6C  # of PyTorch's older stream
PROTOCOL = 1001
MAX_HEADER = 1 << 24  # bytes, of a safetensors file
MAX_NUMEL = 1 << 40  # numbers in a storage
SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
}
OTHER_FORMATS = {
    b"\x89HDF": "an HDF5 file, perhaps of Keras",
    b"\x1f\x8b": "a gzip file; unpack it first",
    b"BZh": "a bzip2 file; unpack it first",
    b"\xfd7zXZ": "an xz file; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"\x93NUMPY": "a NumPy array",
    b"GGUF": "a GGUF file",
    b"<!DOC": "a web page; download the checkpoint itself",
    b"<html": "a web page; download the checkpoint itself",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with `git lfs pull`",
}


def open_file(path: Path) -> memoryview:
    """Return the bytes of a regular file. They are mapped into memory, not read.

    Raises
    ------
    InputError
        If the file is empty, a folder, a device or a pipe.
    OSError
        If the file cannot be opened.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe could wait for ever
        raise InputError("it is not a regular file")
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise InputError("it is empty")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def read_checkpoint(path: str | Path) -> Any:
    """Return the content of a checkpoint as plain data.

    Parameters
    ----------
    path : str or Path
        A file of PyTorch (either format), a pickle, or a safetensors file.

    Returns
    -------
    object
        Dictionaries, lists, tuples, numbers and text. A tensor is an object that is read when its
        ``tensor()`` is called; any other object is represented by its name and state.

    Raises
    ------
    InputError
        If the file has another format, is damaged, promises more numbers than it has bytes, or
        contains more than data.
    OSError
        If the file cannot be opened.
    """
    try:
        return read_data(Path(path))
    except InputError as error:
        raise InputError(f"{path} cannot be read as a checkpoint: {error}") from error


def read_data(path: Path) -> Any:
    """Do the work of `read_checkpoint`; the messages of errors do not name the file."""
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
        return _checked(tree, end, data)
    for magic, what in OTHER_FORMATS.items():
        if start.startswith(magic):
            raise InputError(f"it is {what}")
    if bytes(data[257:262]) == b"ustar":
        raise InputError("it is a tar archive; unpack it first")
    if start[:1] == b"\x08" and (b"onnx" in data[:4096].tobytes() or b"pytorch" in start):
        raise InputError(
            "it is an ONNX file, which gprior does not run; run it yourself and wrap the function "
            "in a gprior.priors.Generator"
        )
    raise InputError(
        "it is no checkpoint that gprior reads: its native format is .safetensors, and it reads "
        "the .pt, .pth, .pkl and .bin files of StyleGAN2 and BigGAN"
    )


def _checked(tree: Any, end: int, data: memoryview) -> Any:
    """Return the data of a file after checking that the file ends here, and the data's depth."""
    if end != len(data):
        raise InputError("other bytes follow after its end")
    check_depth(tree)
    return tree


class Storages:
    """The storages that the persistent ids of a file name.

    Attributes
    ----------
    by_key : dict
        The storages by the key that the file gives them.

    Parameters
    ----------
    locate : callable, optional
        Called with key and storage for each new storage, to set its bytes.
    """

    def __init__(self, locate: Callable[[str, Storage], None] | None = None) -> None:
        self.by_key: dict[str, Storage] = {}
        self.locate = locate

    def __call__(self, identity: Any) -> Storage:
        """Return the storage of the id ("storage", type, key, device, numel[, view])."""
        if not isinstance(identity, tuple) or len(identity) not in (5, 6):
            raise InputError("its pickle refers to something that is no storage")
        word, kind, key, _, numel, *view = identity
        plain = isinstance(kind, Global) and kind in STORAGES
        if word != "storage" or not plain or not isinstance(key, str):
            raise InputError("its pickle refers to something that is no storage of plain numbers")
        if view and view[0] is not None:
            raise InputError("its storages are views of others; save clones of the tensors")
        if type(numel) is not int or not 0 <= numel <= MAX_NUMEL:
            raise InputError("a storage has a size that is no count")
        if key not in self.by_key:
            self.by_key[key] = Storage(STORAGES[kind], numel)
            if self.locate:
                self.locate(key, self.by_key[key])
        storage = self.by_key[key]
        if (storage.dtype, storage.numel) != (STORAGES[kind], numel):
            raise InputError("it gives one storage two types or two sizes")
        return storage


def _read_stream(
    data: memoryview, budget: Budget, nested: Callable[[memoryview, Budget], Any] | None
) -> Any:
    """Read PyTorch's older format.

    It has five pickles (a magic number, the version, the system, the data, the keys of the
    storages) and then the bytes of the storages.
    """
    storages, parts, at = Storages(), [], 0
    for persistent in (None, None, None, storages, None):
        part, at = parse(data, at, budget, persistent, nested)
        parts.append(part)
    magic, protocol, system, tree, keys = parts
    if magic != MAGIC or protocol != PROTOCOL:
        raise InputError("it is a PyTorch file of an unknown version")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise InputError("its numbers are not little-endian")
    named = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not named or sorted(keys) != sorted(storages.by_key):
        raise InputError("its storages are not those that its pickle names")
    for key in keys:
        storage = storages.by_key[key]
        if at + 8 + storage.nbytes > len(data):
            raise InputError("it is cut short")
        if struct.unpack("<q", data[at : at + 8])[0] != storage.numel:
            raise InputError("a storage has another size than its pickle says")
        storage.place(data[at + 8 : at + 8 + storage.nbytes])
        at += 8 + storage.nbytes
    return _checked(tree, at, data)


def _nested(data: memoryview, budget: Budget) -> Storage:
    """Read the storage in bytes inside a pickle, which are a file in PyTorch's older format."""
    storage = _read_stream(data, budget, None)
    if not isinstance(storage, Storage):
        raise InputError("a PyTorch file inside its pickle is no storage")
    return storage


# --- Zip -------------------------------------------------------------------------------------


def _read_zip(data: memoryview) -> Any:
    """Read PyTorch's zip format: FOLDER/data.pkl, and FOLDER/data/KEY for each storage."""
    entries = read_entries(data)
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in entries):
        raise InputError(
            "it is a TorchScript file, which gprior does not run; run it yourself and wrap the "
            "function in a gprior.priors.Generator"
        )
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise InputError("it is a zip archive without one data.pkl, not a checkpoint of PyTorch")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in entries and bytes(entries[f"{folder}byteorder"][0]) != b"little":
        raise InputError("its numbers are not little-endian")

    def locate(key: str, storage: Storage) -> None:
        if f"{folder}data/{key}" not in entries:
            raise InputError("its pickle names a storage that the archive does not have")
        storage.place(*entries[f"{folder}data/{key}"])

    pickle, checksum = entries[pickles[0]]
    if zlib.crc32(pickle) != checksum:
        raise InputError("the checksum of its pickle is wrong; download the file again")
    tree, end = parse(pickle, 0, Budget(), Storages(locate), None)
    return _checked(tree, end, pickle)


# --- Safetensors -----------------------------------------------------------------------------


def _read_safetensors(path: Path, data: memoryview) -> dict[str, StoredTensor]:
    """Read a safetensors file. It has tensors and no architecture."""
    (size,) = struct.unpack("<Q", data[:8])
    if size > min(MAX_HEADER, len(data) - 8):
        raise InputError("it is no complete safetensors file; download it again")
    try:
        with safe_open(path, "pt"):  # for the checks of the safetensors library
            pass
        header = json.loads(bytes(data[8 : 8 + size]))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InputError(
            f"it is no complete safetensors file ({error}); download it again"
        ) from error
    tensors: dict[str, StoredTensor] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in SAFETENSORS_DTYPES:
            raise InputError(
                f"it has tensors of type {entry['dtype']}; gprior reads those of type "
                f"{', '.join(SAFETENSORS_DTYPES)}"
            )
        storage = Storage(SAFETENSORS_DTYPES[entry["dtype"]], math.prod(entry["shape"]))
        begin, end = entry["data_offsets"]
        storage.place(data[8 + size + begin : 8 + size + end])
        strides = [math.prod(entry["shape"][k + 1 :]) for k in range(len(entry["shape"]))]
        tensors[name] = StoredTensor().define(storage, 0, entry["shape"], strides)
    return tensors
