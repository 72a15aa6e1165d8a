"""The methods by their names.

A new method is one new file and one row in `SOLVERS`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from gprior.checks import InputError, InputTypeError
from gprior.priors import Prior
from gprior.solvers.auto import Auto
from gprior.solvers.base import Solver
from gprior.solvers.basin_cma import CMA, AdamSeeds, BasinCMA, CMAAdam
from gprior.solvers.brgm import BRGM
from gprior.solvers.csgm import CSGM
from gprior.solvers.i2s import I2S, I2SPlusPlus
from gprior.solvers.ilo import ILO
from gprior.solvers.latent import Latent
from gprior.solvers.lbrgm import LBRGM
from gprior.solvers.overparameterized import Overparameterized
from gprior.solvers.pnorm import PNorm
from gprior.solvers.projector import Projector
from gprior.solvers.pulse import PULSE
from gprior.solvers.robust import Robust
from gprior.solvers.sphinx import SPHInX

__all__ = ["SOLVERS", "find_solver", "name_of"]

SOLVERS: dict[str, type[Solver]] = {
    "auto": Auto,
    "lbrgm": LBRGM,
    "brgm": BRGM,
    "csgm": CSGM,
    "pulse": PULSE,
    "projector": Projector,
    "i2s": I2S,
    "i2s++": I2SPlusPlus,
    "pnorm": PNorm,
    "ilo": ILO,
    "sphinx": SPHInX,
    "latent": Latent,
    "robust": Robust,
    "overparameterized": Overparameterized,
    "adam": AdamSeeds,
    "cma": CMA,
    "cma+adam": CMAAdam,
    "basincma": BasinCMA,
}


def find_solver(solver: str | Solver | None, prior: Prior, constants: dict[str, Any]) -> Solver:
    """Return a solver by its name or instance, with its constants, for a prior.

    Parameters
    ----------
    solver : str, Solver or None
        A name in `SOLVERS`, or an instance. None means ``"auto"``.
    prior : Prior
        The prior that the solver will use.
    constants : dict
        Values of the solver's fields, by the names of the fields.

    Returns
    -------
    Solver
        The solver, with the constants that depend on the prior filled in.

    Raises
    ------
    InputError
        If the name is unknown, or if the prior lacks an input that the method needs. The message
        lists the names that work.
    InputTypeError
        If a constant is not a field of the solver, or if constants are given with an instance.

    Examples
    --------
    >>> import gprior
    >>> find_solver("lbrgm", gprior.load_prior("phantom-64"), {"lr": 0.05}).lr
    0.05
    """
    works = [name for name, kind in SOLVERS.items() if kind.needs <= prior.inputs]
    if isinstance(solver, Solver):
        if constants:
            raise InputTypeError(
                f"constants {sorted(constants)} go with a solver's name, but this solver is an "
                "instance; set its fields instead"
            )
        instance = solver
    else:
        name = solver or "auto"
        if name not in SOLVERS:
            raise InputError(f"solver {name!r} is unknown; the solvers are {sorted(SOLVERS)}")
        kind = SOLVERS[name]
        valid = [f.name for f in fields(kind)]
        wrong = sorted(set(constants) - set(valid))
        if wrong:
            raise InputTypeError(
                f"{name} has no constant {wrong}; its constants are {sorted(valid)}"
            )
        instance = kind(**constants)
    lacking = sorted(instance.required() - prior.inputs)
    if lacking:
        raise InputError(
            f"{type(instance).__name__} needs the inputs {lacking}, which this prior lacks; "
            f"choose one of the solvers that work with it: {works}"
        )
    return instance.for_prior(prior)


def name_of(solver: Solver) -> str:
    """Return the name of a solver in `SOLVERS`; for another class, its name in lower case."""
    names = {kind: name for name, kind in SOLVERS.items()}
    return names.get(type(solver), type(solver).__name__.lower())
