"""A low-resolution phase is searched with the latents of complex images."""

from __future__ import annotations

import pytest
import torch

import gprior
from gprior.checks import InputError
from gprior.operators import mri, mri_mask
from gprior.search import inputs_of

DOUBLE = torch.float64


@pytest.fixture(scope="module")
def base(tiny_prior):
    return tiny_prior(16, 1, 3, DOUBLE)


@pytest.fixture(scope="module")
def phase():
    v, u = torch.meshgrid(*[torch.linspace(-1, 1, 16, dtype=DOUBLE)] * 2, indexing="ij")
    return 0.8 * u - 0.6 * v * v + 0.3


def searched(base, **options):
    flat = torch.zeros(16, 16, dtype=DOUBLE)
    return base.adapt((2, 16, 16), phase=flat, phase_size=4, **options)


@pytest.fixture(scope="module")
def scene(base, phase):
    truth = base.adapt((2, 16, 16), phase=phase).sample(3, seed=1)
    A = mri(mri_mask((16, 16), 2, center=0.25)).to(DOUBLE)
    return A, truth, A(truth)


def test_the_map_is_added_to_the_phase(base, phase):
    fixed, prior = base.adapt((2, 16, 16), phase=phase), searched(base)
    assert "phase" in prior.inputs and "phase" not in fixed.inputs
    z = prior.draw([(0, 0, "z")] * 2)
    c = torch.eye(3, dtype=DOUBLE)[:2]
    flat = torch.zeros(2, 1, 4, 4, dtype=DOUBLE)
    torch.testing.assert_close(prior(z=z, c=c, phase=flat), prior(z=z, c=c))
    turned = prior(z=z, c=c, phase=flat + 0.5)
    plain = prior(z=z, c=c)
    expected = torch.view_as_complex(plain.movedim(1, -1).contiguous())
    expected = expected * torch.polar(torch.ones((), dtype=DOUBLE), torch.tensor(0.5, dtype=DOUBLE))
    found = torch.view_as_complex(turned.movedim(1, -1).contiguous())
    torch.testing.assert_close(found, expected)


def test_gradients_with_respect_to_the_map(base):
    prior = searched(base)
    z, c = prior.draw([(0, 0, "z")]), torch.eye(3, dtype=DOUBLE)[:1]
    start = torch.randn(1, 1, 4, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(
        lambda phase: prior(z=z, c=c, phase=phase), start.requires_grad_()
    )


def test_the_default_finds_the_phase(base, scene, phase):
    A, truth, y = scene
    found = gprior.solve(y, A, searched(base), stop="fixed", correction=None)
    without = gprior.solve(y, A, base.adapt((2, 16, 16)), stop="fixed", correction=None)

    def error(result):
        return (result.generated - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)

    assert found.latents["phase"].shape == (3, 1, 4, 4)
    assert (error(found) < 0.2).all() and (error(found) < error(without) / 2).all()
    image = searched(base)(**inputs_of(found.latents))
    torch.testing.assert_close(image, found.generated)


GRADIENT = [
    "csgm", "i2s", "i2s++", "ilo", "latent", "lbrgm", "brgm", "pnorm", "projector", "pulse",
    "robust", "overparameterized", "sphinx", "adam",
]  # fmt: skip


@pytest.mark.parametrize("name", GRADIENT)
def test_every_method_that_follows_gradients_searches_it(base, scene, name):
    A, _, y = scene
    result = gprior.solve(y, A, searched(base), name, budget=30, stop="fixed", init="mean")
    assert result.latents["phase"].shape == (3, 1, 4, 4)
    assert result.latents["phase"].abs().amax((1, 2, 3)).min() > 0
    alone = gprior.solve(y[1:2], A, searched(base), name, budget=30, stop="fixed", init="mean")
    assert (alone.generated - result.generated[1:2]).abs().max() < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"phase_size": 4},
        {"phase": torch.zeros(16, 16), "phase_size": 0},
        {"phase": torch.zeros(16, 16), "phase_size": 17},
    ],
)
def test_bad_sizes_are_refused(base, options):
    with pytest.raises(InputError, match="phase_size"):
        base.adapt((2, 16, 16), **options)
