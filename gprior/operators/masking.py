"""Masking (inpainting): y = mask * x."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gprior.checks import InputError, integer
from gprior.operators.base import Operator, checked_img_size
from gprior.randomness import generator

__all__ = ["Masking"]

Array = np.ndarray[Any, Any]

_SIDES = ("left", "right", "top", "bottom")

# An FFHQ-aligned face has its eyes at 0.47 of the height and at 0.375 and 0.625 of the
# width: the band covers both with brows and lids.
_EYES_TOP, _EYES_BOTTOM, _EYES_LEFT, _EYES_RIGHT = 0.40, 0.55, 0.20, 0.80


class Masking(Operator):
    r"""Keep some pixels and lose the others: :math:`y = m \odot x`.

    ``y`` keeps the image's shape; missing pixels are zero, noise or not. Which pixels are
    missing is always stated by the mask, never read off an image's black pixels.

    Parameters
    ----------
    img_size : sequence of int
        Shape (C, H, W) of one image.
    mask : str, pathlib.Path, Tensor or array
        - ``"half"``: the half named by ``side`` is missing;
        - ``"eye-patch"``: a band over the eyes of an aligned face is missing (rows 0.40 to
          0.55 of the height, columns 0.20 to 0.80 of the width);
        - ``"box"``: the rectangle ``box`` is missing;
        - ``"random"``: a share ``keep`` of the pixels, the same in all channels, is kept;
        - the path of a lossless image file of size (H, W): nonzero is observed, zero missing
          (colours count, opacity does not);
        - a tensor or array of shape (H, W), (C or 1, H, W) or (B, C or 1, H, W) with values in
          [0, 1]: 0 is missing, 1 observed, between them a weight.
    side : {"left", "right", "top", "bottom"}
        The half that is *missing* under ``"half"``; of an odd size, the smaller half.
    box : tuple of int
        (top, left, height, width) in pixels of the rectangle missing under ``"box"``.
    keep : float
        Share of the pixels kept under ``"random"``, in (0, 1].
    seed : int
        Seed of ``"random"``; the global seed has no influence.
    noise_model : deepinv.physics.NoiseModel, optional
        Noise on the observed pixels; default none.
    device : torch.device or str
        Where the mask lives.
    **kwargs
        Options of ``deepinv.physics.LinearPhysics``.

    Attributes
    ----------
    mask : Tensor
        Shape (1 or B, 1 or C, H, W). ``update_parameters(mask=...)`` replaces it, also by one
        mask per image; ``mask=`` in a call holds for that call.

    Raises
    ------
    ValueError
        For an unknown name, an unreadable file, a wrong size or values outside [0, 1].

    Notes
    -----
    Half and eye-patch are the masks of L-BRGM (Conmy et al. 2021, section 3), which draws
    the band in its figure 3 without giving its size. Unlike
    ``deepinv.physics.Inpainting``, a weight is applied once, not once more with the noise.

    Examples
    --------
    >>> import torch
    >>> from gprior.operators.masking import Masking
    >>> Masking((1, 2, 4), "half", side="right")(torch.ones(1, 1, 2, 4))
    tensor([[[[1., 1., 0., 0.],
              [1., 1., 0., 0.]]]])
    """

    measurement_is_image = True
    mask: Tensor

    def __init__(
        self,
        img_size: Sequence[int],
        mask: str | Path | Tensor | Array = "half",
        *,
        side: str = "left",
        box: Sequence[int] | None = None,
        keep: float = 0.2,
        seed: int = 0,
        noise_model: Callable[..., Tensor] | None = None,
        device: torch.device | str = "cpu",
        **kwargs: Any,
    ) -> None:
        img_size = checked_img_size(img_size)
        super().__init__(img_size, img_size, noise_model=noise_model, device=device, **kwargs)
        height, width = img_size[1:]
        if box is not None and not (isinstance(mask, str) and mask == "box"):
            raise InputError(f"box is for mask='box', got mask={mask!r}; remove one of the two")
        named: dict[Any, Callable[[], Tensor]] = {
            "half": lambda: _half(height, width, side),
            "eye-patch": lambda: _eye_patch(height, width),
            "box": lambda: _box(height, width, box),
            "random": lambda: _random(height, width, keep, seed),
        }
        values: Tensor | Array
        if isinstance(mask, str) and mask in named:
            values = named[mask]()
        elif isinstance(mask, str | Path):
            values = _from_file(Path(mask), names=list(named))
        else:
            values = mask
        self.register_buffer("mask", self._as_mask(values).to(torch.float32, copy=True))
        self.to(device)

    def A(self, x: Tensor, mask: Tensor | None = None, **kwargs: Any) -> Tensor:  # noqa: N802
        """Mask images ``x``, shape (B, C, H, W), by ``mask``, or by the operator's if None."""
        return self._mask_for("x", x, mask) * x

    def A_adjoint(  # noqa: N802
        self, y: Tensor, mask: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Apply the transpose, which is the mask again, to ``y``, shape (B, C, H, W)."""
        return self._mask_for("y", y, mask) * y

    def A_dagger(  # noqa: N802
        self, y: Tensor, mask: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Return y / mask where the mask is not zero, else 0; shape (B, C, H, W)."""
        weights = self._mask_for("y", y, mask)
        return torch.where(weights > 0, y / torch.where(weights > 0, weights, 1), 0)

    def noise(self, x: Tensor, mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Add noise to the observed entries of clean measurements ``x``, (B, C, H, W)."""
        observed = self._mask_for("x", x, mask) > 0
        # Noise without a value at zero (gamma) is spared the missing entries.
        return torch.where(observed, super().noise(torch.where(observed, x, 1), **kwargs), 0)

    def update_parameters(self, mask: Tensor | None = None, **kwargs: Any) -> None:
        """Replace the mask, shape (H, W), (C or 1, H, W) or (B, C or 1, H, W), values in [0, 1]."""
        super().update_parameters(mask=None if mask is None else self._as_mask(mask), **kwargs)

    def _mask_for(self, name: str, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the mask in the dtype of ``x``, refused unless it fits the batch."""
        self._checked(name, x, self.measurement_shape)
        weights = self.mask if mask is None else self._as_shape(mask).to(x.device)
        if len(weights) not in (1, len(x)):
            raise InputError(
                f"Masking: the mask holds one mask per image, for {len(weights)} images, "
                f"but {name} has shape {tuple(x.shape)}; pass mask= or call update_parameters"
            )
        return weights.to(x.dtype)

    def _as_mask(self, mask: Tensor | Array) -> Tensor:
        full = self._as_shape(mask)
        if full.is_complex() or not bool(((full >= 0) & (full <= 1)).all()):
            raise InputError(
                "mask must have values in [0, 1], 0 for missing and 1 for observed; "
                "for a mask in 0...255 pass mask > 0"
            )
        return full

    def _as_shape(self, mask: Tensor | Array) -> Tensor:
        """Return ``mask`` with four axes, refused unless they fit the image."""
        mask = mask if isinstance(mask, Tensor) else torch.as_tensor(mask, device="cpu")
        channels, height, width = self.img_size
        full = mask if mask.ndim == 4 else mask[(None,) * max(0, 4 - mask.ndim)]
        if (
            full.ndim != 4
            or full.shape[1] not in (1, channels)
            or full.shape[2:] != (height, width)
        ):
            raise InputError(
                f"mask must have shape ({height}, {width}), ({channels} or 1, {height}, {width}) "
                f"or (B, {channels} or 1, {height}, {width}), got {tuple(mask.shape)}"
            )
        return full


def _half(height: int, width: int, side: str) -> Tensor:
    boxes = {
        "left": (0, 0, height, width // 2),
        "right": (0, width - width // 2, height, width // 2),
        "top": (0, 0, height // 2, width),
        "bottom": (height - height // 2, 0, height // 2, width),
    }
    if side not in boxes:
        raise InputError(f"side must be one of {', '.join(_SIDES)}, got {side!r}")
    return _box(height, width, boxes[side])


def _eye_patch(height: int, width: int) -> Tensor:
    top, left = round(_EYES_TOP * height), round(_EYES_LEFT * width)
    bottom, right = round(_EYES_BOTTOM * height), round(_EYES_RIGHT * width)
    return _box(height, width, (top, left, max(1, bottom - top), max(1, right - left)))


def _box(height: int, width: int, box: Sequence[int] | None) -> Tensor:
    if box is None or len(box) != 4:
        raise InputError(f"box must be (top, left, height, width) in pixels, got {box!r}")
    top, left, rows, columns = (integer("box", value) for value in box)
    if (
        min(top, left) < 0
        or min(rows, columns) < 1
        or top + rows > height
        or left + columns > width
    ):
        raise InputError(
            f"box must lie within the image of {height} x {width} pixels and hold at least one, "
            f"got (top, left, height, width) = {(top, left, rows, columns)}"
        )
    mask = torch.ones(height, width, dtype=torch.float32, device="cpu")
    mask[top : top + rows, left : left + columns] = 0
    return mask


def _random(height: int, width: int, keep: float, seed: int) -> Tensor:
    if not 0 < keep <= 1:
        raise InputError(f"keep must be a share of the pixels in (0, 1], got {keep!r}")
    draw = generator("random mask", integer("seed", seed))
    order = torch.randperm(height * width, generator=draw, device="cpu")
    mask = torch.zeros(height * width, dtype=torch.float32, device="cpu")
    mask[order[: max(1, round(keep * height * width))]] = 1
    return mask.reshape(height, width)


def _from_file(path: Path, names: list[str]) -> Tensor:
    """Read an image file, or an array (H, W) in a .npy file: 1 where any colour is nonzero."""
    if not path.is_file():
        raise InputError(
            f"mask must be {', '.join(names)}, a tensor, or the path of an image file; "
            f"there is no file {str(path)!r}"
        )
    if path.suffix.lower() == ".npy":
        return _from_npy(path)
    try:
        with Image.open(path) as image:
            if image.format == "JPEG":
                raise InputError(
                    f"mask file {str(path)!r} is a JPEG, whose compression turns zeros into "
                    "nonzeros; save the mask as PNG"
                )
            # Palette indices are not values, and opacity is not a colour.
            if image.mode in ("P", "PA", "LA", "La", "RGBA", "RGBa"):
                values = np.asarray(image.convert("RGBA"))[..., :3]
            else:
                values = np.asarray(image)
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders have errors of many types
        raise InputError(f"mask file {str(path)!r} is not a readable image: {error}") from error
    observed = values != 0
    return torch.from_numpy(observed if observed.ndim == 2 else observed.any(axis=-1))


def _from_npy(path: Path) -> Tensor:
    """Read the array of a .npy file. Pickles are refused."""
    try:
        values = np.load(path, allow_pickle=False).squeeze()
        if values.ndim != 2 or values.dtype.kind not in "buif":
            raise InputError(
                f"mask file {str(path)!r} must have real numbers of shape (H, W), got "
                f"{values.dtype} {values.shape}"
            )
    except InputError:
        raise
    except Exception as error:  # numpy's parser of headers has errors of many types
        raise InputError(f"mask file {str(path)!r} is not a whole .npy file: {error}") from error
    return torch.from_numpy(values != 0)
