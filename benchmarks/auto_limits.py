"""What limits the default method: ``python benchmarks/auto_limits.py``.

``auto`` on the twelve problems and 30 images of ``benchmarks/default.py``, and what it could reach
if it knew the truth: with the best prior weight a and strength λ of a grid for its generated image,
and with the best image that it saw during the search.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from cells import PRIOR, Cell, Results, Table, main, operator, scored, truth
from default import DOMAINS, OPERATORS, part
from torch import Tensor

import gprior
from gprior.distances import scores
from gprior.problem import build_problem, root_mean_square
from gprior.search import observed
from gprior.search.correction import STEPS, usual_strength
from gprior.search.linear import LinearRows
from gprior.search.tv import minimise_tv

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the usual λ


@dataclass(frozen=True)
class Problem:
    """One problem with the images of all domains."""

    operator: str
    images: int
    budget: int

    @property
    def key(self) -> str:
        """The name in the file of results."""
        return f"{self.operator} | {self.images} | {self.budget}"


def limits(problem: Problem, device: str) -> dict[str, Any]:
    """Solve a problem, and return what was reached and what could have been, for each image."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    prior = gprior.load_prior(PRIOR)
    x = truth(Cell("all", (0, problem.images), problem.operator, "auto"), prior)
    A = operator(problem.operator, prior)
    y = A(x)
    prior, A, x, y = prior.to(device), A.to(device), x.to(device), y.to(device)
    best = torch.full((len(x),), -torch.inf)

    def seen(step: int, rows: Tensor, loss: Tensor, image: Tensor) -> None:
        now = torch.tensor(scores(image, x[rows])[0])
        best[rows.cpu()] = torch.maximum(best[rows.cpu()], now)

    options: dict[str, Any] = {"budget": problem.budget, "max_batch": len(x)}
    result = gprior.solve(y, A, prior, "auto", callback=seen, **options)
    generated = scored(result.generated, x)["psnr"]
    weight = result.prior_weight
    return {
        "psnr": scored(result.x, x)["psnr"],
        "generated psnr": generated,
        "best seen psnr": torch.maximum(best, torch.tensor(generated)).tolist(),
        "prior weight": [] if weight is None else weight.tolist(),
        "trust": result.diagnostics["trust"].tolist(),
        **best_correction(y, A, prior, x, result),
    }


def best_correction(
    y: Any, A: Any, prior: Any, x: Tensor, result: gprior.Result
) -> dict[str, list[float]]:
    """Return the best a and λ of the grid, as its share of the usual one, and their PSNR."""
    problem = build_problem(y, A, prior, stop="fixed", seed=0)
    rows, masks, G = LinearRows(problem), observed(problem), result.generated
    residual = root_mean_square(rows.residual(G), masks)
    belief = result.diagnostics["trust"].to(residual)
    usual = usual_strength(rows, masks, residual, belief, torch.ones_like(belief))
    pairs = [(a, factor) for a in WEIGHTS for factor in FACTORS]
    psnr = torch.tensor([
        scores(minimise_tv(rows, masks, G, torch.full_like(usual, a), f * usual, STEPS), x)[0]
        for a, f in pairs
    ])  # fmt: skip
    top, which = psnr.max(0)
    return {
        "oracle psnr": top.tolist(),
        "oracle weight": [pairs[k][0] for k in which.tolist()],
        "oracle strength": [pairs[k][1] for k in which.tolist()],
    }


def cells(quick: bool) -> list[Problem]:
    """Return the problems."""
    operators = OPERATORS[::3] if quick else OPERATORS
    return [Problem(A, 6 if quick else 30, 60 if quick else 300) for A in operators]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return mean PSNR by problem: what was reached, and with what the truth would have chosen."""
    rows = [["Problem", "generated", "best image seen", "final", "best a and λ", "final - best"]]
    for problem in cells(quick):
        found: Mapping[str, Any] = results[problem.key]
        row = [
            " / ".join(f"{statistics.fmean(part(found[name], d)):.1f}" for d in range(len(DOMAINS)))
            for name in ("generated psnr", "best seen psnr", "psnr", "oracle psnr")
        ]
        lost = [a - b for a, b in zip(found["psnr"], found["oracle psnr"], strict=True)]
        gap = " / ".join(f"{statistics.fmean(part(lost, d)):.1f}" for d in range(len(DOMAINS)))
        rows.append([problem.operator, *row, gap])
    return {"auto_limits": rows}


if __name__ == "__main__":
    main("auto_limits", __doc__ or "", cells, tables, limits)
