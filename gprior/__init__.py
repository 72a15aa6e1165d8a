"""gprior: imaging inverse problems solved with generative models as priors.

    minimise over latents u:   data term(A G(u), y)  +  regularisation of u

Every public name is imported on first use, so that ``import gprior`` is fast and does not import
torch, deepinv or torchvision.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Item": "gprior.batch",
    "InputError": "gprior.checks",
    "InputTypeError": "gprior.checks",
    "Perceptual": "gprior.distances",
    "Reconstructor": "gprior.reconstructor",
    "Result": "gprior.result",
    "load_prior": "gprior.checkpoints",
    "Solved": "gprior.batch",
    "solve": "gprior.solving",
    "solve_many": "gprior.batch",
}
_ROOMS = ("checkpoints", "images", "measurements", "operators", "priors", "solvers", "training")

__all__ = [
    "InputError",
    "InputTypeError",
    "Item",
    "Perceptual",
    "Reconstructor",
    "Result",
    "Solved",
    "checkpoints",
    "images",
    "load_prior",
    "measurements",
    "operators",
    "priors",
    "solve",
    "solve_many",
    "solvers",
    "training",
]

if TYPE_CHECKING:
    from gprior import checkpoints, images, measurements, operators, priors, solvers, training
    from gprior.batch import Item, Solved, solve_many
    from gprior.checkpoints import load_prior
    from gprior.checks import InputError, InputTypeError
    from gprior.distances import Perceptual
    from gprior.reconstructor import Reconstructor
    from gprior.result import Result
    from gprior.solving import solve


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"gprior.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'gprior' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
