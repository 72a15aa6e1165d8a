"""What `solve` accepts as y and A: gaps, masked arrays, sparse and single-precision operators."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import gprior
from gprior.operators import Masking, PartialCirculant
from gprior.randomness import generator

DOUBLE = torch.float64
OPTIONS = {"steps": 5, "init": "best-of:5"}


@pytest.fixture
def prior(tiny_prior):
    return tiny_prior()


# --- Entries that were not measured


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["lbrgm", "brgm", "csgm"])
def test_what_stands_where_a_does_not_look_makes_no_difference(name, value, prior):
    A = Masking(prior.image_shape, "half").double()
    y = A(prior.sample(2, seed=1))
    gaps = torch.where(A.mask > 0, y, value)
    expected = gprior.solve(y, A, prior, name, **OPTIONS)
    found = gprior.solve(gaps, A, prior, name, **OPTIONS)
    assert torch.equal(found.x, expected.x) and torch.equal(found.criterion, expected.criterion)
    y[1, 0, 3, 12] = value
    with pytest.raises(gprior.InputError, match="1 of 512 entries are NaN or infinite and depend"):
        gprior.solve(y, A, prior, name, **OPTIONS)


def masked(y, mask):
    return np.ma.MaskedArray(y.numpy(), mask=~mask.expand_as(y).numpy())


@pytest.mark.parametrize("stop", ["fixed", "discrepancy"])
def test_masked_entries_are_not_fitted(stop, prior):
    """A masked array under the identity is the measurement of a mask operator."""
    whole = Masking(prior.image_shape, torch.ones(1, 16, 16)).double()
    A = Masking(prior.image_shape, "half").double()
    x = prior.sample(2, seed=1)
    options = {**OPTIONS, "stop": stop, "noise_std": 0.1}
    expected = gprior.solve(A(x), A, prior, "csgm", **options)
    y = torch.where(A.mask > 0, x, torch.nan)
    found = gprior.solve(masked(y, A.mask > 0), whole, prior, "csgm", **options)
    torch.testing.assert_close(found.x, expected.x)
    torch.testing.assert_close(found.criterion, expected.criterion)


@pytest.mark.parametrize("stop", ["fixed", "holdout"])
def test_no_term_sees_what_is_masked(stop, prior):
    A = Masking(prior.image_shape, torch.ones(1, 16, 16)).double()
    mask = torch.rand(2, 1, 16, 16, generator=generator("mask")) > 0.1
    y = A(prior.sample(2, seed=1))
    options = {**OPTIONS, "stop": stop}
    a, b = (
        gprior.solve(masked(torch.where(mask, y, value), mask), A, prior, "brgm", **options)
        for value in (0.0, 5.0)
    )
    assert a.perceptual and torch.equal(a.x, b.x) and torch.equal(a.criterion, b.criterion)
    everything = gprior.solve(y, A, prior, "brgm", **options)
    assert (everything.x - a.x).abs().max() > 1e-6


# --- Kinds of matrices


@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
def test_sparse_tensors_are_matrices(layout, prior):
    dense = (torch.rand(230, 256, generator=generator("sparse"), dtype=DOUBLE) < 0.1).to(DOUBLE) / 5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that its sparse layouts are in beta
        A = getattr(dense, f"to_sparse_{layout}")()
        y = prior.sample(2, seed=1).flatten(1) @ dense.t()

        def encoder(x):
            return x.flatten(1)[:, :8]

        for options in (OPTIONS, {"steps": 3, "init": encoder}):
            expected = gprior.solve(y, dense, prior, "csgm", **options)
            found = gprior.solve(y, A, prior, "csgm", **options)
            torch.testing.assert_close(found.x, expected.x, atol=1e-6, rtol=0)


def in_float32_alone(matrix):
    """Return an operator whose products, as those of much C code, take float32 alone."""

    def product(m):
        def run(v):
            if v.dtype != np.float32:
                raise TypeError(f"float32 expected, got {v.dtype}")
            return m @ v

        return run

    return LinearOperator(
        matrix.shape, matvec=product(matrix), rmatvec=product(matrix.T), dtype=np.float32
    )


@pytest.mark.parametrize("kind", ["operator", "float32 matrix", "integers", "sparse float32"])
def test_scipy_operators_meet_vectors_of_their_dtype(kind, prior):
    matrix = np.random.default_rng(0).standard_normal((230, 256)).astype(np.float32)
    if kind == "integers":
        matrix = np.sign(matrix).astype(np.int8)
    A = {
        "operator": lambda: in_float32_alone(matrix),
        "float32 matrix": lambda: aslinearoperator(matrix),
        "integers": lambda: sparse.csr_matrix(matrix),
        "sparse float32": lambda: sparse.csr_matrix(matrix),
    }[kind]()
    y = prior.sample(2, seed=1).flatten(1).numpy() @ matrix.T.astype(np.float64)

    def encoder(x):
        return x.flatten(1)[:, :8]

    for options in (OPTIONS, {"steps": 3, "init": encoder}):
        expected = gprior.solve(y, matrix, prior, "csgm", **options)
        found = gprior.solve(y, A, prior, "csgm", **options)
        torch.testing.assert_close(found.x, expected.x, atol=1e-3, rtol=0)


def test_an_operator_without_a_transpose_is_refused(prior):
    A = LinearOperator((10, 256), matvec=lambda v: v[:10], dtype=np.float64)
    with pytest.raises(gprior.InputError, match="needs rmatvec, its transpose"):
        gprior.solve(np.zeros((1, 10)), A, prior)


# --- Units


@pytest.mark.parametrize(("scale", "factor"), [(1e-5, r"e\+0"), (1e4, "e-0")])
def test_other_units_are_noticed(scale, factor, prior):
    A = PartialCirculant(prior.image_shape, m=0.5)
    y = A(prior.sample(2, seed=1))
    with pytest.warns(RuntimeWarning, match=rf"differ in size.*multiply y.*\d{factor}"):
        gprior.solve(scale * y, A, prior, "csgm", steps=1)
    for usual in (0.1, 1, 10):  # a warning would be an error
        gprior.solve(usual * y, A, prior, "csgm", steps=1)
    gprior.solve(0 * y, A, prior, "csgm", steps=1)


def test_the_units_are_those_of_samples_of_the_prior():
    """Edges of smooth images are ten times as weak as those of a random image."""
    prior = gprior.load_prior("phantom-64")

    def edges(x):
        return x[..., 1:] - x[..., :-1]

    y = edges(prior.sample(1, seed=1))
    gprior.solve(y / 30, edges, prior, "csgm", steps=1)  # 300 times less than a random image has
    with pytest.warns(RuntimeWarning, match="differ in size") as found:
        gprior.solve(y / 1000, edges, prior, "csgm", steps=1)
    assert 500 < float(str(found[0].message).split()[-1]) < 2000


def test_one_image_in_other_units_is_noticed_and_a_dark_one_is_not(prior):
    A = PartialCirculant(prior.image_shape, m=0.5)
    y = A(prior.sample(3, seed=1))
    with pytest.warns(RuntimeWarning, match="differ in size"):
        gprior.solve(y * torch.tensor([[1.0], [1e4], [1.0]]), A, prior, "csgm", steps=1)
    gprior.solve(y * torch.tensor([[1.0], [1e-4], [1.0]]), A, prior, "csgm", steps=1)


def test_measurements_may_be_a_sparse_tensor(prior):
    A = Masking(prior.image_shape, "half")
    y = A(prior.sample(2, seed=1))
    expected = gprior.solve(y, A, prior, "csgm", steps=3).x
    assert torch.equal(gprior.solve(y.to_sparse(), A, prior, "csgm", steps=3).x, expected)
