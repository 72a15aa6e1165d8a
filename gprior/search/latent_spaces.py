"""The spaces of a generator's inputs: z, z+, w, w+, w++, noise, content, class, inner layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gprior.priors import HasBlocks, HasContent, HasEmbedding, HasNoise, Prior
from gprior.search.rows import Variables
from gprior.search.space import Space, Step, inputs_of

__all__ = [
    "AfterBlock",
    "Auxiliary",
    "Content",
    "Filters",
    "FixedStyles",
    "Noise",
    "PhaseMap",
    "SharedFilters",
    "W",
    "WPlus",
    "Z",
    "ZClass",
    "ZEmbedding",
    "ZPlus",
]


class Z(Space):
    """The latent z (R, z_dim), through the whole generator."""

    needs = frozenset({"z"})
    from_z = True

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        return {"z": start["z"].clone()}

    def finish(self, variables: Variables, start: Variables, step: Step) -> Variables:
        return {**variables, "c": start["c"]} if "c" in start else variables


class ZEmbedding(Z):
    """The latent z and the class embedding (R, embed_dim), which starts at that of class c."""

    needs = frozenset({"z", "embedding"})

    def enter(self, prior: Prior, start: Variables) -> Variables:
        if "embedding" in start:
            return start
        return {**start, "embedding": cast(HasEmbedding, prior).embed(start["c"])}

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        return {"z": start["z"].clone(), "embedding": start["embedding"].clone()}


class ZClass(Z):
    """The latent z and the class vector c (R, c_dim)."""

    needs = frozenset({"z", "label"})

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        return {"z": start["z"].clone(), "c": start["c"].clone()}

    def finish(self, variables: Variables, start: Variables, step: Step) -> Variables:
        return variables


@dataclass(frozen=True)
class ZPlus(Space):
    """One latent per layer, z+ (R, num_ws, z_dim), each through the mapping network."""

    prior: Prior
    needs = frozenset({"z", "w"})
    from_z = True

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        if "z+" in start:  # where an earlier stage has left it
            return {"z+": start["z+"].clone()}
        return {"z+": start["z"][:, None].repeat(1, start["w"].shape[1], 1)}

    def finish(self, variables: Variables, start: Variables, step: Step) -> Variables:
        return {**variables, "w": self.styles(variables["z+"], start.get("c"))}

    def styles(self, z: Tensor, c: Tensor | None) -> Tensor:
        """Return M(z_i) for each layer i, (R, num_ws, w_dim)."""
        R, L = z.shape[:2]
        c = None if c is None else c.repeat_interleave(L, 0)
        return self.prior.mapping(z.flatten(0, 1), c)[:, 0].view(R, L, -1)


class W(Space):
    """One style for all layers, w (R, w_dim)."""

    needs = frozenset({"w"})

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        return {"w": start["w"].mean(1)}

    def finish(self, variables: Variables, start: Variables, step: Step) -> Variables:
        w = variables["w"]
        return {**variables, "w": w[:, None].expand(-1, start["w"].shape[1], -1)}


class WPlus(Space):
    """One style per layer, w+ (R, num_ws, w_dim)."""

    needs = frozenset({"w"})

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        return {"w": start["w"].clone()}


@dataclass(frozen=True)
class Filters(Space):
    """One style per output filter, w++ (R, num_ws, rows, w_dim)."""

    rows: int
    needs = frozenset({"filters"})

    @torch.no_grad()
    def enter(self, prior: Prior, start: Variables) -> Variables:
        """Add the styles of z, if the starting point of this prior has only z."""
        return start if "w" in start else {**start, "w": prior.mapping(start["z"], start.get("c"))}

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        w = start["w"]
        w = w if w.ndim == 4 else w[:, :, None]  # (R, num_ws, 1 or rows, w_dim)
        return {"w": w.expand(-1, -1, self.rows, -1).clone()}


class SharedFilters(Filters):
    """One style per output filter, the same for all layers: the matrix W (R, rows, w_dim)."""

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        return {"w": super().initial(prior, start, step)["w"].mean(1)}

    def finish(self, variables: Variables, start: Variables, step: Step) -> Variables:
        w = variables["w"]
        return {**variables, "w": w[:, None].expand(-1, start["w"].shape[1], -1, -1)}


@dataclass(frozen=True)
class FixedStyles(Space):
    """No variables: the styles are those of the starting point."""

    needs = frozenset({"w"})

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        return {}

    def finish(self, variables: Variables, start: Variables, step: Step) -> Variables:
        return {**variables, "w": start["w"]}


@dataclass(frozen=True)
class Noise(Space):
    """The noise maps, ``noise.k`` (R, 1, r, r), k from ``first`` to ``last`` (exclusive).

    Attributes
    ----------
    first, last : int
        Which maps are searched; all by default. The others are the prior's constants.
    drawn : bool
        Start from N(0, 1) instead of the prior's constants.
    standard : bool
        Keep every map at mean 0 and variance 1.
    """

    first: int = 0
    last: int | None = None
    drawn: bool = False
    standard: bool = False
    needs = frozenset({"noise"})

    @property
    def bounded(self) -> bool:  # type: ignore[override]
        """Whether maps are brought back to mean 0 and variance 1."""
        return self.standard

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        R, maps = len(start["z"]), {}
        for k, constant in enumerate(cast(HasNoise, prior).noise_maps()):
            name = f"noise.{k}"
            if name in start:
                maps[name] = start[name].clone()
            elif self.drawn:
                maps[name] = step.draw(name, constant.shape[1:])
            else:
                maps[name] = constant.repeat(R, 1, 1, 1)
        last = len(maps) if self.last is None else self.last
        return {name: v for k, (name, v) in enumerate(maps.items()) if self.first <= k < last}

    def project(self, variables: Variables, start: Variables, t: float) -> Variables:
        if not self.standard:
            return variables
        return {k: standardised(v) if k.startswith("noise.") else v for k, v in variables.items()}


class Content(Space):
    """The constant input, ``content`` (R, channels, 4, 4)."""

    needs = frozenset({"content"})

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        return {"content": cast(HasContent, prior).const.repeat(len(start["z"]), 1, 1, 1)}


@dataclass(frozen=True)
class AfterBlock(Space):
    """The features that enter block k; what else enters it is carried unchanged.

    The state is ``state.k.0`` (the features) and ``state.k.1`` (the image so far).
    """

    k: int
    needs = frozenset({"state"})
    entry = 1 / 3

    @torch.no_grad()
    def enter(self, prior: Prior, start: Variables) -> Variables:
        """Add the state that the code of the starting point produces before block k."""
        inputs = {name: v for name, v in inputs_of(start).items() if name != "phase"}
        state = cast(HasBlocks, prior).run_blocks(**inputs, to_block=self.k)
        parts = (state,) if isinstance(state, Tensor) else state
        others = {name: v for name, v in start.items() if not name.startswith("state.")}
        return {**others, **{f"state.{self.k}.{i}": part for i, part in enumerate(parts)}}

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        return {f"state.{self.k}.0": start[f"state.{self.k}.0"].clone()}

    def finish(self, variables: Variables, start: Variables, step: Step) -> Variables:
        carried = {name: v for name, v in start.items() if name.startswith("state.")}
        return {**carried, **variables}


@dataclass(frozen=True)
class PhaseMap(Space):
    """A low-resolution phase (R, 1, side, side) in radians that is added to that of the prior.

    See the argument ``phase_size`` of `gprior.priors.AdaptedPrior`.
    """

    side: int
    needs = frozenset({"phase"})

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        if "phase" in start:
            return {"phase": start["phase"].clone()}
        rows = len(next(iter(start.values())))
        return {"phase": torch.zeros(rows, 1, self.side, self.side).to(prior.like)}


@dataclass(frozen=True)
class Auxiliary(Space):
    """A variable that enters the objective and never reaches the generator."""

    name: str

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        return {self.name: start[self.name].clone()}


def standardised(x: Tensor) -> Tensor:
    """Shift and scale each row of x (R, 1, r, r) to mean 0 and variance 1."""
    x = x - x.mean((1, 2, 3), keepdim=True)
    return x * torch.rsqrt(x.square().mean((1, 2, 3), keepdim=True) + 1e-12)
