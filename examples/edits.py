"""
Edits, serial images and blending
=================================

A reconstruction has latents, so it can be edited: towards another class, along a principal
component, or along the direction in which a series of images changes. What the generator
cannot say, and a correction added, stays.

An edited image shows what the prior believes, not a patient.
"""

# %%
# Edits
# -----
# A phantom with a bright disc, which no sample of the prior has, from 40 % of its pixels. The
# correction brings the disc back, and every edit keeps it.

import os

import matplotlib.pyplot as plt
import torch

import gprior
from gprior.editing import class_direction, directions, discover, edit, interpolate
from gprior.operators import Masking, from_spec
from gprior.training import phantoms

STEPS = int(os.environ.get("GPRIOR_EXAMPLE_BUDGET", "100"))

prior = gprior.load_prior("phantom-64")
heads = phantoms([39, 57])[0]
heads[0, 0, 36:41, 20:25] = 1
A = Masking(prior.image_shape, "random", keep=0.4)
solved = gprior.solve(A(heads), A, prior, label=0, budget=2 * STEPS)
first, second = (solved.take([k]) for k in range(2))

to_t2, component = class_direction(prior, 0, 1), directions(prior, label=0)[0]
rows = {
    "one head to another": [interpolate(first, second, prior, t / 4).x for t in range(5)],
    "T1 to T2": [edit(first, prior, to_t2, t / 4).x for t in range(5)],
    "first component": [edit(first, prior, component, t).x for t in (-2, -1, 0, 1, 2)],
}

# %%
# Serial images
# -------------
# A head at three times, between which its ventricles grow. The direction of this change and the
# three intensities α are found together. The images between and beyond them follow.

sizes = (0.7, 0.95, 1.2, 1.45)
series = torch.stack([phantoms([39], ventricles=size)[0] for size in sizes], 1)
shown = series[:, [0, 2, 3]]
found = discover(shown, from_spec("denoise", prior.image_shape), prior, label=0, steps=STEPS)
last = float(found.alpha[0, -1])
amounts = [0, last / 3, 2 * last / 3, last, 4 * last / 3]
rows["found direction"] = [edit(found.start, prior, found.direction, a).x for a in amounts]

# %%
# Blending
# --------
# The grown ventricles go back into the first image, measured once more by a coil that shades it.
# Pasting them shows the box, because the shades differ. `gprior.blend` keeps the gradients of
# the edited image and has no seam.

target = series[:, 0] * torch.linspace(0.7, 1, 64)
edited = edit(found.start, prior, found.direction, last).x
part = torch.zeros(64, 64)
part[13:50, 20:47] = 1
pasted = torch.where(part > 0, edited, target)
blended = gprior.blend(edited, target, part)
rows["blending"] = [target, edited, part[None, None], pasted, blended]

# %%
# The figure
# ----------

titles = {
    "one head to another": ["t = 0", "1/4", "1/2", "3/4", "t = 1"],
    "T1 to T2": ["T1", "1/4", "1/2", "3/4", "T2"],
    "first component": ["-2 std", "-1 std", "as it is", "+1 std", "+2 std"],
    "found direction": [f"α = {a:.1f}" for a in amounts],
    "blending": ["measured", "edited", "part", "pasted", "blended"],
}
figure, axes = plt.subplots(len(rows), 5, figsize=(9, 10.5), layout="constrained")
for line, (name, images) in zip(axes, rows.items(), strict=True):
    line[0].set_ylabel(name)
    for axis, title, x in zip(line, titles[name], images, strict=True):
        axis.imshow(x[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=10)
        axis.set(xticks=[], yticks=[])
plt.show()

# %%
# The numbers
# -----------
# How far the image at α is on the way from the smallest to the largest ventricles. The size 0.95
# was not shown; its α is interpolated.

change = series[:, -1] - series[:, 0]


def share(x: torch.Tensor) -> float:
    """Return 0 for the first image of the series, and 1 for the last."""
    return float(((x - series[:, 0]) * change).sum() / change.square().sum())


seen = found.alpha[0].tolist()
between = seen[1] * (sizes[1] - sizes[0]) / (sizes[2] - sizes[0])
for k, alpha in enumerate([seen[0], between, *seen[1:]]):
    image = edit(found.start, prior, found.direction, alpha).x
    print(f"size {sizes[k]}: α = {alpha:.1f}, share {share(image):.2f}", end=", ")
    print(f"of the true image {share(series[:, k]):.2f}")
# The left side of the box: what is on its right, minus what is on its left.
for name, x in {"measured": target, "pasted": pasted, "blended": blended}.items():
    print(f"mean step across the left side of the box, {name}: ", end="")
    print(f"{float((x[..., 13:50, 20] - x[..., 13:50, 19]).mean()):.3f}")
