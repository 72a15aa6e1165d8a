"""The solvers: auto is the default, and each other file has the method of one paper."""

from __future__ import annotations

from gprior.solvers.auto import Auto, cosine as cosine
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
from gprior.solvers.population_base import Plan, Population
from gprior.solvers.projector import Projector
from gprior.solvers.pulse import PULSE
from gprior.solvers.registry import SOLVERS, find_solver, name_of
from gprior.solvers.robust import Robust
from gprior.solvers.simulation import plausibility
from gprior.solvers.sphinx import SPHInX
from gprior.solvers.tuning import TUNINGS, Tuning, find_tuning as find_tuning

__all__ = [
    "BRGM",
    "CMA",
    "CSGM",
    "I2S",
    "ILO",
    "LBRGM",
    "PULSE",
    "SOLVERS",
    "TUNINGS",
    "AdamSeeds",
    "Auto",
    "BasinCMA",
    "CMAAdam",
    "I2SPlusPlus",
    "Latent",
    "Overparameterized",
    "PNorm",
    "Plan",
    "Population",
    "Projector",
    "Robust",
    "SPHInX",
    "Solver",
    "Tuning",
    "find_solver",
    "name_of",
    "plausibility",
]
