"""Plain objects that stand for what a checkpoint file names.

A pickle names classes and functions, and expects the reader to import and call them. gprior never
does. `REPLACEMENTS` lists every name that a checkpoint may have, with the function of this module
that is called in its place; any other name refuses the file. `gprior.checkpoints.pickles` looks
names up here.

Tensors become `StoredTensor`: their size, strides and offset are compared with the bytes of the
file before a tensor exists. `tensors_of` makes real tensors of them.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gprior.checks import InputError

__all__ = [
    "REPLACEMENTS",
    "STORAGES",
    "Global",
    "Node",
    "Storage",
    "StoredTensor",
    "build",
    "tensors_of",
]

MAX_COUNT = 1 << 40  # of elements; also of a stride or an offset
MAX_DIMS = 8
TORCH_DTYPES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
NUMPY_DTYPES = {
    "f4": torch.float32,
    "f8": torch.float64,
    "f2": torch.float16,
    "i8": torch.int64,
    "i4": torch.int32,
    "i2": torch.int16,
    "i1": torch.int8,
    "u1": torch.uint8,
    "b1": torch.bool,
}
# NumPy's codes of scalars, with the formats of `struct`.
SCALARS = {"f8": "<d", "f4": "<f", "f2": "<e", "i8": "<q", "i4": "<i", "u1": "<B", "b1": "<?"}


@dataclass(frozen=True)
class Global:
    """The name of a class or function in a file: two strings, which are never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Node:
    """An object that a file describes: the kind of its class, its arguments and its state."""

    __slots__ = ("args", "kind", "state")

    def __init__(self, kind: str, args: Sequence[Any] = (), state: Any = None) -> None:
        self.kind, self.args, self.state = kind, args, state

    def __repr__(self) -> str:
        return f"<{self.kind} from a file>"


class Storage:
    """A sequence of numbers of one type in a file. It has no bytes until `place` is called."""

    __slots__ = ("checksum", "data", "dtype", "numel")

    def __init__(self, dtype: torch.dtype, numel: int) -> None:
        self.dtype, self.numel = dtype, numel
        self.data: memoryview | None = None
        self.checksum: int | None = None

    @property
    def nbytes(self) -> int:
        """How many bytes its numbers need."""
        return self.numel * self.dtype.itemsize

    def place(self, data: memoryview, checksum: int | None = None) -> None:
        """Set the bytes of the storage, which must be as many as its numbers need."""
        if len(data) != self.nbytes:
            raise InputError(f"a storage of {self.nbytes} bytes has {len(data)} bytes in the file")
        self.data, self.checksum = data, checksum


class StoredTensor:
    """A tensor in a file, checked but not read yet."""

    __slots__ = ("offset", "shape", "storage", "stride")

    def __init__(self) -> None:
        self.storage: Storage | None = None
        self.shape: tuple[int, ...] = ()
        self.stride: tuple[int, ...] = ()
        self.offset = 0

    def define(self, storage: Any, offset: Any, shape: Any, stride: Any) -> StoredTensor:
        """Set what the tensor consists of, once; refuse one that overlaps itself or has gaps."""
        if self.storage is not None or not isinstance(storage, Storage):
            raise InputError("a tensor is defined twice, or has no storage")
        if not all(isinstance(s, (tuple, list)) and len(s) <= MAX_DIMS for s in (shape, stride)):
            raise InputError(f"a tensor has no shape of at most {MAX_DIMS} dimensions")
        if not all(_is_count(n) for n in (offset, *shape, *stride)):
            raise InputError("a tensor has a size, stride or offset that is no count")
        if len(shape) != len(stride):
            raise InputError("a tensor has not as many strides as dimensions")
        numel, dense = math.prod(shape), 1
        for step, size in sorted((s, n) for s, n in zip(stride, shape, strict=True) if n > 1):
            if numel and step != dense:
                raise InputError("a tensor overlaps itself or has gaps; save a contiguous clone")
            dense *= size
        if offset + numel > storage.numel:
            raise InputError(f"a tensor of shape {tuple(shape)} is larger than its storage")
        self.storage, self.offset = storage, offset
        self.shape, self.stride = tuple(shape), tuple(stride)
        return self

    @property
    def nbytes(self) -> int:
        """How many bytes the numbers of the tensor need."""
        return math.prod(self.shape) * self._placed_storage.dtype.itemsize

    @property
    def _placed_storage(self) -> Storage:
        if self.storage is None or self.storage.data is None:
            raise InputError("a tensor has no numbers in the file")
        return self.storage

    def tensor(self) -> Tensor:
        """Return a tensor that does not share memory with the file."""
        storage = self._placed_storage
        if storage.checksum is not None:
            if zlib.crc32(storage.data) != storage.checksum:  # type: ignore[arg-type]
                raise InputError("the checksum of a tensor is wrong: the file is damaged")
            storage.checksum = None  # checked once for all tensors of this storage
        if not self.nbytes:
            return torch.empty(self.shape, dtype=storage.dtype)
        start = self.offset * storage.dtype.itemsize
        copied = bytearray(storage.data[start : start + self.nbytes])  # type: ignore[index]
        flat = torch.frombuffer(copied, dtype=storage.dtype)
        return flat.as_strided(self.shape, self.stride).contiguous()


def tensors_of(tree: Any, max_bytes: int) -> dict[str, Tensor]:
    """Read the tensors of a flat dictionary; entries that are no tensors are left out.

    Parameters
    ----------
    tree : dict
        Part of what `read_checkpoint` returned.
    max_bytes : int
        How many bytes the tensors may need together: the size of the file.

    Raises
    ------
    InputError
        If they need more, or if a value is NaN or infinite.
    """
    stored = {k: v for k, v in tree.items() if isinstance(k, str) and isinstance(v, StoredTensor)}
    if sum(v.nbytes for v in stored.values()) > max_bytes:
        raise InputError("its tensors share memory and would need more than the file has")
    tensors = {k: v.tensor() for k, v in stored.items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(f"tensor {name[:60]!r} has values that are NaN or infinite")
    return tensors


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_COUNT


# --- What is called in the place of a name ---------------------------------------------------


class Dtype:
    """A NumPy data type."""

    __slots__ = ("code",)

    def __init__(self, code: Any, *flags: Any) -> None:
        if not isinstance(code, str):
            raise InputError("a NumPy data type is no plain number")
        self.code = code

    def build(self, state: Any) -> None:
        """Check the byte order, and that the type is no structure and no object."""
        plain = isinstance(state, tuple) and len(state) >= 2 and state[1] in ("<", "|", "=")
        if not plain or any(state[2:5]):
            raise InputError("a NumPy data type is not a plain little-endian number")


def build(target: Any, state: Any) -> None:
    """Give an object the state that the file has for it."""
    if isinstance(target, StoredTensor):
        define_array(target, state)
    elif isinstance(target, Dtype):
        target.build(state)
    elif isinstance(target, Node) and target.state is None:
        target.state = state
    elif not isinstance(target, dict):  # the state of an OrderedDict: attributes that are not used
        raise InputError("a state is given to something that has none")


def define_array(stored: StoredTensor, state: Any) -> None:
    """Define a tensor from the state of a NumPy array: (version, shape, dtype, fortran, bytes)."""
    if not isinstance(state, tuple) or len(state) != 5:
        raise InputError("a NumPy array has no state of five parts")
    _, shape, dtype, fortran, data = state
    if not isinstance(dtype, Dtype) or dtype.code not in NUMPY_DTYPES:
        raise InputError("a NumPy array is not of plain numbers")
    if not isinstance(data, memoryview) or not isinstance(shape, tuple) or len(shape) > MAX_DIMS:
        raise InputError("a NumPy array has no shape or bytes")
    if not all(map(_is_count, shape)):
        raise InputError("a NumPy array has a size that is no count")
    storage = Storage(NUMPY_DTYPES[dtype.code], math.prod(shape))
    storage.place(data)
    stride, step = [0] * len(shape), 1
    for axis in range(len(shape)) if fortran is True else reversed(range(len(shape))):
        stride[axis], step = step, step * shape[axis]
    stored.define(storage, 0, shape, stride)


def make_array(*args: Any) -> StoredTensor:
    """Return a tensor for a NumPy array. Its content follows in a BUILD instruction."""
    return StoredTensor()


def make_tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    stride: Any,
    grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> StoredTensor:
    """Return the tensor that torch._utils._rebuild_tensor_v2 is called for."""
    return StoredTensor().define(storage, offset, shape, stride)


def make_parameter(data: Any, grad: Any = True, hooks: Any = None) -> Any:
    """Return the tensor of a parameter."""
    if not isinstance(data, StoredTensor):
        raise InputError("a parameter is no tensor")
    return data


def make_scalar(dtype: Any, data: Any = None) -> float | int:
    """Return a NumPy scalar as a number of Python."""
    form = SCALARS.get(dtype.code) if isinstance(dtype, Dtype) else None
    if form is None or not isinstance(data, memoryview) or len(data) != struct.calcsize(form):
        raise InputError("a NumPy number is not a plain one")
    return struct.unpack(form, data)[0]  # type: ignore[no-any-return]


def make_dict(items: Any = ()) -> dict[Any, Any]:
    """Return an empty dictionary. In every known file its items follow after the call."""
    if not isinstance(items, (list, tuple)) or items:
        raise InputError("an ordered dictionary is called with an argument")
    return {}


def make_list(items: Any = ()) -> list[Any]:
    """Return the elements of a set as a list, which needs no hashes of data from the file."""
    if not isinstance(items, list | tuple):
        raise InputError("a set is made from something other than a list")
    return list(items)


def make_bytes(text: Any, encoding: Any) -> memoryview:
    """Return bytes that protocol 2 of pickle writes as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise InputError("bytes are written as something other than latin1 text")
    return memoryview(text.encode("latin1"))


def make_size(sizes: Any = ()) -> tuple[Any, ...]:
    """Return the sizes of a torch.Size."""
    return tuple(make_list(sizes))


def node_of(kind: str) -> Callable[..., Node]:
    """Return a function that makes nodes of a kind."""
    return lambda *args: Node(kind, args)


REPLACEMENTS: dict[Global, Callable[..., Any]] = {
    Global("collections", "OrderedDict"): make_dict,
    Global("dnnlib.util", "EasyDict"): make_dict,
    Global("dnnlib", "EasyDict"): make_dict,
    Global("builtins", "set"): make_list,
    Global("__builtin__", "set"): make_list,
    Global("_codecs", "encode"): make_bytes,
    Global("torch._utils", "_rebuild_tensor_v2"): make_tensor,
    Global("torch._utils", "_rebuild_tensor"): make_tensor,
    Global("torch._utils", "_rebuild_parameter"): make_parameter,
    Global("torch", "Size"): make_size,
    Global("torch", "device"): node_of("device"),
    Global("numpy", "dtype"): Dtype,
    Global("numpy", "ndarray"): node_of("ndarray"),  # files name it as an argument only
    Global("argparse", "Namespace"): node_of("Namespace"),
    Global("pathlib", "PosixPath"): node_of("path"),
    Global("pathlib", "WindowsPath"): node_of("path"),
    Global("torch_utils.persistence", "_reconstruct_persistent_obj"): node_of("persistent"),
    Global("dnnlib.tflib.network", "Network"): node_of("Network"),
}
for core in ("numpy.core", "numpy._core"):
    REPLACEMENTS[Global(f"{core}.multiarray", "_reconstruct")] = make_array
    REPLACEMENTS[Global(f"{core}.multiarray", "scalar")] = make_scalar
STORAGES = {Global("torch", f"{name}Storage"): dtype for name, dtype in TORCH_DTYPES.items()}
