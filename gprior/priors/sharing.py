"""Copies of modules that share their tensors, for calls that must not disturb the original."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["detached", "place_of", "placed_as", "tensors_of", "view_of"]


def place_of(module: nn.Module) -> Tensor | None:
    """Return a tensor whose dtype and device are those of a module, or None if it has none."""
    return next((tensor for tensor in tensors_of(module) if tensor.is_floating_point()), None)


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Iterate over the parameters, tensor attributes and buffers of a module and its children.

    In a replica of `torch.nn.DataParallel` the parameters are attributes, and `parameters()` is
    empty.
    """
    for part in module.modules():
        for values in (part._parameters, vars(part), part._buffers):
            yield from (value for value in values.values() if isinstance(value, Tensor))


def detached(tensor: Tensor) -> Tensor:
    """Return a tensor that shares the memory of another one and stops gradients.

    A tensor that was made under `torch.inference_mode` is copied, because autograd refuses it.
    """
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def placed_as(like: Tensor) -> Callable[[Any], Any]:
    """Return the change of a tensor, a dtype or a device to that of ``like``, for `view_of`.

    Complex numbers stay complex, in the precision of ``like``; integers change the device only.
    """

    def change(value: Any) -> Any:
        if isinstance(value, torch.device):
            return like.device
        if isinstance(value, torch.dtype):
            if value.is_complex:
                return torch.promote_types(like.dtype, torch.complex32)
            return like.dtype if value.is_floating_point else value
        return detached(value).to(device=like.device, dtype=change(value.dtype))

    return change


def view_of(module: nn.Module, change: Callable[[Any], Any] | None = None) -> Any:
    """Return a copy of a module, in eval mode, that shares the tensors of the module.

    What is replaced in the copy (a setting, a buffer, a parameter) stays as it is in the module,
    and so does the module's training mode. So threads can use one module at the same time. A
    replica of `torch.nn.DataParallel` is copied like any other module.

    Parameters
    ----------
    module : nn.Module
        The module, with its children.
    change : callable, optional
        Applied to every tensor, and to every dtype and device that a module keeps as an
        attribute. None detaches the tensors, so that no gradient reaches the module.

    Returns
    -------
    nn.Module
        Of the same class as the module.
    """
    return _view(module, change or _detached_tensors, {})


def _detached_tensors(value: Any) -> Any:
    return detached(value) if isinstance(value, Tensor) else value


def _view(module: nn.Module, change: Callable[[Any], Any], known: dict[nn.Module, Any]) -> Any:
    if module in known:
        return known[module]
    if isinstance(module, torch.jit.ScriptModule):  # its tensors are not Python's
        return copy.deepcopy(module).eval()
    view = module._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
    known[module] = view

    def changed(value: Any) -> Any:
        if isinstance(value, nn.Module):
            return _view(value, change, known)
        if type(value) is dict:
            return {key: changed(item) for key, item in value.items()} if holds(value) else value
        if type(value) in (list, tuple):  # deepinv keeps the physics of a stack in a list
            return type(value)(changed(item) for item in value) if holds(value) else value
        return change(value) if isinstance(value, (Tensor, torch.dtype, torch.device)) else value

    def holds(values: Any) -> bool:
        items = values.values() if isinstance(values, dict) else values
        return any(isinstance(item, (Tensor, nn.Module)) for item in items)

    for name, value in list(vars(view).items()):
        vars(view)[name] = changed(value)  # buffers and children are in dictionaries, too
    view.training = False
    for name, parameter in module._parameters.items():
        value = None if parameter is None else change(parameter)
        if value is not None and not isinstance(value, nn.Parameter):
            value = nn.Parameter(value, requires_grad=False)
        # Not into view._parameters: a recurrent layer also keeps its weights in a list.
        setattr(view, name, value) if value is not None else view.register_parameter(name, None)
    return view
