"""The base class of priors: frozen generators whose inputs have names."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from gprior.checks import InputError, integer
from gprior.priors.sharing import place_of
from gprior.priors.statistics import Statistics, fingerprint, sha256_of
from gprior.randomness import generator, in_plain_mode

if TYPE_CHECKING:
    from typing_extensions import Self


__all__ = ["Critic", "Label", "Prior"]

Label = int | Sequence[int] | Tensor | None
Value = TypeVar("Value")


class Critic(Protocol):
    """What a discriminator must offer, so that its features can measure a distance."""

    config: dict[str, Any]

    def features(self, raw: Tensor) -> list[Tensor]:
        """Return feature maps of images (B, C, H, W) in [-1, 1], finest first."""

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Switch gradients with respect to its weights on or off."""


class Prior(nn.Module):
    """A generator G as solvers see it: from named inputs to images in [0, 1].

    Attributes
    ----------
    image_shape : tuple of int
        Shape (C, H, W) of the images.
    inputs : frozenset of str
        Names of the inputs that can be searched, among ``"z"``, ``"w"`` (one style per
        layer), ``"noise"``, ``"content"``, ``"state"`` (between two blocks),
        ``"label"``, ``"embedding"`` (of the class), ``"filters"`` (one style per output filter)
        and ``"phase"`` (of complex images). The protocols in `gprior.priors.inputs` say what a
        prior offers for them.
    c_dim : int
        Number of classes, 0 if there are none.
    name : str
        The name or path from which the prior was loaded, for records.
    record : dict
        Facts about the prior as JSON values: data, licence, SHA-256, adaptation.
    discriminator : Critic or None
        The network that the generator was trained against. Its features serve as a perceptual
        distance.
    """

    image_shape: tuple[int, int, int]
    inputs: frozenset[str] = frozenset()
    c_dim: int = 0
    name: str = "prior"
    record: dict[str, Any]
    discriminator: Critic | None

    def __init__(self) -> None:
        super().__init__()
        self.record = {}
        self._statistics = Statistics()
        self.register_module("discriminator", None)

    def forward(self, **inputs: Any) -> Tensor:
        """Return images (B, C, H, W), (raw + 1) / 2, nominally in [0, 1] and not clamped."""
        raise NotImplementedError

    @property
    def w_avg(self) -> Tensor:
        """Mean style (w_dim,), or (c_dim, w_dim) with classes; needs ``"w"`` or ``"filters"``."""
        raise NotImplementedError(f"{type(self).__name__} has no W space")

    def mean_style(self, c: Tensor | None) -> Tensor:
        """Return the mean style (n, w_dim) of class vectors (n, c_dim), or (w_dim,) for None."""
        return self.w_avg if c is None else c.to(self.w_avg) @ self.w_avg

    def mapping(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Map latents (B, z_dim) to one style per layer (B, num_ws, w_dim); needs ``"w"``.

        A prior with ``"filters"`` and without ``"w"`` maps them to one style per output filter,
        (B, num_ws, rows, w_dim).
        """
        raise NotImplementedError(f"{type(self).__name__} has no W space")

    def draw(self, keys: Sequence[Sequence[int | str]]) -> Tensor:
        """Return latents z (len(keys), ...) from the prior's distribution, one per key."""
        raise NotImplementedError

    @property
    def core(self) -> Prior:
        """The prior inside all wrappers; they share its latents, styles and discriminator."""
        return self

    def restore(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) of this prior to those of its core; here they are the same."""
        return x

    def statistic(self, name: str, compute: Callable[[], Value]) -> Value:
        """Return a statistic of this prior, computed at most once for the same weights.

        A changed weight, dtype or device empties the cache. Numbers that were loaded from the
        prior's file stay valid for every dtype and device, and for copies, until a weight
        changes.

        Parameters
        ----------
        name : str
            Name of the statistic.
        compute : callable
            Computes it from the prior, without gradients. It must depend on nothing else.
        """
        known = self._known()
        values: dict[str, Any] = known.stored if name in known.stored else known.measured
        if name not in values:
            with torch.no_grad():
                values[name] = in_plain_mode(compute)()
        value: Value = values[name]
        return value

    def digest(self) -> str:
        """Return the SHA-256 of the weights: equal for equal weights of one dtype."""
        return self.statistic("sha256", lambda: sha256_of(self.state_dict()))

    @property
    def statistics(self) -> dict[str, float]:
        """The statistics that are known at present and are numbers; a file stores these.

        Set it to numbers that were measured on exactly the present weights.
        """
        known = self._known()
        values = {**known.measured, **known.stored}
        return {k: v for k, v in values.items() if isinstance(v, float) and math.isfinite(v)}

    @statistics.setter
    def statistics(self, values: Mapping[str, float]) -> None:
        self._statistics = Statistics(self._fingerprint(), values)

    def _known(self) -> Statistics:
        """Return the statistics of the present weights, which are empty if a weight changed."""
        weights = self._fingerprint()
        if self._statistics.weights != weights:
            # A replica has the same weights on another device, and lives for one call.
            replica = getattr(self, "_is_replica", False)
            self._statistics = Statistics(weights, self._statistics.stored if replica else None)
        return self._statistics

    def _fingerprint(self) -> tuple[Hashable, ...]:
        """Return a value that changes when something changes on which samples depend."""
        return fingerprint(self)

    def _apply(self, *args: Any, **options: Any) -> Self:
        """Change the dtype or the device; stored statistics also hold for the new one."""
        before = self._known()
        super()._apply(*args, **options)  # type: ignore[no-untyped-call]
        if before.weights != self._fingerprint():
            self.statistics = before.stored
        return self

    def _replicate_for_data_parallel(self) -> Self:
        self._known()  # a replica takes over what is valid at present
        replica: Self = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        return replica

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle takes over; of the statistics, only the stored ones."""
        return {**self.__dict__, "_statistics": Statistics((), self._known().stored)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.statistics = self._statistics.stored

    @property
    def like(self) -> Tensor:
        """A tensor whose dtype and device are the prior's."""
        place = place_of(self)
        return torch.zeros((), dtype=torch.float32, device="cpu") if place is None else place

    def freeze(self) -> Self:
        """Switch to eval mode and stop gradients with respect to weights; return self."""
        return self.eval().requires_grad_(False)

    def unfreeze(self) -> Self:
        """Let gradients reach the weights of the generator; return self.

        The mode stays as it is, and the discriminator stays frozen.
        """
        self.requires_grad_(True)
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)
        return self

    def describe(self) -> str:
        """Return the architecture and the sizes of the latents, in a few words."""
        return type(self).__name__

    def classes(self, label: Label, n: int) -> Tensor | None:
        """Return class vectors (n, c_dim) for a label, or None if the prior has no classes.

        Parameters
        ----------
        label : int, sequence of int, tensor or None
            One index for all images, one index per image, one soft vector (c_dim,), or one
            soft vector per image (n, c_dim).
        n : int
            Number of images.

        Raises
        ------
        ValueError
            If the label does not fit the classes of the prior, or is missing.
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
    def sample(
        self, n: int, seed: int = 0, label: Label = None, truncation: float | None = None
    ) -> Tensor:
        """Generate images with the constant noise maps.

        Parameters
        ----------
        n : int
            Number of images.
        seed : int
            The i-th image depends on (seed, i) alone.
        label : int, sequence, tensor or None
            Class of the images; None draws the class of each image uniformly.
        truncation : float, optional
            Less than 1 makes images more typical and less varied: psi of StyleGAN2, or the
            truncation of BigGAN, in [0, 1]. With None, StyleGAN2 does not truncate, and BigGAN
            uses its attribute ``truncation``.

        Returns
        -------
        Tensor
            (n, C, H, W), nominally in [0, 1], not clamped.

        Raises
        ------
        ValueError
            If n is less than 1, if the label or the truncation does not fit the prior, or if
            the prior has no truncation.
        """
        batches = self._sample_inputs(integer("n", n, least=1), seed, label, truncation)
        return torch.cat([self(**inputs) for inputs in batches])

    def _sample_inputs(
        self, n: int, seed: int, label: Label, truncation: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the inputs of n samples, 32 at a time."""
        if self.c_dim and label is None:
            draws = [generator(seed, "sample-label", i) for i in range(n)]
            label = [int(torch.randint(self.c_dim, (), generator=g, device="cpu")) for g in draws]
        c = self.classes(label, n)
        for i in range(0, n, 32):
            keys = [(seed, "sample", row) for row in range(i, min(i + 32, n))]
            inputs = self._draw_inputs(keys, truncation)
            yield inputs if c is None else {**inputs, "c": c[i : i + 32]}

    def _draw_inputs(
        self, keys: Sequence[Sequence[int | str]], truncation: float | None
    ) -> dict[str, Any]:
        """Return the inputs of one sample per key, without the class."""
        if truncation is not None:
            raise InputError(
                f"truncation was given, but a {type(self).__name__} has none; leave truncation=None"
            )
        return {"z": self.draw(keys)}

    def adapt(self, image_shape: Sequence[int], **options: Any) -> Prior:
        """Return this prior with images of another shape; see `AdaptedPrior`."""
        return self._adapter(self, image_shape, **options)

    _adapter: ClassVar[Callable[..., Prior]]

    @classmethod
    def register_adapter(cls, adapter: Callable[..., Prior]) -> None:
        """Set the function of (prior, image_shape) that `adapt` calls.

        Its module imports this one, so this one cannot import it.
        """
        cls._adapter = staticmethod(adapter)
