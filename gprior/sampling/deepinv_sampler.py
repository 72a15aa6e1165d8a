"""Posterior samples inside deepinv: a `deepinv.sampling.BaseSampling`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from deepinv.sampling import BaseSampling
from torch import Tensor

from gprior.checks import InputError
from gprior.priors import Prior
from gprior.sampling.drawing import posterior
from gprior.sampling.latents import latents_for
from gprior.sampling.samples import Posterior

__all__ = ["PosteriorSampler"]

Statistic = Callable[[dict[str, Tensor]], Tensor]
OPTIONS = ("noise_std", "label", "correction", "check", "budget", "per_image")


class PosteriorSampler(BaseSampling):  # type: ignore[misc]
    """A prior as a deepinv sampler: ``model(y, physics)`` -> the mean of posterior samples.

    Unlike deepinv's chains, the moments are those of the samples alone, without the state in which
    a chain starts; the draws of an image depend on its own seed, not on torch's global one; and
    each image of a batch is sampled for itself.

    Parameters
    ----------
    prior : Prior
        From `gprior.load_prior`.
    samples : int
        Number of samples of each image, at least 2.
    method : {"rto", "hmc"}
        As for `gprior.posterior`.
    space : {"z", "w+"}
        As for `gprior.posterior`.
    seed : int
        Seed of all images, where a call has none.
    **constants
        Constants of the method, and the options ``noise_std``, ``label``, ``correction``,
        ``check``, ``budget`` and ``per_image`` of `gprior.posterior`. ``check`` is False here by
        default.

    Examples
    --------
    >>> import gprior
    >>> prior = gprior.load_prior("phantom-64")
    >>> A = gprior.operators.Masking(prior.image_shape, "half")
    >>> model = gprior.PosteriorSampler(prior, samples=2, noise_std=0.1, steps=2, label=0)
    >>> mean, variance = model.sample(A(prior.sample(1)), A)
    >>> mean.shape, len(model.get_chain())
    (torch.Size([1, 1, 64, 64]), 2)
    """

    def __init__(
        self,
        prior: Prior,
        samples: int = 16,
        method: str = "rto",
        space: str = "z",
        seed: int = 0,
        **constants: Any,
    ) -> None:
        super().__init__(None, None, None, max_iter=samples, history_size=True)
        latents_for(prior, space)
        self.options = {"check": False, **constants}
        self.generator, self.samples, self.method = prior, samples, method
        self.space, self.seed = space, seed
        self.drawn: Posterior | None = None

    def sample(
        self,
        y: Any,
        physics: Any,
        x_init: Any = None,
        seed: int | Sequence[int] | None = None,
        g_statistics: Statistic | Sequence[Statistic] = (lambda d: d["x"],),
        **kwargs: Any,
    ) -> Any:
        """Draw samples and return the mean and the variance of statistics of them.

        Parameters
        ----------
        y : Tensor or TensorList
            Measurements (B, ...).
        physics : object
            The operator, of any kind that `gprior.solve` takes.
        x_init : object
            Not used: samples do not start from an image.
        seed : int or sequence of int, optional
            One for all images, or one per image.
        g_statistics : callable or sequence of callable
            Functions of ``{"x": images (B, C, H, W), name of a latent: (B, ...)}``.
        **kwargs
            Options of `gprior.posterior` for this call; others are ignored.

        Returns
        -------
        tuple
            (mean, variance) of the statistic, or (means, variances), two lists, of several. The
            variance is the unbiased one, as in deepinv.
        """
        options = {**self.options, **{k: v for k, v in kwargs.items() if k in OPTIONS}}
        drawn = posterior(
            y,
            physics,
            self.generator,
            self.samples,
            method=self.method,
            space=self.space,
            seed=self.seed if seed is None else seed,
            **options,
        )
        self.drawn = drawn
        self.history = [
            {"x": drawn.samples[:, k], **{name: v[:, k] for name, v in drawn.latents.items()}}
            for k in range(drawn.samples.shape[1])
        ]
        self.mean_convergence = self.var_convergence = bool(drawn.converged.all())
        functions = [g_statistics] if callable(g_statistics) else list(g_statistics)
        if not functions:
            raise InputError("g_statistics must have at least one function, got none")
        values = [torch.stack([g(state) for state in self.history]) for g in functions]
        means, variances = [v.mean(0) for v in values], [v.var(0) for v in values]
        return (means[0], variances[0]) if len(values) == 1 else (means, variances)

    def extra_repr(self) -> str:
        """Return what the answers depend on: models that print alike give the same answers."""
        return (
            f"samples={self.samples}, method={self.method!r}, space={self.space!r}, "
            f"seed={self.seed}, options={self.options}, "
            f"prior={self.generator.name!r} {self.generator.image_shape}, "
            f"sha256={self.generator.digest()}"
        )
