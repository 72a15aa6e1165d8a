"""The one population loop: an outer sampler around the gradient loop.

A row is a problem, as everywhere; here it has P members. In each generation the sampler proposes
an outer variable of each member (a latent, a transform). A *trial* makes the most of it, by
gradient steps over an inner space under an objective of its own, and reports an `Outcome` under
the objective that counts. The sampler learns from that. Populations of different rows never meet;
all their members go through the generator together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from gprior.checks import InputError
from gprior.problem import Problem
from gprior.randomness import normal
from gprior.search.evolution import Sampler
from gprior.search.loop import Outcome, Watch
from gprior.search.record import NON_FINITE, Record
from gprior.search.rows import Variables, take

__all__ = ["Insert", "PopulationSearch", "Trial", "evolve", "sample_members"]

Trial = Callable[[Problem, Variables, Watch], Outcome]
# (row of each member, its starting point, sampled points) -> starting points with these in them
Insert = Callable[[Tensor, Variables, Tensor], Variables]


class PopulationSearch:
    """A search over populations: its rows, their record and their elites.

    Parameters
    ----------
    problem : Problem
        R rows.
    start : dict
        Where they start (R, ...).
    members : int
        Members of a row in the largest population.
    columns : int
        Steps of the whole search, the length of the history; 0 keeps no history.
    at_once : int
        Members through the generator at once.
    watch : Watch
        Progress; its callback sees the best of the members that went through the generator
        together.
    keep : int
        Number of elites of each row: the points of least loss of all generations.

    Attributes
    ----------
    record : Record
        Best outcome, history, reason and evaluations of each row.
    elites : Outcome or None
        Those of the running rows, ``elite_count`` of each.
    """

    def __init__(
        self,
        problem: Problem,
        start: Variables,
        members: int,
        columns: int,
        at_once: int,
        watch: Watch,
        keep: int = 0,
    ) -> None:
        like = problem.prior.like
        self.problem, self.start, self.at_once, self.watch = problem, start, at_once, watch
        self.record = Record(len(problem), columns, like)
        self.losses = like.new_full((len(problem), members), torch.nan)  # of the last population
        self.steps, self.keep, self.elite_count = 0, keep, 0
        self.elites: Outcome | None = None

    @property
    def rows(self) -> Tensor:
        """Numbers of the rows that have not stopped, (r,)."""
        return self.record.running

    def attempt(
        self, members: Tensor, starts: Variables, trial: Trial, last: bool = False
    ) -> Outcome:
        """Run the trial of each member, given by the number of its row.

        Before the ``last`` generation no choice between iterates sees held-out entries.
        """
        P = len(members) // len(self.rows)
        together = self.at_once // P * P or self.at_once  # all members of a row, if they fit
        problem = self.problem if last else self.problem.without_held_out()
        problem, parts = replace(problem, maps=None), []
        for places in torch.arange(len(members), device=members.device).split(together):  # type: ignore[no-untyped-call]
            rows = problem.take(members[places]).prepared()
            parts.append(trial(rows, take(starts, places), self._watch(members[places], P)))
        return Outcome.join(parts)

    def _watch(self, members: Tensor, P: int) -> Watch:
        """Return who follows these members: the callback sees the best member of each row."""
        callback = self.watch.callback
        if callback is None:
            return Watch(lambda n: self.watch.progress(n / P))

        def best_of_rows(step: int, at: Tensor, loss: Tensor, image: Tensor) -> object:
            first: dict[int, int] = {}
            for k in loss.nan_to_num(torch.inf).argsort(stable=True).tolist():
                first.setdefault(int(members[at[k]]), k)
            best = torch.tensor([first[row] for row in sorted(first)], device=loss.device)
            return callback(self.steps + step, members[at[best]], loss[best], image[best])

        return Watch(lambda n: self.watch.progress(n / P), best_of_rows)

    def keep_generation(self, outcome: Outcome, last: bool = False) -> Tensor:
        """Record a generation, and return which rows go on, (r,) places.

        The candidate of a row is its best member; its history becomes that of the row.
        """
        r, go_on = len(self.rows), True
        P = len(outcome.loss) // r
        table = outcome.criterion.nan_to_num(torch.inf, torch.inf).view(r, P)
        first = torch.arange(r, device=table.device) * P
        best = outcome.take(first + table.argmin(1))
        best = replace(best, criterion=self._criterion(best))
        losses = best.history if best.history.shape[1] else best.loss[:, None]
        if self.record.history.shape[1]:
            self.record.write(self.steps, losses)
        if not best.history.shape[1]:
            self.watch.progress(r)
            go_on = self.watch.after(self.steps, self.rows, best.loss, best.image)
        self.steps += losses.shape[1]
        finite = torch.where(outcome.loss.isfinite(), outcome.loss, torch.nan)
        self.losses[self.rows] = torch.nan
        self.losses[self.rows, :P] = finite.view(r, P).sort(1).values
        self.record.spend(outcome.evaluations.view(r, P).sum(1))
        best = replace(best, history=best.history[:, :0])
        self.record.keep(best.rows(), best.criterion, best.loss)
        if self.keep and not last:
            self._keep_elites(outcome, r, P)
        return self._stop(outcome, best, P, go_on)

    def _criterion(self, best: Outcome) -> Tensor:
        """Return what the rule of each row compares, held-out entries included."""
        rows = self.problem.take(self.rows)
        if rows.rules == rows.without_held_out().rules:
            return best.criterion
        return rows.criterion(rows.measure(best.image), best.loss)

    def _keep_elites(self, outcome: Outcome, r: int, P: int) -> None:
        """Keep the points of least loss, of the elites so far and this generation."""
        device = outcome.loss.device
        outcome = replace(outcome, history=outcome.history[:, :0])
        both = outcome if self.elites is None else Outcome.join([self.elites, outcome])
        old = torch.arange(r * self.elite_count, device=device).view(r, self.elite_count)
        new = r * self.elite_count + torch.arange(r * P, device=device).view(r, P)
        at = torch.cat([old, new], 1)
        self.elite_count = min(self.keep, at.shape[1])
        loss = both.loss[at].nan_to_num(torch.inf, torch.inf)
        order = loss.argsort(dim=1, stable=True)[:, : self.elite_count]
        self.elites = both.take(at.gather(1, order).flatten())

    def _stop(self, outcome: Outcome, best: Outcome, P: int, go_on: bool) -> Tensor:
        """Stop the rows that are at the noise level, have no sound member, or were stopped."""
        pairs = zip(outcome.loss.isfinite().tolist(), outcome.reason, strict=True)
        sound = [ok and why != NON_FINITE for ok, why in pairs]
        reasons: list[str | None] = []
        for k, why in enumerate(best.reason):
            members = slice(k * P, (k + 1) * P)
            if why == "discrepancy":
                reasons.append(why)
            elif not any(sound[members]):
                reasons.append(NON_FINITE)
            else:
                stopped = not go_on or "callback" in outcome.reason[members]
                reasons.append("callback" if stopped else None)
        places = self.record.stop(reasons)
        if self.elites is not None and self.elite_count:
            offsets = torch.arange(self.elite_count, device=places.device)
            at = places[:, None] * self.elite_count + offsets
            self.elites = self.elites.take(at.flatten())
        return places

    def finish(self) -> Outcome:
        """Return the best point of each row with all that its search spent."""
        if self.record.best is None:
            raise InputError("steps must be positive in one stage at least: nothing was searched")
        best = Outcome(**self.record.best)
        start = {**best.start, **{k: v for k, v in best.code.items() if k == "c"}}
        return replace(
            best,
            history=self.record.history,
            evaluations=self.record.evaluations,
            reason=self.record.reason,
            start=start,
            diagnostics={
                **best.diagnostics,
                "average_loss": self.losses.nanmean(1),
                "member_losses": self.losses,
            },
        )


def evolve(
    search: PopulationSearch,
    sampler: Sampler,
    members: int,
    trial: Trial,
    insert: Insert,
    generations: int,
    outer: str = "z",
    learn_from: str = "optimised",
    after: Callable[[Tensor, Outcome], None] | None = None,
) -> Sampler:
    """Run some generations: sample, try, learn.

    Parameters
    ----------
    search : PopulationSearch
        The rows, and what is kept of them.
    sampler : Sampler
        One distribution for each running row.
    members : int
        P of each row.
    trial : callable
        (problem, start, watch) -> `Outcome` of as many rows, under the objective that counts.
    insert : callable
        (row of each member, start, points) -> start with the points in it.
    generations : int
        Number of generations.
    outer : str
        Name of the sampled variable in starting points and codes, and of the draws.
    learn_from : {"optimised", "sampled"}
        Whether the sampler learns from where a member ended or from where it began. The value is
        the loss at the end in both cases.
    after : callable, optional
        Called with (running rows, outcome) after each generation.

    Returns
    -------
    Sampler
        The distributions of the rows that still run.
    """
    for g in range(generations):
        if not len(search.rows):
            break
        starts = sample_members(search, sampler, members, insert, outer, g)
        outcome = search.attempt(search.rows.repeat_interleave(members), starts, trial)
        r, ended = len(search.rows), learn_from == "optimised"
        points = (outcome.code if ended else starts)[outer].reshape(r, members, -1)
        sampler.tell(points, outcome.loss.view(r, members), injected=ended)
        if after is not None:
            after(search.rows, outcome)
        sampler = sampler.take(search.keep_generation(outcome))
    return sampler


def sample_members(
    search: PopulationSearch,
    sampler: Sampler,
    members: int,
    insert: Insert,
    outer: str = "z",
    generation: int = -1,
) -> Variables:
    """Return starting points of a population drawn from the sampler's distributions.

    Parameters
    ----------
    search, sampler, members, insert, outer
        As for `evolve`.
    generation : int
        Number of the generation, for the keys of the draws; -1 is the last population.

    Returns
    -------
    dict
        Starting points of r * members rows, the members of a row side by side.
    """
    rows = search.problem.take(search.rows)
    shape = (members, sampler.mean.shape[1])
    keys = rows.draw_keys(f"population-{outer}", generation)
    points = sampler.ask(normal(keys, shape, search.problem.prior.like)).flatten(0, 1)
    at = search.rows.repeat_interleave(members)
    return insert(at, take(search.start, at), points)
