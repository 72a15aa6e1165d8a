"""An emulated accelerator, so that faults of device placement show on a machine without a GPU.

Inside ``emulated()``, ``"cuda"`` is a device whose tensors are computed on the CPU but refuse to
meet tensors of the CPU, as on a real GPU. A tensor there is an `Accelerated`: it reports the
device ``cuda:0``, keeps its numbers in a CPU tensor, and lies on ``meta`` for autograd, which has
no queue of work for a GPU that is not there.
"""

from __future__ import annotations

import contextlib

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)
# What may take tensors of both devices: copies, and indices on the CPU into a tensor elsewhere.
COPIES = {"aten::copy_", "aten::_to_copy"}
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
# Elementwise operations take a scalar of the CPU; these do not.
INDEXING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
STRICT = {"aten::cat", "aten::stack", "aten::gather", "aten::scatter_add_", "aten::dot"}


class Accelerated(torch.Tensor):
    """A tensor on the emulated device; ``held`` has its numbers, on the CPU."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held, requires_grad=False):
        new = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="meta",
            requires_grad=requires_grad,
        )
        new.held = held
        return new

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    def __repr__(self):
        return f"Accelerated({self.held!r})"

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copy = Accelerated(self.held.detach().clone(), self.requires_grad)
            learned = isinstance(self, nn.Parameter)
            memo[id(self)] = nn.Parameter(copy, self.requires_grad) if learned else copy
        return memo[id(self)]

    def tolist(self):
        return self.held.tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
            "tensor to host memory first."
        )

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        device = kwargs.pop("device", None)
        _check_devices(func, args, kwargs)
        # What is changed in place keeps its identity.
        same = {id(_held(t)): t for t in _tensors((args, tuple(kwargs.values())))}
        result = func(*_each(_held, args), **{k: _each(_held, v) for k, v in kwargs.items()})
        if device is not None and torch.device(device).type == "cpu":
            return result

        def wrapped(value):
            if not isinstance(value, torch.Tensor) or id(value) in same:
                return same.get(id(value), value)
            # The wrapper has no bit that says "conjugated" or "negated".
            return Accelerated(value.resolve_conj().resolve_neg())

        return _each(wrapped, result)


def _held(value):
    return value.held if isinstance(value, Accelerated) else value


def _each(function, value):
    """Apply a function to a value, or to every value in lists and tuples."""
    if isinstance(value, (list, tuple)):
        return type(value)(_each(function, part) for part in value)
    return function(value)


def _tensors(value):
    """Return all tensors in lists and tuples."""
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in _tensors(part)]
    return [value] if isinstance(value, torch.Tensor) else []


def _check_devices(func, args, kwargs):
    """Refuse a tensor of the CPU beside one of the device, as torch does."""
    name = func._schema.name
    if name in COPIES:
        return
    if name in INDEXED and isinstance(args[0], Accelerated):
        args = (args[0], *args[2:])  # without the indices
    tensors = _tensors((args, tuple(kwargs.values())))
    plain = [t for t in tensors if not isinstance(t, Accelerated)]
    if any(t.is_meta for t in plain):
        raise NotImplementedError(f"{name} makes a tensor of its own: intercept its caller")
    if len(plain) < len(tensors) and any(t.ndim or name in STRICT for t in plain):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! (in {name})"
        )


class _Upload(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return Accelerated(x.detach().clone())

    @staticmethod
    def backward(ctx, grad):
        return grad.held


class _Download(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.held.detach().clone()

    @staticmethod
    def backward(ctx, grad):
        return Accelerated(grad)


def _on_device(device):
    return device is not None and torch.device(device).type == "cuda"


def _moved(x, *args, **kwargs):
    """Do what ``x.to(*args, **kwargs)`` says."""
    device, rest = kwargs.pop("device", None), []
    for value in args:
        if isinstance(value, torch.Tensor):
            device = value.device
            rest.append(value.dtype)
        elif isinstance(value, (str, torch.device)):
            device = value
        elif isinstance(value, torch.dtype):  # of the others, none changes a result
            rest.append(value)
    kwargs = {k: v for k, v in kwargs.items() if v is not None}
    here = isinstance(x, Accelerated)
    there = here if device is None else _on_device(device)
    x = torch.Tensor.to(x, *rest, **kwargs) if rest or kwargs else x
    if here == there:
        return x
    return _Upload.apply(x) if there else _Download.apply(x)


class _Placement(TorchFunctionMode):
    """Makes, moves and converts tensors of the emulated device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.to:
            return _moved(*args, **kwargs)
        if func in (torch.Tensor.cpu, torch.Tensor.cuda):
            return _moved(args[0], "cpu" if func is torch.Tensor.cpu else "cuda")
        if func is torch.as_tensor and isinstance(args[0], torch.Tensor):
            return _moved(args[0], *args[1:], **kwargs)
        if func in INDEXING and isinstance(args[0], Accelerated):  # torch would put lists on meta
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(i) if isinstance(i, list) else i for i in index)
            return func(args[0], index, *args[2:])
        if func is torch.Tensor.new_tensor and isinstance(args[0], Accelerated):
            data, options = args[1], {"dtype": args[0].dtype, **kwargs}
            return Accelerated(torch.tensor(data, **options))
        if _on_device(kwargs.get("device")):
            there = any(isinstance(t, Accelerated) for t in _tensors(args))
            kwargs["device"] = None if there and func not in _device_constructors() else "cpu"
            result = func(*args, **kwargs)
            return result if isinstance(result, Accelerated) else Accelerated(result)
        return func(*args, **kwargs)


class _Factories(TorchDispatchMode):
    """Gives the device the tensors that torch itself makes, such as the 0 of ``where``."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if device is None or device.type != "meta" or any(t is Accelerated for t in types):
            return func(*args, **kwargs)
        return Accelerated(func(*args, **{**kwargs, "device": torch.device("cpu")}))


@contextlib.contextmanager
def emulated():
    """Provide the device ``"cuda"``."""
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    # A parameter that moves is replaced: its ``data`` cannot be exchanged.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Factories(), _Placement():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
