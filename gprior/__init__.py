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
    "Calibration": "gprior.sampling",
    "Item": "gprior.batch",
    "InputError": "gprior.checks",
    "InputTypeError": "gprior.checks",
    "Perceptual": "gprior.distances",
    "Posterior": "gprior.sampling",
    "PosteriorSampler": "gprior.sampling.deepinv_sampler",
    "Reconstructor": "gprior.reconstructor",
    "Result": "gprior.result",
    "blend": "gprior.editing",
    "calibrate": "gprior.sampling",
    "load_encoder": "gprior.checkpoints",
    "load_prior": "gprior.checkpoints",
    "posterior": "gprior.sampling",
    "Solved": "gprior.batch",
    "TunedWeights": "gprior.priors",
    "solve": "gprior.solving",
    "solve_many": "gprior.batch",
    "tune": "gprior.solving",
}
_ROOMS = (
    "checkpoints",
    "editing",
    "images",
    "measurements",
    "operators",
    "priors",
    "sampling",
    "solvers",
    "training",
)

__all__ = [
    "Calibration",
    "InputError",
    "InputTypeError",
    "Item",
    "Perceptual",
    "Posterior",
    "PosteriorSampler",
    "Reconstructor",
    "Result",
    "Solved",
    "TunedWeights",
    "blend",
    "calibrate",
    "checkpoints",
    "editing",
    "images",
    "load_encoder",
    "load_prior",
    "measurements",
    "operators",
    "posterior",
    "priors",
    "sampling",
    "solve",
    "solve_many",
    "solvers",
    "training",
    "tune",
]

if TYPE_CHECKING:
    from gprior import (
        checkpoints,
        editing,
        images,
        measurements,
        operators,
        priors,
        sampling,
        solvers,
        training,
    )
    from gprior.batch import Item, Solved, solve_many
    from gprior.checkpoints import load_encoder, load_prior
    from gprior.checks import InputError, InputTypeError
    from gprior.distances import Perceptual
    from gprior.editing import blend
    from gprior.priors import TunedWeights
    from gprior.reconstructor import Reconstructor
    from gprior.result import Result
    from gprior.sampling import Calibration, Posterior, calibrate, posterior
    from gprior.sampling.deepinv_sampler import PosteriorSampler
    from gprior.solving import solve, tune


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"gprior.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'gprior' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
