"""The search for an image in the range of the mapping network, from one that is near to it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gprior.problem import Problem, entries
from gprior.search import (
    Outcome,
    Target,
    ThroughStyles,
    Watch,
    copy,
    descend,
    latents_of_z,
    nearest,
    put,
    response,
    take,
    trust,
)

__all__ = ["IN_RANGE", "search_in_range"]

IN_RANGE = "in range"  # in the diagnostics: whether the image was found
TRUSTED = 0.3  # trust in an image, from which on the search begins
FOUND = 0.25  # trust in what the search reaches, from which on it has found the image
# The search is given up where it reaches less than this in the first round, or does not get better
# by this factor in a later one.
HOPELESS, BETTER = 0.05, 1.1
STEPS = 4  # with the same curvature: a round
DONE = 0.1  # predicted fall of J below which the search has converged
ROUNDS = 6  # at most; with fewer than two, the search does not begin


@torch.no_grad()
def search_in_range(
    problem: Problem, outcome: Outcome, belief: Tensor, steps: int, at_once: int, watch: Watch
) -> tuple[Outcome, Tensor, Tensor]:
    """Look for the images that are trusted by Gauss-Newton steps in z.

    It begins at the z whose style is nearest to the mean style of the layers. The noise level
    follows the residual, see `gprior.search.gauss_newton`.

    Parameters
    ----------
    problem : Problem
        R rows.
    outcome : Outcome
        Of a search of the styles, or of z where there are none.
    belief : Tensor
        How far each row is trusted after it, (R,).
    steps : int
        Evaluations that each row may cost.
    at_once : int
        Rows through the generator at once.
    watch : Watch
        Progress and callback. A step is a round.

    Returns
    -------
    outcome : Outcome
        With the latents that were found, and the evaluations. ``diagnostics["in range"]`` is 1
        where the image was found, else 0.
    belief : Tensor
        (R,), not less than before.
    left : Tensor
        Steps that each row may still take, (R,) on the CPU: 0 where its image was found.
    """
    prior, left = problem.prior, torch.full((len(problem),), steps, device="cpu")
    in_range = torch.zeros_like(belief)
    outcome = replace(outcome, diagnostics={**outcome.diagnostics, IN_RANGE: in_range})
    # Noise does not mislead this search, so it is also for rows that came near enough to y.
    going = [why in ("steps", "discrepancy") for why in outcome.reason]
    trusted = (belief >= TRUSTED) & torch.tensor(going, device=belief.device)
    rows = trusted.nonzero()[:, 0]
    if "phase" in prior.inputs or not len(rows):
        return outcome, belief, left
    latents, start = latents_of_z(prior), take({**outcome.start, **outcome.code}, rows)
    styled = isinstance(latents, ThroughStyles)
    if styled != ("w" in outcome.code):
        return outcome, belief, left
    code = start["w"].mean(1) if styled else start["z"]
    start["z"] = zero = torch.zeros_like(prior.draw([(0, "z")] * len(rows)))
    price = (code.shape[1] + 1) / 3 + STEPS * 4 / 3  # of a round, in evaluations
    rounds = min(ROUNDS, int((steps - 1) / price))
    if rounds < 2:
        return outcome, belief, left
    part = problem.take(rows)
    target = Target(part, latents, start, zero, torch.ones_like(zero), at_once)
    units, reached = response(part), torch.zeros_like(belief[rows])
    used = torch.zeros(len(rows), dtype=torch.float64, device="cpu")  # rounds

    def after(number: int, live: Tensor, u: Tensor, square: Tensor) -> Tensor:
        used[live.cpu()] += 1
        watch.progress(price * len(live))
        some, before = part.take(live), reached[live]
        now = trust(some, square.sqrt(), some.fit, units[live])
        reached[live] = now
        least = BETTER * before if number else torch.full_like(now, HOPELESS)
        on = (now >= FOUND) | (now >= least)
        if watch.callback is not None:
            m, variance = entries(some.fit), square + some.noise_std.square()
            loss = m / 2 * variance.log() + 0.5 * u.square().sum(1)
            own = target.take(live)
            step = outcome.history.shape[1] + number
            on &= watch.after(step, rows[live], loss, own.images(own.code(u)))
        return on

    each = torch.arange(len(rows), device=rows.device)
    found = descend(
        target, nearest(target, code), each, rounds, STEPS, follow=True, done=DONE, after=after
    )
    good = (reached >= FOUND).nonzero()[:, 0]
    in_range[rows[good]] = 1
    changed = copy(outcome.code)
    u = found.u[good]
    new = latents.inputs(target.take(good).code(u), {})["ws"] if styled else u
    put(changed, rows[good], {**take(start, good), "w" if styled else "z": new})
    spent = outcome.evaluations.clone()
    spent[rows.cpu()] += found.evaluations
    left[rows.cpu()] -= (1 + used * price).ceil().long()
    left[rows[good].cpu()] = 0
    watch.progress(float((steps - used * price)[good.cpu()].sum()))
    belief = belief.clone()
    belief[rows[good]] = torch.maximum(belief[rows], reached)[good]
    return replace(outcome, code=changed, evaluations=spent), belief, left
