"""
CT from few views
=================

A CT scanner that measures fewer projections gives a smaller dose. This example
reconstructs a slice from 30 projections in Hounsfield units (HU), and compares
filtered back-projection, least squares, total variation, and ``auto``, the default
method of `gprior.solve`. The tomography is deepinv's.

The slice is ``CT_small``, a real CT slice that is part of pydicom. **It is outside
the domain of the prior.** ``phantom-64`` was trained on drawings of heads, in the
contrasts of MR, and this slice shows a spine. For real work, train a prior on images
like yours (:doc:`/training`).
"""

# %%
# The scan
# --------
# The slice becomes 64 x 64 pixels. Its attenuation follows from the HU through that of
# water: mu = mu_water (1 + HU / 1000). A projection counts the photons that pass;
# minus the logarithm of their share is the line integral of mu. The sinogram is
# written to a file, as a scanner or another program would do.

import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from pydicom.data import get_testdata_file

import gprior
from gprior.commands.baselines import total_variation
from gprior.distances import scores
from gprior.images import fit, read_image
from gprior.measurements import read_sinogram
from gprior.operators import from_spec

BUDGET = int(os.environ.get("GPRIOR_EXAMPLE_BUDGET", "150"))  # passes
VIEWS, PHOTONS, SPACING, MU_WATER = 30, 1e5, 4.0, 0.02  # mm, 1/mm

prior = gprior.load_prior("phantom-64")
image = read_image(get_testdata_file("CT_small.dcm", download=False))
hu = torch.tensor(fit(image.pixels + 1000, prior.image_shape[1:])[0]) - 1000
mu = MU_WATER * (1 + hu.float()[None] / 1000)

scanner = from_spec(f"ct:{VIEWS}", prior.image_shape)
integrals = scanner.A(mu) * scanner.operator_norm * SPACING
rng = np.random.default_rng(0)
counts = rng.poisson(PHOTONS * torch.exp(-integrals[0, 0].double()).numpy())
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "sinogram.npz"
np.savez(
    path,
    sinogram=-np.log(np.maximum(counts, 1) / PHOTONS),
    angles=scanner.angles.numpy(),
    pixel_spacing=SPACING,
    mu_water=MU_WATER,
    size=prior.image_shape[1],
)

# %%
# From the file to Hounsfield units
# ---------------------------------
# ``read_sinogram`` scales the sinogram so that -1000 and 1000 HU are 0 and 1 in the
# prior, and ``in_file_units`` returns to HU. On the command line, the same is
# ``gprior reconstruct sinogram.npz -A ct --intensity=-1000,1000 -o out``.

scan = read_sinogram(path, intensity=(-1000, 1000))
folder.cleanup()
y, A = scan.y, scan.A
result = gprior.solve(y, A, scan.adapt(prior), budget=BUDGET)
images = {
    "Back-projection": A.A_dagger(y, fbp=True),
    "Least squares": A.A_dagger(y),
    "Total variation": total_variation(y, A, 2e-4),
    "auto, generated": result.generated,
    "auto, final": result.x,
}

# %%
# The weight of total variation has the best PSNR of six on head phantoms, with these
# views and this level of noise. Of ``auto`` there are two images: the best one of the
# generator, and the final one after the correction.
#
# The results
# -----------
# Below each image is its error in HU, with the root mean square, PSNR, SSIM, and the
# data consistency \|A x - y\| / \|y\|: how far the image is from what was measured, for
# which no truth is needed. The value of the truth is that of the noise alone.

LIMIT = 300
truth = (hu.float()[None] + 1000) / 2000  # in the units of the prior
figure, axes = plt.subplots(2, 6, figsize=(12, 4.6), layout="constrained")
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
axes[0, 0].imshow(hu[0].numpy(), cmap="gray", vmin=-1000, vmax=1000)
axes[0, 0].set_title("Truth", fontsize=10)
noise = (A.A(truth) - y).norm() / y.norm()
axes[0, 0].set_xlabel(f"|Ax−y|/|y| {100 * noise:.1f} %", fontsize=9)
axes[1, 0].imshow(integrals[0, 0].numpy(), cmap="gray", aspect="auto")
axes[1, 0].set_box_aspect(1)
axes[1, 0].set_xlabel(f"sinogram, {VIEWS} views", fontsize=9)
for column, (title, x) in enumerate(images.items(), start=1):
    found = torch.as_tensor(scan.in_file_units(x))
    axes[0, column].imshow(found[0].numpy(), cmap="gray", vmin=-1000, vmax=1000)
    axes[0, column].set_title(title, fontsize=10)
    difference = found[0] - hu[0]
    error = axes[1, column].imshow(difference.numpy(), cmap="RdBu_r", vmin=-LIMIT, vmax=LIMIT)
    rms = difference.square().mean().sqrt()
    (psnr,), (ssim,) = scores(x.clamp(0, 1), truth.clamp(0, 1))
    consistency = (A.A(x) - y).norm() / y.norm()
    axes[1, column].set_xlabel(
        f"{rms:.0f} HU, {psnr:.1f} dB, SSIM {ssim:.2f}\n|Ax−y|/|y| {100 * consistency:.1f} %",
        fontsize=9,
    )
figure.colorbar(
    error, ax=axes.ravel().tolist(), label="error in HU", fraction=0.02, pad=0.01, shrink=0.6
)
plt.show()

# %%
# Back-projection and least squares pass the noise and the gaps between the views on to
# the image as streaks. The generated image is what a prior of heads makes of a spine,
# and it contradicts the measurements. The correction sees that, and does not trust it at
# all: the prior weight is 0, and the final image is that of total variation, whose
# weight is chosen from the measurements alone. It is as good as with the weight that was
# tuned on phantoms. **None of these pictures is for diagnosis** (:doc:`/medical`).
