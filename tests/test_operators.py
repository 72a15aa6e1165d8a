"""The operators: one conformance suite that every row inherits, then what each one promises."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepinv
import deepinv.physics.functional as dF  # noqa: N812
import numpy as np
import pytest
import scipy.signal
import torch
from deepinv.physics import GaussianNoise
from PIL import Image
from torch import Tensor

from gprior.operators import Downsampling, Masking, Operator, PartialCirculant

RGB, GRAY = (3, 7, 5), (1, 5, 7)
B = 2  # images per batch; the per-image row holds as many masks

# --------------------------------------------------------------------------- references


def masking_matrix(A: Masking) -> Tensor:
    """Return (B, n, n): the mask on the diagonal."""
    return torch.diag_embed(A.mask.double().expand(B, *A.img_size).flatten(1))


def downsampling_matrix(
    kernel: Tensor, before: tuple[int, int] | None = None
) -> Callable[[Downsampling], Tensor]:
    """Return (B, m, n) from numpy's padding and scipy's full-resolution convolution."""
    mode = {"circular": "wrap", "reflect": "reflect", "replicate": "edge", "constant": "constant"}

    def matrix(A: Downsampling) -> Tensor:
        c, h, w = A.img_size
        kernels = kernel.double().expand(1, c, -1, -1)[0].numpy()
        tall, wide = kernels.shape[-2:]
        top, left = ((tall - 1) // 2, (wide - 1) // 2) if before is None else before
        columns = []
        for basis in np.eye(c * h * w).reshape(-1, c, h, w):
            if A.padding != "valid":
                pads = ((0, 0), (top, tall - 1 - top), (left, wide - 1 - left))
                basis = np.pad(basis, pads, mode=mode[A.padding])
            full = [
                scipy.signal.convolve2d(plane, k, mode="valid")
                for plane, k in zip(basis, kernels, strict=True)
            ]
            columns.append(np.stack(full)[:, :: A.factor, :: A.factor].ravel())
        return torch.from_numpy(np.stack(columns, axis=1)).expand(B, -1, -1)

    return matrix


def circulant_matrix(A: PartialCirculant) -> Tensor:
    """Return (B, m, n): rows of the circulant matrices of the filters, columns with signs."""
    blocks = []
    for h, signs, rows in zip(A.double().filter, A.signs, A.rows, strict=True):
        n = len(h)
        circulant = torch.stack([h.roll(shift) for shift in range(n)], dim=1)
        blocks.append(A.gain * circulant[rows] * signs)
    return torch.block_diag(*blocks).expand(B, -1, -1)


# --------------------------------------------------------------------------------- rows


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the conformance table."""

    make: Callable[..., Operator]
    matrix: Callable[[Any], Tensor]
    bounded: bool = True  # whether the norm is at most 1
    random: bool = False  # whether it takes a seed
    exact: bool = True  # whether A_dagger has a closed form


def per_image(**kwargs: Any) -> Masking:
    """Masks of shape (B, 1, H, W), as deepinv hands them over with a batch."""
    A = Masking(RGB, **kwargs)
    masks = torch.cat([Masking(RGB, "random", seed=s).mask for s in range(B)])
    A.update_parameters(mask=masks.to(A.mask.device))
    return A


def drawn(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(9))


WEIGHTS = drawn(*RGB) * (drawn(3, 7, 5) > 0.3)
OUTER = drawn(1, 1, 3, 1) * drawn(1, 1, 1, 4)
FULL = drawn(1, 3, 4, 3)
SHARP = 0.1 * drawn(1, 1, 3, 3)
SHARP[..., 1, 1] = 1


def mask_row(*args: Any, random: bool = False, **options: Any) -> Row:
    return Row(lambda **k: Masking(*args, **options, **k), masking_matrix, random=random)


def down_row(size: Any, factor: int, filter: Any, padding: str, kernel: Tensor, **row: Any) -> Row:
    before = (0, 0) if filter == "box" else None
    return Row(
        lambda **k: Downsampling(size, factor, filter, padding, **k),
        downsampling_matrix(kernel, before),
        **{"bounded": isinstance(filter, str), **row},
    )


def sensing_row(*args: Any, bounded: bool = True, exact: bool = True, **options: Any) -> Row:
    return Row(
        lambda **k: PartialCirculant(*args, **options, **k),
        circulant_matrix,
        random=True,
        bounded=bounded,
        exact=exact,
    )


ROWS = {
    "mask half": mask_row(RGB, "half", side="left"),
    "mask eye-patch": mask_row(RGB, "eye-patch"),
    "mask box": mask_row(GRAY, "box", box=(1, 2, 3, 4)),
    "mask random": mask_row(RGB, "random", random=True, keep=0.4),
    "mask weights": mask_row(RGB, WEIGHTS),
    "mask per image": Row(per_image, masking_matrix),
    "down bicubic circular": down_row(RGB, 2, "bicubic", "circular", dF.bicubic_filter(2)),
    "down bicubic reflect": down_row(GRAY, 3, "bicubic", "reflect", dF.bicubic_filter(3)),
    "down bilinear replicate": down_row(RGB, 2, "bilinear", "replicate", dF.bilinear_filter(2)),
    "down gaussian constant": down_row(
        RGB, 2, "gaussian", "constant", dF.gaussian_blur(sigma=(2.0, 2.0))
    ),
    "down box": down_row(RGB, 2, "box", "reflect", torch.full((1, 1, 2, 2), 0.25)),
    "down nearest": down_row(GRAY, 3, "nearest", "circular", torch.ones(1, 1, 1, 1)),
    "down valid": down_row(RGB, 2, OUTER, "valid", OUTER),
    "down tensor": down_row(RGB, 2, OUTER[0, 0], "circular", OUTER),
    "down channels": down_row(RGB, 2, FULL, "reflect", FULL, exact=False),
    "down factor 1": down_row(GRAY, 1, SHARP, "constant", SHARP, exact=False),
    "circulant": sensing_row(RGB, 40),
    "circulant even": sensing_row((1, 4, 6), 0.5),
    "circulant channels": sensing_row(RGB, 0.3, channelwise=True),
    "circulant isometry": sensing_row(RGB, 0.3, scale="isometry", bounded=False),
    "circulant gaussian": sensing_row(RGB, 30, "gaussian", bounded=False, exact=False),
    "circulant gaussian channels": sensing_row(
        RGB, 0.3, "gaussian", channelwise=True, scale="isometry", bounded=False, exact=False
    ),
}


@pytest.fixture(params=ROWS.values(), ids=ROWS.keys())
def row(request: pytest.FixtureRequest) -> Row:
    return request.param


def images(A: Operator, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(B, *A.img_size, generator=rng).to(dtype)


def measurements(A: Operator, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(B, *A.measurement_shape, generator=rng).to(dtype)


def assert_close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# -------------------------------------------------------------------- conformance suite


def test_agrees_with_its_dense_matrix(row: Row) -> None:
    A = row.make()
    matrix = row.matrix(row.make())
    x, y = images(A), measurements(A)
    assert_close(
        A.A(x).flatten(1).double(), torch.einsum("bmn,bn->bm", matrix, x.double().flatten(1)), 2e-5
    )
    assert_close(
        A.A_adjoint(y).flatten(1).double(),
        torch.einsum("bmn,bm->bn", matrix, y.double().flatten(1)),
        2e-5,
    )


def test_states_its_shapes(row: Row) -> None:
    A = row.make()
    x = images(A)
    assert tuple(A.A(x).shape) == (B, *A.measurement_shape)
    assert A.A_adjoint(measurements(A)).shape == x.shape
    assert A.measurement_is_image == (not isinstance(A, PartialCirculant))
    assert isinstance(A, deepinv.physics.LinearPhysics)


def test_adjoint_is_exact(row: Row) -> None:
    A = row.make().double()
    x, y = images(A, dtype=torch.float64), measurements(A, dtype=torch.float64)
    assert_close((A.A(x) * y).sum(), (x * A.A_adjoint(y)).sum(), 1e-12)
    assert row.make().adjointness_test(images(A).float(), num_samples=B) < 1e-5


def test_is_linear_and_leaves_its_input_alone(row: Row) -> None:
    A = row.make().double()
    x, z = images(A, 2, torch.float64), images(A, 3, torch.float64)
    kept = x.clone()
    assert_close(A.A(2 * x - 3 * z), 2 * A.A(x) - 3 * A.A(z), 1e-12)
    assert not A.A(torch.zeros_like(x)).any()
    assert torch.equal(x, kept)
    y = measurements(A, dtype=torch.float64)
    kept = y.clone()
    A.A_adjoint(y), A.A_dagger(y)
    assert torch.equal(y, kept)


def test_dagger_is_the_pseudo_inverse(row: Row) -> None:
    A = row.make()
    y = measurements(A)
    inverse = torch.linalg.pinv(row.matrix(row.make()), rtol=1e-6)
    expected = torch.einsum("bnm,bm->bn", inverse, y.double().flatten(1))
    scale = float(expected.abs().max())
    options = {} if row.exact else {"max_iter": 1000, "tol": 1e-12}
    found = A.double().A_dagger(y.double(), **options).flatten(1)
    assert_close(found / scale, expected / scale, 1e-5 if row.exact else 1e-3)
    if row.exact:
        assert_close(row.make().A_dagger(y).double().flatten(1) / scale, expected / scale, 1e-3)


def test_dagger_undoes_a_consistent_measurement(row: Row) -> None:
    A = row.make()
    y = A.A(images(A))
    options = {} if row.exact else {"max_iter": 500, "tol": 1e-6}
    assert_close(A.A(A.A_dagger(y, **options)), y, 1e-4)


def test_norm_is_at_most_one_where_not_scaled(row: Row) -> None:
    norm = float(torch.linalg.matrix_norm(row.matrix(row.make()), 2).max())
    if row.bounded:
        assert norm <= 1 + 1e-6
    assert row.make().compute_sqnorm(
        images(row.make())[:1].expand(B, -1, -1, -1), max_iter=2000, tol=1e-9, verbose=False
    ) == pytest.approx(norm**2, rel=0.02)


def test_images_of_a_batch_do_not_meet(row: Row) -> None:
    A = row.make()
    x, y = images(A), measurements(A)
    alone = {"mask": A.mask[1:]} if isinstance(A, Masking) and len(A.mask) > 1 else {}
    alone |= {} if row.exact else {"max_iter": 500, "tol": 1e-7}
    for apply, given in ((A.A, x), (A.A_adjoint, y), (A.A_dagger, y)):
        other = given.clone()
        other[0] = math.nan
        together = apply(given)[1]
        if row.exact or apply != A.A_dagger:
            assert torch.equal(apply(other)[1], together)
        assert_close(apply(given[1:], **alone)[0], together, 1e-5 if row.exact else 1e-3)


def test_is_a_function_of_its_arguments_alone(row: Row) -> None:
    torch.manual_seed(1)
    first = row.make()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = row.make()
    assert torch.equal(torch.get_rng_state(), before)
    x = images(first)
    assert torch.equal(first.A(x), second.A(x))
    if row.random:
        assert torch.equal(row.make(seed=0).A(x), first.A(x))
        assert not torch.equal(row.make(seed=1).A(x), first.A(x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_is_the_same_on_another_device(row: Row) -> None:
    A = row.make(noise_model=GaussianNoise(0.0))
    x, y = images(A), measurements(A)
    for there in (row.make(device="cuda"), copy.deepcopy(A).to("cuda")):
        assert_close(there.A(x.cuda()).cpu(), A.A(x), 1e-5)
        assert_close(there.A_adjoint(y.cuda()).cpu(), A.A_adjoint(y), 1e-5)
        assert there.A_dagger(y.cuda()).is_cuda
        assert there(x.cuda()).is_cuda


@pytest.mark.parametrize("cast", [lambda A: A.double(), lambda A: A.to(torch.float64)])
def test_is_the_same_operator_in_float64(row: Row, cast: Callable[[Operator], Operator]) -> None:
    single, double = row.make(), cast(row.make())
    x, y = images(single), measurements(single)
    assert double.A(x.double()).dtype == torch.float64
    assert double.A_adjoint(y.double()).dtype == torch.float64
    assert double.A_dagger(y.double()).dtype == torch.float64
    assert single.A(x).dtype == torch.float32
    assert_close(double.A(x.double()), single.A(x).double(), 1e-5)
    assert_close(double.A_adjoint(y.double()), single.A_adjoint(y).double(), 1e-5)
    # The input decides the precision, so an operator need not be cast to be accurate.
    assert_close(single.A(x.double()), double.A(x.double()), 1e-13)
    assert_close(double.A(x), single.A(x), 1e-5)


def assert_equal_and_separate(A: Operator, copied: Operator) -> None:
    x = images(A)
    assert torch.equal(A.A(x), copied.A(x))
    assert torch.equal(A(x), copied(x))
    assert set(dict(A.named_buffers())) == set(dict(copied.named_buffers()))
    for name, buffer in A.named_buffers():
        assert copied.get_buffer(name).data_ptr() != buffer.data_ptr(), name


def test_deep_copies_are_equal_and_separate(row: Row) -> None:
    A = row.make(noise_model=GaussianNoise(0.1, rng=torch.Generator().manual_seed(0)))
    assert_equal_and_separate(A, copy.deepcopy(A))


@pytest.mark.parametrize("name", ["mask half", "down bicubic circular", "circulant"])
def test_deepinv_s_clones_are_equal_and_separate(name: str) -> None:
    A = ROWS[name].make(noise_model=GaussianNoise(0.1, rng=torch.Generator().manual_seed(0)))
    assert_equal_and_separate(A, A.clone())


def test_state_dict_round_trip(row: Row) -> None:
    A = row.make()
    other = row.make(seed=1) if row.random else row.make()
    x = images(A)
    state = copy.deepcopy(A.state_dict())
    for buffer in other.buffers():
        buffer.zero_()
    other.load_state_dict(state)
    assert torch.equal(other.A(x), A.A(x))
    # Everything an operator is made of travels with it.
    assert {k for k, v in vars(A).items() if isinstance(v, Tensor)} == set()


def through_pickle(A: Operator) -> Operator:
    return pickle.loads(pickle.dumps(A))


def through_torch_save(A: Operator) -> Operator:
    file = io.BytesIO()
    torch.save(A, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("saved", [through_pickle, through_torch_save])
@pytest.mark.parametrize("noise", [None, GaussianNoise, deepinv.physics.PoissonNoise])
def test_can_be_saved_whole(row: Row, saved: Callable[[Operator], Operator], noise: Any) -> None:
    A = row.make()
    if noise is not None:
        A.noise_model = noise(0.1, rng=torch.Generator().manual_seed(0))
    loaded = saved(A)
    x = images(A).abs()
    assert torch.equal(loaded.A(x), A.A(x))
    if noise is not deepinv.physics.PoissonNoise or not isinstance(A, PartialCirculant):
        assert torch.equal(loaded(x), A(x))


@pytest.mark.filterwarnings("ignore:.torch.jit.script:FutureWarning")  # torch's own
def test_gradients_are_those_of_finite_differences(row: Row) -> None:
    A = row.make().double()
    x = images(A, dtype=torch.float64).requires_grad_()
    y = measurements(A, dtype=torch.float64).requires_grad_()
    modes = {"fast_mode": True, "check_forward_ad": True, "check_batched_grad": True}
    assert torch.autograd.gradcheck(A.A, x, **modes)
    assert torch.autograd.gradcheck(A.A_adjoint, y, **modes)
    assert torch.autograd.gradgradcheck(lambda x: A.A(x) ** 2, x, fast_mode=True)
    if row.exact:
        assert torch.autograd.gradcheck(A.A_dagger, y, **modes)
    v = measurements(A, 4, torch.float64)
    (gradient,) = torch.autograd.grad(A.A(x), x, v)
    assert_close(gradient, A.A_adjoint(v), 1e-12)


def test_composes_with_deepinv(row: Row) -> None:
    A = row.make().double()
    x = images(A, dtype=torch.float64)
    blur = deepinv.physics.Blur(filter=torch.ones(1, 1, 3, 3) / 9, padding="circular").double()
    thinned = deepinv.physics.Inpainting(
        img_size=A.measurement_shape, mask=(drawn(*A.measurement_shape) > 0.5).double()
    )
    with pytest.warns(UserWarning, match="DecomposablePhysics"):
        after = thinned * A
    for composed, expected in (
        (A * blur, A.A(blur.A(x))),
        (after, A.A(x) * thinned.mask),
    ):
        y = composed.A(x)
        assert_close(y, expected, 1e-12)
        v = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(5))
        assert_close((y * v).sum(), (x * composed.A_adjoint(v)).sum(), 1e-11)


def test_stacks_with_deepinv(row: Row) -> None:
    A = row.make()
    x = images(A)
    blur = deepinv.physics.Blur(filter=torch.ones(1, 1, 3, 3) / 9, padding="circular")
    for stacked in (A.stack(blur), blur.stack(A)):
        y = stacked.A(x)
        both = [A.A(x), blur.A(x)] if stacked[0] is A else [blur.A(x), A.A(x)]
        assert all(torch.equal(a, b) for a, b in zip(y, both, strict=True))
        assert_close(stacked.A_adjoint(y), A.A_adjoint(A.A(x)) + blur.A_adjoint(blur.A(x)), 1e-5)


def test_ignores_the_parameters_of_others(row: Row) -> None:
    A = row.make()
    x, y = images(A), measurements(A)
    before = copy.deepcopy(A.state_dict())
    A.update(other=torch.ones(1))
    for apply, given in ((A.A, x), (A.A_adjoint, y), (A.A_dagger, y), (A, x), (A.noise, y)):
        assert torch.equal(apply(given, other=3), apply(given))
    assert all(torch.equal(A.state_dict()[k], v) for k, v in before.items())


def test_settings_of_a_call_end_with_it(row: Row) -> None:
    A = row.make(noise_model=GaussianNoise(0.25))
    x, y = images(A), measurements(A)
    settings = (A.solver, A.max_iter, A.tol)
    A.A_dagger(y, solver="lsqr", max_iter=77, tol=0.3)
    A.prox_l2(x, y, 1.0, solver="lsqr", max_iter=78, tol=0.2)
    assert (A.solver, A.max_iter, A.tol) == settings
    A(x, sigma=0.5)
    assert float(A.noise_model.sigma) == 0.25
    A.update(sigma=0.125)
    assert float(A.noise_model.sigma) == 0.125
    assert torch.equal(A(x, sigma=0.0), torch.where(A.A(x) == 0, 0, A.A(x)))


def test_wrong_shapes_are_refused_with_both_shapes(row: Row) -> None:
    A = row.make()
    c, h, w = A.img_size
    for wrong in (torch.zeros(B, c, w, h), torch.zeros(B, c + 1, h, w), torch.zeros(c, h, w)):
        with pytest.raises(ValueError, match=r"x must have shape \(B, ") as error:
            A.A(wrong)
        assert f"(B, {c}, {h}, {w})" in str(error.value)
        assert str(tuple(wrong.shape)) in str(error.value)
    for apply in (A.A_adjoint, A.A_dagger):
        wrong = torch.zeros(B, *A.measurement_shape[:-1], A.measurement_shape[-1] + 1)
        with pytest.raises(ValueError, match=r"y must have shape \(B, ") as error:
            apply(wrong)
        assert ", ".join(map(str, A.measurement_shape)) in str(error.value)
        assert str(tuple(wrong.shape)) in str(error.value)
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor, got ndarray"):
        A.A(np.zeros((B, c, h, w)))


def test_misspelt_options_are_refused(row: Row) -> None:
    with pytest.raises(TypeError, match=r"option\(s\) noise; beside its own arguments it takes"):
        row.make(noise=GaussianNoise(0.1))
    with pytest.raises(TypeError, match=r"noise_model must be a deepinv noise model, got 0\.1"):
        row.make(noise_model=0.1)


NOISES = {
    "gaussian": lambda: deepinv.physics.GaussianNoise(0.1),
    "uniform gaussian": lambda: deepinv.physics.UniformGaussianNoise(),
    "poisson": lambda: deepinv.physics.PoissonNoise(0.1),
    "poisson gaussian": lambda: deepinv.physics.PoissonGaussianNoise(),
    "uniform": lambda: deepinv.physics.UniformNoise(),
    "log poisson": lambda: deepinv.physics.LogPoissonNoise(),
    "gamma": lambda: deepinv.physics.GammaNoise(torch.tensor(3.0)),
    "fisher tippett": lambda: deepinv.physics.FisherTippettNoise(torch.tensor(3.0)),
    "salt and pepper": lambda: deepinv.physics.SaltPepperNoise(),
    "rician": lambda: deepinv.physics.RicianNoise(),
    "laplace": lambda: deepinv.physics.LaplaceNoise(),
    "zero": lambda: deepinv.physics.ZeroNoise(),
    "product": lambda: GaussianNoise(0.1) * deepinv.physics.UniformNoise(),
}


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES.keys())
@pytest.mark.parametrize("name", ["mask half", "down bicubic circular", "circulant"])
def test_takes_every_noise_model_of_deepinv(name: str, noise: Callable[[], Any]) -> None:
    A = ROWS[name].make(noise_model=noise())
    # Counts need rates of at least zero, which random signs do not give.
    x = images(A).abs() if name != "circulant" else A.A_adjoint(measurements(A).abs() + 0.1)
    y = A(x)
    assert y.shape == (B, *A.measurement_shape)
    if isinstance(A, Masking):
        assert not y[(A.mask == 0).expand_as(y)].any()


# ------------------------------------------------------------------------------ masking


def observed(mask: Any = "half", size: Any = (3, 5, 7), **options: Any) -> Tensor:
    return Masking(size, mask, **options).mask


@pytest.mark.parametrize(
    ("side", "missing"),
    [
        ("left", np.s_[:, :3]),
        ("right", np.s_[:, 4:]),
        ("top", np.s_[:2, :]),
        ("bottom", np.s_[3:, :]),
    ],
)
def test_the_named_side_is_the_missing_one(side: str, missing: Any) -> None:
    expected = torch.ones(5, 7)
    expected[missing] = 0
    assert torch.equal(observed("half", side=side)[0, 0], expected)


def test_box_and_eye_patch_hide_their_rectangle() -> None:
    expected = torch.ones(5, 7)
    expected[1:3, 2:6] = 0
    assert torch.equal(observed("box", box=(1, 2, 2, 4))[0, 0], expected)
    eyes = observed("eye-patch", (3, 100, 200))[0, 0]
    expected = torch.ones(100, 200)
    expected[40:55, 40:160] = 0
    assert torch.equal(eyes, expected)


def test_random_keeps_the_share_of_pixels_in_all_channels() -> None:
    mask = observed("random", (3, 20, 30), keep=0.35, seed=4)
    assert mask.shape == (1, 1, 20, 30)
    assert int(mask.sum()) == 210
    assert not torch.equal(mask, observed("random", (3, 20, 30), keep=0.35, seed=5))


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "P", "RGB", "RGBA", "LA"])
def test_mask_files_observe_where_they_are_nonzero(tmp_path: Path, mode: str) -> None:
    expected = torch.ones(5, 7)
    expected[1:3, 2:6] = 0
    gray = (expected.numpy() * 255).astype(np.uint8)
    if mode == "I;16":
        image = Image.fromarray(expected.numpy().astype(np.uint16))  # 1 of 65535 is nonzero too
    elif mode == "P":
        image = Image.fromarray((expected.numpy() == 0).astype(np.uint8), "L").convert("P")
        image.putpalette([0, 0, 255, 0, 0, 0])  # index 0 is blue, index 1 black
    else:
        image = Image.fromarray(gray).convert(mode)
    assert image.mode == mode
    path = tmp_path / "mask.png"
    image.save(path)
    for given in (path, str(path)):
        assert torch.equal(observed(given)[0, 0], expected)


def test_black_pixels_of_an_image_are_information() -> None:
    A = Masking((1, 4, 4), "half", side="left")
    assert torch.equal(A.A(torch.zeros(1, 1, 4, 4)), torch.zeros(1, 1, 4, 4))
    assert torch.equal(A.mask, Masking((1, 4, 4), "half", side="left").mask)


def test_arrays_and_tensors_are_masks() -> None:
    given = np.random.default_rng(0).random((5, 7)) > 0.5
    assert torch.equal(observed(given)[0, 0], torch.from_numpy(given).float())
    assert observed(torch.ones(3, 5, 7)).shape == (1, 3, 5, 7)
    own = torch.ones(1, 1, 5, 7)
    A = Masking((3, 5, 7), own)
    own.zero_()
    assert A.mask.all()


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        ("hlaf", {}, r"mask must be half, eye-patch, box, random, a tensor, or the path.*'hlaf'"),
        ("half", {"side": "west"}, r"side must be one of left, right, top, bottom, got 'west'"),
        ("half", {"box": (0, 0, 1, 1)}, r"box is for mask='box', got mask='half'"),
        ("box", {}, r"box must be \(top, left, height, width\) in pixels, got None"),
        ("box", {"box": (0, 0, 6, 1)}, r"within the image of 5 x 7 pixels.*\(0, 0, 6, 1\)"),
        ("box", {"box": (0, 0, 0, 1)}, r"hold at least one"),
        ("random", {"keep": 0.0}, r"keep must be a share of the pixels in \(0, 1\], got 0.0"),
        ("random", {"keep": math.nan}, r"keep must be"),
        (torch.ones(7, 5), {}, r"\(5, 7\), .* got \(7, 5\)"),
        (torch.ones(2, 5, 7), {}, r"\(3 or 1, 5, 7\).* got \(2, 5, 7\)"),
        (torch.full((5, 7), 255), {}, r"values in \[0, 1\].*pass mask > 0"),
        (torch.full((5, 7), math.nan), {}, r"values in \[0, 1\]"),
    ],
)
def test_masking_refuses(mask: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Masking((3, 5, 7), mask, **options)


def test_masking_refuses_files_that_are_no_mask(tmp_path: Path) -> None:
    small = tmp_path / "small.png"
    Image.new("L", (3, 2)).save(small)
    with pytest.raises(ValueError, match=r"got \(2, 3\)"):
        Masking((3, 5, 7), small)
    Image.new("L", (7, 5)).save(tmp_path / "mask.jpg")
    with pytest.raises(ValueError, match=r"JPEG.*save the mask as PNG"):
        Masking((3, 5, 7), tmp_path / "mask.jpg")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="not a readable image"):
        Masking((3, 5, 7), tmp_path / "text.png")
    whole = tmp_path / "noise.png"
    noise = np.random.default_rng(0).integers(0, 255, (5, 7), dtype=np.uint8)
    Image.fromarray(noise).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:-30])
    with pytest.raises(ValueError, match="not a readable image"):
        Masking((3, 5, 7), tmp_path / "cut.png")


def test_a_mask_in_a_call_holds_for_that_call() -> None:
    A = Masking((1, 5, 7), "half", noise_model=GaussianNoise(0.1))
    kept, x = A.mask.clone(), torch.ones(2, 1, 5, 7)
    masks = torch.stack([torch.zeros(1, 5, 7), torch.ones(1, 5, 7)])
    for apply in (A.A, A.A_adjoint, A.A_dagger):
        assert torch.equal(apply(x, mask=masks), masks)
    y = A(x, mask=masks)
    assert not y[0].any()
    assert y[1].all()
    assert torch.equal(A.mask, kept)
    gradient = torch.rand(1, 1, 5, 7, requires_grad=True)
    A.A(x, mask=gradient).sum().backward()
    assert torch.equal(gradient.grad, x.sum(0, keepdim=True))


def test_per_image_masks_meet_their_images() -> None:
    A = per_image()
    with pytest.raises(ValueError, match=r"one mask per image, for 2 images, but x has shape \(3"):
        A.A(torch.ones(3, *RGB))
    with pytest.raises(ValueError, match=r"mask must have shape .* got \(2, 1, 5, 7\)"):
        A.update_parameters(mask=torch.ones(2, 1, 5, 7))
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        A.update(mask=2 * torch.ones(7, 5))
    A.double().update(mask=torch.ones(7, 5, dtype=torch.bool))
    assert A.mask.dtype == torch.float64
    assert A.mask.shape == (1, 1, 7, 5)


def test_weights_are_applied_once_with_noise() -> None:
    A = Masking((1, 2, 2), torch.full((2, 2), 0.5), noise_model=GaussianNoise(0.0))
    assert torch.equal(A(torch.ones(1, 1, 2, 2)), torch.full((1, 1, 2, 2), 0.5))


def test_deepinv_test_hands_over_one_mask_per_image() -> None:
    class Dataset(torch.utils.data.Dataset[dict[str, Any]]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, i: int) -> dict[str, Any]:
            x = torch.full((3, 8, 8), 0.5)
            mask = Masking((3, 8, 8), "random", seed=i).mask[0]
            return {"x": x, "y": x * mask, "params": {"mask": mask}}

    class Check(deepinv.models.Reconstructor):
        seen: list[Tensor]

        def forward(self, y: Tensor, physics: Masking, **kwargs: Any) -> Tensor:
            assert torch.equal(physics.mask.expand_as(y) > 0, y != 0)
            self.seen.append(physics.mask)
            return physics.A_dagger(y)

    model = Check()
    model.seen = []
    deepinv.test(
        model,
        torch.utils.data.DataLoader(Dataset(), batch_size=2),
        Masking((3, 8, 8)),
        metrics=[deepinv.metric.PSNR()],
        device="cpu",
        show_progress_bar=False,
        verbose=False,
        non_blocking_transfers=False,
    )
    assert [tuple(mask.shape) for mask in model.seen] == [(2, 1, 8, 8)] * 2


# ------------------------------------------------------------------------- downsampling


@pytest.mark.parametrize("padding", ["circular", "reflect", "replicate", "constant", "valid"])
@pytest.mark.parametrize("size", [(3, 48, 48), (1, 49, 50)])
@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("filter", ["gaussian", "bilinear", "bicubic", "tensor", "channels"])
def test_downsampling_equals_deepinv(
    filter: Any, factor: int, size: tuple[int, int, int], padding: str
) -> None:
    if filter == "tensor":
        filter = drawn(1, 1, 5, 6)
    elif filter == "channels":
        filter = drawn(1, size[0], 6, 3)
    theirs = deepinv.physics.Downsampling(size, filter=filter, factor=factor, padding=padding)
    ours = Downsampling(size, factor, filter, padding)
    x = drawn(B, *size)
    y = theirs.A(x)
    assert_close(ours.A(x), y, 1e-5)
    v = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    assert_close(ours.A_adjoint(v), theirs.A_adjoint(v), 1e-5)


def test_downsampling_has_deepinv_s_default_padding() -> None:
    x = drawn(1, 1, 16, 16)
    theirs = deepinv.physics.Downsampling((1, 16, 16), filter="bicubic", factor=4)
    assert_close(Downsampling((1, 16, 16), 4).A(x), theirs.A(x), 1e-5)


def test_box_is_the_block_mean_and_nearest_the_first_pixel() -> None:
    x = drawn(2, 3, 12, 8)
    box = Downsampling((3, 12, 8), 4, "box").A(x)
    assert_close(box, torch.nn.functional.avg_pool2d(x, 4), 1e-6)
    assert torch.equal(Downsampling((3, 12, 8), 4, "nearest").A(x), x[..., ::4, ::4])


@pytest.mark.parametrize("filter", ["bicubic", "bilinear", "gaussian", "box", "nearest"])
def test_a_constant_image_keeps_its_value(filter: str) -> None:
    y = Downsampling((1, 9, 13), 3, filter, "reflect").A(torch.full((1, 1, 9, 13), 0.7))
    assert_close(y, torch.full((1, 1, 3, 5), 0.7), 1e-6)


def test_a_tensor_of_rank_one_keeps_the_exact_pseudo_inverse() -> None:
    assert len(Downsampling((1, 32, 32), 4, dF.bicubic_filter(4)).vertical) == 1
    assert len(Downsampling((1, 32, 32), 4, torch.eye(3)).vertical) == 3
    assert len(Downsampling((1, 32, 32), 4, torch.ones(3, 2, dtype=torch.int64)).vertical) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"factor": 0}, ValueError, "factor must be an integer from 1 to 5, got 0"),
        ({"factor": 6}, ValueError, "factor must be an integer from 1 to 5, got 6"),
        ({"factor": 2.0}, TypeError, "factor must be an integer from 1 to 5, got 2.0"),
        ({"filter": "lanczos"}, ValueError, "filter must be bicubic.*or a tensor, got 'lanczos'"),
        ({"filter": torch.ones(1, 2, 3, 3)}, ValueError, r"\(1, 3 or 1, h, w\), got \(1, 2, 3, 3"),
        ({"filter": torch.zeros(3, 3)}, ValueError, "not zero everywhere"),
        ({"padding": "mirror"}, ValueError, "padding must be one of circular.*got 'mirror'"),
        ({"padding": "valid", "factor": 4}, ValueError, "5 pixels for 16 taps"),
        ({"img_size": (5, 7)}, ValueError, r"img_size must be three.*\(C, H, W\), got \(5, 7\)"),
        ({"img_size": (3, 0, 7)}, ValueError, r"img_size must be three"),
    ],
)
def test_downsampling_refuses(options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        Downsampling(**{"img_size": (3, 5, 7), "factor": 2, **options})


# -------------------------------------------------------------------- partial circulant


@pytest.mark.parametrize("channelwise", [False, True])
@pytest.mark.parametrize("size", [(3, 7, 5), (2, 8, 8)])
@pytest.mark.parametrize("m", [0.2, 1.0])
def test_unimodular_rows_are_orthonormal(size: Any, m: float, channelwise: bool) -> None:
    A = PartialCirculant(size, m, channelwise=channelwise).double()
    y = measurements(A, dtype=torch.float64)
    assert_close(A.A(A.A_adjoint(y)), y, 1e-13)
    B_ = PartialCirculant(size, m, channelwise=channelwise, scale="isometry").double()
    n = math.prod(size)
    ratio = n / math.prod(B_.measurement_shape)
    assert_close(B_.A(B_.A_adjoint(y)), ratio * y, 1e-12)
    assert_close(B_.A(B_.A_dagger(y)), y, 1e-12)


@pytest.mark.parametrize("size", [(1, 101, 101), (1, 100, 100)])
def test_gaussian_filter_entries_have_variance_one_over_n(size: Any) -> None:
    A = PartialCirculant(size, 0.1, "gaussian")
    n = math.prod(size)
    h = A.filter * math.sqrt(n)
    assert h.shape == (1, n)
    deviation = 1 / math.sqrt(n)
    assert abs(float(h.mean())) < 4 * deviation
    assert abs(float(h.var()) - 1) < 4 * math.sqrt(2) * deviation
    assert abs(float((h**4).mean()) - 3) < 4 * math.sqrt(96) * deviation
    neighbours = float((h * h.roll(1)).mean())
    assert abs(neighbours) < 4 * deviation
    # The spectrum is all there is: at frequency zero it is the sum of the filter.
    assert float(A.coefficients[0, 0, 0]) == pytest.approx(float(A.filter.sum()), abs=1e-4)


@pytest.mark.parametrize("spectrum", ["unimodular", "gaussian"])
@pytest.mark.parametrize("channelwise", [False, True])
def test_isometry_keeps_the_energy_on_average(spectrum: str, channelwise: bool) -> None:
    x = torch.stack([drawn(3, 16, 16), torch.ones(3, 16, 16)])
    options = {"spectrum": spectrum, "channelwise": channelwise, "scale": "isometry"}
    energies = torch.stack(
        [
            PartialCirculant((3, 16, 16), 0.1, seed=s, **options).A(x).flatten(1).square().sum(1)
            for s in range(200)
        ]
    )
    ratio = energies.mean(0) / x.flatten(1).square().sum(1)
    error = energies.std(0) / math.sqrt(200) / x.flatten(1).square().sum(1)
    assert ((ratio - 1).abs() < 4 * error).all()
    assert (error < 0.03).all()


def test_m_is_a_count_or_a_share() -> None:
    def shape(m: Any, **options: Any) -> tuple[int, ...]:
        A = PartialCirculant((3, 8, 10), m, **options)
        return tuple(A.A(torch.zeros(B, 3, 8, 10)).shape)

    assert shape(7) == (B, 7)
    assert shape(np.int64(7)) == (B, 7)
    assert shape(0.1) == (B, 24)
    assert shape(np.float64(0.1)) == (B, 24)
    assert shape(1.0) == (B, 240)
    assert shape(1) == (B, 1)
    assert shape(1e-9) == (B, 1)
    assert shape(7, channelwise=True) == (B, 3, 7)
    assert shape(0.1, channelwise=True) == (B, 3, 8)


def test_samples_are_sorted_distinct_and_nested() -> None:
    few, many = (PartialCirculant((3, 8, 8), m, channelwise=True).rows for m in (10, 30))
    assert few.dtype == torch.int64
    for small, large in zip(few, many, strict=True):
        assert torch.equal(small, small.unique())
        assert set(small.tolist()) < set(large.tolist())
    assert not torch.equal(many[0], many[1])


def test_channels_are_sensed_apart() -> None:
    A = PartialCirculant((3, 8, 8), 20, channelwise=True)
    x = torch.zeros(1, 3, 8, 8)
    x[0, 1] = drawn(8, 8)
    y = A.A(x)[0]
    assert y[1].any()
    assert not y[0].any()
    assert not y[2].any()
    assert not torch.equal(A.signs[0], A.signs[1])
    assert not torch.equal(A.phases[0], A.phases[1])


def test_the_mean_intensity_is_spread_by_the_signs() -> None:
    y = PartialCirculant((1, 32, 32), 100).A(torch.ones(1, 1, 32, 32))
    assert float(y.square().mean()) == pytest.approx(1.0, rel=0.5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"m": 0}, ValueError, "m .* must be an integer from 1 to 105, got 0"),
        ({"m": 106}, ValueError, "m .* must be an integer from 1 to 105, got 106"),
        ({"m": 36, "channelwise": True}, ValueError, "from 1 to 35, got 36"),
        ({"m": 1.5}, ValueError, r"share in \(0, 1\].*got 1.5; for a count pass an int"),
        ({"m": math.nan}, ValueError, "share in"),
        ({"m": "10%"}, TypeError, "m .* must be an integer from 1 to 105, got '10%'"),
        ({"m": True}, TypeError, "m .* must be an integer from 1 to 105, got True"),
        ({"spectrum": "flat"}, ValueError, "spectrum must be one of unimodular, gaussian, got"),
        ({"scale": "unit"}, ValueError, "scale must be None or 'isometry', got 'unit'"),
        ({"seed": 0.5}, TypeError, "seed must be an integer, got 0.5"),
    ],
)
def test_partial_circulant_refuses(options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        PartialCirculant(**{"img_size": (3, 7, 5), "m": 10, **options})


MEMORY = """
import torch
from gprior.operators import PartialCirculant

def kilobytes(name):  # not resource.getrusage: its peak is the parent's, if that is larger
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))

torch.set_num_threads(1)
x = torch.rand(1, 3, 1024, 1024, requires_grad=True)
before = kilobytes("VmRSS")
A = PartialCirculant((3, 1024, 1024), 0.01)
y = A(x)
A.A_dagger(y.detach())
torch.autograd.grad(y, x, y.detach())
print((kilobytes("VmHWM") - before) * 1024 / 1e6)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_percent_of_a_large_image_fits_in_200_megabytes() -> None:
    # Without the threshold glibc keeps freed blocks, between none and all from run to run.
    done = subprocess.run(
        [sys.executable, "-c", MEMORY],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"},
    )
    assert float(done.stdout) < 150
