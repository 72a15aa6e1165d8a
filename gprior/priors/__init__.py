"""Priors: frozen generators, whose inputs have names so that solvers can search them."""

from __future__ import annotations

import sys
from typing import Any

from gprior.priors.adapt import AdaptedPrior
from gprior.priors.biggan import BigGAN
from gprior.priors.biggan_layers import Attention as Attention, Block as Block, Norm as Norm
from gprior.priors.discriminator import Discriminator
from gprior.priors.encoder import Encoder
from gprior.priors.encoder_network import (
    EncoderNetwork as EncoderNetwork,
    generator_inputs as generator_inputs,
    latent_sizes as latent_sizes,
)
from gprior.priors.generator import Generator
from gprior.priors.inputs import (
    HasBlocks as HasBlocks,
    HasContent as HasContent,
    HasEmbedding as HasEmbedding,
    HasFilters as HasFilters,
    HasNoise as HasNoise,
    HasPhase as HasPhase,
)
from gprior.priors.prior import Label, Prior
from gprior.priors.realism import (
    as_criticised as as_criticised,
    discriminator_of as discriminator_of,
    logits as logits,
)
from gprior.priors.sharing import (
    detached as detached,
    place_of as place_of,
    placed_as as placed_as,
    tensors_of as tensors_of,
    view_of as view_of,
)
from gprior.priors.statistics import sha256_of as sha256_of
from gprior.priors.stylegan2 import StyleGAN2
from gprior.priors.stylegan2_layers import (
    ROOT2,
    ModulatedConv as ModulatedConv,
    fold_ as fold_,
    ready_ as ready_,
)
from gprior.priors.styles import (
    moments as moments,
    samples_by_class as samples_by_class,
    spread as spread,
)
from gprior.priors.tuned import Tunable as Tunable, TunedWeights
from gprior.priors.wrapped import Wrapped as Wrapped

__all__ = [
    "ROOT2",
    "AdaptedPrior",
    "BigGAN",
    "Discriminator",
    "Encoder",
    "Generator",
    "Label",
    "Prior",
    "StyleGAN2",
    "TunedWeights",
]


def __getattr__(name: str) -> Any:
    """Return a name that moved from here to `gprior.checkpoints`."""
    if name in ("embedded", "load_prior", "save_prior"):
        return getattr(sys.modules["gprior"].checkpoints, name)  # the package finds its rooms
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
