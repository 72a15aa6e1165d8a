"""What the names in a pickle stand for here: data of ours, never the thing that is named.

`MEANINGS` is the whole list. A name outside it refuses the file; a name in it is looked up
in this table and nowhere else. Tensors become `Stored`, whose size, strides and offset are
checked against the bytes that are present, before a tensor exists.
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

__all__ = ["MEANINGS", "STORAGES", "Global", "Node", "Storage", "Stored", "build", "tensors_of"]

MOST = 1 << 40  # elements, also of a stride or an offset
DTYPES = {
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
NUMPY = {
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
SCALARS = {"f8": "<d", "f4": "<f", "f2": "<e", "i8": "<q", "i4": "<i", "u1": "<B", "b1": "<?"}


@dataclass(frozen=True)
class Global:
    """A name in a file: two strings, never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Node:
    """An object that a file describes: its class's name, its arguments and its state."""

    __slots__ = ("args", "kind", "state")

    def __init__(self, kind: str, args: Sequence[Any] = (), state: Any = None) -> None:
        self.kind, self.args, self.state = kind, args, state

    def __repr__(self) -> str:
        return f"<{self.kind} from a file>"


class Storage:
    """A run of numbers in a file; its bytes are found when its place is known."""

    __slots__ = ("checksum", "data", "dtype", "numel")

    def __init__(self, dtype: torch.dtype, numel: int) -> None:
        self.dtype, self.numel = dtype, numel
        self.data: memoryview | None = None
        self.checksum: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that its numbers need."""
        return self.numel * self.dtype.itemsize

    def place(self, data: memoryview, checksum: int | None = None) -> None:
        """Say which bytes it is; their number must be that of its numbers."""
        if len(data) != self.nbytes:
            raise InputError(f"a storage of {self.nbytes} bytes has {len(data)} bytes in the file")
        self.data, self.checksum = data, checksum


class Stored:
    """A tensor in a file, checked and not yet read."""

    __slots__ = ("offset", "shape", "storage", "stride")

    def __init__(self) -> None:
        self.storage: Storage | None = None
        self.shape: tuple[int, ...] = ()
        self.stride: tuple[int, ...] = ()
        self.offset = 0

    def define(self, storage: Any, offset: Any, shape: Any, stride: Any) -> Stored:
        """Say what it is; a tensor that overlaps itself or has gaps is refused."""
        if self.storage is not None or not isinstance(storage, Storage):
            raise InputError("a tensor has no storage of its own")
        sizes = (shape, stride)
        if not all(isinstance(s, (tuple, list)) and len(s) <= 8 for s in sizes):
            raise InputError("a tensor has no shape of at most 8 dimensions")
        if not all(type(n) is int and 0 <= n <= MOST for n in (offset, *shape, *stride)):
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
        """Bytes of the tensor."""
        return math.prod(self.shape) * self._storage.dtype.itemsize

    @property
    def _storage(self) -> Storage:
        if self.storage is None or self.storage.data is None:
            raise InputError("a tensor has no numbers in the file")
        return self.storage

    def tensor(self) -> Tensor:
        """Return a copy with memory of its own."""
        storage = self._storage
        if storage.checksum is not None:
            if zlib.crc32(storage.data) != storage.checksum:  # type: ignore[arg-type]
                raise InputError("a tensor's checksum is wrong: the file is damaged")
            storage.checksum = None
        if not self.nbytes:
            return torch.empty(self.shape, dtype=storage.dtype)
        start = self.offset * storage.dtype.itemsize
        own = bytearray(storage.data[start : start + self.nbytes])  # type: ignore[index]
        flat = torch.frombuffer(own, dtype=storage.dtype)
        return flat.as_strided(self.shape, self.stride).contiguous()


def tensors_of(tree: Any, most: int) -> dict[str, Tensor]:
    """Read the tensors of a flat dictionary, others left out; at most ``most`` bytes."""
    found = {k: v for k, v in tree.items() if isinstance(k, str) and isinstance(v, Stored)}
    if sum(v.nbytes for v in found.values()) > most:
        raise InputError("its tensors share memory and would need more than the file has")
    tensors = {k: v.tensor() for k, v in found.items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(f"tensor {name[:60]!r} has values that are NaN or infinite")
    return tensors


# --- The meanings ----------------------------------------------------------------------------


class Dtype:
    """A NumPy data type."""

    __slots__ = ("code",)

    def __init__(self, code: Any, *flags: Any) -> None:
        if not isinstance(code, str):
            raise InputError("a NumPy data type is no plain number")
        self.code = code

    def build(self, state: Any) -> None:
        """Check its byte order; a structure or an object has more than that."""
        plain = isinstance(state, tuple) and len(state) >= 2 and state[1] in ("<", "|", "=")
        if not plain or any(state[2:5]):
            raise InputError("a NumPy data type is not a plain little-endian number")


def build(target: Any, state: Any) -> None:
    """Give an object the state that the file has for it."""
    if isinstance(target, Stored):
        rebuild_array(target, state)
    elif isinstance(target, Dtype):
        target.build(state)
    elif isinstance(target, Node) and target.state is None:
        target.state = state
    elif not isinstance(target, dict):  # of an OrderedDict: attributes, of no use here
        raise InputError("a state is given to something that has none")


def rebuild_array(stored: Stored, state: Any) -> None:
    """Fill a NumPy array from (version, shape, dtype, fortran, bytes)."""
    if not isinstance(state, tuple) or len(state) != 5:
        raise InputError("a NumPy array has no state of five parts")
    _, shape, dtype, fortran, data = state
    if not isinstance(dtype, Dtype) or dtype.code not in NUMPY:
        raise InputError("a NumPy array is not of plain numbers")
    if not isinstance(data, memoryview) or not isinstance(shape, tuple) or len(shape) > 8:
        raise InputError("a NumPy array has no shape or bytes")
    if not all(type(n) is int and 0 <= n <= MOST for n in shape):
        raise InputError("a NumPy array has a size that is no count")
    kind = NUMPY[dtype.code]
    storage = Storage(kind, math.prod(shape))
    storage.place(data)
    stride, step = [0] * len(shape), 1
    for axis in range(len(shape)) if fortran is True else reversed(range(len(shape))):
        stride[axis], step = step, step * shape[axis]
    stored.define(storage, 0, shape, stride)


def rebuild_tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    stride: Any,
    grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Stored:
    """Return the tensor of torch._utils._rebuild_tensor_v2."""
    return Stored().define(storage, offset, shape, stride)


def rebuild_parameter(data: Any, grad: Any = True, hooks: Any = None) -> Any:
    """Return the tensor of a parameter."""
    if not isinstance(data, Stored):
        raise InputError("a parameter is no tensor")
    return data


def rebuild_scalar(dtype: Any, data: Any = None) -> float | int:
    """Return a NumPy number as Python's."""
    form = SCALARS.get(dtype.code) if isinstance(dtype, Dtype) else None
    if form is None or not isinstance(data, memoryview) or len(data) != struct.calcsize(form):
        raise InputError("a NumPy number is not a plain one")
    return struct.unpack(form, data)[0]  # type: ignore[no-any-return]


def pairs(items: Any = ()) -> dict[Any, Any]:
    """Return the dictionary of OrderedDict(items); items come after it in every known file."""
    if not isinstance(items, (list, tuple)) or items:
        raise InputError("an ordered dictionary is made from something else than nothing")
    return {}


def listed(items: Any = ()) -> list[Any]:
    """Return a set as a list: its order is of no use here, its hashes are a risk."""
    if not isinstance(items, list | tuple):
        raise InputError("a set is made from something else than a list")
    return list(items)


def encoded(text: Any, encoding: Any) -> memoryview:
    """Return the bytes that protocol 2 writes as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise InputError("bytes are written as something else than latin1 text")
    return memoryview(text.encode("latin1"))


def node(kind: str) -> Callable[..., Node]:
    """Return a maker of nodes."""
    return lambda *args: Node(kind, args)


MEANINGS: dict[Global, Callable[..., Any]] = {
    Global("collections", "OrderedDict"): pairs,
    Global("dnnlib.util", "EasyDict"): pairs,
    Global("dnnlib", "EasyDict"): pairs,
    Global("builtins", "set"): listed,
    Global("__builtin__", "set"): listed,
    Global("_codecs", "encode"): encoded,
    Global("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    Global("torch._utils", "_rebuild_tensor"): rebuild_tensor,
    Global("torch._utils", "_rebuild_parameter"): rebuild_parameter,
    Global("torch", "Size"): lambda sizes=(): tuple(listed(sizes)),
    Global("torch", "device"): node("device"),
    Global("numpy", "dtype"): Dtype,
    Global("numpy", "ndarray"): node("ndarray"),  # only named, as an argument
    Global("argparse", "Namespace"): node("Namespace"),
    Global("pathlib", "PosixPath"): node("path"),
    Global("pathlib", "WindowsPath"): node("path"),
    Global("torch_utils.persistence", "_reconstruct_persistent_obj"): node("persistent"),
    Global("dnnlib.tflib.network", "Network"): node("Network"),
}
for core in ("numpy.core", "numpy._core"):
    MEANINGS[Global(f"{core}.multiarray", "_reconstruct")] = lambda *args: (
        Stored()
    )  # BUILD fills it
    MEANINGS[Global(f"{core}.multiarray", "scalar")] = rebuild_scalar
STORAGES = {Global("torch", f"{name}Storage"): dtype for name, dtype in DTYPES.items()}
