"""
MRI with several coils, four times faster
=========================================

A scanner measures one line of k-space after the other. This example measures a quarter
of the lines, with eight coils, and compares four reconstructions: the
zero-filled image, SENSE, total variation, and ``auto``, the default method of
`gprior.solve`.

The slices are real MR slices of a head, from a file that is part of nibabel. The
coils and the phase are simulated. **The slices are outside the domain of the prior.**
``phantom-64`` was trained on drawings of heads and never saw a patient. Its images
have the outline of a head, but not the anatomy of this one. For real work, train a
prior on images like yours (:doc:`/training`).
"""

# %%
# The scan
# --------
# The image is complex: its magnitude is the slice, and its phase is smooth, as field
# inhomogeneity makes it. Each coil sees the part of the head that is near to it.

import os

import matplotlib.pyplot as plt
import torch
from deepinv.physics import GaussianNoise

import gprior
from gprior.commands.baselines import total_variation
from gprior.commands.demo import real_images
from gprior.distances import scores
from gprior.measurements import low_resolution_phase
from gprior.operators import mri, mri_mask
from gprior.randomness import generator

BUDGET = int(os.environ.get("GPRIOR_EXAMPLE_BUDGET", "150"))  # passes
NOISE = 0.01  # standard deviation of the noise; the brightest pixels are 1

prior = gprior.load_prior("phantom-64")
names, slices = real_images(prior.image_shape[1:])
names, magnitude = names[:2], slices[:2]  # the third is CT
height, width = prior.image_shape[1:]
v, u = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
phase = 0.9 * u - 1.1 * v**2 + 0.4
truth = magnitude * torch.stack([phase.cos(), phase.sin()])

turn = torch.arange(8.0)[:, None, None] * torch.pi / 4
away = (u - 1.2 * turn.cos()) ** 2 + (v - 1.2 * turn.sin()) ** 2
maps = torch.polar(torch.exp(-away / 0.6), turn + 0.5 * u - 0.3 * v)
maps = maps / maps.abs().square().sum(0).sqrt()

mask = mri_mask((height, width), acceleration=4, center=0.08)
A = mri(mask, maps)
A.set_noise_model(GaussianNoise(NOISE, rng=generator("example")))
y = A(truth)  # (2, 2, 8, 64, 64): slices, real and imaginary part, coils, k-space

# %%
# The phase
# ---------
# The prior knows magnitudes. ``low_resolution_phase`` estimates the phase of each slice
# from the fully sampled centre of its k-space, and ``prior.adapt`` makes complex images
# with it. Each slice has its own phase, so each has its own prior. A file of
# a scanner needs none of these steps: `gprior.measurements.read_kspace` takes them.

kspace = torch.view_as_complex(y.movedim(1, -1).contiguous())
results = []
for i in range(len(y)):
    estimated = low_resolution_phase(kspace[i], mask, maps)
    complex_prior = prior.adapt(truth.shape[1:], phase=estimated)
    results.append(gprior.solve(y[i : i + 1], A, complex_prior, noise_std=NOISE, budget=BUDGET))

# %%
# The rivals
# ----------
# SENSE is the least-squares image of all coils, by conjugate gradients on the normal
# equations. They stop after ten iterations, because further ones fit the noise. This
# number and the weight of total variation have the best PSNR on head phantoms. Of
# ``auto`` there are two images: the best one of the generator, and the final one after
# the correction.

images = {
    "Zero-filled": A.A_adjoint(y),
    "SENSE": A.A_dagger(y, max_iter=10),
    "Total variation": total_variation(y, A, 1e-3),
    "auto, generated": torch.cat([result.generated for result in results]),
    "auto, final": torch.cat([result.x for result in results]),
}


def absolute(x):
    """Return the magnitude of images (B, 2, H, W), as (B, 1, H, W)."""
    return x.square().sum(1, keepdim=True).sqrt()


# %%
# The results
# -----------
# Below each magnitude is its error. For PSNR and SSIM, the background is set to 0,
# because the magnitude of noise is never 0. The data consistency
# \|A x - y\| / \|y\| says how far an image is from what was measured, and needs no
# truth. The true image has the value of the noise alone: an image with a smaller value
# fits the noise, and one with a much larger value contradicts the measurements.

LIMIT = 0.3
head = magnitude > 0.05
figure, axes = plt.subplots(4, 6, figsize=(11.5, 8.5), layout="constrained")
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
for i, name in enumerate(names):
    above, below = axes[2 * i], axes[2 * i + 1]
    above[0].imshow(magnitude[i, 0].numpy(), cmap="gray", vmin=0, vmax=1)
    above[0].set_title("Truth", fontsize=10)
    above[0].set_ylabel(name, fontsize=10)
    below[0].imshow(kspace[i, 0].abs().clamp_min(1e-3).log10().numpy(), cmap="gray")
    below[0].set_xlabel("k-space of one coil,\nlogarithm", fontsize=9)
    noise = (A.A(truth[i : i + 1]) - y[i]).norm() / y[i].norm()
    above[0].set_xlabel(f"|Ax−y|/|y| {100 * noise:.1f} %", fontsize=9)
    for column, (title, x) in enumerate(images.items(), start=1):
        shown, true = absolute(x[i : i + 1]), magnitude[i : i + 1]
        above[column].imshow(shown[0, 0].numpy(), cmap="gray", vmin=0, vmax=1)
        above[column].set_title(title, fontsize=10)
        error = below[column].imshow(
            (shown - true)[0, 0].numpy(), cmap="RdBu_r", vmin=-LIMIT, vmax=LIMIT
        )
        (psnr,), (ssim,) = scores(shown * head[i], true * head[i])
        consistency = (A.A(x[i : i + 1]) - y[i]).norm() / y[i].norm()
        below[column].set_xlabel(
            f"{psnr:.1f} dB, SSIM {ssim:.2f}\n|Ax−y|/|y| {100 * consistency:.1f} %",
            fontsize=9,
        )
figure.colorbar(
    error,
    ax=axes.ravel().tolist(),
    label="magnitude − truth",
    fraction=0.02,
    pad=0.01,
    shrink=0.5,
)
plt.show()

# %%
# The generated images contradict the measurements: no phantom is one of these heads.
# The correction removes most of that, and the final images are better than SENSE.
# Total variation, which knows nothing about heads, is better still: a prior of drawings
# does not help here. **None of these pictures is for diagnosis** (:doc:`/medical`).
