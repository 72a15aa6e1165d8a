"""The overparameterized StyleGAN2: latents, training, and searches of its matrix of styles."""

from __future__ import annotations

import copy

import pytest
import torch
from typer.testing import CliRunner

import gprior
from gprior.checkpoints import save_prior
from gprior.cli import main
from gprior.operators import Downsampling, Masking
from gprior.priors import StyleGAN2, spread
from gprior.priors.stylegan2_blocks import correlated
from gprior.solvers.overparameterized import Truncation
from gprior.training.path_length import path_lengths

DOUBLE = torch.float64


@pytest.fixture(scope="module", params=[0, 3], ids=["no classes", "3 classes"])
def twins(request, tiny_prior):
    """Return an ordinary prior and an overparameterized one with the same weights."""
    options = {"critic": True, "use_noise": False}
    plain = tiny_prior(16, 1, request.param, **options)
    over = copy.deepcopy(tiny_prior(16, 1, request.param, **options, overparameterized=True))
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


def test_the_spread_of_styles_is_that_of_the_ordinary_twin(twins):
    plain, over = twins  # each row has the distribution of the ordinary style
    assert spread(over) == pytest.approx(spread(plain), rel=0.05)


def test_it_describes_itself(twins):
    plain, over = twins
    assert over.describe() == "overparameterized StyleGAN2, z 136, w 6 x 16 x 16"
    assert over.inputs == {"z", "filters"} | ({"label"} if over.c_dim else set())
    assert StyleGAN2(**over.config).rows == 16 and StyleGAN2(**plain.config).rows == 0


# --- Searches


@pytest.mark.parametrize("shape", [(8,), (5, 8), (4, 5, 8)])
def test_truncation_contracts_by_its_factor(shape):
    g = torch.Generator().manual_seed(0)
    w = torch.randn(3, *shape, generator=g, dtype=DOUBLE)
    mean = torch.randn(3, 8, generator=g, dtype=DOUBLE)
    rule, there = Truncation(0.9, 0.5), mean.view(3, *[1] * (len(shape) - 1), 8)
    near = rule.project({"w": w, "noise.0": w}, {"mean": mean}, 0.499)
    torch.testing.assert_close(near["w"] - there, 0.9 * (w - there), rtol=1e-14, atol=1e-15)
    assert near["noise.0"] is w
    assert rule.project({"w": w}, {"mean": mean}, 0.5)["w"] is w
    always = Truncation(0.9, 1.0).project({"w": w}, {"mean": mean}, 0.999)["w"]
    assert torch.equal(always, near["w"])


def scene(prior, n=2):
    A = Masking(prior.image_shape, torch.ones(prior.image_shape[1:]))
    c = [i % prior.c_dim for i in range(n)] if prior.c_dim else None
    return A, A(prior.sample(n, seed=3, label=c)), {"label": c, "stop": "fixed"}


def test_the_search_starts_from_the_mean_and_shares_its_matrix(twins):
    for prior in twins:
        A, y, options = scene(prior)
        first = gprior.solve(y, A, prior, "overparameterized", steps=1, **options)
        w = first.latents["w"]
        assert w.shape == (2, prior.num_ws, prior.num_filters, prior.w_dim)
        mean = prior.mean_style(label(prior, 2)).expand(2, -1)
        torch.testing.assert_close(w, mean[:, None, None].expand_as(w))
        later = gprior.solve(y, A, prior, "overparameterized", steps=20, **options)
        w = later.latents["w"]
        assert (w == w[:, :1]).all()  # shared by the layers
        assert w[:, 0].std(1).max() > 1e-3  # and not by the filters
        assert (later.loss < 0.8 * first.loss).all()
        torch.testing.assert_close(prior(ws=w), later.generated)


def test_a_matrix_per_layer_differs_between_layers(twins):
    _, over = twins
    A, y, options = scene(over)
    w = gprior.solve(y, A, over, "overparameterized", steps=20, by_layer=True, **options)
    assert (w.latents["w"] != w.latents["w"][:, :1]).any()


def test_the_baseline_searches_single_styles(twins):
    plain, over = twins
    A, y, options = scene(plain)
    for by_layer in (False, True):
        options |= {"by_filter": False, "by_layer": by_layer}
        found = gprior.solve(y, A, plain, "overparameterized", steps=20, **options)
        w = found.latents["w"]
        assert w.shape == (2, plain.num_ws, plain.w_dim)
        assert bool((w == w[:, :1]).all()) != by_layer
        with pytest.raises(gprior.InputError, match="overparameterized"):  # among what works
            gprior.solve(y, A, over, "overparameterized", **options)


def test_random_starts_are_matrices_of_the_mapping_network(twins):
    _, over = twins
    A, y, options = scene(over)
    options |= {"init": "random", "truncation": 1.0, "steps": 1}
    found = gprior.solve(y, A, over, "overparameterized", seed=[1, 2], **options)
    assert (found.latents["w"].std(2) > 0).any()
    assert (found.x[0] - found.x[1]).abs().max() > 1e-3


def test_truncation_keeps_the_styles_near_the_mean(twins):
    """Throughout, as the paper has it for 16 x nearest-neighbour downsampling."""
    _, over = twins
    _, _, options = scene(over)
    A = Downsampling(over.image_shape, 4, filter="nearest")
    y = A(over.sample(2, seed=3, label=options["label"]))
    mean = over.mean_style(label(over, 2)).expand(2, -1)[:, None, None]

    def away(until):
        found = gprior.solve(y, A, over, "overparameterized", steps=20, until=until, **options)
        return float((found.latents["w"] - mean).norm())

    assert away(1.0) < 0.95 * away(0.5)


def test_other_methods_take_it_or_name_those_that_do(twins):
    _, over = twins
    A, y, options = scene(over)
    for name in ("csgm", "auto"):
        found = gprior.solve(y, A, over, name, budget=40, **options)
        assert found.x.shape == y.shape
    with pytest.raises(gprior.InputError, match=r"needs the inputs \['w'\].*overparameterized"):
        gprior.solve(y, A, over, "lbrgm", **options)
    with pytest.raises(gprior.InputError, match=r"truncation must be at most 1, got 1\.5"):
        gprior.solvers.Overparameterized(truncation=1.5)


def test_a_batch_is_its_images_alone(twins):
    _, over = twins
    A, y, options = scene(over)
    options |= {"steps": 15, "init": "random", "stop": "fixed"}
    whole = gprior.solve(y, A, over, "overparameterized", **options)
    one = {**options, "label": None if options["label"] is None else options["label"][1]}
    alone = gprior.solve(y[1:], A, over, "overparameterized", **one)
    assert (whole.x[1:] - alone.x).abs().max() < 1e-6
    assert whole.evaluations.tolist() == pytest.approx([15 + 1 / 3] * 2)


# --- Training and files


def test_the_command_trains_it(tmp_path):
    words = ["--resolution", "16", "--count", "24", "--steps", "2", "--batch", "4", "--w-dim", "8"]
    words += ["--channel-max", "8", "--z-dim", "8", "--mapping-layers", "2", "--device", "cpu"]
    words += ["--path-length", "2", "--no-noise", "--overparameterized", "--out", str(tmp_path)]
    found = CliRunner().invoke(main, ["train", *words])
    assert found.exit_code == 0, found.output
    prior = gprior.load_prior(tmp_path / "phantom-16.safetensors")
    assert (prior.rows, prior.z_dim) == (8, 9 * 8) and "noise" not in prior.inputs
    assert "--no-noise --overparameterized" in (tmp_path / "model_card.md").read_text()
    assert torch.isfinite(prior.sample(2)).all()
    w = prior.mapping_network(torch.randn(20000, 8), prior.classes(1, 20000))
    torch.testing.assert_close(prior.w_avg[1], w.mean(0), atol=0.05, rtol=0.05)
    again = CliRunner().invoke(main, ["train", *words[:-3], *words[-2:], "--resume"])
    assert again.exit_code != 0  # the twin is another run


def test_a_file_keeps_it(twins, tmp_path):
    _, over = twins
    save_prior(over, tmp_path / "over.safetensors")
    loaded = gprior.load_prior(tmp_path / "over.safetensors")
    assert loaded.rows == over.rows and loaded.describe() == over.describe()
    z, c = over.draw([(0, "test", 0)]), label(over, 1)
    assert torch.equal(loaded(z, c), over(z, c))
