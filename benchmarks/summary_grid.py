"""The grid of start, space and loss for plain searches: ``python benchmarks/summary_grid.py``.

Zimand 2025, "GAN inversion: summary and optimization-based implementation review", names three
choices: where the search starts (mean, random, encoder), what it searches (z, w, w+), and what it
minimises (L2, a perceptual distance, both). Here is every combination, with two further
starts: the best of 100 random latents and, for w+, a random latent per layer. Half mask and x4
super-resolution; 8 phantoms on which the prior was not trained; 150 evaluations of each image, in
which the candidates of a start count. The perceptual distance has the features of the prior's
discriminator. In "both" its weight is 1750, at which it is about a quarter of the loss at x4
(``perceptual_weight.py``).
"""

from __future__ import annotations

from itertools import product
from typing import Any

from cells import METRICS, TITLES, Cell, Results, Scores, Table, joined, main, metric_wins, trio

OPERATORS = ("half", "x4")
LOSSES: dict[str, dict[str, Any]] = {
    "L2": {"perceptual": False},
    "perceptual": {"perceptual": "discriminator", "pixel": 0.0},
    "both": {"perceptual": "discriminator", "feature": 1750.0},
}
SPACES = ("z", "w", "w+")
INITS = ("mean", "random", "random-layers", "best-of:100", "encoder")
Choice = tuple[str, str, str, str]  # operator, loss, space, init
# Name of a comparison -> the place of the choice, and the names of its two sides.
PAIRS = {
    "w+ against w": (2, "w+", "w"),
    "w against z": (2, "w", "z"),
    "both against L2": (1, "both", "L2"),
    "both against perceptual": (1, "both", "perceptual"),
    "L2 against perceptual": (1, "L2", "perceptual"),
    "random against mean": (3, "random", "mean"),
    "random layers against random": (3, "random-layers", "random"),
    "best of 100 against mean": (3, "best-of:100", "mean"),
    "encoder against mean": (3, "encoder", "mean"),
    "encoder against best of 100": (3, "encoder", "best-of:100"),
}


def choices() -> list[Choice]:
    """Return all combinations. Only w+ has a start from a latent per layer."""
    grid = product(OPERATORS, LOSSES, SPACES, INITS)
    return [choice for choice in grid if choice[2] == "w+" or choice[3] != "random-layers"]


def part(choice: Choice, quick: bool) -> Cell:
    """Return the cell of a combination."""
    A, loss, space, init = choice
    rows, budget = ((0, 2), 8) if quick else ((0, 8), 150)
    if quick and init == "best-of:100":
        init = "best-of:6"
    constants = {"budget": budget, "spaces": space, "init": init, **LOSSES[loss]}
    return Cell("held out", rows, A, "latent", constants)


def cells(quick: bool) -> list[Cell]:
    """Return the cells of the tables."""
    return [part(choice, quick) for choice in choices()]


def average(parts: list[Scores]) -> Scores:
    """Return the mean over cells of each metric of each image."""
    columns = {m: zip(*(part[m] for part in parts), strict=True) for m in METRICS}
    return {m: [sum(row) / len(row) for row in column] for m, column in columns.items()}


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return the medians of the three metrics, and how often one choice is better than another.

    A comparison takes the mean of each image over all other choices, so that every image counts
    once in its test.
    """
    done = {
        choice: joined([results[part(choice, quick).key]])
        for choice in choices()
        if part(choice, quick).key in results
    }

    medians = [["Operator", "Loss", "Space", *INITS]]
    for A, loss, space in product(OPERATORS, LOSSES, SPACES):
        of = [done.get((A, loss, space, init)) for init in INITS]
        row = ["" if scores is None else trio(scores) for scores in of]
        if any(row):
            medians.append([A, loss, space, *row])
    won = [["Operator", "Comparison", *TITLES.values()]]
    for A, (title, (place, first, second)) in product(OPERATORS, PAIRS.items()):
        sides: tuple[list[Scores], list[Scores]] = ([], [])
        for choice in done:
            other = (*choice[:place], second, *choice[place + 1 :])
            if choice[0] == A and choice[place] == first and other in done:
                sides[0].append(done[choice])
                sides[1].append(done[other])
        if sides[0]:
            won.append([A, title, *metric_wins(*(average(side) for side in sides))])
    return {"summary_grid": medians, "summary_grid_wins": won}


if __name__ == "__main__":
    main("summary_grid", __doc__, cells, tables)
