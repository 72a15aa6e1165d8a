"""Reading the tensors of a published generator, with every name and shape checked.

`PublishedTensors` is the base of the readers of all published layouts: StyleGAN2's in
`gprior.checkpoints.layout` and BigGAN's in `gprior.checkpoints.biggan_readers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gprior.checks import InputError

__all__ = ["REMEDY", "PublishedTensors"]

REMEDY = "load it with its authors' code and wrap it in a gprior.priors.Generator"


class PublishedTensors:
    """The state dict of a published generator. Every tensor is read once.

    Attributes
    ----------
    network : str
        What the state dict should hold, for messages, such as "BigGAN-PyTorch generator".
    unread : dict
        The tensors that nothing has read yet, by name.

    Parameters
    ----------
    tensors : mapping
        Name to tensor.
    """

    network: str

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.unread = dict(tensors)

    def shape(self, name: str, dims: int) -> tuple[int, ...]:
        """Return the shape of a tensor from which the architecture is derived."""
        tensor = self.unread.get(name)
        if tensor is None or tensor.ndim != dims:
            raise InputError(
                f"a {self.network} has a tensor {name} of {dims} dimensions, this file has "
                f"{_described(tensor)}"
            )
        return tuple(tensor.shape)

    def read(self, name: str, *shape: int) -> Tensor:
        """Return a real tensor of this shape, in float32."""
        tensor = self.unread.pop(name, None)
        if tensor is None or not tensor.is_floating_point() or tuple(tensor.shape) != shape:
            raise InputError(
                f"tensor {name} should be real with shape {shape} in this {self.network}, the "
                f"file has {_described(tensor)}"
            )
        return tensor.detach().float()

    def close(self) -> None:
        """Refuse the file if tensors are left that nothing has read."""
        if self.unread:
            names = ", ".join(repr(str(name)[:60]) for name in sorted(self.unread, key=str)[:3])
            raise InputError(
                f"{len(self.unread)} tensors are no part of a {self.network} ({names}): it is a "
                f"variant; {REMEDY}"
            )


def _described(tensor: Any) -> str:
    """Return the type and shape of a tensor, for messages."""
    return f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else "none"
