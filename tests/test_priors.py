"""What all priors have in common: the inputs that they name are there."""

from __future__ import annotations

from functools import partial

import pytest
from torch import nn

from gprior.priors import (
    BigGAN,
    Generator,
    HasBlocks,
    HasContent,
    HasEmbedding,
    HasFilters,
    HasNoise,
)

PROTOCOLS = {
    "noise": HasNoise,
    "content": HasContent,
    "filters": HasFilters,
    "state": HasBlocks,
    "embedding": HasEmbedding,
}


def biggan():
    return BigGAN([16, 16, 8], [True, True], z_dim=4, embed_dim=4, c_dim=3).freeze()


def sequential():
    return Generator(nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8))), 4)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("kind", ["StyleGAN2", "overparameterized", "BigGAN", "Generator"])
def test_a_prior_offers_what_its_inputs_say(kind, adapted, tiny_prior):
    over = partial(tiny_prior, overparameterized=True)
    kinds = {"StyleGAN2": tiny_prior, "overparameterized": over}
    prior = {**kinds, "BigGAN": biggan, "Generator": sequential}[kind]()
    prior = prior.adapt((3, 8, 8)) if adapted else prior
    offered = set(PROTOCOLS) & prior.inputs
    assert offered
    for name in offered:
        for member in vars(PROTOCOLS[name]):
            if not member.startswith("_"):
                assert hasattr(prior, member), f"{name}: {member}"
