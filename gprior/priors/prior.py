"""What a prior is: a frozen generator whose inputs have names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gprior.checks import InputError
from gprior.priors.sharing import place_of
from gprior.randomness import generator, in_plain_mode

if TYPE_CHECKING:
    from typing_extensions import Self


__all__ = ["Critic", "Label", "Prior"]

Label = int | Sequence[int] | Tensor | None


class Critic(Protocol):
    """What a prior's discriminator is to others: features of images, for a distance."""

    config: dict[str, Any]

    def features(self, raw: Tensor) -> list[Tensor]:
        """Return feature maps of images (B, C, H, W) in [-1, 1], finest first."""

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Freeze or release its weights."""


class Prior(nn.Module):
    """A generator G seen by solvers: named inputs in, images in [0, 1] out.

    Attributes
    ----------
    image_shape : tuple of int
        (C, H, W) of the images it generates.
    inputs : frozenset of str
        Names of the inputs that can be searched, among ``"z"``, ``"w"`` (one w per
        layer), ``"noise"``, ``"content"``, ``"state"`` (between two blocks),
        ``"label"``, ``"embedding"`` (of the class) and ``"filters"`` (one style per output
        filter).
    c_dim : int
        Number of classes, 0 where there are none.
    name : str
        Where it was loaded from, for records.
    record : dict
        What is known about it (data, licence, SHA-256, adaptation): JSON.
    discriminator : Critic or None
        The network it was trained against, whose features serve as perceptual distance.
    """

    image_shape: tuple[int, int, int]
    inputs: frozenset[str] = frozenset()
    c_dim: int = 0
    name: str = "prior"
    record: dict[str, Any]
    discriminator: Critic | None

    if TYPE_CHECKING:  # what a prior has where its inputs say so
        const: Any  # content: (1, channels, 4, 4)

        @property
        def content_shape(self) -> tuple[int, int, int]: ...  # content
        @property
        def num_filters(self) -> int: ...  # filters
        @property
        def num_blocks(self) -> int: ...  # state
        def noise_maps(self) -> list[Tensor]: ...  # noise
        def embed(self, c: Tensor) -> Tensor: ...  # embedding
        def run_blocks(self, *args: Any, **inputs: Any) -> Any: ...  # state

    def __init__(self) -> None:
        super().__init__()
        self.record = {}
        self.register_module("discriminator", None)

    def forward(self, **inputs: Any) -> Tensor:
        """Return images (B, C, H, W), (raw + 1) / 2, nominally in [0, 1] and not clamped."""
        raise NotImplementedError

    @property
    def w_avg(self) -> Tensor:
        """Mean style: (w_dim,), or (c_dim, w_dim) where there are classes; needs ``"w"``."""
        raise NotImplementedError(f"{type(self).__name__} has no W space")

    def mean_style(self, c: Tensor | None) -> Tensor:
        """Return the mean style of each class vector (n, c_dim), or (w_dim,) without classes."""
        return self.w_avg if c is None else c.to(self.w_avg) @ self.w_avg

    def mapping(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Map latents (B, z_dim) to one style per layer (B, num_ws, w_dim); needs ``"w"``."""
        raise NotImplementedError(f"{type(self).__name__} has no W space")

    def draw(self, keys: Sequence[Sequence[int | str]]) -> Tensor:
        """Return one latent z (len(keys), ...) per key from the prior's own distribution."""
        raise NotImplementedError

    @property
    def like(self) -> Tensor:
        """A tensor whose dtype and device are the prior's."""
        place = place_of(self)
        return torch.zeros((), dtype=torch.float32, device="cpu") if place is None else place

    def freeze(self) -> Self:
        """Switch to eval mode and stop gradients with respect to weights; return self."""
        return self.eval().requires_grad_(False)

    def classes(self, label: Label, n: int) -> Tensor | None:
        """Return class vectors (n, c_dim) for a label, or None where there are no classes.

        Parameters
        ----------
        label : int, sequence of int, tensor or None
            An index, one index per image, a soft vector (c_dim,), or one soft vector
            per image (n, c_dim).
        n : int
            Number of images.

        Raises
        ------
        ValueError
            If the label does not fit the prior's classes, or there is none.
        """
        if not self.c_dim:
            if label is not None:
                raise InputError("label was given, but this prior has no classes; leave label=None")
            return None
        if label is None:
            raise InputError(f"this prior needs a label between 0 and {self.c_dim - 1}")
        given = torch.as_tensor(
            label if isinstance(label, Tensor) else np.asarray(label), device=self.like.device
        )
        if given.is_floating_point():
            if given.shape not in ((self.c_dim,), (n, self.c_dim)):
                raise InputError(
                    f"a soft label must have shape ({self.c_dim},) or ({n}, {self.c_dim}), "
                    f"got {tuple(given.shape)}"
                )
            return given.to(self.like.dtype).expand(n, self.c_dim)
        if given.shape not in ((), (n,)):
            raise InputError(
                f"label must be one index or one per image ({n}), got shape {tuple(given.shape)}"
            )
        if given.min() < 0 or given.max() >= self.c_dim:
            raise InputError(f"label must be between 0 and {self.c_dim - 1}, got {given.tolist()}")
        one_hot = nn.functional.one_hot(given.expand(n).long(), self.c_dim)
        return one_hot.to(self.like.dtype)

    @in_plain_mode
    @torch.no_grad()
    def sample(self, n: int, seed: int = 0, label: Label = None) -> Tensor:
        """Generate images with the constant noise maps.

        Parameters
        ----------
        n : int
            Number of images.
        seed : int
            The i-th image depends on (seed, i) alone.
        label : int, sequence, tensor or None
            Class of the images; None draws it uniformly for each.

        Returns
        -------
        Tensor
            (n, C, H, W), nominally in [0, 1], not clamped.
        """
        if n < 1:
            raise InputError(f"n must be at least 1, got {n}")
        return torch.cat([self(**inputs) for inputs in self._sample_inputs(n, seed, label)])

    def _sample_inputs(self, n: int, seed: int, label: Label) -> Iterator[dict[str, Any]]:
        if self.c_dim and label is None:
            draws = [generator(seed, "sample-label", i) for i in range(n)]
            label = [int(torch.randint(self.c_dim, (), generator=g, device="cpu")) for g in draws]
        c = self.classes(label, n)
        for i in range(0, n, 32):
            rows = range(i, min(i + 32, n))
            z = self.draw([(seed, "sample", row) for row in rows])
            yield {"z": z} if c is None else {"z": z, "c": c[i : i + 32]}

    def adapt(self, image_shape: Sequence[int], **options: Any) -> Prior:
        """Return this prior seen at another image geometry; see `AdaptedPrior`."""
        return self._adapter(self, image_shape, **options)

    _adapter: ClassVar[Callable[..., Prior]]

    @classmethod
    def register_adapter(cls, adapter: Callable[..., Prior]) -> None:
        """Set what `adapt` calls, a function of (prior, image_shape) that needs this module."""
        cls._adapter = staticmethod(adapter)
