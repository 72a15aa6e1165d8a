"""Edits: exactness, the rule for corrections, directions that mean something, discovery."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gprior
from gprior.editing import (
    Direction,
    Edited,
    axes,
    class_direction,
    directions,
    discover,
    edit,
    interpolate,
    neighbours,
)
from gprior.operators import Masking
from gprior.priors import BigGAN, Generator
from gprior.randomness import normal
from gprior.search import inputs_of
from gprior.solvers import placement
from gprior.training import phantoms

EXACT = {"rtol": 0.0, "atol": 1e-12}


@pytest.fixture(scope="module")
def prior(tiny_prior: Any) -> Any:
    return tiny_prior(c_dim=3)


@pytest.fixture(scope="module")
def biggan() -> BigGAN:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = BigGAN([16, 16, 8], [True, True], z_dim=6, embed_dim=4, c_dim=3)
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
            if tensor.is_floating_point() and "var" not in name:
                tensor.data += 0.3 * torch.randn_like(tensor)
    return net.double().freeze()


def latents(prior: Any, n: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """Return different styles for each layer."""
    layers = prior.num_ws
    z = prior.draw([(seed, "z", i) for i in range(n * layers)])
    c = prior.classes([i % prior.c_dim for i in range(n)], n).repeat_interleave(layers, 0)
    return {"w": prior.mapping(z, c)[:, 0].view(n, layers, -1)}


def classed(prior: Any, n: int = 3, seed: int = 0) -> dict[str, Tensor]:
    z = prior.draw([(seed, "z", i) for i in range(n)])
    return {"z": z, "c": prior.classes([i % prior.c_dim for i in range(n)], n)}


def corrected(prior: Any, solver: str = "csgm", n: int = 2, seed: int = 0) -> gprior.Result:
    """Solve images that the prior lacks, with a correction."""
    A = gprior.operators.Masking(prior.image_shape, "random", keep=0.5)
    y = A(normal([(seed, "image", i) for i in range(n)], prior.image_shape, prior.like))
    return gprior.solve(y, A, prior, solver, steps=3, label=0, correction="tv", seed=seed)


# --- edits ---------------------------------------------------------------------------------


def test_an_edit_adds_to_the_named_layers_alone(prior: Any) -> None:
    code, vector = latents(prior), torch.linspace(-1, 1, prior.w_dim, dtype=torch.float64)
    edited = edit(code, prior, Direction("w", vector), [0.5, 0, -2], layers=[0, 3])
    expected = code["w"].clone()
    for i, amount in enumerate((0.5, 0.0, -2.0)):
        expected[i, [0, 3]] += amount * vector
    torch.testing.assert_close(edited.latents["w"], expected, **EXACT)
    torch.testing.assert_close(edited.x, prior(ws=expected), **EXACT)
    assert torch.equal(edited.x, edited.generated) and len(edited) == 3


def test_layers_of_the_direction_hold_unless_the_edit_has_its_own(prior: Any) -> None:
    code = latents(prior)
    direction = Direction("w", torch.ones(prior.num_ws, prior.w_dim), layers=[1])
    moved = edit(code, prior, direction).latents["w"] - code["w"]
    assert moved.abs().amax((0, 2)).nonzero().flatten().tolist() == [1]
    moved = edit(code, prior, direction, layers=range(2)).latents["w"] - code["w"]
    assert moved.abs().amax((0, 2)).nonzero().flatten().tolist() == [0, 1]


def test_amount_0_changes_nothing(prior: Any) -> None:
    result = corrected(prior)
    edited = edit(result, prior, directions(prior, 1)[0], 0.0)
    torch.testing.assert_close(edited.x, result.x, **EXACT)
    assert torch.equal(edited.latents["w"], prior.mapping(result.latents["z"], result.latents["c"]))


def test_edits_and_corrections_commute(prior: Any) -> None:
    """Editing a corrected image is editing the generated one and adding the correction."""
    result = corrected(prior)
    added = result.x - result.generated
    assert added.abs().mean() > 0.01
    plain, direction = replace(result, x=result.generated), class_direction(prior, 0, 2)
    with_it, without = (edit(r, prior, direction, 0.7) for r in (result, plain))
    torch.testing.assert_close(with_it.x, without.x + added, **EXACT)
    torch.testing.assert_close(with_it.generated, without.x, **EXACT)
    assert (without.x - plain.x).abs().mean() > 1e-3
    outside = replace(result, x=result.generated + 3)  # nothing is clipped
    assert edit(outside, prior, direction, 0.7).x.min() > 2


def test_a_tuned_image_is_edited_by_its_own_generator(prior: Any) -> None:
    A = Masking(prior.image_shape, "half")
    y = A(prior.sample(2, seed=3, label=1))
    tuned = gprior.solve(y, A, prior, "lbrgm", label=1, steps=2, tune="pti")
    direction = directions(prior)[0]
    with pytest.raises(gprior.InputError, match="was made by tuned generators"):
        edit(tuned, prior, direction)
    assert tuned.weights is not None
    own = tuned.weights.generator(prior, 1)
    same = edit(tuned.take([1]), own, direction, amount=0)
    torch.testing.assert_close(same.x, tuned.x[1:])


def test_edits_of_edits_add_up_and_keep_the_correction(prior: Any) -> None:
    result, (one, two) = corrected(prior), directions(prior, 2)
    steps = edit(edit(edit(result, prior, one, 0.3), prior, two, -1), prior, one, 0.5)
    direct = edit(edit(result, prior, two, -1), prior, one, 0.8)
    torch.testing.assert_close(steps.x, direct.x, **EXACT)
    back = edit(edit(result, prior, one, 2), prior, -one, 2)
    torch.testing.assert_close(back.x, result.x, **EXACT)


def test_each_image_is_edited_for_itself(prior: Any) -> None:
    code, direction, amounts = (
        latents(prior, 40),
        directions(prior, 1)[0],
        torch.linspace(-2, 2, 40),
    )
    whole = edit(code, prior, direction, amounts)  # in two parts
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    mixed = edit({"w": code["w"][order]}, prior, direction, amounts[order])
    torch.testing.assert_close(mixed.x, whole.x[order], **EXACT)
    alone = edit({"w": code["w"][7:8]}, prior, direction, float(amounts[7]))
    torch.testing.assert_close(alone.x, whole.x[7:8], **EXACT)


def test_styles_of_filters_and_directions_of_each_image(prior: Any) -> None:
    code = latents(prior)["w"][:, :, None].repeat(1, 1, prior.num_filters, 1)
    each = torch.arange(3 * prior.num_ws * prior.w_dim).view(3, prior.num_ws, -1).double()
    edited = edit(code, prior, Direction("w", each), 0.01)
    torch.testing.assert_close(edited.latents["w"] - code, 0.01 * each[:, :, None].expand_as(code))
    torch.testing.assert_close(edited.x, prior(ws=edited.latents["w"]), **EXACT)


@pytest.mark.parametrize(
    "options", [{}, {"full": True}, {"full": True, "head": "pretrained"}, {"bottleneck": 4}]
)
def test_neighbours_are_drawn_from_the_heads(options: Any, prior: Any, tmp_path: Path) -> None:
    """Many of them have the mean that the code is; a file keeps the heads; rows are their own."""
    A = Masking(prior.image_shape, "half")
    y = A(prior.sample(2, seed=3, label=1))
    result = gprior.solve(
        y, A, prior, "sphinx", label=[0, 1], steps=4, seed=[5, 6], correction="tv", **options
    )
    drawn = neighbours(result, prior, 100)
    assert len(drawn) == 200 and set(drawn.latents) >= {"w"}
    assert not {k for k in drawn.latents if k.startswith("style.")}
    names = ("w", "content") if "full" in options else ("w",)
    for name in names:
        codes = drawn.latents[name].unflatten(0, (2, 100))
        deviation = codes.std(1).square().mean().sqrt()
        error = codes.mean(1) - result.latents[name]
        # Means over 100 draws, and over the 64 of the code.
        assert error.square().mean().sqrt() < 1.5 * deviation * (1 / 100 + 1 / 64) ** 0.5
        assert deviation > 1e-3
    spread = drawn.latents["w"].unflatten(0, (2, 100)).var(1, correction=0).mean((1, 2)).sqrt()
    s = gprior.priors.spread(prior)
    torch.testing.assert_close(spread / s, result.diagnostics["spread"], rtol=0.3, atol=0)
    added = (result.x - result.generated).repeat_interleave(100, 0)
    torch.testing.assert_close(drawn.x, drawn.generated + added, **EXACT)
    torch.testing.assert_close(drawn.generated[:3], prior(**inputs_of(take(drawn.latents, 3))))

    result.save(tmp_path / "kept.safetensors")
    loaded = gprior.Result.load(tmp_path / "kept.safetensors")
    again = neighbours(loaded.take([1]), prior, 2)
    torch.testing.assert_close(again.x, drawn.x[100:102], **EXACT)
    other = neighbours(loaded.take([1]), prior, 2, seed=1)
    assert (other.latents["w"] - again.latents["w"]).abs().max() > 1e-3
    assert edit(again, prior, directions(prior, 1)[0], 0.0).x.shape == again.x.shape


def take(code: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    return {name: value[:n] for name, value in code.items()}


def test_neighbours_need_heads(prior: Any) -> None:
    with pytest.raises(gprior.InputError, match=r"result must have heads.*one of 'csgm'"):
        neighbours(corrected(prior), prior)
    A = Masking(prior.image_shape, "half")
    y = A(prior.sample(1, label=0))
    result = gprior.solve(y, A, prior, "sphinx", label=0, steps=1, restarts=2, keep="all")
    with pytest.raises(gprior.InputError, match="pass its best"):
        neighbours(result, prior)
    for wrong, match in (({"n": 0}, "n must be an integer"), ({"seed": 0.5}, "seed must be")):
        with pytest.raises(gprior.InputError, match=match):
            neighbours(result.best(), prior, **wrong)
    with pytest.raises(gprior.InputTypeError, match="result must be a Result"):
        neighbours(result.best().latents, prior)  # type: ignore[arg-type]


def test_state_of_an_inner_layer_moves_with_the_generator(prior: Any) -> None:
    """Layers before the state act through it, and what the search changed in it stays."""
    result = gprior.solve(
        *problem_of(prior), prior, "ilo", steps=(2, 2, 2, 2), label=0, stop="fixed", lr=0.1
    )
    block = min(int(k.split(".")[1]) for k in result.latents if k.startswith("state."))
    name, first = f"state.{block}.0", Direction("w", torch.ones(prior.w_dim), layers=[0])
    same, moved = (edit(result, prior, first, amount) for amount in (0, 1))
    torch.testing.assert_close(same.x, result.x, **EXACT)
    assert (moved.x - result.x).abs().mean() > 1e-3

    def own(code: dict[str, Tensor]) -> Tensor:
        bare = {k: v for k, v in code.items() if not k.startswith("state.")}
        state: Tensor = prior.run_blocks(**inputs_of(bare), to_block=block)[0]
        return state

    searched = result.latents[name] - own(same.latents)
    assert searched.abs().max() > 1e-3
    torch.testing.assert_close(moved.latents[name] - own(moved.latents), searched)


def problem_of(prior: Any) -> tuple[Tensor, Any]:
    A = gprior.operators.Masking(prior.image_shape, "random", keep=0.5)
    return A(prior.sample(2, label=1)), A


def test_class_and_z_of_biggan(biggan: BigGAN) -> None:
    code = classed(biggan)
    other = edit({**code, "c": biggan.classes(0, 3)}, biggan, class_direction(biggan, 0, 2))
    torch.testing.assert_close(other.x, biggan(z=code["z"], c=biggan.classes(2, 3)), **EXACT)
    assert sorted(other.latents) == ["embedding", "z"]
    shift = torch.ones(6, dtype=torch.float64)
    moved = edit(code, biggan, Direction("z", shift), 0.5)
    torch.testing.assert_close(moved.x, biggan(z=code["z"] + 0.5, c=code["c"]), **EXACT)
    both = edit(other, biggan, Direction("z", shift), 0.5)  # an edit of an edit
    assert sorted(both.latents) == ["embedding", "z"]


def test_class_vectors_where_there_is_no_embedding() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 64)

        def forward(self, z: Tensor, c: Tensor) -> Tensor:
            return self.layer(torch.cat([z, c], 1)).tanh().view(-1, 1, 8, 8)

    own = Generator(Net().double(), 3, c_dim=2)
    code = {"z": own.draw([(0, "z")]), "c": own.classes(0, 1)}
    edited = edit(code, own, class_direction(own, 0, 1))
    torch.testing.assert_close(edited.x, own(z=code["z"], c=own.classes(1, 1)), **EXACT)


# --- interpolation ------------------------------------------------------------------------


def test_ends_of_an_interpolation_are_exact(prior: Any) -> None:
    a, b = corrected(prior, seed=1), corrected(prior, seed=2)
    for space, name in ((None, "z"), ("w", "w")):
        for t, end in ((0, a), (1, b)):
            at = interpolate(a, b, prior, t, space)
            expected = end.latents["z"]
            if space:
                expected = prior.mapping(expected, end.latents["c"])
            assert torch.equal(at.latents[name], expected)
            torch.testing.assert_close(at.x, end.x, **EXACT)
    each = interpolate(a, b, prior, [0, 1])
    torch.testing.assert_close(each.x, torch.stack([a.x[0], b.x[1]]), **EXACT)


def test_w_is_interpolated_linearly_and_z_on_the_sphere(prior: Any) -> None:
    a, b = latents(prior, seed=1)["w"], latents(prior, seed=2)["w"]
    at = interpolate(a, b, prior, 0.25)
    torch.testing.assert_close(at.latents["w"], 0.75 * a + 0.25 * b, **EXACT)
    u, v = classed(prior, seed=1), classed(prior, seed=2)
    v["z"] = v["z"] * (u["z"].norm(dim=1) / v["z"].norm(dim=1))[:, None]
    z = interpolate(u, v, prior, 0.3).latents["z"]
    torch.testing.assert_close(z.norm(dim=1), u["z"].norm(dim=1))
    angle = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(
        angle(z, u["z"]).acos(), 0.3 * angle(u["z"], v["z"]).acos(), rtol=1e-9, atol=1e-9
    )
    zero = {**u, "z": torch.zeros_like(u["z"])}  # has no direction
    torch.testing.assert_close(interpolate(zero, u, prior, 0.3).latents["z"], 0.3 * u["z"])
    same = interpolate(u, u, prior, 0.3)  # no great circle through one point
    torch.testing.assert_close(same.latents["z"], u["z"], **EXACT)


def test_what_one_lacks_is_what_the_generator_uses(prior: Any) -> None:
    rich = {
        **latents(prior, 2),
        "noise.1": normal([(0, "n", 0), (0, "n", 1)], (1, 8, 8), prior.like),
        "content": normal([(0, "c", 0), (0, "c", 1)], prior.content_shape, prior.like),
    }
    plain = classed(prior, 2)
    for a, b, end in ((rich, plain, 1), (plain, rich, 0)):
        at = interpolate(a, b, prior, end)
        assert sorted(at.latents) == ["content", "noise.1", "w"]
        torch.testing.assert_close(at.x, prior(**plain), **EXACT)


def test_a_transform_meets_an_image_without_one(prior: Any) -> None:
    plain = latents(prior, 1)
    phi = torch.tensor([[0.4, 0.4, 0.2, 0.0, 0.2]], dtype=torch.float64)
    at = interpolate(plain, {**plain, "transform": phi}, prior, [0.5])
    torch.testing.assert_close(at.latents["transform"], phi / 2, **EXACT)
    end = interpolate({**plain, "transform": phi}, plain, prior, 1)
    torch.testing.assert_close(end.x, prior(ws=plain["w"]), **EXACT)


def test_states_and_saved_results(prior: Any, tmp_path: Path) -> None:
    y, A = problem_of(prior)
    options: dict[str, Any] = {"label": 0, "stop": "fixed"}
    a = gprior.solve(y, A, prior, "ilo", steps=(2, 2, 2, 2), correction="tv", **options)
    b = gprior.solve(y, A, prior, "csgm", steps=2, **options)
    a.save(tmp_path / "a.safetensors")
    loaded = gprior.Result.load(tmp_path / "a.safetensors")
    name = next(k for k in a.latents if k.startswith("state."))
    for t, end in ((0, a), (1, b)):
        at = interpolate(loaded, b, prior, t)
        torch.testing.assert_close(at.x, end.x, **EXACT)
    assert torch.equal(interpolate(loaded, b, prior, 0).latents[name], a.latents[name])
    middle = interpolate(loaded, b, prior, 0.5)
    halves = ((a.x - a.generated) + (b.x - b.generated)) / 2
    torch.testing.assert_close(middle.x - middle.generated, halves, **EXACT)


def test_embedding_meets_class(biggan: BigGAN) -> None:
    one, two = classed(biggan), classed(biggan, seed=1)
    moved = edit(two, biggan, class_direction(biggan, 0, 1))
    at = interpolate(one, moved, biggan, 1)
    torch.testing.assert_close(at.x, moved.x, **EXACT)
    torch.testing.assert_close(interpolate(one, moved, biggan, 0).x, biggan(**one), **EXACT)


# --- directions ---------------------------------------------------------------------------


def test_components_are_those_of_the_styles(prior: Any) -> None:
    found = directions(prior, 4, label=1)
    z = prior.draw([(0, "spread", i) for i in range(4096)])
    w = prior.mapping(z, prior.classes(1, 4096))[:, 0]
    covariance = (w - w.mean(0)).t() @ (w - w.mean(0)) / 4096
    values = torch.linalg.eigvalsh(covariance).flip(0)
    for k, direction in enumerate(found):
        assert direction.input == "w" and direction.name == f"component {k}"
        torch.testing.assert_close(direction.vector.square().sum(), values[k])
        torch.testing.assert_close(covariance @ direction.vector, values[k] * direction.vector)
        assert direction.vector[direction.vector.abs().argmax()] > 0
    every = directions(prior, 4)  # of all classes, without their means
    assert not torch.allclose(every[0].vector, found[0].vector)
    assert directions(prior, 1, layers=[2])[0].layers == (2,)


def test_components_of_features_are_carried_to_z() -> None:
    """For a linear generator they are its right singular vectors."""
    net = nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8))).double()
    left, _ = torch.linalg.qr(
        normal([(0, "u", i) for i in range(64)], (4,), torch.empty(0).double())
    )
    right, _ = torch.linalg.qr(normal([(0, "v", i) for i in range(4)], (4,), left))
    net[0].weight.data = left * torch.tensor([8.0, 4.0, 2.0, 1.0]) @ right.t()
    for own in (Generator(net, 4), Generator(lambda z: net(z), 4, dtype=torch.float64)):
        found = torch.stack([d.vector for d in directions(own, 3)])
        overlap = (found @ right)[:, :3].abs()
        assert (overlap.diagonal() - 1).abs().max() < 0.06  # one deviation of N(0, I), 4096 draws
        assert (overlap - overlap.diagonal().diag()).max() < 0.06


def test_components_of_few_samples_with_many_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are more features than samples, the smaller matrix is decomposed."""
    monkeypatch.setattr(axes, "FEATURES", 1)  # 64 samples at least
    double = torch.empty(0, dtype=torch.float64)
    matrix = normal([(0, "m", i) for i in range(5)], (256,), double)
    own = Generator(lambda z: (z.sin() @ matrix).view(-1, 1, 16, 16), 5, dtype=torch.float64)
    z = own.draw([(0, "spread", i) for i in range(64)])
    x = own(z).flatten(1)
    left, _, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    expected = left.t()[:3] @ (z - z.mean(0)) / 64**0.5
    for direction, vector in zip(directions(own, 3), expected, strict=True):
        sign = (direction.vector @ vector).sign()
        torch.testing.assert_close(sign * direction.vector, vector)


def test_components_of_biggan(biggan: BigGAN) -> None:
    found = directions(biggan, 3, label=1)
    code = {**classed(biggan), "c": biggan.classes(1, 3)}
    changes = [(edit(code, biggan, d).x - biggan(**code)).square().mean() for d in found]
    assert min(changes) > 1e-5 and all(d.input == "z" for d in found)
    later = directions(biggan, 3, label=1, block=1)
    assert not torch.allclose(later[0].vector, found[0].vector)
    with pytest.raises(gprior.InputError, match="label"):
        directions(biggan, 3)
    plain = Generator(lambda z: z.tanh().view(-1, 1, 2, 2), 4)
    with pytest.raises(gprior.InputError, match="prior with blocks"):
        directions(plain, 1, block=1)


def test_class_direction_joins_the_mean_styles(prior: Any) -> None:
    means = {"w": prior.w_avg[:, None].expand(-1, prior.num_ws, -1)}
    moved = edit(means, prior, class_direction(prior, 0, 2)).latents["w"]
    torch.testing.assert_close(moved[0], means["w"][2], **EXACT)
    half = class_direction(prior, 0, torch.tensor([0.0, 0.5, 0.5]))
    expected = (prior.w_avg[1] + prior.w_avg[2]) / 2 - prior.w_avg[0]
    torch.testing.assert_close(half.vector, expected, **EXACT)


def test_components_of_phantoms_change_whole_heads() -> None:
    """The first component of the coarse layers changes the image more than the last one does."""
    own = gprior.load_prior("phantom-64")
    code = {"w": own.mapping(own.draw([(1, "z")]), own.classes(0, 1))}
    found = directions(own, 30, label=0)
    changes = [(edit(code, own, d).x - edit(code, own, d, 0).x).abs().mean() for d in found]
    assert changes[0] > 5 * changes[-1]


# --- transforms and blending ----------------------------------------------------------------


def test_an_edited_object_goes_back_into_its_image(prior: Any) -> None:
    phi = torch.tensor([[-0.5, -0.5, 0.2, -0.1, 0.1]], dtype=torch.float64)
    code = {**latents(prior, 1), "transform": phi}
    edited = edit(code, prior, class_direction(prior, 0, 1), 0.5)
    placed = placement.transform(prior(ws=edited.latents["w"]), phi)
    torch.testing.assert_close(edited.x, placed, **EXACT)
    scene = torch.full_like(edited.x, 0.25)
    mask = placement.covered(phi, scene.shape[2:])
    whole = gprior.blend(edited.x, scene, mask)
    outside = mask == 0
    assert 0.1 < outside.double().mean() < 0.9 and torch.equal(whole[outside], scene[outside])
    inner = mask[0, 0].nonzero()[len(mask[0, 0].nonzero()) // 2]
    assert whole[0, 0, inner[0], inner[1]] != 0.25


def test_edits_of_a_searched_transform_stay_in_the_frame_of_the_measurement(prior: Any) -> None:
    A = gprior.operators.from_spec("denoise", prior.image_shape)
    y = prior.sample(1, label=0).roll((2, 1), (2, 3))
    options: dict[str, Any] = {"label": 0, "perceptual": False, "population": 3}
    moved = gprior.solve(y, A, prior, "basincma", steps=(1, 1, 1), transform=True, **options)
    assert moved.latents["transform"].abs().max() > 0
    same = edit(moved, prior, class_direction(prior, 0, 1), 0)
    torch.testing.assert_close(same.x, moved.x, **EXACT)


# --- discovery ------------------------------------------------------------------------------


def series(prior: Any, n: int = 2) -> Tensor:
    """Return images along lines in w, (n, 4, C, H, W)."""
    code, way = latents(prior, n)["w"], 0.3 * directions(prior, 1)[0].vector
    return torch.stack([prior(ws=code + k * way) for k in range(4)], 1)


def test_discovered_intensities_rise_and_their_images_are_edits(prior: Any) -> None:
    y = series(prior)
    A = gprior.operators.from_spec("denoise", prior.image_shape)
    found = discover(y, A, prior, label=[0, 1], steps=60)
    assert bool((found.alpha[:, 0] == 0).all())
    assert bool((found.alpha.diff(dim=1) >= 2).all()) and len(found) == 2
    assert bool((found.history[:, -1] < found.history[:, 0] / 4).all())
    for k in range(4):
        at = edit(found.start, prior, found.direction, found.alpha[:, k])
        torch.testing.assert_close(at.x, found.x[:, k], **EXACT)
    assert found.evaluations.tolist() == pytest.approx([4 * (60 + 1 / 3)] * 2)


def test_each_series_is_discovered_for_itself(prior: Any) -> None:
    y, A = series(prior, 3), gprior.operators.Masking(prior.image_shape, "random", keep=0.7)
    options: dict[str, Any] = {"steps": 5, "perceptual": False}
    measured = torch.stack([A(x) for x in y])
    together = discover(measured, A, prior, label=[0, 1, 0], seed=[1, 2, 3], **options)
    parts = discover(measured, A, prior, label=[0, 1, 0], seed=[1, 2, 3], max_batch=2, **options)
    torch.testing.assert_close(parts.x, together.x, **EXACT)
    alone = discover(measured[2:], A, prior, label=0, seed=[3], **options)
    torch.testing.assert_close(alone.x, together.x[2:], rtol=0, atol=1e-9)
    unknown = discover(measured[:1], A, prior, seed=1, **options)  # of each class, the best
    assert unknown.evaluations.item() == pytest.approx(4 * (5 + 3 / 3 + 1 / 3))


def test_an_operator_for_each_image_of_a_series(prior: Any) -> None:
    """Each image of a series was measured with another mask."""
    masks = (normal([(0, "mask", k) for k in range(4)], prior.image_shape, prior.like) > 0).double()
    A = gprior.operators.Masking(prior.image_shape, masks)
    y = series(prior, 2)
    found = discover(y * masks, A, prior, label=0, steps=2, perceptual=False, stop="fixed")
    residual = (masks * (found.x - y)).square().sum((1, 2, 3, 4)) / masks.sum()
    torch.testing.assert_close(found.loss, residual * 255**2 / 2)


def test_start_may_be_a_reconstruction(prior: Any) -> None:
    y, w = series(prior, 1), latents(prior, 1)["w"]
    A = gprior.operators.from_spec("denoise", prior.image_shape)
    found = discover(y, A, prior, label=0, init=w, steps=1)
    torch.testing.assert_close(found.start.latents["w"], w, **EXACT)
    torch.testing.assert_close(found.start.x, y[:, 0], **EXACT)


def test_growing_ventricles() -> None:
    """Between the images of a series, too, the ventricles grow with α."""
    own = gprior.load_prior("phantom-64")
    sizes = (0.7, 0.95, 1.2, 1.45)
    y = torch.stack([phantoms([39], ventricles=size)[0] for size in sizes], 1)
    A = gprior.operators.from_spec("denoise", own.image_shape)
    found = discover(y[:, [0, 2, 3]], A, own, label=0, steps=100, perceptual=False)
    change = y[:, -1] - y[:, 0]

    def share(x: Tensor) -> float:
        return float(((x - y[:, 0]) * change).sum() / change.square().sum())

    alphas = torch.linspace(0, float(found.alpha[0, -1]), 9)
    shares = [share(edit(found.start, own, found.direction, float(a)).x) for a in alphas]
    assert all(b > a for a, b in pairwise(shares))
    assert shares[0] < 0.2 and shares[-1] > 0.8
    # The second image was not shown. Its place follows from the sizes.
    between = found.alpha[0, 1] * (sizes[1] - sizes[0]) / (sizes[2] - sizes[0])
    unseen = edit(found.start, own, found.direction, float(between)).x
    assert abs(share(unseen) - share(y[:, 1])) < 0.1


# --- bad input ------------------------------------------------------------------------------


def test_bad_edits_are_refused(prior: Any, biggan: BigGAN) -> None:
    code, w = latents(prior), Direction("w", torch.ones(prior.w_dim))
    every = gprior.solve(
        *problem_of(prior), prior, "csgm", steps=1, label=0, restarts=2, keep="all"
    )
    refused: list[tuple[str, Any]] = [
        ("best", lambda: edit(every, prior, w)),
        ("finite number or one per image", lambda: edit(code, prior, w, [1.0, 2.0])),
        ("finite number", lambda: edit(code, prior, w, float("nan"))),
        ("must be a number", lambda: edit(code, prior, w, "much")),  # type: ignore[arg-type]
        ("from 0 to", lambda: edit(code, prior, w, layers=[99])),
        ("has shape", lambda: edit(code, prior, Direction("w", torch.ones(3)))),
        ("'z' is to be changed", lambda: edit(code, prior, Direction("z", torch.ones(8)))),
        ("'w' is to be changed", lambda: edit(classed(biggan), biggan, w)),
        ("layers need", lambda: edit(code, prior, Direction("z", torch.ones(8)), layers=[0])),
        ("latents 'w' or 'z'", lambda: edit({"c": torch.ones(1, 3)}, prior, w)),
        ("got int", lambda: edit(3, prior, w)),  # type: ignore[arg-type]
        ("one of each", lambda: edit({**code, "content": torch.ones(2, 1)}, prior, w)),
        ("the prior makes", lambda: edit(Edited(*[torch.ones(1, 1, 4, 4)] * 3), prior, w)),  # type: ignore[arg-type]
        ("input must be", lambda: Direction("noise", torch.ones(3))),
        ("vector must be", lambda: Direction("w", torch.ones(3, dtype=torch.long))),
        ("dimensions", lambda: Direction("z", torch.ones(1, 2, 3))),
        ("layers need", lambda: Direction("z", torch.ones(3), layers=[0])),
        ("space must be", lambda: interpolate(code, code, prior, 0, "w+")),
        ("as many", lambda: interpolate(code, latents(prior, 2), prior, 0)),
        ("same latents", lambda: interpolate(code, code["w"][:, :, None], prior, 0)),
        ("'z' is to be changed", lambda: interpolate(code, code, prior, 0, "z")),
        ("count must be", lambda: directions(prior, 0)),
        ("count must be", lambda: directions(prior, 1000)),
        ("block=None", lambda: directions(prior, block=1)),
        ("block must be", lambda: directions(biggan, label=0, block=9)),
        ("between 0 and 2", lambda: class_direction(prior, 0, 3)),
        ("label", lambda: class_direction(prior, None, 1)),
    ]
    for message, call in refused:
        with pytest.raises(gprior.InputError, match=message):
            call()


def test_bad_series_are_refused(prior: Any, biggan: BigGAN) -> None:
    y, A = series(prior, 1), gprior.operators.from_spec("denoise", prior.image_shape)
    refused: list[tuple[str, dict[str, Any]]] = [
        ("styles", {"prior": biggan}),
        ("at least 2", {"y": y[:, :1]}),
        ("shape", {"y": y[..., :4]}),
        ("margin", {"margin": 0}),
        ("steps", {"steps": 0}),
        ("encoder", {"init": lambda x: x}),
        ("init", {"init": "somewhere"}),
        ("pixel", {"pixel": -1}),
        ("between 0 and 2", {"label": 3}),
    ]
    for message, change in refused:
        with pytest.raises(gprior.InputError, match=message):
            discover(**{"y": y, "A": A, "prior": prior, "label": 0, **change})


def test_directions_of_priors_without_classes(tiny_prior: Any) -> None:
    own = tiny_prior()
    assert len(directions(own, 2)) == 2
    with pytest.raises(gprior.InputError, match="has none"):
        class_direction(own, 0, 1)
