"""The overparameterized StyleGAN2: its latents, its training, and searches of its matrix of styles."""

from __future__ import annotations

import pytest
import torch

from gprior.priors import StyleGAN2
from gprior.priors.stylegan2_blocks import correlated
from gprior.training.path_length import path_lengths

DOUBLE = torch.float64


@pytest.fixture(scope="module", params=[0, 3], ids=["no classes", "3 classes"])
def twins(request, tiny_prior):
    """Return an ordinary prior and an overparameterized one with the same weights."""
    options = {"critic": True, "use_noise": False}
    plain = tiny_prior(16, 1, request.param, **options)
    over = tiny_prior(16, 1, request.param, **options, overparameterized=True)
    over.load_state_dict(plain.state_dict())
    return plain, over


def label(prior, n):
    return prior.classes([i % prior.c_dim for i in range(n)], n) if prior.c_dim else None


def test_latents_are_standard_normal_and_correlate_by_a_half(tiny_prior):
    prior = tiny_prior(16, critic=False, overparameterized=True)
    z = prior.draw([(0, "test", i) for i in range(4000)])
    assert z.shape == (4000, prior.z_dim) and prior.z_dim == 17 * 8
    Z = correlated(z, prior.rows)
    assert Z.shape == (4000, 16, 8)
    assert Z.mean(0).abs().max() < 0.08
    flat = Z.transpose(1, 2).reshape(-1, 16)  # samples x rows
    expected = torch.full((16, 16), 0.5, dtype=DOUBLE).fill_diagonal_(1)
    torch.testing.assert_close(flat.T.cov(), expected, atol=0.03, rtol=0)
    entries = Z[:, :2].reshape(4000, 16).T.cov()[:8, 8:]  # of two rows
    off = entries - 0.5 * torch.eye(8, dtype=DOUBLE)
    assert off.abs().max() < 0.08


def test_equal_rows_are_the_image_of_the_ordinary_twin(twins):
    plain, over = twins
    z0 = plain.draw([(0, "test", i) for i in range(3)])
    # Z_i = (z_i + z_0) / sqrt(2) is z where z_i = (sqrt(2) - 1) z_0 for every i and z_0 = z.
    z = torch.cat([z0, ((2**0.5 - 1) * z0).repeat(1, over.rows)], 1)
    c = label(plain, 3)
    torch.testing.assert_close(over(z, c), plain(z0, c), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        over(z, c, truncation_psi=0.6), plain(z0, c, truncation_psi=0.6), rtol=1e-10, atol=1e-10
    )
    w = plain.mapping(z0, c)
    torch.testing.assert_close(over(ws=w), plain(ws=w))  # one style is one style for all filters


def test_rows_are_mapped_one_by_one(twins):
    _, over = twins
    z, c = over.draw([(1, "test", i) for i in range(2)]), label(over, 2)
    ws = over.mapping(z, c)
    assert ws.shape == (2, over.num_ws, over.rows, over.w_dim)
    rows = correlated(z, over.rows)
    for i in (0, 5, over.rows - 1):
        torch.testing.assert_close(ws[:, 0, i], over.mapping_network(rows[:, i], c))
    assert torch.equal(ws[:, 0], ws[:, -1])  # shared by the layers


def test_images_do_not_depend_on_their_batch_and_have_gradients(twins):
    _, over = twins
    z = over.draw([(2, "test", i) for i in range(3)]).requires_grad_()
    c = label(over, 3)
    x = over(z, c)
    alone = over(z[1:2], None if c is None else c[1:2])
    torch.testing.assert_close(x[1:2], alone, rtol=1e-12, atol=1e-12)
    (grad,) = torch.autograd.grad(x[1].sum(), z)
    assert grad[1].abs().min() >= 0 and grad[1].abs().max() > 0
    assert not grad[0].any() and not grad[2].any()
    # Row 15 acts on the layers with all 16 filters; each row has a gradient of its own.
    assert (grad[1].view(over.rows + 1, -1).norm(dim=1) > 0).all()
    e, h = torch.randn_like(z), 1e-6
    with torch.no_grad():
        slope = (over(z + h * e, c)[1].sum() - over(z - h * e, c)[1].sum()) / (2 * h)
    torch.testing.assert_close((grad * e).sum(), slope, rtol=1e-5, atol=1e-8)


def test_path_lengths_count_the_whole_matrix():
    torch.manual_seed(0)
    rows = 5
    J = torch.randn(2, rows, 3, 4, 5, 6, dtype=DOUBLE)  # layers, rows, d, C, H, W
    ws = torch.randn(7, 2, rows, 3, dtype=DOUBLE, requires_grad=True)
    y = torch.randn(7, 4, 5, 6, dtype=DOUBLE)
    lengths = path_lengths(torch.einsum("blrd,lrdchw->bchw", ws, J), ws, y)
    grad = torch.einsum("bchw,lrdchw->blrd", y, J) / 30**0.5
    of_rows = grad.square().sum(3).mean((1, 2)).sqrt()
    torch.testing.assert_close(lengths, rows**0.5 * of_rows)


def test_it_describes_itself(twins):
    plain, over = twins
    assert over.describe() == "overparameterized StyleGAN2, z 136, w 6 x 16 x 16"
    assert over.inputs == {"z", "filters"} | ({"label"} if over.c_dim else set())
    assert StyleGAN2(**over.config).rows == 16 and StyleGAN2(**plain.config).rows == 0
