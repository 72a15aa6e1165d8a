"""Any network z -> image as a prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gprior.checks import InputError, InputTypeError
from gprior.priors.checks import State, check_entry, check_shape
from gprior.priors.prior import Prior
from gprior.priors.sharing import place_of
from gprior.randomness import generator, in_plain_mode, normal

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Generator"]

PLACE = "If a function computes in another dtype or on another device, pass dtype= or device="
RANGES = {"[-1, 1]": (0.5, 0.5), "[0, 1]": (1.0, 0.0)}


class Generator(Prior):
    """A network of your own as a prior: z -> image, or (z, c) -> image with classes.

    Solvers see its latent as a vector z (B, n), whatever shape the network wants. It is
    tried once, on two latents: what breaks a search later is refused now.

    Parameters
    ----------
    module : nn.Module or callable
        Maps latents ``(B, *latent_shape)``, and class vectors (B, c_dim) where there are
        classes, to images (B, C, H, W). A module is put in eval mode and frozen, in place, and
        so is the module of a bound method such as ``vae.decode``. Where the module is an
        `nn.Sequential` without classes, searches may start after any of its children.
    latent_shape : int or sequence of int
        Shape of one latent, as 100 or (100, 1, 1).
    image_shape : tuple of int, optional
        (C, H, W); None finds it out.
    range : {"[-1, 1]", "[0, 1]"}
        What the network's output means by black and white.
    draw : callable, optional
        Draws one latent of ``latent_shape`` from a `torch.Generator` that is its argument;
        None for N(0, I).
    c_dim : int
        Number of classes, 0 for none.
    dtype : torch.dtype, optional
        In which a function computes; None for float32. A module has its own.
    device : torch.device or str, optional
        On which a function computes; None for the CPU. A module has its own.

    Raises
    ------
    TypeError
        If the module is not callable.
    ValueError
        If it does not map latents to images; if its images depend on each other or on
        chance; if no gradient passes from image to latent.

    Examples
    --------
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
    >>> prior = Generator(net, latent_shape=8)
    >>> prior.image_shape, prior.num_blocks, sorted(prior.inputs)
    ((1, 8, 8), 3, ['state', 'z'])
    >>> z = prior.draw([(0, "mine")])
    >>> state = prior.run_blocks(z, to_block=2)
    >>> bool((prior(z=z, from_block=2, state=state) == prior(z=z)).all())
    True
    """

    @in_plain_mode
    def __init__(
        self,
        module: Callable[..., Tensor],
        latent_shape: int | Sequence[int],
        image_shape: Sequence[int] | None = None,
        range: str = "[-1, 1]",
        draw: Callable[[torch.Generator], Tensor] | None = None,
        c_dim: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if not callable(module):
            raise InputTypeError(
                f"module must be a callable z -> image, got {type(module).__name__}"
            )
        if range not in RANGES:
            raise InputError(f"range must be one of {list(RANGES)}, got {range!r}")
        shape = (latent_shape,) if isinstance(latent_shape, int) else tuple(latent_shape)
        if not shape or not all(isinstance(n, int) and n > 0 for n in shape):
            raise InputError(f"latent_shape must be positive integers, got {latent_shape!r}")
        if not isinstance(c_dim, int) or c_dim < 0:
            raise InputError(f"c_dim must be 0 or a number of classes, got {c_dim!r}")
        owner = getattr(module, "__self__", None)
        bound = isinstance(owner, nn.Module)  # then its module moves and freezes with the prior
        self.module: Any = owner if bound else module
        self.method = getattr(module, "__func__", None) if bound else None
        self.latent_shape, self.range, self.own_draw = shape, range, draw
        self.z_dim, self.c_dim = math.prod(shape), c_dim
        self.name = getattr(module, "__name__", type(module).__name__)
        self._place(dtype, device)
        self.freeze()
        self.image_shape = self._tried()
        if image_shape is not None and tuple(image_shape) != self.image_shape:
            raise InputError(
                f"image_shape is {tuple(image_shape)}, but {self.name} makes {self.image_shape}"
            )
        self.in_blocks = self._in_blocks()
        optional = {"label": c_dim > 0, "state": len(self.blocks) > 1}
        self.inputs = frozenset({"z"} | {name for name, has in optional.items() if has})

    def _place(self, dtype: torch.dtype | None, device: torch.device | str | None) -> None:
        """Give a function a dtype and a device; refuse others than those of a module."""
        like = place_of(self)
        if like is None:
            like = torch.zeros((), dtype=dtype or torch.float32, device=device or "cpu")
            self.place = nn.Parameter(like)
        wanted = torch.empty_like(like, dtype=dtype, device=device)
        if (wanted.dtype, wanted.device) != (like.dtype, like.device):
            raise InputError(
                f"{self.name} is of {_place_name(like)}, not of {_place_name(wanted)}; leave dtype "
                "and device out, or move the module first with module.to(...)"
            )

    @property
    def blocks(self) -> list[nn.Module]:
        """The children of an `nn.Sequential`; else there is nothing to stop between."""
        return list(self.module) if self.in_blocks else []

    @property
    def num_blocks(self) -> int:
        """Blocks that a search may start from."""
        return len(self.module) if self.in_blocks else 0

    def train(self, mode: bool = True) -> Self:
        """Do nothing: the module stays in eval mode, in which no image depends on the others."""
        return super().train(False)

    def draw(self, keys: Sequence[Sequence[int | str]]) -> Tensor:
        """Return latents z (len(keys), z_dim), one per key."""
        if self.own_draw is None:
            return normal(keys, (self.z_dim,), self.like)
        drawn = [torch.as_tensor(self.own_draw(generator(*k)), device="cpu") for k in keys]
        if drawn[0].shape != self.latent_shape:
            raise InputError(
                f"draw must return one latent of shape {self.latent_shape}, got "
                f"{tuple(drawn[0].shape)}"
            )
        return torch.stack(drawn).flatten(1).to(self.like)

    def run_blocks(
        self,
        z: Tensor,
        from_block: int = 0,
        to_block: int | None = None,
        state: State | None = None,
    ) -> State:
        """Run children ``from_block`` to ``to_block`` (exclusive): the state there.

        The state is (features, rgb), as for `StyleGAN2`; here rgb has no channels, because
        no image is made before the last block.

        Parameters
        ----------
        z : Tensor
            (B, z_dim), or ``(B, *latent_shape)``.
        from_block, to_block : int
            Which children of the `nn.Sequential` run; all by default.
        state : tuple of Tensor, optional
            What the call that ended at ``from_block`` returned.
        """
        if "state" not in self.inputs:
            raise InputError(f"{self.name} has no blocks to stop between; pass an nn.Sequential")
        check_entry(from_block, state, self.num_blocks)
        # A copy, because a network may overwrite what it is given, as ReLU(inplace=True) does.
        x = (self._shaped(z) if state is None else state[0]).clone()
        for block in self.blocks[from_block:to_block]:
            x = block(x)
        return x, x[:, :0]

    def forward(  # type: ignore[override]
        self, z: Tensor, c: Tensor | None = None, **blocks: Any
    ) -> Tensor:
        """Return images (B, C, H, W), nominally in [0, 1].

        Parameters
        ----------
        z : Tensor
            (B, z_dim), or ``(B, *latent_shape)``.
        c : Tensor, optional
            Class vectors (B, c_dim); required where there are classes.
        **blocks
            ``from_block`` and ``state``, see `run_blocks`.
        """
        scale, shift = RANGES[self.range]
        raw = self.run_blocks(z, **blocks)[0] if blocks else self._raw(z, c)
        return scale * raw + shift

    def _raw(self, z: Tensor, c: Tensor | None) -> Tensor:
        latent = self._shaped(z).clone()
        if not self.c_dim:
            if c is not None:
                raise InputError("c was given, but this prior has no classes; leave c=None")
            return self._call(latent)
        if c is None:
            raise InputError(f"this prior has classes: pass c of shape (B, {self.c_dim})")
        check_shape("c", c, (self.c_dim,), (len(z),))
        return self._call(latent, c)

    def _call(self, *inputs: Tensor) -> Tensor:
        method = self.method
        x: Tensor = self.module(*inputs) if method is None else method(self.module, *inputs)
        return x

    def _shaped(self, z: Tensor) -> Tensor:
        if tuple(z.shape[1:]) not in ((self.z_dim,), self.latent_shape):
            check_shape("z", z, (self.z_dim,))
        return z.reshape(len(z), *self.latent_shape)

    def _tried(self) -> tuple[int, int, int]:
        """Run the module and return the shape of its images; refuse what is no prior."""
        z = self.draw([(0, "try", 0), (0, "try", 1)])
        c = self.classes([0, self.c_dim - 1], 2) if self.c_dim else None
        with torch.enable_grad():
            x = self._attempt(z.clone().requires_grad_(), c)
        if not isinstance(x, Tensor) or x.ndim != 4 or len(x) != 2 or x.is_complex():
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise InputError(
                f"{self.name} must return real images (B, C, H, W), for two latents it gave {found}"
            )
        if x.device != z.device or (x.dtype != z.dtype and not isinstance(self.module, nn.Module)):
            raise InputError(
                f"{self.name} returns {_place_name(x)} for latents of {_place_name(z)}. {PLACE}"
            )
        if not bool(x.isfinite().all()):
            raise InputError(f"{self.name} returns values that are not finite")
        if not x.requires_grad:
            raise InputError(
                f"no gradient passes through {self.name}: it must be differentiable, without "
                "torch.no_grad, .detach() or NumPy inside"
            )
        with torch.no_grad():
            if not torch.allclose(self._attempt(z, c), x, rtol=1e-3, atol=1e-4):
                raise InputError(
                    f"{self.name} gives two images for one latent: switch off what it draws at "
                    "random, as dropout by .eval()"
                )
            alone = self._attempt(z[:1], None if c is None else c[:1])
            if not torch.allclose(alone, x[:1], rtol=1e-3, atol=1e-4):
                raise InputError(
                    f"an image of {self.name} depends on the others of its batch: switch that "
                    "off, as batch statistics by .eval()"
                )
        return tuple(x.shape[1:])  # type: ignore[return-value]

    def _attempt(self, z: Tensor, c: Tensor | None) -> Any:
        """Run the module, its own error restated with what it was given."""
        try:
            return self._raw(z, c)
        except Exception as error:
            given = f"latents ({', '.join(map(str, (len(z), *self.latent_shape)))})"
            given += "" if c is None else f" and classes {tuple(c.shape)}"
            given += f" of {_place_name(z)}"
            remedy = "" if isinstance(self.module, nn.Module) else f". {PLACE}"
            raise InputError(f"{self.name} does not run on {given}: {error}{remedy}") from error

    @torch.no_grad()
    def _in_blocks(self) -> bool:
        """Return whether one tensor with a row per image passes between children of the module."""
        if not isinstance(self.module, nn.Sequential) or self.method or self.c_dim:
            return False
        x: Any = self._shaped(self.draw([(0, "try", 0), (0, "try", 1)])).clone()
        for child in self.module:
            x = child(x)
            if not isinstance(x, Tensor) or x.ndim < 2 or len(x) != 2:
                return False
        return True


def _place_name(like: Tensor) -> str:
    """Return a dtype and a device as words."""
    return f"{str(like.dtype).removeprefix('torch.')} on {like.device}"
