"""Poisson blending: exactness, any mask, any border, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.linalg import spsolve
from torch import Tensor

import gprior

H, W = 12, 15


def images(seed: int, batch: int = 2, channels: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(batch, channels, H, W, generator=g, dtype=torch.float64)


def masks() -> dict[str, Tensor]:
    """Return masks of every kind, (H, W)."""
    box, edge, ring, parts, most = (torch.zeros(H, W) for _ in range(5))
    box[3:9, 4:11] = 1
    edge[:7, 9:] = 1  # touches two borders
    ring[2:10, 2:12] = 1
    ring[5:7, 5:9] = 0  # has a hole
    parts[1:4, 1:4] = parts[8:, 3:6] = parts[5, 13] = 1
    most[:] = 1
    most[6, 7] = 0
    random = (torch.rand(H, W, generator=torch.Generator().manual_seed(3)) < 0.6).float()
    return {"box": box, "edge": edge, "ring": ring, "parts": parts, "most": most, "random": random}


def direct(source: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Solve Poisson's equation for x itself, pixel by pixel, by sparse LU."""
    inside = [tuple(p) for p in mask.nonzero().tolist()]
    number = {p: k for k, p in enumerate(inside)}
    matrix = sparse.lil_matrix((len(inside), len(inside)))
    right = np.zeros((len(inside), len(source)))
    for (i, j), k in number.items():
        for p in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            if not (0 <= p[0] < H and 0 <= p[1] < W):
                continue
            matrix[k, k] += 1
            right[k] += (source[:, i, j] - source[:, p[0], p[1]]).numpy()
            if p in number:
                matrix[k, number[p]] -= 1
            else:
                right[k] += target[:, p[0], p[1]].numpy()
    solved = np.asarray(spsolve(matrix.tocsc(), right)).reshape(right.shape)
    x = target.clone()
    for (i, j), k in number.items():
        x[:, i, j] = torch.from_numpy(solved[k])
    return x


@pytest.mark.parametrize("kind", masks())
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_equals_a_sparse_solve_of_the_equation(kind: str, channels: int) -> None:
    source, target, mask = images(0, 1, channels), images(1, 1, channels), masks()[kind]
    x = gprior.blend(source, target, mask)
    assert (x[0] - direct(source[0], target[0], mask)).abs().max() < 1e-10
    assert torch.equal(x[..., mask == 0], target[..., mask == 0])
    assert (x - source)[..., mask == 1].abs().max() > 0.01


@pytest.mark.parametrize("kind", masks())
def test_a_constant_more_or_less_gives_back_the_target(kind: str) -> None:
    target = images(1)
    shift = torch.tensor([0.3, -5.0, 100.0], dtype=torch.float64)[:, None, None]
    x = gprior.blend(target + shift, target, masks()[kind])
    assert (x - target).abs().max() < 1e-10
    assert torch.equal(gprior.blend(target, target, masks()[kind]), target)  # to the last bit


def test_on_the_border_of_the_image_the_slope_follows_the_source() -> None:
    """A ramp in the target continues as a constant offset, not as 0, where nothing is known."""
    source = torch.zeros(1, 1, H, W, dtype=torch.float64)
    target = torch.ones(1, 1, H, W, dtype=torch.float64)
    mask = torch.zeros(H, W)
    mask[:, 5:] = 1
    assert torch.allclose(gprior.blend(source, target, mask), target, atol=1e-12)


def test_keeps_the_gradients_of_the_source_and_has_no_seam() -> None:
    source, target = images(0, 1, 1) + 3, torch.zeros(1, 1, H, W, dtype=torch.float64)
    mask = masks()["box"]
    x = gprior.blend(source, target, mask)
    pasted = torch.where(mask > 0, source, target)
    seam = lambda v: (v[0, 0, 3:9, 4] - v[0, 0, 3:9, 3]).abs().mean()  # noqa: E731
    assert seam(x) < 0.5 and seam(pasted) > 2.5


def test_each_image_is_blended_for_itself() -> None:
    source, target = images(0, 4), images(1, 4)
    each = torch.stack([*list(masks().values())[:3], torch.zeros(H, W)])[:, None]
    x = gprior.blend(source, target, each)
    for i in range(4):
        alone = gprior.blend(source[i : i + 1], target[i : i + 1], each[i, 0])
        assert torch.equal(x[i : i + 1], alone)
    assert torch.equal(x[3], target[3])  # nothing was taken
    order = [2, 0, 3, 1]
    assert torch.equal(gprior.blend(source[order], target[order], each[order]), x[order])


def test_float32_and_bool_masks() -> None:
    source, target, mask = images(0), images(1), masks()["ring"]
    x = gprior.blend(source.float(), target.float(), mask.bool())
    assert x.dtype == torch.float32
    assert (x - gprior.blend(source, target, mask)).abs().max() < 1e-6


def test_what_is_far_away_may_be_nan() -> None:
    """The background of a measurement, for example."""
    source, target, mask = images(0), images(1), masks()["box"]
    target[..., 0, 0] = torch.nan
    x = gprior.blend(source, target, mask)
    assert bool(x[..., 0, 0].isnan().all()) and int(x.isnan().sum()) == 6
    with pytest.raises(gprior.InputError, match="finite"):
        corner = torch.zeros(H, W)
        corner[0, 0] = 1
        gprior.blend(target, source, corner)
    target[1, 0, 2, 5] = torch.inf  # beside the box
    with pytest.raises(gprior.InputError, match="around it, but image 1"):
        gprior.blend(source, target, mask)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": torch.ones(H, W)}, "at least one pixel .* outside"),
        ({"mask": torch.ones(H, W) / 2}, "0 and 1"),
        ({"mask": torch.ones(2, 3, H, W)}, "mask must have shape"),
        ({"mask": torch.ones(W, H)}, "mask must have shape"),
        ({"source": images(0)[:1]}, "shape of target"),
        ({"source": images(0)[0]}, "real images"),
        ({"target": images(0).long()}, "real images"),
        ({"target": np.zeros((2, 3, H, W))}, "tensor, got ndarray"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], message: str) -> None:
    good = {"source": images(0), "target": images(1), "mask": masks()["box"]}
    with pytest.raises(gprior.InputError, match=message):
        gprior.blend(**{**good, **change})


def test_one_image_that_is_covered_is_refused() -> None:
    both = torch.stack([masks()["box"], torch.ones(H, W)])[:, None]
    with pytest.raises(gprior.InputError, match="every image"):
        gprior.blend(images(0), images(1), both)
