"""Operators by name: a suite that every name inherits, and the texts that are refused."""

from __future__ import annotations

import math
import pickle

import deepinv
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings, strategies as st
from PIL import Image

import gprior
from gprior.operators import (
    OPERATORS,
    Downsampling,
    Masking,
    PartialCirculant,
    ct,
    from_spec,
    mri,
    mri_mask,
)

GRAY, COMPLEX = (1, 16, 16), (2, 16, 16)
SPECS = {
    "denoise": GRAY,
    "half-mask": GRAY,
    "mask:half": GRAY,
    "mask:half,side=right": GRAY,
    "mask:eye-patch": (3, 16, 16),
    "mask:box=2,3,4,5": GRAY,
    "mask:random=0.3": GRAY,
    "downsample:4": GRAY,
    "downsample:2,filter=gaussian,padding=reflect": (3, 16, 16),
    "blur:1.2": GRAY,
    "blur:0.7,padding=reflect": (3, 16, 16),
    "circulant:0.3": GRAY,
    "circulant:40": GRAY,
    "mri:2": COMPLEX,
    "mri:4,center=0.1,pattern=uniform": COMPLEX,
    "mri:4,pattern=poisson": COMPLEX,
    "ct:12": GRAY,
    "ct:12,geometry=fan": GRAY,
}
DRAWN = ("random", "circulant", "mri")


@pytest.fixture(params=SPECS.items(), ids=SPECS.keys())
def row(request):
    spec, shape = request.param
    if "poisson" in spec:
        pytest.importorskip("sigpy")
    return spec, shape


def images(shape, seed=0, count=2):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def dense(A, shape):
    """Return the matrix of an operator, (m, n), in float64."""
    n = math.prod(shape)
    return A.A(torch.eye(n).reshape(n, *shape)).flatten(1).T.double()


# --- What every name promises ----------------------------------------------------------------


def test_adjoint_is_the_transpose(row):
    spec, shape = row
    A = from_spec(spec, shape)
    matrix, y = dense(A, shape), A.A(images(shape, 1))
    expected = (y.double().flatten(1) @ matrix).reshape(-1, *shape)
    torch.testing.assert_close(A.A_adjoint(y).double(), expected, atol=1e-5, rtol=1e-5)


def test_it_is_linear_and_takes_images_one_by_one(row):
    spec, shape = row
    A, x, z = from_spec(spec, shape), images(shape, 1), images(shape, 2)
    expected = 2 * A.A(x) - 3 * A.A(z)
    torch.testing.assert_close(A.A(2 * x - 3 * z), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(A.A(x)[1:], A.A(x[1:]), atol=1e-6, rtol=1e-6)


def test_dagger_fits_what_was_measured(row):
    spec, shape = row
    A = from_spec(spec, shape)
    y = A.A(images(shape, 3))
    # A linear solver stops at its tolerance; a blur has small singular values.
    torch.testing.assert_close(A.A(A.A_dagger(y)), y, atol=2e-2, rtol=2e-2)


def test_norm_is_at_most_one(row):
    spec, shape = row
    norm = torch.linalg.matrix_norm(dense(from_spec(spec, shape), shape), 2)
    # A reflecting border counts some pixels twice.
    assert norm <= (1.02 if "reflect" in spec else 1 + 1e-3)


def test_the_seed_decides_and_the_global_one_does_not(row):
    spec, shape = row
    x = images(shape)
    first = from_spec(spec, shape, seed=3).A(x)
    torch.manual_seed(99)
    assert torch.equal(first, from_spec(spec, shape, seed=3).A(x))
    other = from_spec(spec, shape, seed=4).A(x)
    assert torch.equal(first, other) != any(name in spec for name in DRAWN)


def test_it_solves_in_float64_and_pickles(row, tiny_prior):
    spec, shape = row
    prior = tiny_prior(16, 3 if shape[0] == 3 else 1)
    prior = prior.adapt(shape) if shape[0] == 2 else prior
    A = from_spec(spec, shape)
    y = A.A(prior.sample(1, seed=1).float()).double()
    found = gprior.solve(y, A, prior, "csgm", steps=1)
    assert found.x.shape == (1, *shape) and found.x.isfinite().all()
    if type(A).__module__.startswith("gprior"):
        assert torch.equal(pickle.loads(pickle.dumps(A)).A(images(shape)), A.A(images(shape)))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("half-mask", lambda: Masking(GRAY, "half")),
        ("mask:half,side=right", lambda: Masking(GRAY, "half", side="right")),
        ("mask:box=2,3,4,5", lambda: Masking(GRAY, "box", box=(2, 3, 4, 5))),
        ("mask:random=0.3", lambda: Masking(GRAY, "random", keep=0.3, seed=7)),
        ("downsample:4,filter=box", lambda: Downsampling(GRAY, 4, "box")),
        ("circulant:0.3", lambda: PartialCirculant(GRAY, 0.3, seed=7)),
        ("circulant:40", lambda: PartialCirculant(GRAY, 40, seed=7)),
    ],
)
def test_a_name_is_the_operator_of_the_package(spec, expected):
    x = images(GRAY)
    assert torch.equal(from_spec(spec, GRAY, seed=7).A(x), expected().A(x))


def test_blur_is_that_of_deepinv():
    x = images(GRAY)
    kernel = deepinv.physics.functional.gaussian_blur(sigma=(1.2, 1.2))
    expected = deepinv.physics.Blur(kernel, padding="circular").A(x)
    assert torch.equal(from_spec("blur:1.2", GRAY).A(x), expected)


# --- MRI and CT ------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["uniform", "random"])
@pytest.mark.parametrize(("acceleration", "center"), [(4, 0.08), (8, 0.04), (2, 0.3)])
def test_sampled_columns(pattern, acceleration, center):
    mask = mri_mask((48, 96), acceleration, center, pattern)
    assert mask.shape == (48, 96) and set(mask.unique().tolist()) == {0, 1}
    assert (mask == mask[0]).all()
    assert int(mask[0].sum()) == pytest.approx(96 / acceleration, abs=1)
    half = int(center * 96) // 2
    assert mask[0, 48 - half : 48 + half].all()


def test_an_acceleration_of_one_samples_everything():
    assert mri_mask((8, 12), 1, 0.08, "uniform").all()


def test_poisson_samples_in_both_directions():
    pytest.importorskip("sigpy")
    mask = mri_mask((48, 64), 4, 0.1, "poisson", seed=1)
    assert float(mask.mean()) == pytest.approx(0.25, abs=0.03)
    assert mask[24 - 2 : 24 + 2, 32 - 3 : 32 + 3].all()
    assert not (mask == mask[0]).all() and not (mask == mask[:, :1]).all()


def test_poisson_without_sigpy_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sigpy.mri", None)
    with pytest.raises(gprior.InputError, match=r"sigpy.*gprior\[mri\]"):
        from_spec("mri:4,pattern=poisson", COMPLEX)


def test_mri_of_one_coil_is_a_masked_centred_fourier_transform():
    x, mask = images(COMPLEX), mri_mask((16, 16), 2)
    image = (x[:, 0] + 1j * x[:, 1]).numpy()
    shifted = np.fft.ifftshift(image, axes=(1, 2))
    kspace = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(1, 2)) * mask.numpy()
    y = from_spec("mri", COMPLEX, mask=mask).A(x)
    np.testing.assert_allclose(y[:, 0] + 1j * y[:, 1], kspace, atol=1e-5)


def test_mri_of_several_coils_is_that_of_each_coil():
    maps = torch.randn(3, 16, 16, dtype=torch.complex64)
    x, mask = images(COMPLEX), mri_mask((16, 16), 2)
    y = mri(mask, maps).A(x)
    one = mri(mask)
    for k in range(3):
        seen = torch.view_as_complex(x.movedim(1, -1).contiguous()) * maps[k]
        expected = one.A(torch.view_as_real(seen).movedim(-1, 1))
        torch.testing.assert_close(y[:, :, k], expected)


def test_given_mask_and_acceleration_are_combined():
    given = torch.ones(16, 16)
    given[:, 3] = 0
    mask = from_spec("mri:2", COMPLEX, seed=1, mask=given).mask[0, 0]
    assert torch.equal(mask, mri_mask((16, 16), 2, seed=1) * given)


def disc(radius, size, value=1.0, centre=(0.0, 0.0)):
    axis = torch.arange(size) - (size - 1) / 2
    inside = (axis - centre[0]) ** 2 + (-axis[:, None] - centre[1]) ** 2 <= radius**2
    return value * inside.float()[None, None]


@pytest.mark.parametrize("geometry", ["parallel", "fan"])
def test_ct_measures_line_integrals(geometry):
    """The central ray through a disc is its diameter; deepinv's scale is its norm."""
    A = ct((1, 64, 64), torch.tensor([0.0, 30.0, 90.0]), geometry)
    y = A.A(disc(20, 64))[0, 0] * A.operator_norm
    middle = y[len(y) // 2 - 1 : len(y) // 2 + 2].mean(0)
    np.testing.assert_allclose(middle, 40, rtol=0.03)


# --- What is refused -------------------------------------------------------------------------

REFUSED = {
    "blurring:2": "one of denoise.*got 'blurring:2'",
    "": "one of denoise.*got ''",
    "downsample": "needs a value: downsample:FACTOR",
    "downsample:": "needs a value",
    "downsample:2.5": "whole number for the factor, got '2.5'",
    "downsample:99": "factor must be an integer from 1 to 16, got 99",
    "downsample:4,filtre=box": r"no option 'filtre=box'; the options of downsample are: filter=",
    "downsample:4,filter=boxy": "filter must be one of bicubic.*got 'boxy'",
    "downsample:4,filter=box,filter=box": "the option filter twice",
    "denoise:3": "takes no value",
    "blur:x": "finite number for the width of the blur, got 'x'",
    "blur:-1": "above 0, got -1",
    "blur:9": "reaches 31 pixels.*image's 16",
    "circulant:nan": "finite number for m",
    "circulant:2.0": "share",
    "mask:half,side=up": "side must be one of left, right, top, bottom, got 'up'",
    "mask:box=1,2,3": "box must be",
    "mask:box=1,2,3,x": "whole number for box, got 'x'",
    "mask:random=2": "keep must be a share",
    "mask:nothing.png": "no file 'nothing.png'",
    "mri": "needs a mask: give an acceleration",
    "mri:0": "acceleration must be an integer from 1",
    "mri:4,centre=0.1": "no option 'centre=0.1'; the options of mri are: center=",
    "mri:4,center=0.3": "center must be below 1 / acceleration",
    "mri:4,pattern=spiral": "pattern must be one of uniform, random, poisson, got 'spiral'",
    "ct": "needs its angles",
    "ct:0": "angles must be an integer from 1 to 3600, got 0",
    "ct:99999999": "angles must be an integer from 1 to 3600",
    "ct:9,geometry=cone": "geometry must be one of parallel, fan, got 'cone'",
    "matrix:a\0b": "path of a file",
}


@pytest.mark.parametrize("spec", REFUSED)
def test_a_wrong_text_is_refused(spec):
    shape = COMPLEX if spec.startswith("mri") else GRAY
    with pytest.raises(gprior.InputError, match=REFUSED[spec]):
        from_spec(spec, shape)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(gprior.InputError, match=r"complex images.*prior.adapt\(\(2, 16, 16\)\)"):
        from_spec("mri:4", GRAY)
    with pytest.raises(gprior.InputError, match=r"square images.*16 x 8"):
        from_spec("ct:9", (1, 16, 8))
    with pytest.raises(gprior.InputError, match=r"mask must have shape \(16, 16\)"):
        from_spec("mri", COMPLEX, mask=torch.ones(8, 8))
    with pytest.raises(gprior.InputError, match="maps must be complex"):
        mri(torch.ones(16, 16), torch.ones(3, 16, 16))
    with pytest.raises(gprior.InputError, match="the angles are given"):
        from_spec("ct:9", GRAY, angles=torch.arange(9.0))
    with pytest.raises(gprior.InputError, match="source_radius must be above"):
        ct(GRAY, torch.arange(9.0), "fan", fan={"source_radius": 5})
    with pytest.raises(gprior.InputError, match="fan has the fields"):
        ct(GRAY, torch.arange(9.0), "fan", fan={"radius": 5})
    with pytest.raises(gprior.InputTypeError, match="must be a text"):
        from_spec(None, GRAY)


def test_a_file_whose_name_is_like_a_mask_is_still_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("halfway,side=left.png", "box.png", "a=b,c.png"):
        Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(name)
        assert torch.equal(from_spec(f"mask:{name}", GRAY).mask[0, 0], torch.eye(16))


def test_a_mask_may_be_an_array_in_a_file(tmp_path):
    path = tmp_path / "m.npy"
    for array in (np.eye(16, dtype=bool), np.eye(16)[None], 3 * np.eye(16, dtype=np.int32)):
        np.save(path, array)
        assert torch.equal(from_spec(f"mask:{path}", GRAY).mask[0, 0], torch.eye(16))
    np.save(path, np.array([{}], dtype=object))
    with pytest.raises(gprior.InputError, match=r"not a whole \.npy file"):
        from_spec(f"mask:{path}", GRAY)
    np.save(path, np.eye(16) * 1j)
    with pytest.raises(gprior.InputError, match=r"real numbers of shape .H, W., got complex128"):
        from_spec(f"mask:{path}", GRAY)


NAMES = [form.partition(":")[0].partition("[")[0] for form in OPERATORS]
OTHERS = ("half", "box", "random", "side", "filter", "center", "pattern", "gaussian", "poisson")
MARKS = (":", ",", "=", " ", "4", "0.2", "-1", "1e9", "nan", "geometry", "fan", "\0", "²", "é")
WORDS = st.sampled_from([*NAMES, *OTHERS, *MARKS])


@settings(max_examples=150, deadline=None)
@given(text=st.lists(WORDS, max_size=8).map("".join) | st.text(max_size=12))
@example(text="mri:²")
@example(text="circulant:1e400")
def test_any_text_is_an_operator_or_one_message(text):
    for shape in ((1, 8, 8), (2, 8, 8)):
        try:
            A = from_spec(text, shape)
        except (gprior.InputError, FileNotFoundError, IsADirectoryError) as error:
            assert str(error)
        else:
            assert A.A(torch.zeros(1, *shape)).isfinite().all()
