"""`posterior`: samples of the images that explain the measurements."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from gprior.checks import InputError, InputTypeError, integer
from gprior.priors import Label, Prior
from gprior.problem import Problem, build_problem
from gprior.randomness import in_plain_mode
from gprior.result import by_image
from gprior.sampling.evidence import classes_by_evidence
from gprior.sampling.hmc import hamiltonian, split_r_hat
from gprior.sampling.latents import latents_for
from gprior.sampling.noise import draw_noise, estimate_noise, with_noise_model
from gprior.sampling.rto import Settings, go_on, perturbed, randomize_then_optimize
from gprior.sampling.samples import Posterior
from gprior.search import (
    Descent,
    Latents,
    Target,
    Variables,
    Watch,
    correct,
    curvature_of_latents,
    join,
    misfit,
)
from gprior.solvers import plausibility

__all__ = ["posterior"]

METHODS = ("rto", "hmc")
CORRECTIONS = ("auto", "tv", None)
UNLIKELY = 0.05
UNMIXED = 1.05  # R-hat above which chains have not mixed
SWEEPS = 2  # of drawing the noise level and the latents in turn, where it is unknown


@dataclass(frozen=True)
class Constants(Settings):
    """The constants of both methods: those of the search, and of the chains."""

    warmup: int = 30
    draws: int = 30
    leapfrog: int = 5
    max_batch: int = 32


@in_plain_mode
def posterior(
    y: Any,
    A: Any,
    prior: Prior,
    samples: int = 16,
    *,
    method: str = "rto",
    noise_std: float | Sequence[float] | Tensor | None = None,
    space: str | None = None,
    label: Label = None,
    correction: str | None = None,
    check: bool = True,
    seed: int | Sequence[int] = 0,
    budget: float | None = None,
    progress: bool = False,
    callback: Callable[[int, Tensor, Tensor, Tensor], Any] | None = None,
    per_image: Sequence[str] | None = None,
    **constants: int,
) -> Posterior:
    """Draw samples of the images that explain measurements y = A x + noise, with x = G(latents).

    The prior distribution is that of the generator's latents. Where y leaves something open, the
    samples differ.

    Parameters
    ----------
    y, A, prior
        As for `gprior.solve`.
    samples : int
        Number K of samples of each image, at least 2.
    method : {"rto", "hmc"}
        ``"rto"`` draws every sample by a minimisation of its own, randomize-then-optimize; see
        `gprior.sampling.rto`. ``"hmc"`` continues each of them as a chain of Hamiltonian Monte
        Carlo.
    noise_std : float, sequence or None
        Noise standard deviation in the units of y, one for all or one per image. None takes that
        of A's noise model: Gaussian, or Poisson and Poisson-Gaussian noise of deepinv by their
        Gaussian approximation. Where there is none, the noise level is sampled with the latents.
    space : {"z", "w+"}, optional
        The latents. ``"z"`` is the default. ``"w+"`` adds deviations of single layers, for priors
        with styles.
    label : int, sequence, tensor or None
        Class of the images, as for `gprior.solve`. None draws the class of each sample by the
        evidence of the classes (for more than 10 classes: that of its best candidate).
    correction : {"auto", "tv"} or None
        What `gprior.solve` does after its search, here for each sample with its own perturbed
        measurements: samples leave the range of the generator. None leaves them as they are.
    check : bool
        Whether to compute ``p_value``. It takes about 3500 evaluations for every operator, noise
        level and label that is new to the prior, and 80 for every image.
    seed : int or sequence of int
        One for all images, or one per image. The answer is a function of it.
    budget : float, optional
        Forward and backward passes of the generator per image, for all samples together, without
        the check. It replaces ``steps`` and ``newton``, or the number of steps of the chains.
    progress : bool
        Show a progress bar.
    callback : callable, optional
        Called as ``callback(step, rows, loss, image)`` after each step of the first search, with
        row // samples the image. If it returns False, the remaining steps of it are left out.
    per_image : sequence of str, optional
        As for `gprior.solve`.
    **constants
        ``candidates``, ``steps``, ``rounds`` and ``newton`` of the search, ``warmup``, ``draws``
        and ``leapfrog`` of the chains, and ``max_batch``, all positive integers.

    Returns
    -------
    Posterior
        ``posterior.samples`` is (B, K, C, H, W).

    Raises
    ------
    InputTypeError
        If a constant is unknown, or y or A is of an unknown kind.
    InputError
        If y does not fit A and the prior, or an argument is out of range.

    Warns
    -----
    RuntimeWarning
        If the prior does not contain an image, if samples have not converged, or if chains have
        not mixed.

    Examples
    --------
    >>> import gprior
    >>> prior = gprior.load_prior("phantom-64")
    >>> A = gprior.operators.Masking(prior.image_shape, "half")
    >>> y = A(prior.sample(1, label=0)) + 0.02
    >>> drawn = gprior.posterior(y, A, prior, 2, noise_std=0.02, label=0, check=False, steps=2)
    >>> drawn.samples.shape, drawn.std.shape
    (torch.Size([1, 2, 1, 64, 64]), torch.Size([1, 1, 64, 64]))
    """
    from tqdm import tqdm

    started = time.perf_counter()
    K = integer("samples", samples, least=2)
    if method not in METHODS:
        raise InputError(f"method must be one of {METHODS}, got {method!r}")
    if correction not in CORRECTIONS:
        raise InputError(f"correction must be one of {CORRECTIONS}, got {correction!r}")
    latents = latents_for(prior, space or "z")
    settings = _settings(constants)
    problem = build_problem(
        y,
        A,
        prior,
        noise_std=noise_std,
        stop="fixed",
        restarts=K,
        seed=seed,
        per_image=per_image,
    )
    B = len(problem) // K
    if label is not None or not prior.c_dim:
        c = prior.classes(label, B)
        problem = replace(problem, label=None if c is None else c[problem.image])
    if budget is not None:
        settings = _with_budget(settings, constants, budget, K, method, latents, problem)
    problem, noise = with_noise_model(problem)
    sampler = Sampler(latents, settings, method, correction, K)
    parts: list[dict[str, Any]] = []
    at_once = max(1, settings.max_batch // K)
    with tqdm(total=B, disable=not progress, unit="image") as bar:
        for images in torch.arange(B, device="cpu").split(at_once):  # type: ignore[no-untyped-call]
            rows = (images[:, None] * K + torch.arange(K, device="cpu")).flatten()
            first = int(rows[0])

            def report(step: int, row: Tensor, *rest: Tensor, first: int = first) -> object:
                return True if callback is None else callback(step, row + first, *rest)

            parts.append(sampler.draw(problem.take(rows), Watch(callback=report)))
            bar.update(len(images))
    values = join(parts)
    skipped = correction is not None and bool(values.pop("skipped").all())
    values.setdefault("r_hat", None)
    drawn = Posterior(
        **values,
        p_value=_p_value(problem, K, noise, settings.max_batch) if check else None,
        seed=[seed for seed, _ in problem.keys[::K]],
        method=method,
        space=space or "z",
        noise=noise,
        correction="skipped: A is not linear" if skipped else correction,
        prior={"name": prior.name, **prior.record, "sha256": prior.digest()},
        seconds=time.perf_counter() - started,
    )
    _warn(drawn)
    return drawn


@dataclass(frozen=True)
class Sampler:
    """How the samples of some images are drawn."""

    latents: Latents
    settings: Constants
    method: str
    correction: str | None
    samples: int

    def draw(self, problem: Problem, watch: Watch) -> dict[str, Any]:
        """Return what `Posterior` keeps of the rows of some images."""
        settings, K = self.settings, self.samples
        unknown = not bool((problem.noise_std > 0).all())
        cost = torch.zeros(len(problem), dtype=torch.float64, device="cpu")
        if unknown:
            problem, spent = estimate_noise(
                problem, self.latents, settings.candidates, settings.max_batch
            )
            cost = cost + spent
        problem, spent = classes_by_evidence(problem, self.latents, settings, K, settings.max_batch)
        target, found, redone = randomize_then_optimize(
            problem, self.latents, settings, settings.max_batch, watch
        )
        for sweep in range(SWEEPS if unknown else 0):
            measured = replace(target, problem=problem)
            problem = replace(problem, noise_std=draw_noise(measured, found.u, sweep))
            target = replace(target, problem=perturbed(problem))
            found, cost = go_on(target, found, settings), cost + 1 / 3
        cost = (cost + found.evaluations).view(-1, K).sum(1) + spent
        u, r_hat = found.u, None
        if self.method == "hmc":
            u, r_hat = self._chains(replace(target, problem=problem), found)
            steps = (settings.warmup + settings.draws) * settings.leapfrog + 1
            cost = cost + K * steps
        images, corrected = self._images(target, u)
        values: dict[str, Any] = {
            "samples": images if corrected is None else corrected[0],
            "generated": images,
            "latents": self.latents.keep(u, target.start),
            "misfit": misfit(problem, images),
            "noise_std": problem.noise_std,
            "converged": found.converged,
            "redone": redone,
        }
        if corrected is not None:
            values["skipped"] = corrected[1]
        chains = {} if r_hat is None else {"r_hat": r_hat}
        return {**by_image(values, K), **chains, "evaluations": cost}

    def _chains(self, target: Target, found: Descent) -> tuple[Tensor, Tensor]:
        """Return the last states of chains, (R, n), and their R-hat, (B,)."""
        settings = self.settings
        target = replace(target, centre=torch.zeros_like(target.centre))
        mass = curvature_of_latents(target, found)
        chains = hamiltonian(
            target, found.u, mass, settings.warmup, settings.draws, settings.leapfrog
        )
        return chains.u, split_r_hat(chains.visited, self.samples)

    def _images(self, target: Target, u: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return the images of latents, and corrected ones with the rows that were skipped.

        y_k has the noise of y and as much again.
        """
        images = target.images(target.code(u))
        if self.correction is None:
            return images, None
        noisier = replace(target.problem, noise_std=target.problem.noise_std * 2**0.5)
        done = correct(noisier, images, self.correction)
        return images, (done.image, done.weight.isnan())


def _settings(constants: dict[str, int]) -> Constants:
    names = [f.name for f in fields(Constants)]
    for name, value in constants.items():
        if name not in names:
            raise InputTypeError(f"posterior has no constant {name!r}; it has {sorted(names)}")
        integer(name, value, least=1)
    return Constants(**constants)


def _with_budget(
    settings: Constants,
    constants: dict[str, int],
    budget: float,
    samples: int,
    method: str,
    latents: Latents,
    problem: Problem,
) -> Constants:
    """Return the constants with as many steps as a budget for all samples of an image allows."""
    clash = sorted({"steps", "newton", "warmup", "draws"} & set(constants))
    if clash:
        raise InputError(f"give either budget or {clash}, not both")
    z = problem.prior.draw([(0, "size")])
    c = None if not problem.prior.c_dim else problem.prior.classes(0, 1)
    start: Variables = {"z": z} if c is None else {"z": z, "c": c}
    size = latents.code(latents.begin(start), start).shape[1]

    def cost(scale: float) -> tuple[float, Constants]:
        def part(n: int) -> int:
            return max(1, round(scale * n))

        at = replace(
            settings,
            steps=part(settings.steps),
            newton=part(settings.newton),
            warmup=part(settings.warmup),
            draws=part(settings.draws),
        )
        each = at.candidates / 3 + at.steps + 2 / 3 + at.rounds * at.newton * 4 / 3
        if method == "hmc":
            each += (at.warmup + at.draws) * at.leapfrog
        return samples * each + at.rounds * (size + 1) / 3, at

    least, fits = cost(0.0)
    if not least <= budget < float("inf"):
        raise InputError(
            f"budget must be at least {least:.0f} evaluations for {samples} samples and finite, "
            f"got {budget}; raise it, or lower samples, candidates or rounds"
        )
    low, high = 0.0, 1000.0
    for _ in range(40):
        middle = (low + high) / 2
        spent, at = cost(middle)
        if spent <= budget:
            low, fits = middle, at
        else:
            high = middle
    return fits


def _p_value(problem: Problem, samples: int, noise: str, at_once: int) -> Tensor | None:
    """Return the plausibility of each image, (B,); None where it cannot simulate the noise."""
    if "approximated" in noise:
        return None
    first = torch.arange(0, len(problem), samples, device=problem.image.device)
    return plausibility(problem.take(first), at_once)


def _warn(drawn: Posterior) -> None:
    """Warn of what makes the intervals wrong."""
    if drawn.p_value is not None:
        unlikely = [i for i, p in enumerate(drawn.p_value.tolist()) if p < UNLIKELY]
        if unlikely:
            warnings.warn(
                f"the prior does not contain {len(unlikely)} of {len(drawn)} images (numbers "
                f"{unlikely[:10]}): the intervals are about images of the prior, not about these. "
                "Use correction='auto', and calibrate the intervals on images like yours",
                RuntimeWarning,
                stacklevel=4,
            )
    lost = int((~drawn.converged).sum())
    if lost:
        warnings.warn(
            f"{lost} of {drawn.converged.numel()} samples have not converged; raise rounds or "
            "newton",
            RuntimeWarning,
            stacklevel=4,
        )
    if drawn.r_hat is not None and bool((drawn.r_hat > UNMIXED).any()):
        warnings.warn(
            f"the chains of {int((drawn.r_hat > UNMIXED).sum())} of {len(drawn)} images have not "
            f"mixed: R-hat is up to {float(drawn.r_hat.max()):.2f}; raise warmup and draws",
            RuntimeWarning,
            stacklevel=4,
        )
