"""Operators by name: the texts that the command line and `from_spec` read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepinv
from torch import Tensor

from gprior.checks import InputError, InputTypeError, number
from gprior.operators.base import checked_img_size
from gprior.operators.downsampling import Downsampling
from gprior.operators.fourier import PATTERNS, mri, mri_mask
from gprior.operators.masking import Masking
from gprior.operators.matrix_files import read_matrix
from gprior.operators.partial_circulant import PartialCirculant
from gprior.operators.radon import GEOMETRIES, ct, equally_spaced

__all__ = ["OPERATORS", "from_spec", "kind_of"]

Shape = tuple[int, int, int]
ALIASES = {"half-mask": "mask:half"}
FILES = ("mask", "matrix")  # what follows their colon may be a path, in which anything may stand


@dataclass(frozen=True)
class _Request:
    """A text in parts, and what else an operator is made from."""

    text: str
    value: str
    options: dict[str, str]
    shape: Shape
    seed: int
    mask: Tensor | None = None
    maps: Tensor | None = None
    angles: Tensor | None = None

    def number(self, text: str, name: str) -> float:
        try:
            return number(name, float(text))
        except ValueError as error:
            raise InputError(
                f"operator {self.text!r} needs a finite number for {name}, got {text!r}"
            ) from error

    def whole(self, text: str, name: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise InputError(
                f"operator {self.text!r} needs a whole number for {name}, got {text!r}"
            )
        return int(text)

    def option(self, name: str, choices: Sequence[str], default: str) -> str:
        value = self.options.get(name, default)
        if value not in choices:
            raise InputError(
                f"operator {self.text!r}: {name} must be one of {', '.join(choices)}, got {value!r}"
            )
        return value


@dataclass(frozen=True)
class _Entry:
    """How an operator is written, what it measures, and how it is built."""

    form: str
    help: str
    build: Callable[[_Request], Any]
    options: tuple[str, ...] = ()
    optional: bool = False  # whether it can stand without a value


# --- What each name builds -------------------------------------------------------------------

PADDINGS = ("circular", "reflect", "replicate", "constant")
FILTERS = ("bicubic", "bilinear", "gaussian", "box", "nearest")
# What follows "mask:" and is no path.
MASKS = re.compile(
    r"(?P<kind>eye-patch|half(?=,side=|$)|box(?==)|random(?==))(?:,side=|=)?(?P<value>.*)",
    re.DOTALL,
)


def _denoise(request: _Request) -> Any:
    if request.value:
        raise InputError(
            f"operator 'denoise' takes no value, got {request.text!r}; give the standard "
            "deviation of the noise as noise_std"
        )
    return deepinv.physics.Denoising(deepinv.physics.ZeroNoise())


def _mask(request: _Request) -> Any:
    if (named := MASKS.fullmatch(request.value)) is None:
        return Masking(request.shape, Path(request.value))
    kind, value = named["kind"], named["value"]
    if kind == "box":
        box = [request.whole(part, "box") for part in value.split(",")]
        return Masking(request.shape, "box", box=box)
    if kind == "random":
        keep = request.number(value, "random")
        return Masking(request.shape, "random", keep=keep, seed=request.seed)
    return Masking(request.shape, kind, side=value or "left")


def _downsample(request: _Request) -> Any:
    return Downsampling(
        request.shape,
        request.whole(request.value, "the factor"),
        request.option("filter", FILTERS, "bicubic"),
        request.option("padding", PADDINGS, "circular"),
    )


def _blur(request: _Request) -> Any:
    sigma = number("blur", request.number(request.value, "the width of the blur"), above=0)
    reach = int(sigma / 0.3 + 1)  # of deepinv's kernel, to each side
    least = min(request.shape[1:])
    if reach >= least:
        raise InputError(
            f"operator {request.text!r}: the kernel of a blur of {sigma:g} pixels reaches {reach} "
            f"pixels, which must be less than the image's {least}; use a smaller width"
        )
    padding = request.option("padding", PADDINGS, "circular")
    kernel = deepinv.physics.functional.gaussian_blur(sigma=(sigma, sigma))
    return deepinv.physics.Blur(filter=kernel, padding=padding)


def _circulant(request: _Request) -> Any:
    text = request.value
    if text.isascii() and text.isdecimal():
        return PartialCirculant(request.shape, request.whole(text, "m"), seed=request.seed)
    return PartialCirculant(request.shape, request.number(text, "m"), seed=request.seed)


def _mri(request: _Request) -> Any:
    C, H, W = request.shape
    if C != 2:
        raise InputError(
            f"operator {request.text!r} acts on complex images, of shape (2, {H}, {W}), but the "
            f"images have shape {request.shape}; adapt the prior with prior.adapt((2, {H}, {W}))"
        )
    mask = request.mask
    if request.value:
        center = request.options.get("center")
        drawn = mri_mask(
            (H, W),
            request.whole(request.value, "the acceleration"),
            None if center is None else request.number(center, "center"),
            request.option("pattern", PATTERNS, "random"),
            request.seed,
        )
        mask = drawn if mask is None else mask.cpu() * drawn
    if mask is None:
        raise InputError(
            "operator 'mri' needs a mask: give an acceleration, such as mri:4, or measurements "
            "with a mask"
        )
    if tuple(mask.shape) != (H, W):
        raise InputError(f"mask must have shape ({H}, {W}), got {tuple(mask.shape)}")
    return mri(mask, request.maps)


def _ct(request: _Request) -> Any:
    geometry = request.option("geometry", GEOMETRIES, "parallel")
    if request.angles is not None and request.value:
        raise InputError(
            f"operator {request.text!r} has a number of angles, but the angles are given; "
            "write ct without a number"
        )
    angles = request.angles
    if request.value:
        angles = equally_spaced(request.whole(request.value, "the number of angles"), geometry)
    if angles is None:
        raise InputError(
            "operator 'ct' needs its angles: give their number, such as ct:60, or measurements "
            "with angles"
        )
    return ct(request.shape, angles, geometry)


def _matrix(request: _Request) -> Any:
    return read_matrix(Path(request.value), request.shape)


_ENTRIES = {
    "denoise": _Entry("denoise", "the image itself, with noise", _denoise, optional=True),
    "mask": _Entry(
        "mask:half|eye-patch|box=TOP,LEFT,HEIGHT,WIDTH|random=SHARE|FILE",
        "some of the pixels: without one half (half,side=left|right|top|bottom), without a "
        "patch over the eyes or a box, a random share, or the nonzero pixels of an image file or "
        "of a .npy file",
        _mask,
    ),
    "downsample": _Entry(
        "downsample:FACTOR[,filter=NAME][,padding=NAME]",
        f"every FACTOR-th pixel of the filtered image; filters are {', '.join(FILTERS)}, "
        f"paddings {', '.join(PADDINGS)}",
        _downsample,
        ("filter", "padding"),
    ),
    "blur": _Entry(
        "blur:SIGMA[,padding=NAME]",
        "the image after a Gaussian blur with a standard deviation of SIGMA pixels",
        _blur,
        ("padding",),
    ),
    "circulant": _Entry(
        "circulant:SHARE|COUNT",
        "a share of the pixels, or a number of values, by compressed sensing",
        _circulant,
    ),
    "mri": _Entry(
        "mri[:ACCELERATION][,center=SHARE][,pattern=uniform|random|poisson]",
        "k-space of a complex image, one line in ACCELERATION; without it, the mask of the "
        "measurements",
        _mri,
        ("center", "pattern"),
        optional=True,
    ),
    "ct": _Entry(
        "ct[:ANGLES][,geometry=parallel|fan]",
        "X-ray projections at a number of angles; without it, the angles of the measurements",
        _ct,
        ("geometry",),
        optional=True,
    ),
    "matrix": _Entry(
        "matrix:FILE",
        "a matrix times the flattened image, from .npy, or .npz of scipy.sparse",
        _matrix,
    ),
}

OPERATORS: Mapping[str, str] = {entry.form: entry.help for entry in _ENTRIES.values()}
"""What each operator measures, by the form in which its name is written."""


# --- From a text to an operator --------------------------------------------------------------


def kind_of(text: str) -> str:
    """Return the name of an operator, which is what stands before the colon.

    Raises
    ------
    InputTypeError
        If there is no operator of this name. The message lists the names.

    Examples
    --------
    >>> kind_of("mri:4,center=0.1"), kind_of("half-mask")
    ('mri', 'mask')
    """
    if not isinstance(text, str):
        raise InputTypeError(f"operator must be a text, such as 'downsample:4', got {text!r}")
    head = ALIASES.get(text, text).partition(":")[0]
    name = head if head in _ENTRIES else head.partition(",")[0]
    if name not in _ENTRIES:
        raise InputTypeError(
            f"operator must be one of {', '.join(OPERATORS)} or half-mask, got {text!r}"
        )
    return name


def without_path(text: str) -> str:
    """Return the text of an operator without the path of a file, which may name a patient.

    Examples
    --------
    >>> without_path("matrix:smith.npy"), without_path("mask:box=1,2,3,4")
    ('matrix', 'mask:box=1,2,3,4')
    """
    name, _, rest = text.partition(":")
    has_path = name in FILES and not (name == "mask" and MASKS.fullmatch(rest))
    return name if has_path else text


def from_spec(
    text: str,
    image_shape: Sequence[int],
    seed: int = 0,
    mask: Tensor | None = None,
    maps: Tensor | None = None,
    angles: Tensor | None = None,
) -> Any:
    """Return the operator of a text, as the command line reads it.

    Parameters
    ----------
    text : str
        A name, and after a colon its value and options, such as ``"downsample:4"`` or
        ``"mri:4,center=0.08"``; see `OPERATORS`.
    image_shape : sequence of int
        Shape (C, H, W) of the images; C = 2 for MRI.
    seed : int
        Seed of what is drawn: random masks, sampling patterns, the circulant operator.
    mask : Tensor, optional
        For MRI, (H, W): what was sampled. Together with an acceleration, what both sample.
    maps : Tensor, optional
        For MRI with several coils: their sensitivities, complex, (coils, H, W).
    angles : Tensor, optional
        For CT: the angles in degrees, (A,).

    Returns
    -------
    deepinv.physics.Physics, ndarray or scipy.sparse matrix
        The argument A of `gprior.solve`.

    Raises
    ------
    InputTypeError
        If the name or an option does not exist. The message lists the valid ones.
    InputError
        If a value is out of range, or does not fit the images.
    OSError
        If a file cannot be read.

    Examples
    --------
    >>> import torch
    >>> from_spec("downsample:4", (1, 64, 64)).measurement_shape
    (1, 16, 16)
    >>> from_spec("ct:60", (1, 64, 64)).A(torch.zeros(1, 1, 64, 64)).shape
    torch.Size([1, 1, 91, 60])
    >>> from_spec("blurring:2", (1, 64, 64))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    gprior.InputTypeError: operator must be one of denoise, mask:..., got 'blurring:2'
    """
    name = kind_of(text)
    entry = _ENTRIES[name]
    value, options = _parts(name, ALIASES.get(text, text), entry)
    if not value and not entry.optional:
        raise InputError(f"operator {text!r} needs a value: {entry.form}")
    shape = checked_img_size(image_shape)
    return entry.build(_Request(text, value, options, shape, seed, mask, maps, angles))


def _parts(name: str, text: str, entry: _Entry) -> tuple[str, dict[str, str]]:
    """Split a text into its value and its options."""
    rest = text[len(name) :].removeprefix(":")
    if name in FILES:
        return rest, {}
    value, *pairs = rest.split(",")
    options = {}
    for pair in pairs:
        option, equals, given = pair.partition("=")
        if not equals or option not in entry.options:
            valid = ", ".join(f"{known}=..." for known in entry.options) or "none"
            raise InputTypeError(
                f"operator {text!r} has no option {pair!r}; the options of {name} are: {valid}"
            )
        if option in options:
            raise InputError(f"operator {text!r} has the option {option} twice; give it once")
        options[option] = given
    return value, options
