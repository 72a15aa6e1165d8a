"""Perceptual distances: LPIPS on weights that are on the machine, and which one a solver takes."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from gprior.checks import InputError, InputTypeError
from gprior.distances.features import FeatureDistance, median_distance
from gprior.priors import Prior
from gprior.randomness import generator

__all__ = ["NAMES", "Perceptual", "check_perceptual", "choose", "random_distance", "random_maps"]

# Name -> torchvision's name of the network, its file, and the layers whose output LPIPS compares.
BACKBONES: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "vgg": ("vgg16", "vgg16-397923af.pth", (3, 8, 15, 22, 29)),
    "alex": ("alexnet", "alexnet-owt-7be5be79.pth", (1, 4, 7, 9, 11)),
    "squeeze": ("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth", (1, 4, 7, 9, 10, 11, 12)),
}
NAMES = (*BACKBONES, "discriminator")  # what ``perceptual=`` of a solver takes by name
LEAST = 64  # pixels of the shorter side, those of the patches that LPIPS was fitted to
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of ImageNet's RGB in [-1, 1]
PAIRS = 200  # of prior samples whose median distance is the unit of a perceptual term


class Perceptual(FeatureDistance):
    """LPIPS, the learned perceptual image patch similarity (Zhang et al. 2018).

    With the linear heads (version 0.1) that ship in the package ``lpips``, on a backbone of
    torchvision that is on the machine. Nothing is ever downloaded. Equal to ``lpips`` itself,
    but differentiable also where all features of a position vanish. Computed in the dtype and
    on the device of the images. Reference: arXiv:1801.03924.

    Parameters
    ----------
    net : {"vgg", "alex", "squeeze"}
        The backbone: VGG-16, AlexNet or SqueezeNet 1.1.
    weights : str or Path, optional
        torchvision's state dict of it; None looks in torch hub's cache, by torchvision's own
        file name.

    Raises
    ------
    FileNotFoundError
        If the weights are not there; the message says where they belong.
    ValueError
        If ``net`` is unknown, or the file holds no whole state dict of that network.

    Notes
    -----
    Images are (B, C, H, W) in [0, 1]: RGB, gray (repeated), or two channels of a complex
    image (by magnitude). Where the shorter side has less than 64 pixels, they are enlarged to
    that, bilinearly: smaller ones leave the deep layers nothing to see.

    Examples
    --------
    .. code-block:: python

       gprior.Perceptual("alex")(x, y)  # (B,)
       gprior.Perceptual("vgg")(x, y, mask)  # (B,), the foreground alone
       gprior.solve(y, A, prior, perceptual=gprior.Perceptual("vgg", weights="vgg16.pth"))
    """

    eps = 1e-20  # what lpips adds to the length of a vector is 1e-10

    def __init__(self, net: str, weights: str | Path | None = None) -> None:
        if net not in BACKBONES:
            raise InputError(f"net must be one of {sorted(BACKBONES)}, got {net!r}")
        path = locate(net) if weights is None else Path(weights)
        heads = _heads(net)
        self.backbone = _backbone(net, path)
        super().__init__(self._features, heads, f"lpips-{net}")

    def _features(self, images: Tensor) -> list[Tensor]:
        """Return the backbone's features after each tapped layer."""
        x = 2 * _at_least(_rgb(images)) - 1
        x = (x - x.new_tensor(SHIFT)[:, None, None]) / x.new_tensor(SCALE)[:, None, None]
        found = []
        for part in self.backbone.to(x):
            x = part(x)
            found.append(x)
        return found


def locate(net: str) -> Path:
    """Return where torchvision keeps the weights of a backbone, whether they are there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES[net][1]


def on_this_machine(net: str) -> Perceptual:
    """Return LPIPS with the weights in torch hub's cache, loaded once per process."""
    path = locate(net)
    return _loaded(net, path, path.stat().st_mtime_ns if path.is_file() else 0)


@functools.lru_cache(maxsize=4)
def _loaded(net: str, path: Path, stamp: int) -> Perceptual:
    return Perceptual(net, path)


def _backbone(net: str, path: Path) -> nn.ModuleList:
    """Return the convolutional part of a backbone, cut after each tapped layer, frozen."""
    name, file, taps = BACKBONES[net]
    if not path.is_file():
        raise FileNotFoundError(
            f"LPIPS with {net!r} needs the weights of torchvision's {name}, and {path} is no file. "
            f"gprior downloads nothing: place {file} there (it is at "
            f"https://download.pytorch.org/models/{file}), or take "
            f"gprior.Perceptual({net!r}, weights=PATH)"
        )
    import torchvision

    with torch.device("meta"):  # shapes without memory, and no random numbers are drawn
        layers = getattr(torchvision.models, name)(weights=None).features[: taps[-1] + 1]
    wanted = {key: tuple(value.shape) for key, value in layers.state_dict().items()}
    state = {key: value.float() for key, value in _read(path, name, wanted).items()}
    layers.load_state_dict(state, assign=True)
    ends = [0, *(tap + 1 for tap in taps)]
    parts = nn.ModuleList(layers[a:b] for a, b in pairwise(ends))
    return parts.eval().requires_grad_(False)


def _read(path: Path, name: str, wanted: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return the wanted tensors of a state dict, without ever running its code."""
    remedy = f"give torchvision's own file of {name}, whole"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # pickle's, zipfile's and torch's own
        raise InputError(f"{path} is no whole state dict ({type(error).__name__}); {remedy}") from (
            error
        )
    state = state if isinstance(state, dict) else {}
    found = {}
    for key, shape in wanted.items():
        value = state.get(f"features.{key}")
        if not isinstance(value, Tensor) or tuple(value.shape) != shape:
            has = tuple(value.shape) if isinstance(value, Tensor) else "missing"
            raise InputError(
                f"{path} is no state dict of torchvision's {name}: features.{key} must have shape "
                f"{shape}, it is {has}; {remedy}"
            )
        found[key] = value
    return found


def _heads(net: str) -> list[Tensor]:
    """Return LPIPS's weights of the channels of each layer."""
    spec = importlib.util.find_spec("lpips")  # which is not imported: its parts would download
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "LPIPS needs the linear heads in the package lpips, which is not installed; "
            "pip install lpips"
        )
    path = Path(spec.submodule_search_locations[0]) / "weights" / "v0.1" / f"{net}.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [state[f"lin{k}.model.1.weight"].flatten() for k in range(len(BACKBONES[net][2]))]


def _rgb(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) with three channels."""
    if images.ndim != 4 or images.shape[1] not in (1, 2, 3):
        raise InputError(
            "images must be (B, C, H, W) with 1, 3 or (real, imaginary) 2 channels, "
            f"got {tuple(images.shape)}"
        )
    if not images.is_floating_point():
        raise InputTypeError(f"images must be floating point in [0, 1], got {images.dtype}")
    if images.shape[1] == 2:
        images = images.square().sum(1, keepdim=True).add(1e-12).sqrt()
    return images.expand(-1, 3, -1, -1)


def _at_least(images: Tensor) -> Tensor:
    """Enlarge images bilinearly until the shorter side has `LEAST` pixels."""
    short = min(images.shape[2:])
    if short >= LEAST:
        return images
    size = [math.ceil(n * LEAST / short) for n in images.shape[2:]]
    return F.interpolate(images, size=size, mode="bilinear")


# --- Features that no training ever touched --------------------------------------------------


def random_maps(images: Tensor) -> list[Tensor]:
    """Return four layers of features of images (B, C, H, W) in [0, 1].

    Random orthogonal 3x3 filters, ReLU and 2x pooling, on the mean over channels: what there
    is without any weights, and what no method was trained or optimised on.
    """
    x, width, found = images.mean(1, keepdim=True) - 0.25, 1, []
    for layer, n_out in enumerate((16, 32, 48, 48)):
        weight = torch.empty(n_out, width, 3, 3, dtype=torch.float32, device="cpu")
        nn.init.orthogonal_(weight, 1.7, generator=generator("random-features", layer))
        x = F.avg_pool2d(F.relu(F.conv2d(x, weight.to(x), padding=1)), 2)
        found.append(x)
        width = n_out
    return found


def random_distance() -> FeatureDistance:
    """Return the distance on `random_maps`, for images as `Perceptual` takes them."""
    return FeatureDistance(lambda x: random_maps(_at_least(_rgb(x))), name="random-features")


# --- Which one a solver takes ----------------------------------------------------------------


def check_perceptual(value: Any, solver: str, has_term: bool) -> None:
    """Refuse a value of a solver's ``perceptual`` that is of no known kind or has no effect."""
    if not has_term and value is not None and value is not False:
        raise InputError(
            f"{solver} has no perceptual term, so perceptual={value!r} would be ignored; "
            "leave it out, or choose another solver"
        )
    if isinstance(value, str) and value not in NAMES:
        raise InputError(f"perceptual must be one of the names {NAMES}, got {value!r}")
    if value is not None and not isinstance(value, (bool, str)) and not callable(value):
        raise InputTypeError(
            f"perceptual must be None, True, False, one of the names {NAMES}, a gprior.Perceptual "
            f"or a callable images -> list of feature maps, got {value!r}"
        )


def choose(
    wanted: bool | str | Callable[..., Any] | FeatureDistance | None, prior: Prior
) -> tuple[FeatureDistance, float] | None:
    """Return the distance that a solver is to use, and its unit on the prior's images.

    Parameters
    ----------
    wanted : bool, str, callable or None
        None and True take LPIPS-VGG where its weights are in torch hub's cache, else the
        features of the prior's own discriminator. A name in `NAMES`, a `FeatureDistance` or
        a callable images -> list of feature maps is taken as it is.
    prior : Prior
        The median distance over 200 pairs of its samples is the unit.

    Returns
    -------
    (FeatureDistance, float) or None
        None where nothing was insisted on and there are no features.

    Raises
    ------
    FileNotFoundError
        If the weights of a named backbone are not on the machine.
    ValueError
        If there are no features, or their distance has no unit on this prior.
    """
    if isinstance(wanted, str) and wanted in BACKBONES:
        wanted = on_this_machine(wanted)
    elif (wanted is None or wanted is True) and locate("vgg").is_file():
        wanted = on_this_machine("vgg")
    elif callable(wanted) and not isinstance(wanted, FeatureDistance):
        wanted = FeatureDistance(wanted)
    if isinstance(wanted, FeatureDistance):
        return wanted, unit_of(wanted, prior)
    own = _of_discriminator(prior)
    if own is None and wanted is not None:
        raise InputError(
            f"perceptual={wanted!r} needs features: this prior has no discriminator; pass a "
            "callable images -> list of feature maps as perceptual=, or place the weights of "
            f"LPIPS-VGG at {locate('vgg')}"
        )
    return own


_UNITS: WeakKeyDictionary[FeatureDistance, WeakKeyDictionary[Prior, dict[Any, float]]]
_UNITS = WeakKeyDictionary()


def unit_of(distance: FeatureDistance, prior: Prior) -> float:
    """Return the median distance between two samples of the prior, computed once for both."""
    known = _UNITS.setdefault(distance, WeakKeyDictionary()).setdefault(prior, {})
    kind = prior.like.dtype, prior.like.device
    if kind not in known:
        unit = median_distance(distance, prior.sample(2 * PAIRS))
        if not 0 < unit < math.inf:
            raise InputError(
                f"the features {distance.name!r} give samples of this prior a median distance of "
                f"{unit}, which is no unit; choose other features as perceptual="
            )
        known[kind] = unit
    return known[kind]


def _of_discriminator(prior: Prior) -> tuple[FeatureDistance, float] | None:
    """Return the distance on the features of the prior's discriminator, with its stored unit."""
    critic, unit = prior.discriminator, prior.record.get("perceptual_unit")
    if critic is None or not unit or not math.isfinite(unit):
        return None
    size = critic.config["img_resolution"]
    restore = getattr(prior, "restore", lambda x: x)

    def features(x: Tensor) -> list[Tensor]:
        """Bring a smaller measurement to the features' size, by area (as BRGM does)."""
        if tuple(x.shape[2:]) != prior.image_shape[1:]:
            x = F.interpolate(x, size=prior.image_shape[1:], mode="area")
        x = restore(x)
        x = x if x.shape[-1] == size else F.interpolate(x, size=(size, size), mode="area")
        return critic.features(2 * x - 1)

    return FeatureDistance(features, name="discriminator"), unit
