"""
Four methods on real slices
===========================

Four methods at equal cost, and total variation, on two problems: a slice of
which the left half is missing, and one of which a partial circulant has kept
10 % of the numbers.

The slices are real: MR of a head, from the file inside nibabel. **They are
outside the prior's domain.** ``phantom-64`` was trained on drawings of heads
and has never seen a patient, so that what it fills in is a drawing's anatomy,
not this head's. On images like a prior's own the same methods do far better (see
the :doc:`first page </index>`); here you see what a wrong prior does.
"""

# %%
# The problems
# ------------
# Nothing but ``y`` and ``A`` goes to the methods; the true slices are kept for the scores.

import os

import matplotlib.pyplot as plt

import gprior
from gprior.commands.baselines import total_variation
from gprior.commands.demo import TV_WEIGHT, problems, real_images
from gprior.distances import scores

BUDGET = int(os.environ.get("GPRIOR_EXAMPLE_BUDGET", "100"))  # passes

prior = gprior.load_prior("phantom-64")
names, slices = real_images(prior.image_shape[1:])
operators = problems(prior.image_shape)
cases = [("half-mask", 0), ("circulant:0.1", 1)]  # operator, slice

# %%
# The methods
# -----------
# From the smallest set to the largest: the latent z, one style for each layer
# with a belief about them (L-BRGM), the heads of SPHInX, and the features of
# ILO. All start from the best of about ten latents, so that no method gains by
# its start, and spend 100 passes of the generator for each image.

methods = {
    "csgm": "CSGM",
    "lbrgm": "L-BRGM",
    "sphinx": "SPHInX",
    "ilo": "ILO",
}
options = {"budget": BUDGET, "init": "best-of:10", "seed": 0}
found = []
for name, k in cases:
    A, truth = operators[name], slices[k : k + 1]
    y = A(truth)
    images = {"Total variation": total_variation(y, A, TV_WEIGHT[name])}
    for method, title in methods.items():
        result = gprior.solve(y, A, prior, method, **options)
        images[title] = result.x.clamp(0, 1)
    seen = y if A.measurement_is_image else A.A_dagger(y)
    found.append((f"{name}, {names[k]}", truth, seen, images))

# %%
# What they found
# ---------------
# Gray panels show 0 to 1. Under each reconstruction is what it gets wrong,
# reconstruction minus truth: red is too bright, blue too dark. A vector of
# measurements has no picture; its panel is the pseudo-inverse.

LIMIT = 0.5
figure, axes = plt.subplots(4, 7, figsize=(12, 7), layout="constrained")
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
for row, (case, truth, seen, images) in enumerate(found):
    panels = {"Truth": truth, "Measured": seen, **images}
    for column, (title, x) in enumerate(panels.items()):
        above, below = axes[2 * row : 2 * row + 2, column]
        above.imshow(x[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
        above.set_title(title, fontsize=10)
        if title in images:
            (psnr,), (ssim,) = scores(x, truth)
            error = (x - truth)[0, 0].numpy()
            shown = below.imshow(error, cmap="RdBu_r", vmin=-LIMIT, vmax=LIMIT)
            below.set_xlabel(f"{psnr:.1f} dB, SSIM {ssim:.2f}", fontsize=9)
    axes[2 * row, 0].set_ylabel(case, fontsize=10)
residuals = axes[1::2].ravel().tolist()
figure.colorbar(
    shown,
    ax=residuals,
    label="reconstruction − truth",
    fraction=0.02,
    pad=0.01,
)
plt.show()

# %%
# Total variation only smooths: it leaves the missing half blank, and on the
# compressed slice, where every number tells of every pixel, it has the highest
# PSNR of the five, and ILO the highest SSIM. CSGM can draw nothing but phantoms,
# whatever was measured. The larger sets bend a phantom to the data, and where there are no
# data a phantom is what they draw: plausible, and not this head's. ILO spends
# its 100 passes on four rounds; its default is 700. **None of these pictures is
# for diagnosis** (:doc:`/medical`).
