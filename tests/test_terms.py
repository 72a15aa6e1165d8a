"""The optional terms L1 and realism, and the start from a random latent per layer."""

from __future__ import annotations

import copy
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

import gprior
from gprior.operators import Masking, PartialCirculant
from gprior.priors import Wrapped, logits
from gprior.problem import build_problem
from gprior.search import Iterate, absolute, realism
from gprior.solvers import SOLVERS

DOUBLE = torch.float64
WITH_L1 = [name for name, kind in SOLVERS.items() if "absolute" in {f.name for f in fields(kind)}]
SMALL = {
    "ilo": {"steps": (2, 1, 1, 1)},
    "i2s++": {"steps": (2, 1)},
    "robust": {"steps": (1, 1, 1)},
    "cma+adam": {"steps": (1, 1), "population": 2},
    "basincma": {"steps": (1, 1, 1), "population": 2},
    "adam": {"steps": 2, "population": 2},
    "cma": {"steps": 2, "population": 3},
}
LAYERS = {"init": "random-layers", "stop": "fixed", "steps": 1}


@pytest.fixture
def prior(tiny_prior):
    return tiny_prior(c_dim=2)


@pytest.fixture
def scene(prior):
    A = PartialCirculant(prior.image_shape, m=0.5, seed=1)
    return A, A(prior.sample(3, seed=3, label=[0, 1, 1]))


def iterate(prior, image, c):
    """Return what a term looks at."""
    A = Masking(prior.image_shape, "half")
    problem = build_problem(A(prior.sample(len(image), seed=5)), A, prior, stop="fixed")
    return Iterate(problem, image, problem.measure(image), start={} if c is None else {"c": c})


# --- Realism


def test_realism_is_the_logistic_loss_of_the_discriminator(prior):
    x, c = prior.sample(3, seed=3, label=[0, 1, 1]), prior.classes([0, 1, 1], 3)
    found = realism(2.0, prior).value(iterate(prior, x, c))
    critic = prior.discriminator
    last = critic.features(2 * x - 1)[-1]
    samples = critic.features(2 * prior.sample(64) - 1)[-1]
    groups = samples.reshape(4, 16, *samples.shape[1:])
    typical = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean()
    seen = critic.conv(torch.cat([last, typical.expand(3, 1, *last.shape[2:])], 1))
    each = critic.out(critic.dense(seen.flatten(1)))[[0, 1, 2], [0, 1, 1]]
    torch.testing.assert_close(found, -each.sigmoid().log())
    assert found.dtype == DOUBLE and found.shape == (3,)
    one = prior.discriminator(2 * x[:1] - 1, c[:1])  # with the spread of a batch of one
    assert (logits(prior, x[:1], c[:1]) - one).abs() > 1e-4


def test_an_image_is_judged_for_itself(prior):
    x, c = prior.sample(5, seed=3, label=[0, 1, 0, 1, 1]), prior.classes([0, 1, 0, 1, 1], 5)
    whole = logits(prior, x, c)
    for i in range(5):
        torch.testing.assert_close(logits(prior, x[i : i + 1], c[i : i + 1])[0], whole[i])
    assert whole.std() > 1e-6


def test_training_judges_by_the_batch(prior):
    """Without a given deviation, the discriminator is the one that was trained."""
    raw, c = 2 * prior.sample(4, label=0) - 1, prior.classes(0, 4)
    critic = prior.discriminator
    last = critic.features(raw)[-1]
    torch.testing.assert_close(critic.judge(last, c), critic(raw, c))
    assert (critic.judge(last, c, 0.0) - critic(raw, c)).abs().max() > 1e-6
    half = copy.deepcopy(critic).bfloat16()
    assert half.judge(last.bfloat16(), c.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("term", ["realism", "absolute"])
def test_gradients_are_those_of_finite_differences(term, prior):
    c = prior.classes([0, 1], 2)
    z = prior.draw([(4, "z", i) for i in range(2)])
    chosen = realism(1.0, prior) if term == "realism" else absolute(1.0)

    def value(z):
        return chosen.value(iterate(prior, prior(z, c), c))

    assert torch.autograd.gradcheck(value, z.requires_grad_(), fast_mode=True)


def test_adapted_priors_are_judged_as_the_generator_draws(prior):
    x, c = prior.sample(2, label=0), prior.classes(0, 2)
    other = prior.adapt((3, 16, 16))
    torch.testing.assert_close(logits(other, x.expand(-1, 3, -1, -1), c), logits(prior, x, c))
    assert logits(prior.adapt((1, 12, 20)), torch.rand(2, 1, 12, 20, dtype=DOUBLE), c).shape == (2,)


def test_priors_without_a_discriminator_are_refused(tiny_prior):
    bare = tiny_prior(critic=False)
    A = Masking(bare.image_shape, "half")
    y = A(bare.sample(1))
    for solver in ("csgm", "latent"):
        with pytest.raises(
            gprior.InputError, match=r"realism needs .* has no discriminator; leave"
        ):
            gprior.solve(y, A, bare, solver, steps=1, realism=0.1)
        assert "realism" not in gprior.solve(y, A, bare, solver, steps=1).terms

    class Features(torch.nn.Module):
        pass

    other = Wrapped(tiny_prior())
    other.discriminator = Features()
    with pytest.raises(gprior.InputError, match="has a Features; leave realism=0"):
        realism(1.0, other)
    realism(0.0, other)


@pytest.mark.parametrize("solver", ["csgm", "latent"])
def test_it_makes_images_more_real(solver, prior, scene):
    A, y = scene
    options = {"steps": 30, "stop": "fixed", "label": [0, 1, 1], "perceptual": False}
    options |= {"fidelity": 0.0, "latent": 0.0} if solver == "csgm" else {"pixel": 0.0}
    found = gprior.solve(y, A, prior, solver, realism=3.0, **options)
    expected = 3 * F.softplus(-logits(prior, found.x, prior.classes([0, 1, 1], 3)))
    torch.testing.assert_close(found.terms["realism"], expected)
    assert (found.loss < found.history[:, 0] - 1e-3).all()
    for i in range(3):
        options["label"] = [0, 1, 1][i]
        alone = gprior.solve(y[i : i + 1], A, prior, solver, realism=3.0, **options)
        assert (alone.x[0] - found.x[i]).abs().max() < 1e-6


# --- L1


def test_every_method_with_a_weight_of_the_pixels_has_l1():
    names = {name for name, kind in SOLVERS.items() if hasattr(kind, "pixel")}
    assert set(WITH_L1) == names | {"csgm"}


@pytest.mark.parametrize("name", WITH_L1)
def test_l1_is_a_term_of_its_own(name, tiny_prior):
    prior = tiny_prior()
    A = PartialCirculant(prior.image_shape, m=0.5, seed=1)
    y = A(prior.sample(2, seed=3))
    options = {"stop": "fixed", "init": "random", **SMALL.get(name, {"steps": 2})}
    pixel = "fidelity" if name == "csgm" else "pixel"
    found = gprior.solve(y, A, prior, name, absolute=7.0, **{pixel: 0.0}, **options)
    torch.testing.assert_close(found.terms["absolute"], 7 * (A(found.x) - y).abs().mean(1))
    assert (found.terms["fidelity"] == 0).all()
    assert "absolute" not in gprior.solve(y, A, prior, name, **options).terms


# --- A random latent per layer


def test_each_layer_starts_from_its_own_latent(prior, scene):
    A, y = scene
    draws = [prior.draw([(6, 0, "start", k)]) for k in range(prior.num_ws)]
    c = prior.classes(1, 1)
    expected = torch.stack([prior.mapping(z, c)[:, 0] for z in draws], 1)
    options = {**LAYERS, "seed": 6, "label": 1}
    w = gprior.solve(y[:1], A, prior, "latent", **options).latents["w"]
    torch.testing.assert_close(w, expected)
    assert (w[:, 0] - w[:, 1]).abs().max() > 1e-3
    plus = gprior.solve(y[:1], A, prior, "latent", spaces="z+", **options).latents
    torch.testing.assert_close(plus["z+"], torch.stack(draws, 1))
    torch.testing.assert_close(plus["w"], expected)
    both = gprior.solve(y[:1], A, prior, "lbrgm", **options).latents
    torch.testing.assert_close(both["w"], expected)
    torch.testing.assert_close(both["z"], draws[0])
    random = gprior.solve(y[:1], A, prior, "csgm", **{**options, "init": "random"}).latents["z"]
    torch.testing.assert_close(random, draws[0])
    one = gprior.solve(y[:1], A, prior, "latent", spaces="w", **options).latents["w"]
    torch.testing.assert_close(one, expected.mean(1, keepdim=True).expand_as(expected))


@pytest.mark.parametrize("label", [None, [0, 1, 1]])
def test_layers_belong_to_images(label, prior, scene):
    """Restarts, seeds and classes: each row has draws of its own, whatever the batch."""
    A, y = scene
    options = {**LAYERS, "steps": 2, "label": label, "seed": [1, 2, 2], "restarts": 2}
    whole = gprior.solve(y, A, prior, "brgm", **options)
    assert (whole.evaluations >= 2 * (2 + 1 / 3) + (4 / 3 if label is None else 0) - 1e-9).all()
    part = {**options, "seed": [2], "label": None if label is None else label[2:]}
    alone = gprior.solve(y[2:], A, prior, "brgm", **part)
    assert (alone.x[0] - whole.x[2]).abs().max() < 1e-9
    other = gprior.solve(y[2:], A, prior, "brgm", **{**part, "seed": [3]})
    assert (other.x - alone.x).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["i2s", "pulse", "ilo", "pnorm", "projector", "robust", "auto"])
def test_methods_of_layers_start_from_them(name, prior, scene):
    A, y = scene
    constants = SMALL.get(name, {"steps": (2, 2) if name == "auto" else 2})
    found = gprior.solve(y, A, prior, name, **{**LAYERS, "label": 0, **constants})
    assert found.x.isfinite().all() and found.solver["init"] == "random-layers"


@pytest.mark.parametrize(
    ("name", "constants"),
    [("csgm", {}), ("latent", {"spaces": ("z", "noise")}), ("basincma", SMALL["basincma"])],
)
def test_searches_of_one_latent_refuse_it(name, constants, prior, scene):
    A, y = scene
    message = r"init='random-layers' needs a search of one latent .* choose init='random'"
    with pytest.raises(gprior.InputError, match=message):
        gprior.solve(y, A, prior, name, **{**LAYERS, "label": 0, **constants})


def test_priors_without_styles_refuse_it(tiny_prior):
    prior = tiny_prior(overparameterized=True)
    A = PartialCirculant(prior.image_shape, m=0.5, seed=1)
    y = A(prior.sample(1))
    with pytest.raises(gprior.InputError, match=r"a prior with one style per layer, .*'filters'"):
        gprior.solve(y, A, prior, "overparameterized", **LAYERS)
