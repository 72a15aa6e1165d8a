"""What single methods promise beyond the suite that all of them inherit."""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import fields

import pytest
import torch

import gprior
from gprior.operators import Downsampling, Masking, PartialCirculant
from gprior.priors import Wrapped
from gprior.problem import AllSteps, Problem
from gprior.search import AfterBlock, L1Ball, Noise, Sphere, ZPlus, inputs_of
from gprior.search.bounds import onto_l1_ball
from gprior.search.loop import step_of
from gprior.solvers import SOLVERS

DOUBLE = torch.float64


@pytest.fixture
def prior(tiny_prior):
    return tiny_prior()


def rows(prior, n):
    """Return a problem of n rows that is asked for its draws alone."""
    image = torch.arange(n)
    keys = [(i, 0) for i in range(n)]
    return Problem(prior, None, [], [], [], image, keys, [AllSteps()] * n, torch.zeros(n))


# --- Balls and spheres


@pytest.mark.parametrize("radius", [0.5, 3.0, 40.0])
def test_the_l1_ball_is_projected_onto(radius):
    """The projection is feasible, fixes what is inside, and no feasible point is nearer."""
    v = torch.randn(5, 30, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    found = onto_l1_ball(v, radius)
    assert (found.abs().sum(1) <= radius + 1e-12).all()
    inside = v.abs().sum(1) <= radius
    assert torch.equal(found[inside], v[inside])
    assert (found.abs().sum(1)[~inside] > radius - 1e-9).all()
    for k in range(200):
        other = torch.randn(5, 30, dtype=DOUBLE, generator=torch.Generator().manual_seed(k + 1))
        other = other * (radius / other.abs().sum(1, keepdim=True))
        # Optimality of a projection: the angle at it is never acute.
        assert ((v - found) * (other - found)).sum(1).max() < 1e-9


def test_rows_of_a_ball_are_their_own():
    v = torch.randn(3, 50, dtype=DOUBLE)
    together = onto_l1_ball(v, 2.0)
    for i in range(3):
        assert torch.equal(onto_l1_ball(v[i : i + 1], 2.0)[0], together[i])


def test_spheres_keep_each_layer_and_map():
    first = {"z+": torch.randn(2, 3, 8), "noise.4": torch.randn(2, 1, 8, 8)}
    start = {f"first.{k}": v for k, v in first.items()}
    moved = {k: 3 * v + 0.5 for k, v in first.items()}
    found = Sphere(("z+", "noise")).project(moved, start, 0.0)
    torch.testing.assert_close(found["z+"].norm(dim=2), first["z+"].norm(dim=2))
    torch.testing.assert_close(found["noise.4"].norm(dim=(2, 3)), first["noise.4"].norm(dim=(2, 3)))
    assert Sphere(("z+",)).project(moved, start, 0.0)["noise.4"] is moved["noise.4"]
    ball = L1Ball(("z+", "noise"), (0.1, 5.0), per_entry=True).project(moved, start, 0.0)
    assert ((ball["z+"] - first["z+"]).abs().mean((1, 2)) <= 0.1 + 1e-6).all()


# --- ILO


class Seen:
    """The first image that each stage of a search evaluates."""

    def __init__(self):
        self.images = []

    def __call__(self, step, rows, loss, image):
        self.images.append(image.clone())


@pytest.mark.parametrize("resolution", [16, 32, 64])
def test_every_round_of_ilo_starts_from_the_image_before(resolution, tiny_prior):
    """With no movement in between, all rounds start from exactly G(z)."""
    prior = tiny_prior(resolution)
    A = PartialCirculant(prior.image_shape, m=0.3)
    truth = prior.sample(2, seed=3)
    seen = Seen()
    z = prior.draw([(5, "z", i) for i in range(2)])
    gprior.solve(
        A(truth), A, prior, "ilo", init=z, steps=(1, 1, 1, 1), lr=0.0, stop="fixed", callback=seen
    )
    expected = prior(z)
    assert len(seen.images) == 4
    for image in seen.images:
        assert (image - expected).abs().max() < 1e-6


def test_rounds_of_ilo_go_on_from_the_best(prior):
    """Each round's first loss is the best of all before, although steps overshoot."""
    A = PartialCirculant(prior.image_shape, m=0.5)
    y = A(prior.sample(3, seed=3))
    steps = (7, 6, 5, 4)
    found = gprior.solve(y, A, prior, "ilo", steps=steps, lr=0.5, stop="fixed")
    at = 0
    for n in steps[:-1]:
        at += n
        before = found.history[:, :at].min(1).values
        torch.testing.assert_close(found.history[:, at], before, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.loss, found.history.min(1).values, rtol=1e-6, atol=1e-6)
    names = {k for k in found.latents if k.startswith("state.")}
    assert names == {"state.2.0", "state.2.1"}  # one structure, whatever round was best
    torch.testing.assert_close(prior(**inputs_of(found.latents)), found.x)


def test_balls_of_ilo_bind(prior):
    A = PartialCirculant(prior.image_shape, m=0.5)
    y = A(prior.sample(2, seed=3))
    options = {"steps": (1, 20, 1, 1), "stop": "fixed"}
    free = gprior.solve(y, A, prior, "ilo", radius=None, **options)
    tight = gprior.solve(y, A, prior, "ilo", radius=(1e-6, 1e-6, 1e-6), **options)
    assert (free.loss < 0.9 * tight.loss).all()
    for wrong in ("big", -1.0, (1.0, 2.0), (1.0, 2.0, -3.0)):
        with pytest.raises(ValueError, match="radius must be 'auto', None"):
            gprior.solve(y, A, prior, "ilo", radius=wrong)


def test_a_state_is_entered_from_a_state(prior):
    z = prior.draw([(5, "z", i) for i in range(2)])
    start = {"z": z, "w": prior.mapping(z)}
    one = AfterBlock(1).enter(prior, start)
    two = AfterBlock(2).enter(prior, one)
    direct = AfterBlock(2).enter(prior, start)
    assert set(two) == set(direct) == {"z", "w", "state.2.0", "state.2.1"}
    for name in two:
        assert torch.equal(two[name], direct[name])


# --- Latent


@pytest.mark.parametrize(
    ("spaces", "names"),
    [
        (("z",), {"z"}),
        (("z+", "content", "noise"), {"z+", "w", "content"}),
        (("w",), {"w"}),
        (("w+", "content", "noise"), {"w", "content"}),
        (("w++",), {"w"}),
        (("noise",), {"w"}),
    ],
)
def test_products_of_spaces(spaces, names, prior):
    A = Masking(prior.image_shape, "half")
    truth = prior.sample(2, seed=4)
    found = gprior.solve(A(truth), A, prior, "latent", spaces=spaces, steps=12, stop="fixed")
    noises = {f"noise.{k}" for k in range(5)} if "noise" in spaces else set()
    assert set(found.latents) == names | noises
    assert (found.loss < found.history[:, 0]).all()
    torch.testing.assert_close(prior(**inputs_of(found.latents)), found.x)


def test_spaces_are_checked(prior):
    A = Masking(prior.image_shape, "half")
    y = A(prior.sample(1))
    for wrong, message in (
        (("w", "w+"), "one latent at most"),
        (("w*",), "different names among"),
        ((), "different names among"),
        (("noise", "noise"), "different names among"),
    ):
        with pytest.raises(ValueError, match=message):
            gprior.solve(y, A, prior, "latent", spaces=wrong)
    with pytest.raises(ValueError, match="optimizer must be 'adam' or 'lbfgs'"):
        gprior.solve(y, A, prior, "latent", optimizer="sgd")


@pytest.mark.parametrize("spaces", [("z",), ("w+",), ("w+", "content")])
def test_lbfgs_solves_each_image_alone(spaces, prior):
    A = PartialCirculant(prior.image_shape, m=0.5)
    y = A(prior.sample(3, seed=3)) + 0.01
    options = {"spaces": spaces, "optimizer": "lbfgs", "steps": 25, "init": "best-of:3"}
    whole = gprior.solve(y, A, prior, "latent", **options)
    for i in range(3):
        alone = gprior.solve(y[i : i + 1], A, prior, "latent", **options)
        assert (alone.x[0] - whole.x[i]).abs().max() < 1e-9
        assert alone.evaluations[0] == whole.evaluations[i] <= 25 + 4 / 3
    adam = gprior.solve(y, A, prior, "latent", **{**options, "optimizer": "adam"})
    assert whole.loss.median() < adam.loss.median()
    torch.testing.assert_close(whole.loss, whole.history.nan_to_num(math.inf).min(1).values)


def test_lbfgs_stops_at_the_noise(prior):
    A = PartialCirculant(prior.image_shape, m=0.5)
    y = A(prior.sample(2, seed=3))
    options = {"optimizer": "lbfgs", "steps": 60, "init": "best-of:10"}
    found = gprior.solve(y, A, prior, "latent", noise_std=0.1, **options)
    assert found.reason == ["discrepancy"] * 2 and (found.criterion <= 1).all()


# --- SPHInX


def test_heads_of_sphinx_are_functions_of_z(prior):
    """The code is the mean over draws; its loss is reported; the spread is what it says."""
    from gprior.priors.styles import spread
    from gprior.solvers.projection_heads import StyleHead

    A = PartialCirculant(prior.image_shape, m=0.5)
    y = A(prior.sample(2, seed=3))
    for full in (False, True):
        found = gprior.solve(y, A, prior, "sphinx", steps=20, full=full, lr=0.01, stop="fixed")
        assert set(found.diagnostics) == {"spread", "collapsed"}
        assert (found.diagnostics["spread"] > 0).all()
        square = (A(prior(**inputs_of(found.latents))) - y).square().mean(1)
        torch.testing.assert_close(found.terms["fidelity"], 255**2 / 2 * square)
        assert ("content" in found.latents) == full
        heads = {k: v for k, v in found.latents.items() if k.startswith("style.")}
        w = StyleHead(spread(prior)).offsets(heads, heads["style.draws"]).mean(1)
        mean = prior.w_avg.expand_as(w)
        torch.testing.assert_close(found.latents["w"], mean + w)  # heads and draws are kept


def test_a_collapsed_head_is_reported(prior):
    """A head whose last layer ignores its input makes one code, whatever z."""
    from gprior.solvers.projection_heads import StyleHead

    start = {"z": prior.draw([(0, "z", i) for i in range(2)])}
    start["w"] = prior.mapping(start["z"])
    space, at = StyleHead(0.4), step_of(rows(prior, 2), 0, 0.0)
    variables = space.initial(prior, start, at)
    last = "style.decoder.2.weight"
    variables[last] = variables[last] * torch.tensor([1.0, 0.0], dtype=DOUBLE).view(2, 1, 1, 1)
    found = space.diagnose(variables, space.finish(variables, start, at), at)
    assert found["collapsed"].tolist() == [0, 1] and found["spread"][1] < 1e-9
    w = torch.stack(
        [space.decode(variables, start, step_of(rows(prior, 2), k, 0.0))["ws"] for k in range(400)]
    )
    spread = (w - w.mean(0)).square().mean((0, 2, 3)).sqrt() / 0.4
    torch.testing.assert_close(found["spread"][0], spread[0], rtol=0.1, atol=0)


def test_the_width_of_the_bottleneck(prior):
    A = PartialCirculant(prior.image_shape, m=0.5)
    y = A(prior.sample(2, seed=3))
    for d in (16, 64):
        found = gprior.solve(y, A, prior, "sphinx", steps=3, bottleneck=d, stop="fixed")
        assert found.latents["style.bottleneck.2.weight"].shape == (2, 256, d)
        assert found.latents["style.decoder.0.weight"].shape == (2, prior.num_ws, d, 32)
    usual = gprior.solve(y, A, prior, "sphinx", steps=3, stop="fixed")
    assert usual.latents["style.bottleneck.2.weight"].shape == (2, 256, 16)
    with pytest.raises(gprior.InputError, match="bottleneck must be an integer of at least 1"):
        gprior.solve(y, A, prior, "sphinx", bottleneck=0)


@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("head", ["pretrained", "untrained"])
def test_the_mapping_network_as_a_head(head, c_dim, tiny_prior):
    """Each image has weights of its own, and the prior keeps its weights."""
    prior = tiny_prior(c_dim=c_dim)
    label = {"label": [0, 2]} if c_dim else {}
    A = PartialCirculant(prior.image_shape, m=0.5)
    y = A(prior.sample(2, seed=3, label=1 if c_dim else None))
    before = prior.digest()
    options = {"head": head, "full": True, "stop": "fixed", **label}
    found = gprior.solve(y, A, prior, "sphinx", steps=12, lr=0.01, seed=[3, 4], **options)
    assert (found.diagnostics["spread"] > 0).all() and found.loss.isfinite().all()
    assert prior.digest() == before
    names = {f"style.{name}" for name, _ in prior.mapping_network.named_parameters()}
    assert {k for k in found.latents if k.startswith("style.")} == {*names, "style.draws"}
    for i in range(2):  # the weights that were found are those of the head
        network = copy.deepcopy(prior.mapping_network)
        network.load_state_dict({k[6:]: found.latents[k][i] for k in names}, strict=False)
        z = found.latents["style.draws"][i]
        c = prior.classes(label["label"][i], 64) if c_dim else None
        w = torch.stack([network(z[:, layer], c).mean(0) for layer in range(prior.num_ws)])
        torch.testing.assert_close(found.latents["w"][i], w)
        alone = {**options, **({"label": label["label"][i]} if c_dim else {})}
        one = gprior.solve(y[i : i + 1], A, prior, "sphinx", steps=12, lr=0.01, seed=3 + i, **alone)
        assert (one.x[0] - found.x[i]).abs().max() < 1e-9
    still = gprior.solve(y, A, prior, "sphinx", steps=1, seed=[3, 4], **options)
    for name, own in prior.mapping_network.named_parameters():
        first = still.latents[f"style.{name}"]
        if head == "pretrained":
            assert all(torch.equal(row, own) for row in first)
        elif own.ndim > 1:
            assert (first[0] - first[1]).abs().max() > 0.01
            size = first.square().mean((1, 2)).sqrt() / own.square().mean().sqrt()
            torch.testing.assert_close(size, torch.ones_like(size), rtol=0.3, atol=0)
        else:
            assert not first.any()


def test_the_gradient_of_a_mapping_network_as_a_head(tiny_prior):
    prior = tiny_prior(c_dim=2)
    space = gprior.solvers.SPHInX(head="pretrained").style_head(prior)
    z = prior.draw([(0, "z", i) for i in range(2)])
    start = {"z": z, "c": prior.classes([0, 1], 2)}
    start["w"] = prior.mapping(z, start["c"])
    at = step_of(rows(prior, 2), 0, 0.0)
    variables = space.initial(prior, start, at)
    names = list(variables)

    def styles(*weights):
        return space.draw(dict(zip(names, weights, strict=True)), start, at)["w"]

    weights = [variables[name].requires_grad_() for name in names]
    assert torch.autograd.gradcheck(styles, weights, fast_mode=True)


def test_heads_that_a_prior_lacks(prior):
    A = PartialCirculant(prior.image_shape, m=0.5)
    y = A(prior.sample(1))
    with pytest.raises(gprior.InputError, match="head must be one of"):
        gprior.solve(y, A, prior, "sphinx", head="mapping")

    class Opaque(Wrapped):
        mapping_network = None
        core = property(lambda self: self)

    own = Opaque(prior)
    with pytest.raises(gprior.InputError, match="needs a prior with a module mapping_network"):
        gprior.solve(y, A, own, "sphinx", head="pretrained", init="random")
    found = gprior.solve(y, A, own, "sphinx", steps=2, init="random")
    assert found.x.isfinite().all()


def test_clipped_noise_is_seen_by_the_search_alone(prior):
    A = Masking(prior.image_shape, torch.ones(1, 16, 16))
    y = A(prior.sample(2, seed=3)).clamp(0, 1)
    plain = gprior.solve(y, A, prior, "sphinx", steps=3, stop="fixed", perceptual=False)
    noisy = gprior.solve(
        y, A, prior, "sphinx", steps=3, stop="fixed", perceptual=False, clip_noise=0.3
    )
    assert (noisy.history[:, 0] - plain.history[:, 0]).abs().min() > 1  # another image is seen
    square = (noisy.x - y).square().flatten(1).mean(1)
    torch.testing.assert_close(noisy.terms["fidelity"], 255**2 / 2 * square)


# --- P-norm+, robust, noise


def test_whitened_styles_are_white(prior):
    from gprior.solvers.pnorm import Whitened, moments

    z = torch.randn(4000, 8, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    space = Whitened(*moments(prior))
    w = prior.mapping(z)
    v = space.initial(prior, {"w": w}, None)["v"]
    torch.testing.assert_close(space.finish({"v": v}, {"w": w}, None)["w"], w)
    flat = v[:, 0]
    variance = flat.var(0)
    assert flat.mean(0).abs().max() < 0.1
    assert ((variance - 1).abs() < 0.1).sum() >= 4  # directions that vary at all
    assert variance.max() < 1.1


def test_normalised_gradients_ignore_the_weights_of_the_data(prior):
    A = PartialCirculant(prior.image_shape, m=0.5)
    y = A(prior.sample(2, seed=3))
    a = gprior.solve(y, A, prior, "robust", steps=(3, 3, 3), stop="fixed")
    b = gprior.solve(y, A, prior, "robust", steps=(3, 3, 3), stop="fixed", pixel=1.0)
    assert (a.x - b.x).abs().max() < 1e-9
    assert a.latents["w"].shape == (2, prior.num_ws, prior.num_filters, 16)


def test_noise_maps_by_number(prior):
    z = prior.draw([(0, "z", 0)])
    at = step_of(rows(prior, 1), 0, 0.0)
    space = ZPlus(prior) & Noise(first=1, last=3)
    start = {"z": z, "w": prior.mapping(z)}
    variables = space.initial(prior, start, at)
    assert set(variables) == {"z+", "noise.1", "noise.2"}
    torch.testing.assert_close(prior(**space.decode(variables, start, at)), prior(z))
    with pytest.raises(ValueError, match=r"noise has maps \[7\]"):
        prior.synthesis(start["w"], noise={7: torch.zeros(1, 1, 4, 4, dtype=DOUBLE)})


# --- Recovery with the embedded prior

# Evaluations: 400 for methods of W and W+, 1000 for those of z.
RECOVERED = {
    **dict.fromkeys(("lbrgm", "brgm", "i2s", "pnorm", "sphinx", "projector", "robust"), 400),
    **dict.fromkeys(("i2s++", "latent"), 400),
    **dict.fromkeys(("ilo", "pulse", "csgm"), 1000),
}


@functools.cache
def recovery(name, images, budget, **options):
    prior = gprior.load_prior("phantom-64")
    A = PartialCirculant(prior.image_shape, m=0.4, seed=0)
    truth = prior.sample(images, seed=5).clamp(0, 1)
    y = A(truth)
    found = gprior.solve(y, A, prior, name, budget=budget, init="best-of:100", **options)
    psnr, start = (
        -10 * (x - truth).square().mean((1, 2, 3)).log10() for x in (found.x, A.A_adjoint(y))
    )
    return psnr, psnr - start


@pytest.mark.slow
@pytest.mark.parametrize("name", RECOVERED)
def test_images_in_range_are_recovered(name):
    psnr, _ = recovery(name, 8, RECOVERED[name])
    assert psnr.median() > 35 and psnr.min() > 25, psnr


@pytest.mark.slow
@pytest.mark.parametrize("name", RECOVERED)  # for 18 members 400 passes are too few
def test_every_method_gains(name):
    assert recovery(name, 8, 400)[1].median() > 15


@pytest.mark.parametrize("name", RECOVERED)
def test_two_images_in_range_are_recovered(name):
    """Stopped where the residual is that of 38 dB, which most reach long before their budget."""
    options = {"stop": "discrepancy", "noise_std": 0.0125}
    psnr, gain = recovery(name, 2, RECOVERED[name], **options)
    assert psnr.mean() > 35 and psnr.min() > 25 and gain.min() > 15, psnr


def test_halvings_of_robust_see_smaller_images(tiny_prior):
    """At 64 pixels y is compared at 64, 32 and 16 pixels; held-out entries stay unseen there."""
    from gprior.distances import choose

    prior = tiny_prior(64)
    A = Masking(prior.image_shape, "half")
    y = A(prior.sample(2, seed=3))
    options = {"steps": (1, 1, 1), "perceptual": True}
    result = gprior.solve(y, A, prior, "robust", stop="fixed", **options)
    distance, unit = choose(True, prior)
    expected, pair = 0, (A.A(result.x), y)
    for _ in range(3):
        expected = expected + distance(*pair) / unit
        pair = tuple(torch.nn.functional.avg_pool2d(image, 2) for image in pair)
    torch.testing.assert_close(result.terms["perceptual"], expected)
    held = gprior.solve(y, A, prior, "robust", stop="holdout", **options)
    assert held.terms["perceptual"].isfinite().all()


# --- The constants of the papers


@pytest.mark.parametrize("name", SOLVERS)
def test_the_constants_of_the_paper(name, tiny_prior):
    """They are fields that differ from the defaults, and one can search with them."""
    kind = SOLVERS[name]
    paper, usual = kind.paper(), kind()
    assert all(getattr(paper, key) != getattr(usual, key) for key in kind.PAPER)
    same = {f.name for f in fields(kind)} - set(kind.PAPER)
    assert all(getattr(paper, key) == getattr(usual, key) for key in same)
    prior = tiny_prior()
    A = Downsampling(prior.image_shape, 2)
    few = len(usual.stages)
    small = {"population": 3} if hasattr(kind, "population") else {}
    short = kind.paper(steps=(1,) * few if few > 1 else 1, **small)
    found = gprior.solve(A(prior.sample(1, seed=2)), A, prior, short)
    assert found.generated.isfinite().all()
    with pytest.raises(gprior.InputError, match="steps"):
        kind.paper(steps=-1)
