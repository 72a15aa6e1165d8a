"""A prior that wraps another one."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gprior.priors.prior import Prior

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Wrapped"]


class Wrapped(Prior):
    """A prior that behaves like its base, except for what a subclass changes.

    Parameters
    ----------
    base : Prior
        The prior to wrap.
    **buffers : Tensor or None
        Buffers of the wrapper itself.
    """

    base: Prior

    def __init__(self, base: Prior, **buffers: Tensor | None) -> None:
        super().__init__()
        for name, value in buffers.items():  # before the base, which may have the same names
            self.register_buffer(name, value)
        self.base, self.image_shape, self.inputs = base, base.image_shape, base.inputs
        self.c_dim, self.name, self.record = base.c_dim, base.name, base.record
        del self.discriminator  # lookups go to the base; two owners would convert it twice

    def forward(self, *args: Any, **inputs: Any) -> Tensor:
        """Return the base's images; the arguments are those of the base."""
        x: Tensor = self.base(*args, **inputs)
        return x

    @property
    def core(self) -> Prior:
        """The core of the base."""
        return self.base.core

    def restore(self, x: Tensor) -> Tensor:
        """Map images of this prior to those of its core, as the base does."""
        return self.base.restore(x)

    @property
    def w_avg(self) -> Tensor:
        """Mean style of the base."""
        return self.base.w_avg

    def mapping(self, z: Tensor, c: Tensor | None = None, **truncation: Any) -> Tensor:
        """Map latents to styles, as the base does."""
        return self.base.mapping(z, c, **truncation)

    def draw(self, keys: Sequence[Sequence[int | str]]) -> Tensor:
        """Return the base's latents."""
        return self.base.draw(keys)

    def _fingerprint(self) -> tuple[Hashable, ...]:
        return (*super()._fingerprint(), *self.base._fingerprint())

    def _draw_inputs(
        self, keys: Sequence[Sequence[int | str]], truncation: float | None
    ) -> dict[str, Any]:
        return self.base._draw_inputs(keys, truncation)

    def unfreeze(self) -> Self:
        """Let gradients reach the weights of the base; return self."""
        self.base.unfreeze()
        return self

    def describe(self) -> str:
        """Return the description of the base."""
        return self.base.describe()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)
