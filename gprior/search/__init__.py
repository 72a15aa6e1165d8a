"""How it is solved: spaces, objectives, starting points and loops."""

from __future__ import annotations

from gprior.search.bounds import Bound, Box, L1Ball, Simplex, Sphere
from gprior.search.correction import Corrected, correct
from gprior.search.evolution import CSA, Fixed, Sampler, population_size
from gprior.search.gauss_newton import (
    Descent as Descent,
    curvature_of_latents as curvature_of_latents,
    descend as descend,
    minimise_model as minimise_model,
    nearest as nearest,
    pulled_back as pulled_back,
)
from gprior.search.latent_spaces import (
    AfterBlock,
    Auxiliary,
    Content,
    Filters,
    FixedStyles,
    Noise,
    SharedFilters,
    W,
    WPlus,
    Z,
    ZClass,
    ZEmbedding,
    ZPlus,
)
from gprior.search.latents import (
    Direct as Direct,
    Latents as Latents,
    ThroughStyles as ThroughStyles,
    latents_of_z as latents_of_z,
    scale as scale,
)
from gprior.search.lbfgs import minimise_by_lbfgs
from gprior.search.loop import Outcome, Watch, judgements, minimise
from gprior.search.objective import (
    GRAY_LEVEL,
    PERCEPTUAL as PERCEPTUAL,
    Iterate,
    Objective,
    Term,
    absolute,
    fidelity,
    perceptual,
    profile_likelihood,
    realism,
    total as total,
)
from gprior.search.optimizer import Adam, Optimizer, rate as rate
from gprior.search.packages import PackageSampler, in_package as in_package
from gprior.search.passes import PASSES as PASSES
from gprior.search.population import Insert, PopulationSearch, Trial, evolve, sample_members
from gprior.search.record import NON_FINITE, Record
from gprior.search.residuals import (
    misfit,
    observed as observed,
    response as response,
    trust,
    trust_in as trust_in,
)
from gprior.search.rows import Variables, copy as copy, join as join, put as put, take as take
from gprior.search.space import Space, Step, inputs_of
from gprior.search.start import (
    ENCODER as ENCODER,
    LATENTS,
    LAYERS as LAYERS,
    Init,
    candidates,
    check_init,
    latents_of,
    names_encoder as names_encoder,
    starting_point,
    tried as tried,
)
from gprior.search.target import (
    Target as Target,
    likelihood_term as likelihood_term,
    prior_term as prior_term,
)

__all__ = [
    "CSA",
    "GRAY_LEVEL",
    "LATENTS",
    "NON_FINITE",
    "Adam",
    "AfterBlock",
    "Auxiliary",
    "Bound",
    "Box",
    "Content",
    "Corrected",
    "Filters",
    "Fixed",
    "FixedStyles",
    "Init",
    "Insert",
    "Iterate",
    "L1Ball",
    "Noise",
    "Objective",
    "Optimizer",
    "Outcome",
    "PackageSampler",
    "PopulationSearch",
    "Record",
    "Sampler",
    "SharedFilters",
    "Simplex",
    "Space",
    "Sphere",
    "Step",
    "Term",
    "Trial",
    "Variables",
    "W",
    "WPlus",
    "Watch",
    "Z",
    "ZClass",
    "ZEmbedding",
    "ZPlus",
    "absolute",
    "candidates",
    "check_init",
    "correct",
    "evolve",
    "fidelity",
    "inputs_of",
    "judgements",
    "latents_of",
    "minimise",
    "minimise_by_lbfgs",
    "misfit",
    "perceptual",
    "population_size",
    "profile_likelihood",
    "realism",
    "sample_members",
    "starting_point",
    "trust",
]
