"""Edits: the images of changed latents, with what the generator could not say kept.

A reconstruction is x = G(u) + r, where r is what a correction added to the generated image. An edit
changes u to v. Here and everywhere, the edited image is ::

    x' = G(v) + r

which is not clipped. So to edit and to correct commute: editing a corrected image gives the edit of
the generated image plus the correction. Edits of edits keep the same r. In the same way, where the
latents hold a state s of the features between two blocks, s = F(u) + q, the edited state is
F(v) + q, so that an edit of styles also acts in the blocks before the state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from gprior.checks import InputError, InputTypeError
from gprior.editing.axes import Direction
from gprior.priors import HasContent, HasEmbedding, HasNoise, Prior
from gprior.randomness import in_plain_mode
from gprior.result import Result
from gprior.search import AfterBlock, Variables, inputs_of, take
from gprior.solvers.placement import Transformed

__all__ = ["Edited", "Latents", "edit", "interpolate"]

AT_ONCE = 32
PARALLEL = 1e-6  # sine of the angle below which two latents have one direction


@dataclass(frozen=True, eq=False)
class Edited:
    """Images of changed latents.

    Attributes
    ----------
    x : Tensor
        The images (B, C, H, W): `generated`, and what the correction had added to the image that
        was edited. Nominally in [0, 1], not clamped.
    latents : dict of Tensor
        The code of each image, by the names of ``Result.latents``. It has only what the generator
        receives.
    generated : Tensor
        (B, C, H, W), what the generator makes of `latents`.
    """

    x: Tensor
    latents: dict[str, Tensor]
    generated: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.x)


Latents = Result | Edited | Mapping[str, Tensor] | Tensor


@in_plain_mode
@torch.no_grad()
def edit(
    result: Latents,
    prior: Prior,
    direction: Direction,
    amount: float | Sequence[float] | Tensor = 1.0,
    layers: Sequence[int] | None = None,
) -> Edited:
    """Move the latents of images along a direction.

    Parameters
    ----------
    result : Result, Edited, dict or Tensor
        What to edit: a reconstruction, an earlier edit, or latents by the names of
        ``Result.latents``. A tensor is w if it has three or four dimensions, else z.
    prior : Prior
        The generator of these latents.
    direction : Direction
        Where to move: from `directions`, `class_direction` or `discover`, or your own.
    amount : float or sequence of float
        How far, in units of the direction: one for all, or one per image.
    layers : sequence of int, optional
        For a direction of w: the layers that move, instead of those of the direction.

    Returns
    -------
    Edited
        x is G(edited latents) + (x - G(latents)): what a correction added stays, unclipped.

    Raises
    ------
    InputError
        If the latents lack the input that the direction moves, or a shape does not fit.

    Examples
    --------
    >>> import gprior
    >>> prior = gprior.load_prior("phantom-64")
    >>> w = prior.mapping(prior.draw([(0, "z")]), prior.classes(0, 1))
    >>> other = gprior.editing.class_direction(prior, 0, 1)
    >>> edited = edit({"w": w}, prior, other, amount=0.5, layers=range(4))
    >>> edited.x.shape, bool((edited.latents["w"][:, 4:] == w[:, 4:]).all())
    (torch.Size([1, 1, 64, 64]), True)
    """
    if layers is not None:
        direction = replace(direction, layers=layers)
    code, added = begin("result", result, prior)
    code = _with_input(code, direction.input, prior)
    latents = code[direction.input]
    moved = {
        **code,
        direction.input: direction.moved(latents, _per_image("amount", amount, latents)),
    }
    return rendered(prior, _with_moved_state(prior, code, moved), added)


@in_plain_mode
@torch.no_grad()
def interpolate(
    a: Latents,
    b: Latents,
    prior: Prior,
    t: float | Sequence[float] | Tensor,
    space: str | None = None,
) -> Edited:
    """Return the images between two reconstructions.

    w, class vectors and embeddings, noise maps, content, phase, transforms and states of inner
    layers are interpolated linearly, as in section 4.2 of SPHInX, and so is what the correction
    added. z follows the great circle (White 2016, arXiv:1609.04468), because a mean of two draws of
    N(0, I) is shorter than a draw. t = 0 and t = 1 are exactly the latents of a and of b.

    What one of them lacks is filled with what the generator uses in its place: its constant noise
    maps and content, and the state that its latents produce. If one has w and the other z, z is
    mapped to w.

    Parameters
    ----------
    a, b : Result, Edited, dict or Tensor
        Between what to interpolate, see `edit`. Each pair of images is interpolated for itself.
    prior : Prior
        The generator of the latents.
    t : float or sequence of float
        Where: 0 is a and 1 is b, one for all, or one per image. Other values extrapolate.
    space : {None, "z", "w"}
        The input to interpolate in; None takes z if both have it, else w. "w" maps z to w first.

    Returns
    -------
    Edited
        The images at t.

    Raises
    ------
    InputError
        If a and b differ in number or in shape, or lack the input.

    Examples
    --------
    >>> import gprior
    >>> prior = gprior.load_prior("phantom-64")
    >>> z, c = prior.draw([(0, "z"), (1, "z")]), prior.classes([0, 0], 2)
    >>> a, b = ({"z": z[k : k + 1], "c": c[:1]} for k in range(2))
    >>> middle = interpolate(a, b, prior, 0.5)
    >>> middle.x.shape
    torch.Size([1, 1, 64, 64])
    >>> bool((interpolate(a, b, prior, 1).latents["z"] == z[1:]).all())
    True
    """
    if space not in (None, "z", "w"):
        raise InputError(f"space must be None, 'z' or 'w', got {space!r}")
    (one, added_a), (two, added_b) = begin("a", a, prior), begin("b", b, prior)
    if _count(one) != _count(two):
        raise InputError(f"a and b must have as many images, got {_count(one)} and {_count(two)}")
    kind = space or ("z" if "z" in one and "z" in two else "w")
    one, two = (_with_input(code, kind, prior) for code in (one, two))
    if "embedding" in one or "embedding" in two:
        one, two = (_with_input(code, "embedding", prior) for code in (one, two))
    one, two = _filled(one, two, prior), _filled(two, one, prior)
    ts = _per_image("t", t, one[kind])
    code = {name: _between(name, one[name], two[name], ts) for name in one}
    nothing = prior.like.new_zeros(len(ts), *prior.image_shape)
    before, after = (nothing if added is None else added for added in (added_a, added_b))
    return rendered(prior, code, _line(before, after, ts))


def begin(name: str, given: Latents, prior: Prior) -> tuple[Variables, Tensor | None]:
    """Return the code that reaches the generator, and what a correction added to its images."""
    added = None
    if isinstance(given, (Result, Edited)):
        if isinstance(given, Result) and given.restarts is not None:
            raise InputError(f"{name} has all restarts of each image; pass its best()")
        if (
            isinstance(given, Result)
            and given.weights is not None
            and given.weights.prior == prior.digest()
        ):
            raise InputError(
                f"{name} was made by tuned generators, and prior is the one before tuning; take "
                "one image i, and pass result.weights.generator(prior, i) as its prior"
            )
        if tuple(given.x.shape[1:]) != prior.image_shape:
            raise InputError(
                f"{name} has images of shape {tuple(given.x.shape[1:])}, but the prior makes "
                f"{prior.image_shape}; pass the prior that made them"
            )
        added, latents = (given.x - given.generated).to(prior.like), given.latents
    elif isinstance(given, Tensor):
        latents = {"w" if given.ndim > 2 else "z": given}
    elif isinstance(given, Mapping):
        latents = dict(given)
    else:
        raise InputTypeError(
            f"{name} must be a Result, an Edited, or latents, got {type(given).__name__}"
        )
    if not {"w", "z"} & set(latents):
        raise InputError(f"{name} must have latents 'w' or 'z', got {sorted(latents)}")
    kinds = {"w"} if "w" in latents else {"z", "embedding" if "embedding" in latents else "c"}
    kinds |= {"transform", "content", "phase"}
    parts = ("noise.", "state.")
    code = {
        k: v.detach().to(prior.like)
        for k, v in latents.items()
        if k in kinds or k.startswith(parts)
    }
    if len({len(v) for v in code.values()}) > 1:
        sizes = {k: len(v) for k, v in code.items()}
        raise InputError(f"{name} must have one of each latent for every image, got {sizes}")
    return code, added


def _count(code: Variables) -> int:
    return len(next(iter(code.values())))


def _with_input(code: Variables, kind: str, prior: Prior) -> Variables:
    """Return the code in terms of an input: z mapped to w, c to its embedding."""
    if kind in code:
        return code
    if kind == "w" and "w" in prior.inputs and "z" in code:
        others = {k: v for k, v in code.items() if k not in ("z", "c")}
        return {**others, "w": prior.mapping(code["z"], code.get("c")).clone()}
    if kind == "embedding" and kind in prior.inputs and "c" in code:
        others = {k: v for k, v in code.items() if k != "c"}
        return {**others, kind: cast(HasEmbedding, prior).embed(code["c"])}
    raise InputError(
        f"{kind!r} is to be changed, but the images have the latents {sorted(code)}; choose a "
        "direction or a space of these"
    )


def _filled(code: Variables, other: Variables, prior: Prior) -> Variables:
    """Return the code with what it lacks of the other one's inputs, as the generator fills it."""
    n, filled = _count(code), dict(code)
    for name in other:
        if name in code or name.startswith("state."):
            continue
        if name.startswith("noise."):
            constant = cast(HasNoise, prior).noise_maps()[int(name[6:])]
            filled[name] = constant.expand(n, -1, -1, -1)
        elif name == "content":
            filled[name] = cast(HasContent, prior).const.expand(n, -1, -1, -1)
        elif name in ("phase", "transform"):
            filled[name] = torch.zeros_like(other[name])
    block = _block(other)
    if block is not None and _block(code) is None:
        filled |= _state(prior, filled, block)
    shapes = [
        {k: tuple(v.shape) for k, v in part.items() if k in other} for part in (filled, other)
    ]
    if shapes[0] != shapes[1]:
        raise InputError(f"a and b must have the same latents, got {shapes[0]} and {shapes[1]}")
    return filled


def _with_moved_state(prior: Prior, before: Variables, after: Variables) -> Variables:
    """Return the code ``after``, its state moved as the state of the generator moves."""
    block = _block(after)
    if block is None:
        return after
    old, new = (_state(prior, code, block) for code in (before, after))
    return {**after, **{name: after[name] + (new[name] - old[name]) for name in new}}


def _block(code: Variables) -> int | None:
    """Return the block before which the code has a state, or None."""
    return next((int(name.split(".")[1]) for name in code if name.startswith("state.")), None)


def _state(prior: Prior, code: Variables, block: int) -> Variables:
    """Return what the generator itself makes of a code before a block."""
    bare = {k: v for k, v in code.items() if not k.startswith("state.")}
    bare = _with_input(bare, "w", prior) if "w" in prior.inputs else bare
    entered = AfterBlock(block).enter(prior, bare)
    return {name: v for name, v in entered.items() if name.startswith("state.")}


def rendered(prior: Prior, code: Variables, added: Tensor | None) -> Edited:
    """Return the images of a code, with what the correction had added."""
    if "transform" in code:
        prior = Transformed(prior)
    rows = torch.arange(_count(code), device="cpu").split(AT_ONCE)  # type: ignore[no-untyped-call]
    x = torch.cat([prior(**inputs_of(take(code, part))) for part in rows])
    return Edited(x if added is None else x + added, code, x)


def _per_image(name: str, value: float | Sequence[float] | Tensor, latents: Tensor) -> Tensor:
    """Return one number for each image, (B,), in the dtype of the latents."""
    try:
        numbers = torch.as_tensor(value, dtype=torch.float64, device="cpu").to(latents)
    except (TypeError, ValueError, RuntimeError):
        raise InputTypeError(f"{name} must be a number or one per image, got {value!r}") from None
    B = len(latents)
    if numbers.shape not in ((), (1,), (B,)) or not bool(numbers.isfinite().all()):
        raise InputError(f"{name} must be a finite number or one per image ({B}), got {value!r}")
    return numbers.expand(B)


def _between(name: str, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Return what is at t (B,) between a and b (B, ...)."""
    return _arc(a, b, t) if name == "z" else _line(a, b, t)


def _line(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    return torch.lerp(a, b, t.view(-1, *[1] * (a.ndim - 1)))


def _arc(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Return the spherical interpolation; exactly a for t = 0 and b for t = 1."""
    u, v = (x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True) for x in (a, b))
    angle = 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))
    sine, ones = angle.sin(), [1] * (a.ndim - 1)
    by_a, by_b = (((w * angle).sin() / sine).view(-1, *ones) for w in (1 - t, t))
    arc = by_a * a + by_b * b
    return torch.where((sine > PARALLEL).view(-1, *ones), arc, _line(a, b, t))  # False for NaN
