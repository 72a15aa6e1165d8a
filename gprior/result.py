"""What `solve` returns, and how it is kept."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.checks import InputError
from gprior.files import open_tensors, write_tensors, write_text
from gprior.priors import TunedWeights
from gprior.search import join, take

__all__ = ["Result"]

FORMAT = "gprior-result-1"


@dataclass(frozen=True, eq=False)
class Result:
    """A batch of reconstructions; every value is one per image.

    With ``solve(..., restarts=R, keep="all")`` every value is one per restart of each image:
    tensors are (B, R, ...) and lists are nested, so ``x`` is (B, R, C, H, W). `best` returns the
    usual form.

    Attributes
    ----------
    x : Tensor
        Reconstructions (B, C, H, W), nominally in [0, 1], not clamped: the final images, after the
        correction if there is one.
    latents : dict of Tensor
        The code of each image: ``w`` (B, num_ws, w_dim), ``z`` (B, z_dim), ...; ``c``
        (B, c_dim), where there are classes.
    loss : Tensor
        (B,), the objective at the returned code, whose image is `generated`.
    terms : dict of Tensor
        The weighted terms of the loss, each (B,).
    criterion : Tensor
        (B,), what the stopping rule compared, at the returned code, whose image is `generated`:
        the residual in units of the noise level, the mean square on held-out entries, or the
        loss.
    history : Tensor
        (B, steps), the loss at every step of the restart that was kept; NaN after it
        stopped.
    label : list of int or None
        Class of each image (the largest entry of a soft vector).
    reason : list of str
        Why each image stopped: ``"steps"``, ``"discrepancy"``, ``"callback"``, ``"non-finite"``, or
        ``"converged"`` (L-BFGS).
    evaluations : Tensor
        (B,), forward and backward passes of the generator, all restarts and candidates
        included; a forward alone counts 1/3. With ``keep="all"`` those of each restart.
    seconds : float
        Wall-clock time of the whole batch.
    seed : list of int
        Seed of each image.
    perceptual : bool
        Whether a perceptual term was used.
    stop : list of str
        The stopping rule of each image: ``"discrepancy"``, ``"holdout"`` or ``"fixed"``.
    diagnostics : dict of Tensor
        What the method says about each code, (B,): see its page.
    solver : dict
        Its name and constants.
    prior : dict
        Its name and record, with the adaptation if there is one.
    features : str or None
        The features of the perceptual term: ``"lpips-vgg"``, ``"discriminator"``, ...
    generated : Tensor
        (B, C, H, W), what the generator makes of `latents`. Without correction it is `x`.
    correction : str or None
        The correction: ``"auto"``, ``"tv"``, or None. ``"skipped: ..."`` has the reason why there
        is none although it was asked for.
    prior_weight : Tensor or None
        (B,), the weight a of the generated image in the correction, in [0, 1]; NaN for an image
        that was not corrected, and None without correction.
    misfit : Tensor or None
        (B,), root mean square of y - A x for the generated image, over all measured entries: in
        units of the noise level where it is known, and otherwise of the root mean square of y.
    plausibility : Tensor or None
        (B,), the share of simulated problems of the prior's own samples that have a larger misfit,
        from ``solve(..., check=True)``. Below 0.05 the prior does not contain this image.
    weights : TunedWeights or None
        The weights of the generator of each image, if it was tuned. `generated` then is what this
        generator makes of `latents`.
    """

    x: Tensor
    latents: dict[str, Tensor]
    loss: Tensor
    terms: dict[str, Tensor]
    criterion: Tensor
    history: Tensor
    label: list[int] | None
    reason: list[str]
    evaluations: Tensor
    seconds: float
    seed: list[int]
    perceptual: bool
    stop: list[str]
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    solver: dict[str, Any] = field(default_factory=dict)
    prior: dict[str, Any] = field(default_factory=dict)
    features: str | None = None
    generated: Tensor = field(default_factory=lambda: torch.empty(0))  # x, if it is not given
    correction: str | None = None
    prior_weight: Tensor | None = None
    misfit: Tensor | None = None
    plausibility: Tensor | None = None
    weights: TunedWeights | None = None

    def __post_init__(self) -> None:
        if not self.generated.numel():
            object.__setattr__(self, "generated", self.x)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.x)

    @property
    def restarts(self) -> int | None:
        """Number of restarts of each image that are kept, or None where only the best is."""
        return self.x.shape[1] if self.x.ndim == 5 else None

    def best(self) -> Result:
        """Return the best restart of each image by its criterion; here all that there is.

        The evaluations are those of all restarts together.
        """
        R = self.restarts
        if R is None:
            return self
        rows = best_restart(self.criterion.flatten(), R)
        values = self._per_image()
        values = {k: take(flat(v), rows) for k, v in values.items() if k not in ("seed", "stop")}
        return replace(self, **{**values, "evaluations": self.evaluations.sum(1)})

    def take(self, images: Sequence[int] | Tensor) -> Result:
        """Return some of the images, by their numbers.

        ``seconds`` stays that of the whole batch.

        Examples
        --------
        >>> import gprior
        >>> prior = gprior.load_prior("phantom-64")
        >>> A = gprior.operators.Masking(prior.image_shape, "half")
        >>> y = A(prior.sample(3))
        >>> result = gprior.solve(y, A, prior, "csgm", steps=1, seed=[7, 8, 9])
        >>> part = result.take([2, 0])
        >>> part.seed, len(gprior.Result.join([part, result.take([1])]))
        ([9, 7], 3)
        """
        rows = torch.as_tensor(images, dtype=torch.long, device="cpu")
        weights = None if self.weights is None else self.weights.take(rows)
        values = {k: take(v, rows) for k, v in self._per_image().items()}
        return replace(self, **values, weights=weights)

    @classmethod
    def join(cls, results: Sequence[Result]) -> Result:
        """Return the images of several results, one result after the other.

        Histories of different length are filled with NaN, and seconds are added.

        Raises
        ------
        InputError
            If there is none, or if they are not of one solver, prior and kind of values.
        """
        if not results:
            raise InputError("results must have at least one, got none")
        first = results[0]
        for name in ("solver", "prior", "features", "perceptual", "restarts", "correction"):
            values = [getattr(result, name) for result in results]
            if any(value != values[0] for value in values):
                raise InputError(f"results must have the same {name}, got {values}")
        steps = max(result.history.shape[-1] for result in results)
        parts = []
        for result in results:
            missing = steps - result.history.shape[-1]
            history = F.pad(result.history, (0, missing), value=math.nan)
            parts.append({**result._per_image(), "history": history})
        for name in ("latents", "terms", "diagnostics"):
            if len({frozenset(part[name]) for part in parts}) > 1:
                raise InputError(f"results must have the same {name} by name")
        tuned = [result.weights for result in results if result.weights is not None]
        if len(tuned) not in (0, len(results)):
            raise InputError("results must all be tuned, or none of them")
        return replace(
            first,
            **join(parts),
            seconds=sum(result.seconds for result in results),
            weights=TunedWeights.join(tuned) if tuned else None,
        )

    def _per_image(self) -> dict[str, Any]:
        """Return the fields that have one value per image."""
        parts = ("latents", "terms", "diagnostics", "reason", "seed", "stop", "label")
        names = (*ARRAYS, *OPTIONAL, *parts)
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def facts(self) -> dict[str, Any]:
        """Return everything but the arrays, as JSON values."""
        return {
            "label": self.label,
            "reason": self.reason,
            "loss": _numbers(self.loss),
            "criterion": _numbers(self.criterion),
            "evaluations": _numbers(self.evaluations),
            "seconds": self.seconds,
            "seed": self.seed,
            "perceptual": self.perceptual,
            "stop": self.stop,
            "diagnostics": {k: _numbers(v) for k, v in self.diagnostics.items()},
            "solver": self.solver,
            "prior": self.prior,
            "features": self.features,
            "correction": self.correction,
            "tuned": None if self.weights is None else self.weights.prior,
            **{
                name: None if getattr(self, name) is None else _numbers(getattr(self, name))
                for name in OPTIONAL[1:]
            },
            "note": "generative reconstruction, not for diagnosis",
        }

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, and its facts as a ``.json`` file beside it.

        Parameters
        ----------
        path : str or Path
            Ends in ``.safetensors``. Both files are written under temporary names and
            renamed.

        Raises
        ------
        ValueError
            If the path has another ending.
        OSError
            If it cannot be written; nothing is left behind.
        """
        tensors = {name: getattr(self, name) for name in ARRAYS}
        tensors |= {k: getattr(self, k) for k in OPTIONAL if getattr(self, k) is not None}
        tensors |= {f"latents.{k}": v for k, v in self.latents.items()}
        tensors |= {f"terms.{k}": v for k, v in self.terms.items()}
        tensors |= {f"diagnostics.{k}": v for k, v in self.diagnostics.items()}
        if self.weights is not None:
            tensors |= {f"weights.{k}": v for k, v in self.weights.tensors().items()}
        facts = json.dumps(self.facts(), indent=1)
        write_tensors(path, tensors, {"format": FORMAT, "gprior": facts}, "the result")
        write_text(Path(path).with_suffix(".json"), facts + "\n", "the result's facts")

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read a result that `save` wrote.

        Raises
        ------
        ValueError
            If the file is truncated or is no result.
        """
        with open_tensors(path, FORMAT, "is no whole gprior result") as (metadata, tensors):
            facts = json.loads(metadata["gprior"])
            kept: dict[str, Any] = {k: facts[k] for k in FACTS}
            kept |= {k: tensors[k] for k in OPTIONAL if k in tensors}  # which earlier files lack
            if (tuned := facts.get("tuned")) is not None:
                kept["weights"] = TunedWeights.of_tensors(tuned, _under("weights.", tensors))
            return cls(
                **{name: tensors[name] for name in ARRAYS},
                latents=_under("latents.", tensors),
                terms=_under("terms.", tensors),
                diagnostics=_under("diagnostics.", tensors),
                **kept,
                features=facts.get("features"),
                correction=facts.get("correction"),
            )


OPTIONAL = ("generated", "prior_weight", "misfit", "plausibility")
ARRAYS = ("x", "loss", "criterion", "history", "evaluations")
FACTS = ("label", "reason", "seconds", "seed", "perceptual", "stop", "solver", "prior")


def _numbers(values: Tensor) -> list[Any]:
    """Return numbers (B,) or (B, R) as strict JSON has them: None where they are not finite."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(part) for part in value]
        return value if math.isfinite(value) else None

    return [plain(value) for value in values.tolist()]


def flat(value: Any) -> Any:
    """Return values of (B, R, ...) as those of B R rows."""
    if isinstance(value, dict):
        return {name: flat(part) for name, part in value.items()}
    return [x for part in value for x in part] if isinstance(value, list) else value.flatten(0, 1)


def by_image(value: Any, restarts: int) -> Any:
    """Return values of B R rows as those of (B, R, ...)."""
    if isinstance(value, dict):
        return {name: by_image(part, restarts) for name, part in value.items()}
    if isinstance(value, list):
        return [value[i : i + restarts] for i in range(0, len(value), restarts)]
    return value.unflatten(0, (-1, restarts))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def best_restart(criterion: Tensor, restarts: int) -> Tensor:
    """Return the row of the best restart of each image, for rows ordered by image."""
    table = criterion.nan_to_num(torch.inf).view(-1, restarts)
    first = torch.arange(len(table), device=table.device) * restarts
    return first + table.argmin(1)
