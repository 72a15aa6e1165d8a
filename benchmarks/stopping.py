"""What the stopping rules recover of an oracle's gain: ``python benchmarks/stopping.py``.

L-BRGM (Conmy et al. 2021, section 2.3) stops where the distance to the true image is smallest. A
user does not know this image. Here L-BRGM takes 2000 steps, and the PSNR of every step is recorded.
The oracle takes the best one. The rules of gprior are judged by the share of its gain over the
start that they recover: the held-out entries, the discrepancy principle where there is noise, and
the least loss of the first 500 or of all 2000 steps. No rule sees the truth; only this measurement
does. There are half mask, x4, 10 % of a circulant and noise of 0.1, each for 4 phantoms on which
the prior was not trained and for 4 images outside its domain.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from cells import Cell, Results, Table, main, middle, posed, scored
from torch import Tensor

import gprior

IMAGES = ("held out", "outside")
OPERATORS = ("half", "x4", "circulant 0.1", "noise 0.1")
# Name of a rule in the tables -> name in `gprior.solve`. The last two are read from one run.
RULES = {
    "oracle": "fixed",
    "hold-out": "holdout",
    "discrepancy": "discrepancy",
    "500 steps": "fixed",
    "2000 steps": "fixed",
}
EARLY = 4  # the method has a quarter of the paper's 2000 steps by default


def part(images: str, A: str, rule: str, quick: bool) -> Cell:
    """Return the cell that has the result of a rule."""
    constants = {"steps": 8, "init": "best-of:6"} if quick else {"steps": 2000}
    return Cell(images, (0, 2 if quick else 4), A, "lbrgm", constants, stop=RULES[rule])


def rules(A: str) -> list[str]:
    """Return the rules that are possible for an operator."""
    return [rule for rule in RULES if rule != "discrepancy" or A.startswith("noise")]


def cells(quick: bool) -> list[Cell]:
    """Return the cells of the table. Rules that are read from one run share a cell."""
    all_of = (part(i, A, rule, quick) for i in IMAGES for A in OPERATORS for rule in rules(A))
    return list({cell.key: cell for cell in all_of}.values())


def followed(cell: Cell, device: str) -> dict[str, Any]:
    """Solve a cell and return its scores, and the PSNR and the step of each rule."""
    prior, A, x, y = posed(cell, device)
    steps = cell.constants["steps"]
    psnr, losses = (torch.full((steps, len(x)), fill) for fill in (-torch.inf, torch.inf))

    def watch(step: int, rows: Tensor, loss: Tensor, image: Tensor) -> None:
        square = (image.clamp(0, 1) - x[rows]).square().mean((1, 2, 3))
        psnr[step, rows.cpu()] = -10 * square.log10().float().cpu()
        losses[step, rows.cpu()] = loss.float().cpu()

    started = time.process_time()
    options = {"stop": cell.stop, "callback": watch, **cell.constants}
    result = gprior.solve(y, A, prior, cell.solver, **options)
    own = scored(result.x, x)
    chosen = {"oracle": psnr.argmax(0)}
    if cell.stop == "fixed":
        chosen["500 steps"] = losses[: steps // EARLY].argmin(0)
        chosen["2000 steps"] = losses.argmin(0)
    else:  # the step whose PSNR the result has
        chosen[cell.stop or ""] = (psnr - torch.tensor(own["psnr"])).abs().argmin(0)

    def rounded(values: Tensor) -> list[float]:
        return [round(float(v), 4) for v in values]

    return {
        **own,
        "start": rounded(psnr[0]),
        "steps": {name: step.tolist() for name, step in chosen.items()},
        "psnr of": {name: rounded(psnr.gather(0, at[None])[0]) for name, at in chosen.items()},
        "reason": list(result.reason),
        "processor seconds": round(time.process_time() - started, 2),
    }


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return what each rule recovers. What has no result yet has no row."""
    head = ["Images", "Operator", "Rule", "PSNR", "Below the oracle, dB", "Share of its gain, %"]
    rows = [[*head, "Step"]]
    for images in IMAGES:
        for A in OPERATORS:
            whole = results.get(part(images, A, "oracle", quick).key)
            if whole is None:
                continue
            best, start = whole["psnr of"]["oracle"], whole["start"]
            for rule in rules(A):
                cell = results.get(part(images, A, rule, quick).key)
                if cell is None:
                    continue
                name = rule if RULES[rule] == "fixed" else RULES[rule]
                own, steps = cell["psnr of"][name], cell["steps"][name]
                below = [b - p for b, p in zip(best, own, strict=True)]
                gain = sum(b - s for b, s in zip(best, start, strict=True))
                recovered = 100 * (1 - sum(below) / gain)
                row = [images, A, rule, middle(own), middle(below), f"{recovered:.0f}"]
                rows.append([*row, middle(steps, 0)])
    return {"stopping": rows}


if __name__ == "__main__":
    main("stopping", __doc__, cells, tables, followed)
