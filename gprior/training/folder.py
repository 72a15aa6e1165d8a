"""Looks at every file of a folder of training images before any image is converted.

`survey_folder` says what the folder has, what is passed over and why, and which patients are held
out. `gprior.training.folder_set` then reads the images.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gprior.checks import InputError
from gprior.training.slices import Choice, Slice, find_slices

__all__ = ["Survey", "survey_folder"]

FEWEST = 20  # images that a training needs
SMALL_PART = 1 / 3  # of the range of integers; below it, 8 bits would keep fewer than 85 levels


@dataclass(frozen=True)
class Survey:
    """The images of a folder, and what was passed over.

    Attributes
    ----------
    folder, choice
        The arguments of `survey_folder`.
    slices : tuple of Slice
        The images, in the order of their files.
    held_out : frozenset of int
        Indices into `slices` of the images that no step trains on.
    split_by : str
        ``"patient"``, or ``"volume"`` or ``"slice"`` where there is only one patient.
    empty : int
        Number of slices that were skipped because they are constant.
    others : int
        Number of files that are no images and do not have the name of one.
    skipped : tuple of (str, str)
        Name and reason of each file that should be an image but cannot be read.
    """

    folder: Path
    choice: Choice
    slices: tuple[Slice, ...]
    held_out: frozenset[int]
    split_by: str
    empty: int
    others: int
    skipped: tuple[tuple[str, str], ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty if there are none."""
        return tuple(sorted({one.label for one in self.slices} - {""}))

    def facts(self) -> dict[str, Any]:
        """Return counts and ranges as JSON values, without a name of a file or a patient."""
        held = [one for i, one in enumerate(self.slices) if i in self.held_out]
        rest = [one for i, one in enumerate(self.slices) if i not in self.held_out]
        intensity = self.choice.intensity
        return {
            "images": len(self.slices),
            "formats": _count(f"{s.image_format}, {s.stored_dtype}" for s in self.slices),
            "sizes": _count(f"{s.size[0]} x {s.size[1]}" for s in self.slices),
            "values": _extremes(self.slices),
            "slices": self.choice.slices,
            "intensity": list(intensity) if isinstance(intensity, tuple) else intensity,
            "volumes": len({s.volume for s in self.slices}),
            "patients": len({s.patient for s in self.slices}),
            "split_by": self.split_by,
            "training_images": len(rest),
            "training_patients": len({s.patient for s in rest}),
            "held_out_images": len(held),
            "held_out_patients": len({s.patient for s in held}),
            "empty_slices": self.empty,
            "unreadable_files": len(self.skipped),
            "other_files": self.others,
        }

    def report(self) -> str:
        """Return what was found, for the terminal."""
        facts = self.facts()
        lines = [
            f"{facts['images']} images of {facts['patients']} patients in {facts['volumes']} "
            f"volumes ({self.choice.slices})",
            f"formats: {_words(facts['formats'])}",
            f"sizes: {_words(facts['sizes'])}",
            *(f"values: {name}: {lo:g} to {hi:g}" for name, (lo, hi) in facts["values"].items()),
            f"classes: {_words(_count(s.label for s in self.slices)) if self.classes else 'none'}",
            f"split by {self.split_by}: {facts['training_images']} images of "
            f"{facts['training_patients']} patients for training, {facts['held_out_images']} of "
            f"{facts['held_out_patients']} held out",
            f"passed over: {self.empty} empty slices, {len(self.skipped)} unreadable files, "
            f"{self.others} files that are no images",
        ]
        return "\n".join(lines)

    def passed_over(self) -> str:
        """Return how many files cannot be read, with the reasons and a few names."""
        names = defaultdict(list)
        for name, reason in self.skipped:
            names[reason].append(name)
        lines = [f"{len(self.skipped)} files of {self.folder} were passed over:"]
        for reason, files in sorted(names.items(), key=lambda item: -len(item[1])):
            more = f" and {len(files) - 3} more" if len(files) > 3 else ""
            lines.append(f"  {len(files)}: {', '.join(files[:3])}{more}: {reason}")
        return "\n".join(lines)

    def warn(self) -> None:
        """Warn about what a user may not expect."""
        if self.skipped:
            warnings.warn(self.passed_over(), stacklevel=3)
        if self.split_by != "patient":
            warnings.warn(
                "no patient can be held out, because one patient has all images (or all images "
                f"of a class), so images are held out by {self.split_by}: the Fréchet distance "
                "says nothing about other patients; if the first level of subfolders is patients "
                "and not classes, say so (folders='patients')",
                stacklevel=3,
            )
        if self.choice.intensity is None:
            for text in _narrow(self.slices):
                warnings.warn(text, stacklevel=3)


def survey_folder(
    folder: Path, choice: Choice, tick: Callable[[int], object] = lambda n: None
) -> Survey:
    """Look at every file in a folder and its subfolders, and decide what to train on.

    Parameters
    ----------
    folder : Path
        The folder.
    choice : Choice
        What to take.
    tick : callable
        Called with 1 after each file.

    Raises
    ------
    InputError
        If the folder does not exist, has fewer than 20 images, or has images beside class folders.
    """
    if not folder.is_dir():
        raise InputError(f"data must be a folder of images or 'phantoms', got {folder}")
    found, others, skipped = find_slices(folder, choice, tick)
    slices = tuple(one for one in found if not choice.is_empty(one))
    _check_place(folder, slices, choice)
    split_by, held_out = _split(slices)
    empty = len(found) - len(slices)
    survey = Survey(folder, choice, slices, held_out, split_by, empty, others, tuple(skipped))
    if len(slices) < FEWEST:
        raise InputError(
            f"{folder} has {len(slices)} images; training needs at least {FEWEST}. Passed over "
            f"were {empty} empty slices and {others} files that are no images"
            + (f"; {survey.passed_over()}" if skipped else "")
        )
    return survey


def _check_place(folder: Path, slices: Sequence[Slice], choice: Choice) -> None:
    """Refuse images beside class folders."""
    loose = [one.path for one in slices if one.path.parent == folder]
    if choice.folders == "classes" and loose and any(one.label for one in slices):
        raise InputError(
            f"{folder} has images beside class folders ({loose[0].name}); move each image into "
            "the folder of its class"
        )


def _split(slices: Sequence[Slice]) -> tuple[str, frozenset[int]]:
    """Hold out whole patients; whole volumes or at last single slices if that is not possible."""
    for level in ("patient", "volume"):
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for i, one in enumerate(slices):
            groups[getattr(one, level)].append(i)
        held_out = _hold_out(slices, groups.values())
        if held_out:
            return level, held_out
    return "slice", _hold_out(slices, [[i] for i in range(len(slices))])


def _hold_out(slices: Sequence[Slice], groups: Iterable[list[int]]) -> frozenset[int]:
    """Return the rows of whole groups, about a tenth, at least one group if that is possible.

    Every class keeps images to train on.
    """
    left = Counter(one.label for one in slices)
    held: set[int] = set()

    def take(rows: list[int]) -> None:
        labels = Counter(slices[i].label for i in rows)
        if all(left[label] > count for label, count in labels.items()):
            left.subtract(labels)
            held.update(rows)

    seen = 0
    for rows in groups:
        seen += len(rows)
        if len(held) + len(rows) / 2 <= seen // 10:
            take(rows)
    for rows in sorted(groups, key=len):
        if not held:
            take(rows)
    return frozenset(held)


def _narrow(slices: Sequence[Slice]) -> Iterator[str]:
    """Yield a text for each range of integers of which the images use a small part."""
    used = defaultdict(list)
    for one in slices:
        if one.value_range is not None:
            used[one.value_range].append(one.values)
    for (bottom, top), values in used.items():
        low, high = min(v[1] for v in values), max(v[2] for v in values)
        share = (high - low) / (top - bottom)
        if share < SMALL_PART:
            yield (
                f"{len(values)} images use {low:g} to {high:g} of the range {bottom:g} to {top:g}, "
                f"so only {round(256 * share)} of 256 gray levels would be left; give the "
                f"intensity {low:g},{high:g}, or percentile for a range of each image"
            )


def _count(items: Iterable[str]) -> dict[str, int]:
    return dict(Counter(items).most_common())


def _extremes(slices: Sequence[Slice]) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest value of each format and type."""
    found: dict[str, tuple[float, float]] = {}
    for one in slices:
        name = f"{one.image_format}, {one.stored_dtype}"
        low, high = found.get(name, (one.values[0], one.values[-1]))
        found[name] = min(low, one.values[0]), max(high, one.values[-1])
    return found


def _words(counts: dict[str, int]) -> str:
    """Return counts in words, the first eight of them."""
    shown = [f"{count} x {name}" for name, count in list(counts.items())[:8]]
    return "; ".join(shown) + (f"; and {len(counts) - 8} more" if len(counts) > 8 else "")
