"""Path-length regularization: its gradient, its average, and runs that resume."""

from __future__ import annotations

import pytest
import torch
from test_training import CONFIG, equal, trainer

from gprior.priors import StyleGAN2
from gprior.training import phantom_set
from gprior.training.path_length import PathLength, path_lengths


@pytest.fixture(scope="module")
def data():
    return phantom_set(16, 24, 12)


@pytest.fixture
def tiny():
    """Return a generator in float64, and a function that makes images and their styles."""
    torch.manual_seed(0)
    G = StyleGAN2(**{**CONFIG, "c_dim": 0, "channel_base": 32, "channel_max": 4}).double()
    z = torch.randn(2, 8, dtype=torch.float64)

    def images():
        ws = G.mapping(z).expand(-1, G.num_ws, -1)
        return G.synthesis(ws), ws

    return G, images, torch.randn(2, 1, 16, 16, dtype=torch.float64)


def test_the_length_of_a_linear_map():
    torch.manual_seed(0)
    J = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)  # layers, d, C, H, W
    ws = torch.randn(7, 2, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(7, 4, 5, 6, dtype=torch.float64)
    lengths = path_lengths(torch.einsum("bld,ldchw->bchw", ws, J), ws, y)
    grad = torch.einsum("bchw,ldchw->bld", y, J) / 30**0.5
    torch.testing.assert_close(lengths, grad.square().sum(2).mean(1).sqrt())


def test_lengths_are_finite_differences(tiny):
    G, images, y = tiny
    x, ws = images()
    grad, h = torch.zeros(2, ws[0].numel(), dtype=torch.float64), 1e-5
    with torch.no_grad():
        for k in range(grad.shape[1]):
            e = h * (torch.arange(grad.shape[1]) == k).double().view_as(ws[0])
            change = (G.synthesis(ws + e) - G.synthesis(ws - e)) / (2 * h)
            grad[:, k] = (change * y).sum((1, 2, 3)) / 16  # the square root of H W
    expected = grad.view_as(ws).square().sum(2).mean(1).sqrt()
    torch.testing.assert_close(path_lengths(x, ws, y), expected, rtol=1e-6, atol=0)


def test_the_gradient_of_the_penalty_is_finite_differences(tiny):
    """With respect to all weights of the generator, along a random direction."""
    G, images, y = tiny
    rule, weights = PathLength(2.0), list(G.parameters())
    rule.mean = 0.3
    value = rule.penalty(*images(), y)

    def expected():
        """Return the penalty; the average of lengths is a constant of its gradient."""
        return (path_lengths(*images(), y) - rule.mean).square().mean() * 2 * 4

    mean = float(path_lengths(*images(), y).detach().mean())
    assert rule.mean == pytest.approx(0.99 * 0.3 + 0.01 * mean)
    torch.testing.assert_close(value, expected())
    direction = [torch.randn_like(p) for p in weights]
    grads = torch.autograd.grad(value, weights, allow_unused=True)
    slope = sum((g * d).sum() for g, d in zip(grads, direction, strict=True) if g is not None)

    def moved(h):
        with torch.no_grad():
            for p, d in zip(weights, direction, strict=True):
                p.add_(h * d)
        return float(expected().detach())

    h = 1e-6
    ahead, behind = moved(h), moved(-2 * h)
    assert float(slope) == pytest.approx((ahead - behind) / (2 * h), rel=1e-5)


def test_it_runs_on_its_schedule(data):
    run, values = trainer(data, path_length=2.0), []
    run.train(values.append)
    assert ["path_length" in v for v in values] == [True, False, False, False, True, False]
    assert run.opt_g.param_groups[0]["betas"][1] == 0.99**0.8
    assert not equal(run, trainer(data))


def test_a_run_resumes_as_if_it_had_never_stopped(data, tmp_path):
    whole, first, second = (trainer(data, path_length=2.0) for _ in range(3))
    whole.train()
    while first.step < 3:
        first._step()
        first.step += 1
    first.save(tmp_path / "state.pt")
    second.restore(tmp_path / "state.pt")
    second.train()
    assert equal(second, whole)
    assert second.path_length.mean == whole.path_length.mean > 0
