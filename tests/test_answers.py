"""What every method answers to fixed problems in float64, kept in ``answers.json``.

A change of structure must not move these numbers. A change of a method moves its own: look at
the difference, say in the commit why it is right, and write the file again with
``python tests/test_answers.py``.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import gprior
from gprior.solvers import SOLVERS

FILE = Path(__file__).with_name("answers.json")
STEPS = {"i2s++": (3, 2), "ilo": (3, 2, 2, 2), "robust": (2, 2, 2), "cma+adam": (2, 3)}
STEPS |= {"basincma": (2, 2, 2)}
# Name of a problem -> options of `gprior.solve`.
OPTIONS: dict[str, dict[str, Any]] = {
    "half, class unknown": {"seed": [3, 4]},
    "circulant, known noise": {"noise_std": 0.02, "label": [0, 2], "restarts": 2},
}


def answer(method: str, problem: str) -> dict[str, Any]:
    """Solve a problem of two images in a few steps and return what identifies the answer."""
    prior = gprior.load_prior("phantom-64").double()
    kind = gprior.operators.Masking if problem.startswith("half") else None
    if kind is not None:
        A = kind(prior.image_shape, "half")
    else:
        A = gprior.operators.PartialCirculant(prior.image_shape, m=0.1, seed=0)
    A = A.double()
    y = A(prior.sample(2, seed=11))
    small = {"init": "best-of:6"} if method not in ("pulse", "ilo", "sphinx") else {}
    population = {"population": 4} if hasattr(SOLVERS[method], "population") else {}
    constants = {"steps": STEPS.get(method, 4), **small, **population}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = gprior.solve(y, A, prior, method, **OPTIONS[problem], **constants)
    return {
        "x": found.x.flatten(1)[:, 5::409].tolist(),
        "loss": found.loss.tolist(),
        "criterion": found.criterion.tolist(),
        "evaluations": found.evaluations.tolist(),
        "reason": found.reason,
        "label": found.label,
    }


def made_with() -> dict[str, str]:
    """Return what decides how sums are rounded: torch, and the instructions of the processor."""
    return {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}


@pytest.mark.slow
@pytest.mark.parametrize("problem", OPTIONS)
@pytest.mark.parametrize("method", SOLVERS)
def test_the_answer_is_what_it_was(method, problem):
    file = json.loads(FILE.read_text())
    known, found = file[f"{method}: {problem}"], answer(method, problem)
    # Elsewhere the sums are rounded in another way, which the steps amplify.
    tolerance = 1e-9 if file["made with"] == made_with() else 1e-4
    for name in ("reason", "label", "evaluations"):
        assert (
            found[name] == pytest.approx(known[name])
            if name == "evaluations"
            else (found[name] == known[name])
        )
    for name in ("x", "loss", "criterion"):
        a, b = (torch.tensor(of[name], dtype=torch.float64) for of in (found, known))
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def main() -> None:
    """Write the answers of this version."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {f"{m}: {p}": answer(m, p) for m in SOLVERS for p in OPTIONS}
    found["made with"] = made_with()
    FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
