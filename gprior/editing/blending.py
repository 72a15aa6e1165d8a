"""Poisson blending: a part of one image, placed into another without a seam.

Pérez, Gangnet and Blake 2003, "Poisson image editing". Huh et al. 2020, arXiv:2005.01703, section
4, blend projected and edited objects into the original image with it.

Differs from the authors' code
------------------------------
- The demo of pix2latent calls OpenCV's ``seamlessClone``, which takes 8-bit images of three
  channels. Here images are floating-point, of any range and number of channels.
- A mask may touch the border of the image.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from gprior.checks import InputError, InputTypeError

__all__ = ["blend"]

Array = NDArray[np.float64]


def blend(source: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Place the masked part of one image into another one without a seam.

    Inside the mask Ω, the answer x has the gradients of the source. On the pixels around Ω, which
    stay those of the target, its values have to fit::

        Δx = Δ source in Ω,     x = target outside Ω

    Δ is the sum of the differences from the up to four neighbours. It is solved for
    x - source, whose Laplacian is 0: what the source lacks on the border of Ω is spread smoothly
    over Ω. So two images that differ by a constant on the border differ by it in all of Ω, and
    blending returns the target there. Where Ω touches the border of the image, nothing has to fit,
    and the slope of x - source across the border is 0 (natural boundary).

    Parameters
    ----------
    source : Tensor
        Images (B, C, H, W) from which Ω is taken, such as ``Result.x``. Any range, any C.
    target : Tensor
        Images (B, C, H, W) into which it is placed.
    mask : Tensor
        Ω, 1 or True inside: (H, W) for all images, or (B, 1, H, W). It may have any shape and any
        number of parts.

    Returns
    -------
    Tensor
        (B, C, H, W), with the dtype and the device of the target. It is computed in float64, and
        no gradient passes through it.

    Raises
    ------
    InputError
        If a shape does not fit, if the mask covers a whole image, so that no pixel of the target
        says how bright x is, or if a needed value is not finite.

    References
    ----------
    Pérez, Gangnet and Blake 2003, "Poisson image editing", ACM Transactions on Graphics 22(3),
    equation 7.

    Examples
    --------
    >>> target = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    >>> mask = torch.zeros(8, 8)
    >>> mask[2:5, 3:8] = 1
    >>> x = blend(target + 0.5, target, mask)  # only the brightness differs
    >>> torch.allclose(x, target, rtol=0, atol=1e-12)
    True
    """
    masks = _checked(source, target, mask)
    answer = target.detach().clone()
    system: tuple[Tensor, _Membrane] | None = None
    for i, inside in enumerate(masks.expand(len(target), -1, -1, -1)[:, 0]):
        if not bool(inside.any()):
            continue
        if system is None or not torch.equal(system[0], inside):  # the next image often has it too
            system = (inside, _Membrane(inside.numpy()))
        near = torch.from_numpy(system[1].near)
        parts = [x[i].detach().double().cpu() for x in (source, target)]
        gap = torch.where(near, parts[1] - parts[0], 0)
        if not bool(gap.isfinite().all() & parts[0][:, inside].isfinite().all()):
            raise InputError(
                "source must be finite inside the mask, and source and target must be finite "
                f"around it, but image {i} has NaN or infinite values there"
            )
        filled = parts[0][:, inside] + torch.from_numpy(system[1].fill(gap.numpy()))
        answer[i, :, inside.to(target.device)] = filled.to(target)
    return answer


class _Membrane:
    """The Laplace equation on a mask (H, W), with values given around it."""

    def __init__(self, inside: NDArray[np.bool_]) -> None:
        pixels = np.arange(inside.size).reshape(inside.shape)
        pairs = np.concatenate(
            [
                np.stack([pixels[:, :-1].ravel(), pixels[:, 1:].ravel()]),
                np.stack([pixels[:-1].ravel(), pixels[1:].ravel()]),
            ],
            1,
        )
        a, b = np.concatenate([pairs, pairs[::-1]], 1)  # every pixel a with each neighbour b
        links = sparse.csr_matrix((np.ones(len(a)), (a, b)), shape=(inside.size, inside.size))
        within = inside.ravel()
        degree = np.asarray(links.sum(1)).ravel()
        rows = links[within]
        matrix = sparse.diags(degree[within]) - rows[:, within]
        self.near = (~within & (links @ within > 0)).reshape(inside.shape)
        self._rows = rows[:, ~within]
        self._outside = ~within
        self._solver = splu(
            matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}
        )

    def fill(self, values: Array) -> Array:
        """Return the solution (C, n) in the n pixels of the mask, for values (C, H, W) around."""
        known = values.reshape(len(values), -1)[:, self._outside]
        solved: Array = self._solver.solve(self._rows @ known.T).T
        return solved


def _checked(source: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the mask as bool (B or 1, 1, H, W) on the CPU; refuse what does not fit."""
    for name, x in (("source", source), ("target", target), ("mask", mask)):
        if not isinstance(x, Tensor):
            raise InputTypeError(f"{name} must be a tensor, got {type(x).__name__}")
    for name, x in (("source", source), ("target", target)):
        if x.ndim != 4 or not x.is_floating_point():
            raise InputError(
                f"{name} must be real images (B, C, H, W) of a floating dtype, got shape "
                f"{tuple(x.shape)} of {x.dtype}"
            )
    if source.shape != target.shape:
        raise InputError(
            f"source must have the shape of target, {tuple(target.shape)}, got "
            f"{tuple(source.shape)}"
        )
    B, _, H, W = target.shape
    masks = mask[None, None] if mask.ndim == 2 else mask
    if tuple(masks.shape) not in ((1, 1, H, W), (B, 1, H, W)):
        raise InputError(
            f"mask must have shape ({H}, {W}) or ({B}, 1, {H}, {W}), got {tuple(mask.shape)}"
        )
    if not bool(((masks == 0) | (masks == 1)).all()):
        raise InputError("mask must have the values 0 and 1 alone; threshold it first")
    inside = masks.detach().cpu().bool()
    if bool(inside.all(3).all(2).any()):
        raise InputError(
            "mask must leave at least one pixel of every image outside: with none, nothing says "
            "how bright the blended image is. To take the whole source, use it as it is"
        )
    return inside
