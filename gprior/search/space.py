"""Where a method searches: variables, and how they become generator inputs.

A space is stateless. Variables are a dictionary of tensors (R, ...) with one row per
problem; inputs are the keyword arguments of the prior. Spaces combine with ``&``.
What a space needs to remember, as the centre of a ball, is in ``start``: the loop keeps
the initial variables there under ``"first."`` and their name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gprior.priors import Prior

__all__ = ["Moment", "Space", "Variables", "WPlus", "Z", "inputs_of"]

Variables = dict[str, Tensor]


@dataclass(frozen=True)
class Moment:
    """A step of the search.

    Attributes
    ----------
    t : float
        Fraction of the run in [0, 1).
    draw : callable
        (name, shape) -> standard normal numbers ``(R, *shape)``, a function of each row's key,
        the name and the step alone.
    """

    t: float
    draw: Callable[[str, Sequence[int]], Tensor]


class Space:
    """A set of variables and their decoding.

    Attributes
    ----------
    needs : frozenset of str
        Names of the prior's inputs that the space sets.
    entry : float
        Evaluations that `enter` takes.
    from_z : bool
        Whether it starts from ``z`` alone, whatever ``w`` is.
    """

    needs: frozenset[str] = frozenset()
    entry: float = 0.0
    from_z: bool = False

    def enter(self, prior: Prior, start: Variables) -> Variables:
        """Return the starting point with what the space adds to it; here nothing."""
        return start

    def initial(self, prior: Prior, start: Variables, at: Moment) -> Variables:
        """Return the variables at a starting point with entries ``z``, ``w`` (and ``c``)."""
        raise NotImplementedError

    def decode(self, variables: Variables, start: Variables, at: Moment) -> dict[str, Any]:
        """Return the prior's inputs; ``start`` holds what is not searched, as the class c."""
        raise NotImplementedError

    def project(self, variables: Variables, start: Variables, t: float) -> Variables:
        """Return the nearest variables in the method's set; here every point is in it."""
        return variables

    def finish(self, variables: Variables, start: Variables, at: Moment) -> Variables:
        """Return the code by the names of `inputs_of`; here the variables have them."""
        return variables

    def diagnose(self, variables: Variables, code: Variables, at: Moment) -> Variables:
        """Return what a user should know about the code, each (R,); here nothing."""
        return {}

    def __and__(self, other: Space) -> Space:
        return Product((self, other))


@dataclass(frozen=True)
class Product(Space):
    """The variables of several spaces together."""

    parts: tuple[Space, ...]

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Union of what the parts need."""
        return frozenset().union(*(part.needs for part in self.parts))

    @property
    def entry(self) -> float:  # type: ignore[override]
        """Sum of what entering the parts takes."""
        return sum(part.entry for part in self.parts)

    @property
    def from_z(self) -> bool:  # type: ignore[override]
        """Whether one of the parts starts from z."""
        return any(part.from_z for part in self.parts)

    def enter(self, prior: Prior, start: Variables) -> Variables:
        for part in self.parts:
            start = part.enter(prior, start)
        return start

    def initial(self, prior: Prior, start: Variables, at: Moment) -> Variables:
        return {k: v for part in self.parts for k, v in part.initial(prior, start, at).items()}

    def decode(self, variables: Variables, start: Variables, at: Moment) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for part in self.parts:
            found |= part.decode(variables, start, at)
        return found

    def project(self, variables: Variables, start: Variables, t: float) -> Variables:
        for part in self.parts:
            variables = part.project(variables, start, t)
        return variables

    def finish(self, variables: Variables, start: Variables, at: Moment) -> Variables:
        for part in self.parts:
            variables = part.finish(variables, start, at)
        return variables

    def diagnose(self, variables: Variables, code: Variables, at: Moment) -> Variables:
        found = [part.diagnose(variables, code, at) for part in self.parts]
        return {k: v for part in found for k, v in part.items()}


class Z(Space):
    """The latent z (R, z_dim), through the whole generator."""

    needs = frozenset({"z"})
    from_z = True

    def initial(self, prior: Prior, start: Variables, at: Moment) -> Variables:
        return {"z": start["z"].clone()}

    def decode(self, variables: Variables, start: Variables, at: Moment) -> dict[str, Any]:
        inputs = {"z": variables["z"]}
        return {**inputs, "c": start["c"]} if "c" in start else inputs

    def finish(self, variables: Variables, start: Variables, at: Moment) -> Variables:
        return {**variables, "c": start["c"]} if "c" in start else variables


class ZEmbedding(Z):
    """The latent z and the class embedding (R, embed_dim), which starts at that of class c."""

    needs = frozenset({"z", "embedding"})

    def enter(self, prior: Prior, start: Variables) -> Variables:
        return start if "embedding" in start else {**start, "embedding": prior.embed(start["c"])}

    def initial(self, prior: Prior, start: Variables, at: Moment) -> Variables:
        return {"z": start["z"].clone(), "embedding": start["embedding"].clone()}

    def decode(self, variables: Variables, start: Variables, at: Moment) -> dict[str, Any]:
        return {"z": variables["z"], "embedding": variables["embedding"]}


class ZClass(Z):
    """The latent z and the class vector c (R, c_dim) itself."""

    needs = frozenset({"z", "label"})

    def initial(self, prior: Prior, start: Variables, at: Moment) -> Variables:
        return {"z": start["z"].clone(), "c": start["c"].clone()}

    def decode(self, variables: Variables, start: Variables, at: Moment) -> dict[str, Any]:
        return {"z": variables["z"], "c": variables["c"]}

    def finish(self, variables: Variables, start: Variables, at: Moment) -> Variables:
        return variables


@dataclass(frozen=True)
class ZPlus(Space):
    """One latent per layer, z+ (R, num_ws, z_dim), each through the mapping network."""

    prior: Prior
    needs = frozenset({"z", "w"})
    from_z = True

    def initial(self, prior: Prior, start: Variables, at: Moment) -> Variables:
        if "z+" in start:  # where an earlier stage has left it
            return {"z+": start["z+"].clone()}
        return {"z+": start["z"][:, None].repeat(1, start["w"].shape[1], 1)}

    def decode(self, variables: Variables, start: Variables, at: Moment) -> dict[str, Any]:
        return {"ws": self.styles(variables["z+"], start.get("c"))}

    def finish(self, variables: Variables, start: Variables, at: Moment) -> Variables:
        return {**variables, "w": self.styles(variables["z+"], start.get("c"))}

    def styles(self, z: Tensor, c: Tensor | None) -> Tensor:
        """Return M(z_i) for each layer i, (R, num_ws, w_dim)."""
        R, L = z.shape[:2]
        c = None if c is None else c.repeat_interleave(L, 0)
        return self.prior.mapping(z.flatten(0, 1), c)[:, 0].view(R, L, -1)


class W(Space):
    """One style for all layers, w (R, w_dim)."""

    needs = frozenset({"w"})

    def initial(self, prior: Prior, start: Variables, at: Moment) -> Variables:
        return {"w": start["w"].mean(1)}

    def decode(self, variables: Variables, start: Variables, at: Moment) -> dict[str, Any]:
        return {"ws": self._repeated(variables["w"], start)}

    def finish(self, variables: Variables, start: Variables, at: Moment) -> Variables:
        return {**variables, "w": self._repeated(variables["w"], start)}

    @staticmethod
    def _repeated(w: Tensor, start: Variables) -> Tensor:
        return w[:, None].expand(-1, start["w"].shape[1], -1)


class WPlus(Space):
    """One style per layer, w+ (R, num_ws, w_dim)."""

    needs = frozenset({"w"})

    def initial(self, prior: Prior, start: Variables, at: Moment) -> Variables:
        return {"w": start["w"].clone()}

    def decode(self, variables: Variables, start: Variables, at: Moment) -> dict[str, Any]:
        return {"ws": variables["w"]}


@dataclass(frozen=True)
class Filters(Space):
    """One style per output filter, w++ (R, num_ws, rows, w_dim)."""

    rows: int
    needs = frozenset({"filters"})

    def initial(self, prior: Prior, start: Variables, at: Moment) -> Variables:
        w = start["w"]
        return {"w": (w if w.ndim == 4 else w[:, :, None]).repeat(1, 1, self.rows, 1)}

    def decode(self, variables: Variables, start: Variables, at: Moment) -> dict[str, Any]:
        return {"ws": variables["w"]}


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

    def initial(self, prior: Prior, start: Variables, at: Moment) -> Variables:
        R, found = len(start["z"]), {}
        for k, constant in enumerate(prior.noise_maps()):
            name = f"noise.{k}"
            if name in start:
                found[name] = start[name].clone()
            elif self.drawn:
                found[name] = at.draw(name, constant.shape[1:])
            else:
                found[name] = constant.repeat(R, 1, 1, 1)
        last = len(found) if self.last is None else self.last
        return {name: v for k, (name, v) in enumerate(found.items()) if self.first <= k < last}

    def decode(self, variables: Variables, start: Variables, at: Moment) -> dict[str, Any]:
        return {"noise": _noise(variables)}

    def project(self, variables: Variables, start: Variables, t: float) -> Variables:
        if not self.standard:
            return variables
        return {k: _standard(v) if k.startswith("noise.") else v for k, v in variables.items()}


class Content(Space):
    """The constant input, ``content`` (R, channels, 4, 4)."""

    needs = frozenset({"content"})

    def initial(self, prior: Prior, start: Variables, at: Moment) -> Variables:
        return {"content": prior.const.repeat(len(start["z"]), 1, 1, 1)}

    def decode(self, variables: Variables, start: Variables, at: Moment) -> dict[str, Any]:
        return {"content": variables["content"]}


@dataclass(frozen=True)
class AfterBlock(Space):
    """The features that enter block k; what else enters it is carried unchanged.

    The state is ``state.k.0`` (the features), ``state.k.1`` (the image so far).
    """

    k: int
    needs = frozenset({"state"})
    entry = 1 / 3

    @torch.no_grad()
    def enter(self, prior: Prior, start: Variables) -> Variables:
        """Add the state that the starting point's code produces before block k."""
        state = prior.run_blocks(**inputs_of(start), to_block=self.k)
        parts = (state,) if isinstance(state, Tensor) else state
        others = {name: v for name, v in start.items() if not name.startswith("state.")}
        return {**others, **{f"state.{self.k}.{i}": part for i, part in enumerate(parts)}}

    def initial(self, prior: Prior, start: Variables, at: Moment) -> Variables:
        return {f"state.{self.k}.0": start[f"state.{self.k}.0"].clone()}

    def decode(self, variables: Variables, start: Variables, at: Moment) -> dict[str, Any]:
        return _state(self.finish(variables, start, at))

    def finish(self, variables: Variables, start: Variables, at: Moment) -> Variables:
        own = {name: v for name, v in start.items() if name.startswith("state.")}
        return {**own, **variables}


@dataclass(frozen=True)
class Held(Space):
    """Styles that are not searched: those of the starting point."""

    needs = frozenset({"w"})

    def initial(self, prior: Prior, start: Variables, at: Moment) -> Variables:
        return {}

    def decode(self, variables: Variables, start: Variables, at: Moment) -> dict[str, Any]:
        return {"ws": start["w"]}

    def finish(self, variables: Variables, start: Variables, at: Moment) -> Variables:
        return {**variables, "w": start["w"]}


@dataclass(frozen=True)
class Bound(Space):
    """No variables of its own: keeps others in a set about where they started.

    Attributes
    ----------
    names : tuple of str
        The variables, by their names up to the first dot.
    """

    names: tuple[str, ...]

    def initial(self, prior: Prior, start: Variables, at: Moment) -> Variables:
        return {}

    def decode(self, variables: Variables, start: Variables, at: Moment) -> dict[str, Any]:
        return {}

    def project(self, variables: Variables, start: Variables, t: float) -> Variables:
        return {
            name: self.nearest(name, x, start[f"first.{name}"])
            if name.split(".")[0] in self.names
            else x
            for name, x in variables.items()
        }

    def nearest(self, name: str, x: Tensor, first: Tensor) -> Tensor:
        """Return the nearest point of the set to x, of a variable that started at ``first``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Sphere(Bound):
    """Each latent of a layer and each noise map keeps the norm it started with."""

    def nearest(self, name: str, x: Tensor, first: Tensor) -> Tensor:
        dims = tuple(range(2, x.ndim)) if x.ndim > 2 else (1,)
        was, now = (v.square().sum(dims, keepdim=True) for v in (first, x))
        return x * torch.sqrt(was / (now + 1e-9))


@dataclass(frozen=True)
class L1Ball(Bound):
    """|x - first|_1 <= radius for each row, one radius per name.

    Attributes
    ----------
    radii : tuple of float
        In the order of ``names``.
    per_entry : bool
        Radii are those of the mean over entries instead of the sum.
    """

    radii: tuple[float, ...]
    per_entry: bool = False

    def nearest(self, name: str, x: Tensor, first: Tensor) -> Tensor:
        away = (x - first).flatten(1)
        radius = self.radii[self.names.index(name.split(".")[0])]
        radius *= away.shape[1] if self.per_entry else 1
        return first + onto_l1_ball(away, radius).view_as(x)


def onto_l1_ball(v: Tensor, radius: float) -> Tensor:
    """Return the nearest point to each row of v (R, n) whose entries sum to <= radius in size.

    Duchi et al. 2008, "Efficient projections onto the l1-ball", figure 1.
    """
    size = v.abs()
    mu = size.sort(1, descending=True).values
    excess = mu.cumsum(1) - radius
    count = torch.arange(1, v.shape[1] + 1, device=v.device, dtype=v.dtype)
    rho = (mu * count > excess).sum(1, keepdim=True).clamp_min(1)
    theta = (excess.gather(1, rho - 1) / rho).clamp_min(0)  # 0 inside the ball
    return v.sign() * (size - theta).clamp_min(0)


@dataclass(frozen=True)
class Box(Bound):
    """Every entry within [-most, most]."""

    most: float

    def nearest(self, name: str, x: Tensor, first: Tensor) -> Tensor:
        return x.clamp(-self.most, self.most)


@dataclass(frozen=True)
class Simplex(Bound):
    """Every row a distribution: entries not negative that sum to 1."""

    def nearest(self, name: str, x: Tensor, first: Tensor) -> Tensor:
        return onto_simplex(x)


def onto_simplex(v: Tensor) -> Tensor:
    """Return the nearest distribution to each row of v (R, n); Duchi et al. 2008, figure 1."""
    mu = v.sort(1, descending=True).values
    excess = mu.cumsum(1) - 1
    count = torch.arange(1, v.shape[1] + 1, device=v.device, dtype=v.dtype)
    rho = (mu * count > excess).sum(1, keepdim=True)
    theta = excess.gather(1, rho - 1) / rho
    return (v - theta).clamp_min(0)


@dataclass(frozen=True)
class Auxiliary(Space):
    """A variable that enters the objective but never reaches the generator."""

    name: str

    def initial(self, prior: Prior, start: Variables, at: Moment) -> Variables:
        return {self.name: start[self.name].clone()}

    def decode(self, variables: Variables, start: Variables, at: Moment) -> dict[str, Any]:
        return {}


def inputs_of(latents: Variables) -> dict[str, Any]:
    """Return the prior's inputs for a code by names.

    Names are ``w`` or else ``z`` and ``c`` or ``embedding`` (which goes before ``c``),
    ``noise.k``, ``content``, ``transform``, and for a prior that starts before block k its
    state, ``state.k.0``, ``state.k.1``.
    """
    if "w" in latents:
        inputs: dict[str, Any] = {"ws": latents["w"]}
    else:
        kind = "embedding" if "embedding" in latents else "c"
        inputs = {k: latents[k] for k in ("z", kind) if k in latents}
    if "transform" in latents:
        inputs["transform"] = latents["transform"]
    if noise := _noise(latents):
        inputs["noise"] = noise
    if "content" in latents:
        inputs["content"] = latents["content"]
    return inputs | _state(latents)


def _state(latents: Variables) -> dict[str, Any]:
    parts = sorted(name for name in latents if name.startswith("state."))
    if not parts:
        return {}
    state = tuple(latents[name] for name in parts)
    return {
        "from_block": int(parts[0].split(".")[1]),
        "state": state[0] if len(state) == 1 else state,
    }


def _noise(variables: Variables) -> dict[int, Tensor]:
    return {int(k[6:]): v for k, v in variables.items() if k.startswith("noise.")}


def _standard(x: Tensor) -> Tensor:
    """Shift and scale each row of x to mean 0 and variance 1."""
    x = x - x.mean((1, 2, 3), keepdim=True)
    return x * torch.rsqrt(x.square().mean((1, 2, 3), keepdim=True) + 1e-12)


def take(variables: Variables, rows: Tensor) -> Variables:
    """Return some rows of every variable."""
    return {k: v[rows.to(v.device)] for k, v in variables.items()}


def detach(variables: Variables, grad: bool = False) -> Variables:
    """Return the variables cut from their history, asking for gradients or not."""
    return {k: v.detach().requires_grad_(grad) for k, v in variables.items()}


def join(parts: list[Variables]) -> Variables:
    """Concatenate rows."""
    return {k: torch.cat([part[k] for part in parts]) for k in parts[0]}
