"""
Four methods on real slices
===========================

This example compares four methods at equal cost, and total variation. There are
two problems: a slice whose left half is missing, and a slice that a partial
circulant measures with 10 % of the numbers.

The slices are real MR slices of a head, from a file that is part of nibabel.
**They are outside the domain of the prior.** ``phantom-64`` was trained on
drawings of heads and never saw a patient. What it fills in is therefore the
anatomy of a drawing, not of this head. On images like those of the prior, the
same methods do far better (see the :doc:`first page </index>`). This page shows
what a wrong prior does.
"""

# %%
# The problems
# ------------
# The methods get only ``y`` and ``A``. The true slices are used only for the scores.

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
# The methods are ordered from the smallest set to the largest. CSGM searches the
# latent z; L-BRGM one style for each layer, with a belief about the styles; SPHInX
# the weights of its heads; and ILO the features inside the generator. All start
# from the best of about ten latents, so that no method has a better start. Each
# spends 100 passes through the generator for each image.

methods = {
    "csgm": "CSGM",
    "lbrgm": "L-BRGM",
    "sphinx": "SPHInX",
    "ilo": "ILO",
}
options = {"budget": BUDGET, "init": "best-of:10", "seed": 0}
results = []
for name, k in cases:
    A, truth = operators[name], slices[k : k + 1]
    y = A(truth)
    images = {"Total variation": total_variation(y, A, TV_WEIGHT[name])}
    for method, title in methods.items():
        result = gprior.solve(y, A, prior, method, **options)
        images[title] = result.x.clamp(0, 1)
    seen = y if A.measurement_is_image else A.A_dagger(y)
    results.append((f"{name}, {names[k]}", truth, seen, images))

# %%
# The results
# -----------
# Gray panels show values from 0 to 1. Below each reconstruction is its error,
# reconstruction minus truth: red is too bright, blue is too dark. A vector of
# measurements is not a picture, so its panel shows the pseudo-inverse.

LIMIT = 0.5
figure, axes = plt.subplots(4, 7, figsize=(12, 7), layout="constrained")
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
for row, (case, truth, seen, images) in enumerate(results):
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
# Total variation only smooths. It leaves the missing half blank. On the compressed
# slice, where every number depends on every pixel, it has the highest PSNR of the
# five, and ILO has the highest SSIM. CSGM can draw only phantoms, whatever was
# measured. The methods with larger sets change a phantom until it fits the data.
# Where there are no data, they draw a phantom: it is plausible, but it is not this
# head. ILO spends its 100 passes on four rounds; its default is 700 passes. **None of
# these pictures is for diagnosis** (:doc:`/medical`).
