"""
What the measurements leave open
================================

Half of an image is missing. A reconstruction shows one head; posterior samples show
several heads that fit the seen half equally well, and where they disagree.

The true image is a sample of the prior, so that the prior is right. For images that
the prior does not contain, samples agree and are wrong, and ``p_value`` warns.
"""

# %%
# The measurements
# ----------------
# The right half of a T1-like head, with noise of standard deviation 0.1.

import os
import warnings

import matplotlib.pyplot as plt
import torch

import gprior
from gprior.operators import Masking
from gprior.randomness import normal

STEPS = int(os.environ.get("GPRIOR_EXAMPLE_BUDGET", "30"))
SAMPLES, SIGMA = 8, 0.1

prior = gprior.load_prior("phantom-64")
A = Masking(prior.image_shape, "half")
truth = prior.sample(1, seed=12, label=0)
clean = A.A(truth)
seen = A.A(torch.ones_like(truth)) > 0
y = clean + SIGMA * seen * normal([(0, "example noise")], clean.shape[1:], clean)

# %%
# The samples
# -----------
# Each is the minimum of a problem of its own, with perturbed measurements and a
# perturbed prior.

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", ".*have not converged", RuntimeWarning)
    drawn = gprior.posterior(
        y, A, prior, SAMPLES, noise_std=SIGMA, label=0, check=False, steps=STEPS
    )

# %%
# The figure
# ----------
# The standard deviation is small where the image was measured, and large where the
# samples disagree.

low, high = drawn.interval(0.9)
panels = {"truth": truth, "y": y, "mean": drawn.mean}
panels |= {f"sample {k + 1}": drawn.samples[:, k] for k in range(6)}
figure, axes = plt.subplots(2, 6, figsize=(12, 4.4), layout="constrained")
for axis, (title, x) in zip(axes.flat, panels.items(), strict=False):
    axis.imshow(x[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set_title(title, fontsize=10)
spread = axes.flat[9].imshow(drawn.std[0, 0].numpy(), cmap="viridis", vmin=0)
axes.flat[9].set_title("standard deviation", fontsize=10)
figure.colorbar(spread, ax=axes.flat[9], shrink=0.8)
error = axes.flat[10].imshow((drawn.mean - truth)[0, 0].abs().numpy(), cmap="viridis", vmin=0)
axes.flat[10].set_title("|mean - truth|", fontsize=10)
figure.colorbar(error, ax=axes.flat[10], shrink=0.8)
outside = (truth < low - 1 / 255) | (truth > high + 1 / 255)
axes.flat[11].imshow(outside[0, 0].numpy(), cmap="gray_r", vmin=0, vmax=1)
axes.flat[11].set_title("outside 90 % interval", fontsize=10)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
plt.show()

# %%
# The numbers
# -----------

std = drawn.std[0, 0]
print(f"mean standard deviation: seen half {std[seen[0, 0]].mean():.4f}, ", end="")
print(f"missing half {std[~seen[0, 0]].mean():.4f}")
print(f"converged: {int(drawn.converged.sum())} of {SAMPLES} samples")
print(f"evaluations of the generator for each sample: {float(drawn.evaluations[0]) / SAMPLES:.0f}")
