"""What a space is: variables, and how they become inputs of the generator.

A space is stateless. Its variables are a dictionary of tensors (R, ...) with one row per problem.
From variables to an image there is one road::

    variables -- draw or finish --> code -- inputs_of --> inputs -- prior --> image

A *code* is what a result keeps as ``latents``: tensors by the names that `inputs_of` knows.
``finish`` makes the code that is returned. A space that draws random numbers in each step
overrides ``draw``, which makes the code that the step looks at. Spaces combine with ``&``. What a
space has to remember, such as the centre of a ball, is in ``start``: the loop keeps the initial
variables there, under ``"first."`` and their name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gprior.priors import Prior
from gprior.search.rows import Variables

__all__ = ["Product", "Space", "Step", "inputs_of"]


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a search.

    Attributes
    ----------
    t : float
        Fraction of the run in [0, 1]; 1 where the returned code is evaluated.
    draw : callable
        (name, shape) -> standard normal numbers ``(R, *shape)``. They depend on each row's key,
        the name and the number of the step alone.
    fixed : callable
        The same, but equal in every step.
    """

    t: float
    draw: Callable[[str, Sequence[int]], Tensor]
    fixed: Callable[[str, Sequence[int]], Tensor]


class Space:
    """A set of variables and their decoding.

    Attributes
    ----------
    needs : frozenset of str
        Names of the prior's inputs that the space sets.
    entry : float
        Evaluations that `enter` takes.
    from_z : bool
        Whether the space starts from ``z`` alone, whatever ``w`` is.
    bounded : bool
        Whether `project` moves variables: such a space needs projected steps.
    """

    needs: frozenset[str] = frozenset()
    entry: float = 0.0
    from_z: bool = False
    bounded: bool = False

    def enter(self, prior: Prior, start: Variables) -> Variables:
        """Return the starting point with what the space adds to it; here nothing."""
        return start

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        """Return the variables at a starting point with entries ``z``, ``w`` (and ``c``)."""
        raise NotImplementedError

    def finish(self, variables: Variables, start: Variables, step: Step) -> Variables:
        """Return the code to keep. ``start`` holds what is not searched, such as the class c."""
        return variables

    def draw(self, variables: Variables, start: Variables, step: Step) -> Variables:
        """Return the code that a step looks at; here the one to keep."""
        return self.finish(variables, start, step)

    def draws(self, t: float) -> bool:
        """Return whether `draw` differs from `finish` at the fraction t of the run."""
        return False

    def decode(self, variables: Variables, start: Variables, step: Step) -> dict[str, Any]:
        """Return the prior's inputs for the code that a step looks at."""
        return inputs_of(self.draw(variables, start, step))

    def project(self, variables: Variables, start: Variables, t: float) -> Variables:
        """Return the nearest variables in the method's set; here every point is in it."""
        return variables

    def diagnose(self, variables: Variables, code: Variables, step: Step) -> Variables:
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

    @property
    def bounded(self) -> bool:  # type: ignore[override]
        """Whether one of the parts is bounded."""
        return any(part.bounded for part in self.parts)

    def enter(self, prior: Prior, start: Variables) -> Variables:
        for part in self.parts:
            start = part.enter(prior, start)
        return start

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        return {k: v for part in self.parts for k, v in part.initial(prior, start, step).items()}

    def finish(self, variables: Variables, start: Variables, step: Step) -> Variables:
        for part in self.parts:
            variables = part.finish(variables, start, step)
        return variables

    def draw(self, variables: Variables, start: Variables, step: Step) -> Variables:
        for part in self.parts:
            variables = part.draw(variables, start, step)
        return variables

    def draws(self, t: float) -> bool:
        return any(part.draws(t) for part in self.parts)

    def project(self, variables: Variables, start: Variables, t: float) -> Variables:
        for part in self.parts:
            variables = part.project(variables, start, t)
        return variables

    def diagnose(self, variables: Variables, code: Variables, step: Step) -> Variables:
        parts = [part.diagnose(variables, code, step) for part in self.parts]
        return {k: v for part in parts for k, v in part.items()}


def inputs_of(code: Variables) -> dict[str, Any]:
    """Return the prior's inputs for a code.

    Names of a code are ``w``, or else ``z`` and ``c`` or ``embedding`` (which goes before ``c``);
    ``noise.k``, ``content``, ``transform``, ``phase``; for a prior that starts before block k its
    state, ``state.k.0``, ``state.k.1``; and for one that is tuned the differences of its weights,
    ``weights.<name>``. Other names are ignored.

    Parameters
    ----------
    code : dict of Tensor
        Each (B, ...), such as ``Result.latents``.

    Returns
    -------
    dict
        Keyword arguments of the prior.
    """
    if "w" in code:
        inputs: dict[str, Any] = {"ws": code["w"]}
    else:
        kind = "embedding" if "embedding" in code else "c"
        inputs = {k: code[k] for k in ("z", kind) if k in code}
    inputs |= {k: code[k] for k in ("transform", "content", "phase") if k in code}
    if noise := {int(k[6:]): v for k, v in code.items() if k.startswith("noise.")}:
        inputs["noise"] = noise
    if parts := sorted(name for name in code if name.startswith("state.")):
        state = tuple(code[name] for name in parts)
        inputs["from_block"] = int(parts[0].split(".")[1])
        inputs["state"] = state[0] if len(state) == 1 else state
    if weights := {k[8:]: v for k, v in code.items() if k.startswith("weights.")}:
        inputs["weights"] = weights
    return inputs
