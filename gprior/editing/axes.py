"""Directions in the latents of a prior: principal components, and differences of classes.

The components are those of GANSpace (Härkönen, Hertzmann, Lehtinen and Paris 2020,
arXiv:2004.02546). With styles, they are the principal components of w. Without styles, they are
those of the features before a block, and each one is carried to z by least squares: the z-direction
u_k minimises the sum over samples of |z_j - Σ_k x_jk u_k|², where x_jk is the coordinate of sample
j on component k.

Differs from the authors' code
------------------------------
- There are 4096 samples and an exact decomposition. The authors have 300,000 samples and an
  incremental one.
- The mean of each class is subtracted, so that the components are those within a class.
- An amount of 1 is one standard deviation σ_k: the vectors are σ_k v_k, and for z σ_k u_k.
- The edits of a single layer of BigGAN, which give its blocks different z, are left out. ``layers``
  are for styles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gprior.checks import InputError, InputTypeError, integer
from gprior.priors import HasBlocks, HasEmbedding, Label, Prior, samples_by_class
from gprior.randomness import in_plain_mode

__all__ = ["Direction", "class_direction", "directions"]

MOVABLE = ("w", "z", "embedding", "c")
SAMPLES = 4096
FEATURES = 1 << 26  # numbers of all samples' features at once, 0.25 GB in float32


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction in one input of a generator.

    Parameters
    ----------
    input : {"w", "z", "embedding", "c"}
        What it moves, by the names of ``Result.latents``.
    vector : Tensor
        What an amount of 1 adds: (n,), or (B, n) with one for each image. For w it is (w_dim,),
        the same for all layers, or (num_ws, w_dim), or (B, num_ws, w_dim).
    layers : sequence of int, optional
        For w: the layers that move; None for all. Layer 0 is the coarsest.
    name : str
        For records.

    Raises
    ------
    InputError
        If ``input`` has another name, or the vector or the layers do not fit it.

    Examples
    --------
    >>> lighter = Direction("z", torch.ones(8), name="lighter")
    >>> (-lighter).vector.sum()
    tensor(-8.)
    """

    input: str
    vector: Tensor
    layers: Sequence[int] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if self.input not in MOVABLE:
            raise InputError(f"input must be one of {MOVABLE}, got {self.input!r}")
        if not isinstance(self.vector, Tensor) or not self.vector.is_floating_point():
            raise InputTypeError(f"vector must be a tensor of a floating dtype, got {self.vector}")
        most = 3 if self.input == "w" else 2
        if not 1 <= self.vector.ndim <= most or not bool(self.vector.isfinite().all()):
            raise InputError(
                f"vector must be finite and have 1 to {most} dimensions for {self.input!r}, got "
                f"shape {tuple(self.vector.shape)}"
            )
        if self.layers is not None:
            if self.input != "w":
                raise InputError(f"layers need a direction of 'w', this one moves {self.input!r}")
            layers = tuple(integer("every entry of layers", k, least=0) for k in self.layers)
            object.__setattr__(self, "layers", layers)

    def __neg__(self) -> Direction:
        return Direction(self.input, -self.vector, self.layers, f"-{self.name}")

    def moved(self, latents: Tensor, amounts: Tensor) -> Tensor:
        """Return latents (B, ...) moved by amounts (B,).

        Raises
        ------
        InputError
            If the vector or the layers do not fit the latents.
        """
        vector = self.vector.to(latents)
        shape = tuple(latents.shape[1:])
        wanted = (shape[0], shape[-1]) if self.input == "w" else shape
        if self.input == "w" and vector.ndim == 1:
            vector = vector[None].expand(shape[0], -1)
        if tuple(vector.shape) == wanted:
            vector = vector[None]
        if tuple(vector.shape[1:]) != wanted or len(vector) not in (1, len(latents)):
            raise InputError(
                f"the direction of {self.input!r} has shape {tuple(self.vector.shape)}, but the "
                f"latents of {len(latents)} images have shape {tuple(latents.shape)}"
            )
        if self.layers is not None:
            vector = vector * _on_layers(self.layers, shape[0]).to(latents)[:, None]
        if latents.ndim == 4:  # one style for each output filter
            vector = vector[:, :, None]
        return latents + amounts.view(-1, *[1] * (latents.ndim - 1)) * vector


def _on_layers(layers: Sequence[int], count: int) -> Tensor:
    """Return 1 for the named layers of ``count``, and 0 for the others."""
    on = torch.zeros(count, dtype=torch.float64, device="cpu")
    for k in layers:
        on[integer("every entry of layers", k, 0, count - 1)] = 1
    return on


@in_plain_mode
@torch.no_grad()
def directions(
    prior: Prior,
    count: int = 10,
    label: Label = None,
    layers: Sequence[int] | None = None,
    block: int | None = None,
) -> list[Direction]:
    """Return the directions in which the images of a prior vary most.

    Of 4096 keyed samples, these are the principal components of w, for a prior with styles.
    For others they are those of the features before a block, carried to z.

    Parameters
    ----------
    prior : Prior
        The generator.
    count : int
        How many. The first varies most.
    label : int, tensor or None
        Class of the samples. None, for a prior with styles, takes samples of every class without
        their means. Other priors with classes need a label.
    layers : sequence of int, optional
        For w: the layers that the directions move; None for all.
    block : int, optional
        For a prior without styles: the block before which the features are taken; None takes the
        output of the first layer. A prior that has no blocks is analysed by its images.

    Returns
    -------
    list of Direction
        An amount of 1 is one standard deviation.

    Raises
    ------
    InputError
        If a value does not fit the prior.

    Examples
    --------
    >>> import gprior
    >>> first, second = directions(gprior.load_prior("phantom-64"), count=2)
    >>> first.input, first.vector.norm() > second.vector.norm()
    ('w', tensor(True))
    """
    styles = "w" in prior.inputs
    if styles and block is not None:
        raise InputError("block is for priors without styles; this one has w, leave block=None")
    if styles:
        vectors = _of_styles(prior, label, count)
    else:
        vectors = _of_features(prior, label, count, block)
    kind = "w" if styles else "z"
    return [Direction(kind, v, layers, f"component {k}") for k, v in enumerate(vectors)]


def class_direction(
    prior: Prior, start: Label, end: Label, layers: Sequence[int] | None = None
) -> Direction:
    """Return the direction from one class to another.

    It is the difference of the mean styles for a prior with styles, else the difference of the
    class embeddings or, without embeddings, of the class vectors.

    Parameters
    ----------
    prior : Prior
        A prior with classes.
    start, end : int or tensor
        The two classes: indices, or soft vectors (c_dim,).
    layers : sequence of int, optional
        For w: the layers that the direction moves; None for all.

    Returns
    -------
    Direction
        An amount of 1 is the whole way.

    Raises
    ------
    InputError
        If the prior has no classes, or a label does not fit it.

    Examples
    --------
    >>> import gprior
    >>> prior = gprior.load_prior("phantom-64")
    >>> class_direction(prior, 0, 1).name
    'class 0 to 1'
    """
    if not prior.c_dim:
        raise InputError("class_direction needs a prior with classes; this one has none")
    a, b = (cast(Tensor, prior.classes(label, 1)) for label in (start, end))
    name = f"class {start} to {end}"
    with torch.no_grad():
        if "w" in prior.inputs:
            difference = prior.mean_style(b) - prior.mean_style(a)
            return Direction("w", difference[0], layers, name)
        if "embedding" in prior.inputs:
            embed = cast(HasEmbedding, prior).embed
            return Direction("embedding", (embed(b) - embed(a))[0].clone(), layers, name)
    return Direction("c", (b - a)[0], layers, name)


def _of_styles(prior: Prior, label: Label, count: int) -> Tensor:
    """Return σ_k v_k of the principal components of w, (count, w_dim)."""
    if label is None:
        groups = samples_by_class(prior.core)
    else:
        z = prior.draw([(0, "spread", i) for i in range(SAMPLES)])
        groups = [prior.mapping(z, prior.classes(label, SAMPLES))[:, 0]]
    x = torch.cat([w - w.mean(0) for w in groups])
    _, values, vectors = torch.linalg.svd(x, full_matrices=False)
    count = integer("count", count, 1, len(vectors))
    deviations: Tensor = values[:count, None] / len(x) ** 0.5
    return _signed(vectors[:count]) * deviations


def _of_features(prior: Prior, label: Label, count: int, block: int | None) -> Tensor:
    """Return the shifts of z (count, z_dim) that move one deviation along each component."""
    if prior.c_dim and label is None:
        raise InputError(
            f"components of the features need a label between 0 and {prior.c_dim - 1}: pass label="
        )
    z = prior.draw([(0, "spread", i) for i in range(SAMPLES)])
    c = prior.classes(label, SAMPLES)
    size = _features(prior, z[:1], c, block).shape[1]
    n = min(SAMPLES, max(FEATURES // size, 64))
    count = integer("count", count, 1, min(n - 1, size, z[0].numel()))
    z = z[:n]
    x = torch.cat([_features(prior, z[i : i + 64], c, block) for i in range(0, n, 64)])
    x = x - x.mean(0)
    if size > n:  # of the smaller one of X Xᵀ and Xᵀ X
        values, vectors = torch.linalg.eigh(x @ x.t())
        coordinates = vectors.flip(1)[:, :count] * values.flip(0)[:count].clamp_min(0).sqrt()
    else:
        _, vectors = torch.linalg.eigh(x.t() @ x)
        coordinates = x @ vectors.flip(1)[:, :count]
    power = coordinates.square().sum(0)[:, None]
    shifts = coordinates.t() @ (z - z.mean(0)) / power  # coordinates are uncorrelated
    deviations: Tensor = (power / n).sqrt()
    return _signed(shifts) * deviations


def _features(prior: Prior, z: Tensor, c: Tensor | None, block: int | None) -> Tensor:
    """Return what enters a block, (n, features)."""
    inputs = {"z": z} if c is None else {"z": z, "c": c[: len(z)]}
    if "state" not in prior.inputs:
        if block is not None:
            raise InputError("block needs a prior with blocks; leave block=None")
        x: Tensor = prior(**inputs)
        return x.flatten(1)
    blocks = cast(HasBlocks, prior)
    if block is None:
        block = 0 if "embedding" in prior.inputs else 1
    state = blocks.run_blocks(**inputs, to_block=integer("block", block, 0, blocks.num_blocks - 1))
    features: Tensor = state[0]
    return features.flatten(1)


def _signed(vectors: Tensor) -> Tensor:
    """Return the rows with their largest entry positive: the sign of a component is arbitrary."""
    signs: Tensor = vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()
    return vectors * signs
