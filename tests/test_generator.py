"""Any network as a prior: what it is called with, what is refused, and searching it."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import gprior
from gprior.priors import Generator


class Decoder(nn.Module):
    """A small decoder (B, 8) -> (B, 3, 16, 16) in [0, 1], with dropout and batch statistics."""

    def __init__(self, classes=0):
        super().__init__()
        self.dense = nn.Linear(8 + classes, 64)
        self.norm = nn.BatchNorm1d(64)
        self.drop = nn.Dropout()
        self.grow = nn.ConvTranspose2d(4, 3, 4, stride=4)

    def forward(self, z, c=None):
        x = z if c is None else torch.cat([z, c], 1)
        x = self.drop(self.norm(self.dense(x)).tanh())
        return self.grow(x.view(-1, 4, 4, 4)).sigmoid()


def sequence():
    """A network whose in-place layers overwrite what they are given."""
    return nn.Sequential(
        nn.ConvTranspose2d(6, 8, 4),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1),
        nn.Tanh(),
    )


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_five_lines():
    net = Decoder().train()
    prior = Generator(net, 8, range="[0, 1]")
    assert prior.image_shape == (3, 16, 16) and prior.inputs == {"z"} and prior.c_dim == 0
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    assert prior.name == "Decoder" and prior.num_blocks == 0
    z = prior.draw([(0, "z", i) for i in range(3)])
    assert torch.equal(prior(z=z), net(z))
    assert torch.equal(prior.sample(2, seed=1)[1:], prior.sample(3, seed=1)[1:2])
    assert prior.double()(z=z.double()).dtype == torch.float64


def test_the_range_and_the_latent_shape():
    net = sequence()
    prior = Generator(net, (6, 1, 1))
    z = prior.draw([(0, "z")])
    assert z.shape == (1, 6)  # a vector, whatever the network wants
    assert torch.equal(prior(z=z), (net(z.view(1, 6, 1, 1)) + 1) / 2)
    assert torch.equal(prior(z=z.view(1, 6, 1, 1)), prior(z=z))
    assert torch.equal(Generator(net, (6, 1, 1), range="[0, 1]")(z=z), net(z.view(1, 6, 1, 1)))


def test_draws_of_ones_own_are_keyed():
    prior = Generator(
        sequence(), (6, 1, 1), draw=lambda g: 2 * torch.rand(6, 1, 1, generator=g) - 1
    )
    z = prior.draw([(k, "z") for k in range(50)])
    assert z.shape == (50, 6) and z.abs().max() <= 1
    assert torch.equal(prior.draw([(7, "z")]), z[7:8])
    with pytest.raises(ValueError, match=r"one latent of shape \(6, 1, 1\), got \(1, 6\)"):
        Generator(sequence(), (6, 1, 1), draw=lambda g: torch.randn(1, 6, generator=g))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_state_reproduces_the_image_exactly(dtype):
    prior = Generator(sequence(), (6, 1, 1)).to(dtype)
    assert prior.inputs == {"z", "state"} and prior.num_blocks == 5
    z = prior.draw([(0, "z", i) for i in range(2)])
    whole = prior(z=z)
    for k in range(1, 5):
        state = prior.run_blocks(z, to_block=k)
        kept = state[0].clone()
        again = prior(z=z, from_block=k, state=state)
        assert torch.equal(again, whole)
        assert torch.equal(state[0], kept)  # also where the next layer works in place
        x = kept.requires_grad_()
        (slope,) = torch.autograd.grad(prior(z=z, from_block=k, state=(x, state[1])).sum(), x)
        assert bool(slope.any())
    assert state[1].shape[:2] == (2, 0)


def test_a_sequence_of_pairs_has_no_blocks():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    class First(nn.Module):
        def forward(self, pair):
            return pair[0]

    prior = Generator(nn.Sequential(sequence(), Pair(), First()), (6, 1, 1))
    assert prior.inputs == {"z"}
    with pytest.raises(ValueError, match=r"no blocks to stop between; pass an nn.Sequential"):
        prior.run_blocks(prior.draw([(0,)]), to_block=1)


def test_classes():
    prior = Generator(Decoder(classes=3), 8, range="[0, 1]", c_dim=3)
    assert prior.inputs == {"z", "label"}
    z = prior.draw([(0, "z")])
    soft = torch.tensor([[0.2, 0.3, 0.5]])
    assert (prior(z=z, c=soft) - prior(z=z, c=prior.classes(1, 1))).abs().max() > 1e-4
    assert prior.sample(2, label=2).shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"this prior has classes: pass c of shape \(B, 3\)"):
        prior(z=z)
    with pytest.raises(ValueError, match=r"c must have shape \(B, 3\)"):
        prior(z=z, c=soft[:, :2])
    with pytest.raises(ValueError, match="has no classes"):
        Generator(Decoder(), 8)(z=z, c=soft)


def test_functions_are_priors_too():
    basis = torch.randn(4, 64)
    prior = Generator(lambda z: (z @ basis.to(z)).view(-1, 1, 8, 8).tanh(), 4)
    assert prior.like.dtype == torch.float32 and prior.name == "<lambda>"
    assert prior.double()(z=prior.draw([(0,)])).dtype == torch.float64
    assert prior.adapt((3, 8, 8)).sample(1).shape == (1, 3, 8, 8)


def test_torchscript():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is on its way out
        scripted = torch.jit.trace(Decoder().eval(), torch.zeros(2, 8))
    prior = Generator(scripted, 8, range="[0, 1]")
    assert prior.sample(2).shape == (2, 3, 16, 16)


def test_deepinv_generators():
    from deepinv.models import DCGANGenerator

    net = DCGANGenerator(nz=10, ngf=2, nc=1)
    whole, parts = Generator(net, (10, 1, 1)), Generator(net.model, (10, 1, 1))
    assert whole.image_shape == (1, 64, 64) and parts.num_blocks == 14
    assert torch.equal(whole.sample(2), parts.sample(2))


def frozen(function):
    """Return a module that calls a function."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 64))

        def forward(self, z):
            return function((z @ self.weight).view(-1, 1, 8, 8))

    return Net()


class Training(Decoder):
    """One that stays in training mode, with dropout or without."""

    def __init__(self, dropout):
        super().__init__()
        self.drop = nn.Dropout() if dropout else nn.Identity()

    def train(self, mode=True):
        return super().train(True)


def crossed(x):
    return x - x.mean(0)


REFUSED = {
    "no callable": (lambda: Generator(3, 4), TypeError, "module must be a callable"),
    "range": (lambda: Generator(sequence(), 6, range="[0, 255]"), ValueError, "range must be one"),
    "no latent": (lambda: Generator(sequence(), ()), ValueError, "latent_shape must be positive"),
    "zero": (lambda: Generator(sequence(), (6, 0)), ValueError, "latent_shape must be positive"),
    "c_dim": (lambda: Generator(sequence(), 6, c_dim=-1), ValueError, "c_dim must be 0"),
    "latent": (
        lambda: Generator(sequence(), 7),
        ValueError,
        r"Sequential does not run on latents \(2, 7\)",
    ),
    "classes": (
        lambda: Generator(sequence(), (6, 1, 1), c_dim=2),
        ValueError,
        r"latents \(2, 6, 1, 1\) and classes \(2, 2\)",
    ),
    "image_shape": (
        lambda: Generator(sequence(), (6, 1, 1), (1, 16, 16)),
        ValueError,
        r"image_shape is \(1, 16, 16\), but Sequential makes \(1, 8, 8\)",
    ),
    "vector": (
        lambda: Generator(nn.Linear(4, 4), 4),
        ValueError,
        r"must return real images \(B, C, H, W\), for two latents it gave \(2, 4\)",
    ),
    "a list": (lambda: Generator(frozen(lambda x: [x]), 4), ValueError, "it gave list"),
    "one image": (lambda: Generator(frozen(lambda x: x[:1]), 4), ValueError, r"\(1, 1, 8, 8\)"),
    "complex": (lambda: Generator(frozen(lambda x: x * 1j), 4), ValueError, "real images"),
    "nan": (lambda: Generator(frozen(lambda x: x * torch.nan), 4), ValueError, "not finite"),
    "detached": (lambda: Generator(frozen(torch.detach), 4), ValueError, "no gradient passes"),
    "chance": (
        lambda: Generator(frozen(lambda x: x + torch.randn_like(x)), 4),
        ValueError,
        "two images for one latent",
    ),
    "dropout": (lambda: Generator(Training(True), 8), ValueError, "two images.*dropout"),
    "statistics": (lambda: Generator(Training(False), 8), ValueError, r"latents \(1, 8\).*: Expec"),
    "batch": (lambda: Generator(frozen(crossed), 4), ValueError, "depends on the others of its"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_prior_is_refused(case):
    make, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        make()


CALLS = {
    "z": ({"z": torch.zeros(2, 7)}, r"z must have shape \(B, 6\), got \(2, 7\)"),
    "block": ({"from_block": 5, "state": (torch.zeros(2, 1, 8, 8),)}, "from_block must be an"),
    "no state": ({"from_block": 1}, "give both"),
    "no block": ({"state": (torch.zeros(2, 1, 8, 8),)}, "give both"),
}


@pytest.mark.parametrize("case", CALLS)
def test_wrong_calls_are_refused(case):
    prior = Generator(sequence(), (6, 1, 1))
    inputs, message = CALLS[case]
    with pytest.raises(ValueError, match=message):
        prior(**{"z": torch.zeros(2, 6), **inputs})


@pytest.mark.parametrize("init", [None, "mean", "best-of:3", "encoder", "latents"])
def test_solving(init):
    prior = Generator(sequence(), (6, 1, 1))
    truth = prior.sample(2, seed=3)
    A = gprior.operators.PartialCirculant(prior.image_shape, m=32)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 6))
    given = {"encoder": encoder, "latents": torch.zeros(2, 6)}
    result = gprior.solve(A(truth), A, prior, steps=40, stop="fixed", init=given.get(init, init))
    assert result.solver["name"] == "auto" and result.x.shape == truth.shape
    assert bool((result.misfit < 1).all())
    torch.testing.assert_close(prior(z=result.latents["z"]), result.generated, rtol=0, atol=1e-5)


def test_solving_with_classes():
    prior = Generator(Decoder(classes=3), 8, range="[0, 1]", c_dim=3)
    truth = prior.sample(2, seed=3, label=1)
    A = gprior.operators.Downsampling(prior.image_shape, 2)
    for label in (1, None):
        result = gprior.solve(A(truth), A, prior, "csgm", label=label, steps=40, stop="fixed")
        assert bool((result.loss < 0.8 * result.history[:, 0]).all())


def test_the_native_format_refuses_it(tmp_path):
    with pytest.raises(TypeError, match="BigGAN or StyleGAN2, got Generator"):
        gprior.checkpoints.save_prior(Generator(Decoder(), 8), tmp_path / "own.safetensors")


def test_a_copy_stands_alone():
    prior = Generator(sequence(), (6, 1, 1))
    other = copy.deepcopy(prior)
    before = other.sample(1)
    with torch.no_grad():
        prior.module[0].weight.mul_(0)
    assert torch.equal(other.sample(1), before)
    z = other.draw([(0,)])
    state = other.run_blocks(z, to_block=2)
    assert torch.equal(other(z=z, from_block=2, state=state), other(z=z))
