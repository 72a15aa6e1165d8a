"""The one population loop: an outer sampler with ask and tell around the gradient loop.

A row is a problem, as everywhere; here it has P members. The sampler proposes an outer
variable of each (a latent, a transform), a *trial* makes the most of it (gradient steps
over an inner space, under an objective of its own) and reports an `Outcome` under the
objective that counts, and the sampler learns from that. Populations of different rows never
meet; all their members go through the generator together.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from gprior.checks import InputError
from gprior.problem import Problem, entries
from gprior.randomness import normal
from gprior.search.evolution import Sampler
from gprior.search.loop import Outcome, Watch
from gprior.search.space import Variables, take

__all__ = ["Flock", "Trial", "Vary", "evolve", "redraw"]

Trial = Callable[[Problem, Variables, Watch], Outcome]
Vary = Callable[[Tensor, Variables, Tensor], Variables]


class Flock:
    """What a search over populations keeps of each row: its best, its elites, its history.

    Parameters
    ----------
    problem : Problem
        R rows.
    start : dict
        Where they start (R, ...).
    columns : int
        Steps of the whole search, the length of the history; 0 for none.
    at_once : int
        Members through the generator at once.
    watch : Watch
        Progress; its ``look`` is called with the best of the members that went through the
        generator together.
    keep : int
        Elites of each row: the points of least loss of all generations.

    Attributes
    ----------
    rows : Tensor
        Numbers of the rows that have not stopped.
    elites : Outcome or None
        Of those, ``count`` for each.
    """

    def __init__(
        self,
        problem: Problem,
        start: Variables,
        columns: int,
        at_once: int,
        watch: Watch,
        keep: int = 0,
    ) -> None:
        R, like = len(problem), problem.prior.like
        self.problem, self.start, self.at_once, self.watch = problem, start, at_once, watch
        self.rows = torch.arange(R, device=problem.image.device)
        self.history = torch.full((R, columns), torch.nan, dtype=like.dtype, device="cpu")
        self.spent = torch.zeros(R, dtype=torch.float64, device="cpu")
        self.average = torch.full((R,), torch.nan, dtype=like.dtype, device=like.device)
        self.reason = ["steps"] * R
        self.done, self.keep, self.count = 0, keep, 0
        self.best: Outcome | None = None
        self.elites: Outcome | None = None

    def attempt(
        self, members: Tensor, begin: Variables, trial: Trial, last: bool = False
    ) -> Outcome:
        """Run the trial of each member, given by the number of its row.

        Before the ``last`` generation no choice between iterates sees held-out entries.
        """
        P = len(members) // len(self.rows)
        whole = self.at_once // P * P or self.at_once  # members of a row together, if they fit
        problem, parts = replace(self.problem, maps=None, blind=not last), []
        for at in torch.arange(len(members), device=members.device).split(whole):  # type: ignore[no-untyped-call]
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*met a non-finite value")  # see `finish`
                watch = self._watch(members[at], P)
                part = trial(problem.take(members[at]).prepared(), take(begin, at), watch)
            parts.append(part)
        return Outcome.join(parts)

    def _watch(self, members: Tensor, P: int) -> Watch:
        """Return who looks on at these members: the callback sees the best of each row."""
        look = self.watch.look
        if look is None:
            return Watch(lambda n: self.watch.tick(n / P))

        def best(step: int, at: Tensor, loss: Tensor, image: Tensor) -> None:
            first: dict[int, int] = {}
            for k in loss.nan_to_num(torch.inf).argsort(stable=True).tolist():
                first.setdefault(int(members[at[k]]), k)
            chosen = torch.tensor([first[row] for row in sorted(first)], device=loss.device)
            look(self.done + step, members[at[chosen]], loss[chosen], image[chosen])

        return Watch(lambda n: self.watch.tick(n / P), best)

    def record(self, outcome: Outcome, last: bool = False) -> Tensor:
        """Keep what is worth it of a generation, and return which rows go on, (r,) numbers.

        The candidate of a row is its best member, and its history that of the row.
        """
        r = len(self.rows)
        P = len(outcome.loss) // r
        table = outcome.criterion.nan_to_num(torch.inf, torch.inf).view(r, P)
        first = torch.arange(r, device=table.device) * P
        found = outcome.take(first + table.argmin(1))
        found = replace(found, criterion=self._criterion(found))
        width = max(found.history.shape[1], 1)
        segment = found.history if found.history.shape[1] else found.loss[:, None]
        if self.history.shape[1]:
            self.history[self.rows.cpu(), self.done : self.done + width] = segment.cpu()
        if not found.history.shape[1]:
            self.watch.tick(r)
            if self.watch.look is not None:
                self.watch.look(self.done, self.rows, found.loss, found.image)
        self.done += width
        finite = torch.where(outcome.loss.isfinite(), outcome.loss, torch.nan)
        self.average[self.rows] = finite.view(r, P).nanmean(1)
        self.spent[self.rows.cpu()] += outcome.evaluations.view(r, P).sum(1)
        self._choose(found)
        if self.keep and not last:
            self._collect(outcome, r, P)
        pairs = zip(outcome.loss.isfinite().tolist(), outcome.reason, strict=True)
        sound = [ok and why != "non-finite" for ok, why in pairs]
        return self._leave(found, [any(sound[k : k + P]) for k in range(0, r * P, P)])

    def _criterion(self, found: Outcome) -> Tensor:
        """Return what the rule of each row compares, held-out entries included."""
        own = self.problem.take(self.rows)
        if not bool((entries(own.held) > 0).any()):
            return found.criterion
        return own.criterion(own.measure(found.image), found.loss)

    def _choose(self, found: Outcome) -> None:
        found = replace(found, history=found.history[:, :0])
        if self.best is None:
            self.best = found
            return
        R = len(self.best.loss)
        was = self.best.criterion[self.rows].nan_to_num(torch.inf)
        better = (found.criterion < was) & found.loss.isfinite()
        index = torch.arange(R, device=self.rows.device)
        index[self.rows[better]] = R + better.nonzero()[:, 0]
        self.best = Outcome.join([self.best, found]).take(index)

    def _collect(self, outcome: Outcome, r: int, P: int) -> None:
        """Keep the points of least loss, of the elites so far and this generation."""
        device = outcome.loss.device
        outcome = replace(outcome, history=outcome.history[:, :0])
        both = outcome if self.elites is None else Outcome.join([self.elites, outcome])
        old = torch.arange(r * self.count, device=device).view(r, self.count)
        new = r * self.count + torch.arange(r * P, device=device).view(r, P)
        at = torch.cat([old, new], 1)
        self.count = min(self.keep, at.shape[1])
        loss = both.loss[at].nan_to_num(torch.inf, torch.inf)
        order = loss.argsort(dim=1, stable=True)[:, : self.count]
        self.elites = both.take(at.gather(1, order).flatten())

    def _leave(self, found: Outcome, sound: list[bool]) -> Tensor:
        """Let rows go that are at the noise level, or have no sound member."""
        stay = []
        for k, row in enumerate(self.rows.tolist()):
            if found.reason[k] == "discrepancy":
                self.reason[row] = "discrepancy"
            elif not sound[k]:
                self.reason[row] = "non-finite"
            else:
                stay.append(k)
        staying = torch.tensor(stay, dtype=torch.long, device=self.rows.device)
        self.rows = self.rows[staying]
        if self.elites is not None and self.count:
            offsets = torch.arange(self.count, device=self.rows.device)
            at = staying[:, None] * self.count + offsets
            self.elites = self.elites.take(at.flatten())
        return staying

    def finish(self) -> Outcome:
        """Return the best point of each row with all that its search spent."""
        if self.best is None:
            raise InputError("nothing was searched: steps must be positive in one stage at least")
        lost = self.reason.count("non-finite")
        if lost:
            warnings.warn(
                f"{lost} of {len(self.reason)} rows met a non-finite value in every member and "
                "returned their best point until then; a smaller lr usually prevents it",
                RuntimeWarning,
                stacklevel=2,
            )
        start = {**self.best.start, **{k: v for k, v in self.best.code.items() if k == "c"}}
        return replace(
            self.best,
            history=self.history,
            evaluations=self.spent,
            reason=self.reason,
            start=start,
            diagnostics={**self.best.diagnostics, "average_loss": self.average},
        )


def evolve(
    flock: Flock,
    sampler: Sampler,
    members: int,
    trial: Trial,
    vary: Vary,
    generations: int,
    outer: str = "z",
    told: str = "optimised",
    learned: Callable[[Tensor, Outcome], None] | None = None,
) -> Sampler:
    """Run some generations: sample, try, score, learn.

    Parameters
    ----------
    flock : Flock
        The rows, and what is kept of them.
    sampler : Sampler
        One distribution for each running row.
    members : int
        P of each row.
    trial : callable
        (problem, start, watch) -> `Outcome` of as many rows, under the objective that counts.
    vary : callable
        (row of each member, start, points) -> start with the points in it.
    generations : int
        How many.
    outer : str
        Name of the sampled variable in starting points and codes; of the draws, too.
    told : {"optimised", "sampled"}
        Whether the sampler learns where a member ended or where it began, with the loss at
        the end in both cases.
    learned : callable, optional
        (running rows, outcome) -> ignored, after each generation.

    Returns
    -------
    Sampler
        The distributions of the rows that still run.
    """
    for g in range(generations):
        if not len(flock.rows):
            break
        begin = _drawn(flock, sampler, members, vary, outer, g)
        outcome = flock.attempt(flock.rows.repeat_interleave(members), begin, trial)
        r, ended = len(flock.rows), told == "optimised"
        points = (outcome.code if ended else begin)[outer].reshape(r, members, -1)
        sampler.tell(points, outcome.loss.view(r, members), injected=ended)
        if learned is not None:
            learned(flock.rows, outcome)
        sampler = sampler.take(flock.record(outcome))
    return sampler


def redraw(flock: Flock, sampler: Sampler, members: int, vary: Vary, outer: str = "z") -> Variables:
    """Return a last population from the sampler's distributions."""
    return _drawn(flock, sampler, members, vary, outer, -1)


def _drawn(
    flock: Flock, sampler: Sampler, members: int, vary: Vary, outer: str, g: int
) -> Variables:
    own = flock.problem.take(flock.rows)
    shape = (members, sampler.mean.shape[1])
    numbers = normal(own.draw_keys(f"population-{outer}", g), shape, flock.problem.prior.like)
    points = sampler.ask(numbers).flatten(0, 1)
    at = flock.rows.repeat_interleave(members)
    return vary(at, take(flock.start, at), points)
