"""LPIPS, with backbone weights that are already on this machine."""

from __future__ import annotations

import functools
import importlib.util
import math
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from gprior.checks import InputError, InputTypeError
from gprior.distances.features import FeatureDistance

__all__ = ["BACKBONES", "Perceptual", "at_least", "locate", "on_this_machine", "to_rgb"]

# Name -> torchvision's name of the network, its file, and the layers whose output LPIPS compares.
BACKBONES: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "vgg": ("vgg16", "vgg16-397923af.pth", (3, 8, 15, 22, 29)),
    "alex": ("alexnet", "alexnet-owt-7be5be79.pth", (1, 4, 7, 9, 11)),
    "squeeze": ("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth", (1, 4, 7, 9, 10, 11, 12)),
}
LEAST = 64  # pixels of the shorter side: LPIPS was fitted to patches of this size
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of ImageNet's RGB in [-1, 1]


class Perceptual(FeatureDistance):
    """LPIPS, the learned perceptual image patch similarity (Zhang et al. 2018).

    It combines the linear heads (version 0.1) that ship in the package ``lpips`` with a
    torchvision backbone whose weights are on this machine. Nothing is ever downloaded. The
    values equal those of ``lpips``, but they are also differentiable where all features of a
    position vanish. The computation uses the dtype and the device of the images. Reference:
    arXiv:1801.03924.

    Parameters
    ----------
    net : {"vgg", "alex", "squeeze"}
        The backbone: VGG-16, AlexNet or SqueezeNet 1.1.
    weights : str or Path, optional
        torchvision's state dict of the backbone. With None, the file is looked up in torch
        hub's cache, under the name that torchvision gives it.

    Raises
    ------
    FileNotFoundError
        If the weights are not there; the message says where they belong.
    ValueError
        If ``net`` is unknown, or the file holds no complete state dict of that network.

    Notes
    -----
    Images are (B, C, H, W) in [0, 1]: RGB, gray (repeated to three channels), or the two
    channels of a complex image (LPIPS sees the magnitude). If the shorter side has fewer than
    64 pixels, images are enlarged bilinearly until it has 64, because the deep layers see
    nothing in smaller ones.

    Examples
    --------
    .. code-block:: python

       gprior.Perceptual("alex")(x, y)  # (B,)
       gprior.Perceptual("vgg")(x, y, mask)  # (B,), the foreground alone
       gprior.solve(y, A, prior, perceptual=gprior.Perceptual("vgg", weights="vgg16.pth"))
    """

    eps = 1e-20  # lpips adds 1e-10 to the length of a vector

    def __init__(self, net: str, weights: str | Path | None = None) -> None:
        if net not in BACKBONES:
            raise InputError(f"net must be one of {sorted(BACKBONES)}, got {net!r}")
        path = locate(net) if weights is None else Path(weights)
        heads = _heads(net)
        self.published = weights is None  # not weights that the user chose
        self.backbone = _backbone(net, path)
        super().__init__(self._features, heads, f"lpips-{net}")

    def _features(self, images: Tensor) -> list[Tensor]:
        """Return the backbone's features after each layer that LPIPS compares."""
        x = 2 * at_least(to_rgb(images)) - 1
        x = (x - x.new_tensor(SHIFT)[:, None, None]) / x.new_tensor(SCALE)[:, None, None]
        maps = []
        for part in self.backbone.to(x):
            x = part(x)
            maps.append(x)
        return maps


def locate(net: str) -> Path:
    """Return the path at which torchvision keeps the weights of a backbone.

    The file need not exist.
    """
    return Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES[net][1]


def on_this_machine(net: str) -> Perceptual:
    """Return LPIPS with the weights in torch hub's cache, loaded once per process."""
    path = locate(net)
    return _loaded(net, path, path.stat().st_mtime_ns if path.is_file() else 0)


@functools.lru_cache(maxsize=4)
def _loaded(net: str, path: Path, stamp: int) -> Perceptual:
    return Perceptual(net)


def _backbone(net: str, path: Path) -> nn.ModuleList:
    """Return the convolutional part of a backbone, frozen, cut after each compared layer."""
    name, file, taps = BACKBONES[net]
    if not path.is_file():
        raise FileNotFoundError(
            f"LPIPS with {net!r} needs the weights of torchvision's {name}, and {path} is no file. "
            f"gprior downloads nothing: place {file} there (it is at "
            f"https://download.pytorch.org/models/{file}), or use "
            f"gprior.Perceptual({net!r}, weights=PATH)"
        )
    import torchvision

    with torch.device("meta"):  # shapes without memory, and no random numbers are drawn
        layers = getattr(torchvision.models, name)(weights=None).features[: taps[-1] + 1]
    shapes = {key: tuple(value.shape) for key, value in layers.state_dict().items()}
    state = {key: value.float() for key, value in _read(path, name, shapes).items()}
    layers.load_state_dict(state, assign=True)
    ends = [0, *(tap + 1 for tap in taps)]
    parts = nn.ModuleList(layers[a:b] for a, b in pairwise(ends))
    return parts.eval().requires_grad_(False)


def _read(path: Path, name: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return tensors of the given names and shapes from a state dict; its code never runs."""
    remedy = f"give torchvision's complete file of {name}"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # pickle's, zipfile's and torch's own
        raise InputError(f"{path} is no whole state dict ({type(error).__name__}); {remedy}") from (
            error
        )
    state = state if isinstance(state, dict) else {}
    tensors = {}
    for key, shape in shapes.items():
        value = state.get(f"features.{key}")
        if not isinstance(value, Tensor) or tuple(value.shape) != shape:
            has = tuple(value.shape) if isinstance(value, Tensor) else "missing"
            raise InputError(
                f"{path} is no state dict of torchvision's {name}: features.{key} must have shape "
                f"{shape}, it is {has}; {remedy}"
            )
        tensors[key] = value
    return tensors


def _heads(net: str) -> list[Tensor]:
    """Return LPIPS's weights of the channels of each layer."""
    spec = importlib.util.find_spec("lpips")  # not imported: it would download backbones
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "LPIPS needs the linear heads in the package lpips, which is not installed; "
            "pip install lpips"
        )
    path = Path(spec.submodule_search_locations[0]) / "weights" / "v0.1" / f"{net}.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [state[f"lin{k}.model.1.weight"].flatten() for k in range(len(BACKBONES[net][2]))]


def to_rgb(images: Tensor) -> Tensor:
    """Return images (B, 1, 2 or 3, H, W) with three channels.

    Gray is repeated. Two channels are the real and the imaginary part of a complex image, and
    its magnitude is repeated.

    Raises
    ------
    ValueError
        If the images have another shape.
    TypeError
        If they are not floating point.
    """
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


def at_least(images: Tensor, least: int = LEAST) -> Tensor:
    """Enlarge images bilinearly until the shorter side has at least ``least`` pixels."""
    short = min(images.shape[2:])
    if short >= least:
        return images
    size = [math.ceil(n * least / short) for n in images.shape[2:]]
    return F.interpolate(images, size=size, mode="bilinear")
