"""
When the prior does not fit
===========================

A prior contains some images and not others. This example reconstructs images that
``phantom-64`` does not contain, with the default method, and shows what gprior says
about them: how much the prior weighs in the answer, what the generator could not
explain, and whether samples of the prior would leave as much.

The real slices come from files that are part of nibabel and pydicom. ``phantom-64``
was trained on drawings of heads and never saw a patient.
"""

# %%
# The images
# ----------
# There are two real slices, and three versions of one head phantom that the prior
# was not trained on: the phantom itself, the phantom with a bright lesion, and the
# phantom on its side. All training heads were upright, within about 8
# degrees.

import os
import warnings

import matplotlib.pyplot as plt
import torch
from deepinv.physics import GaussianNoise

import gprior
from gprior.commands.demo import real_images
from gprior.distances import scores
from gprior.operators import Masking, PartialCirculant
from gprior.randomness import generator
from gprior.training import phantoms

STEPS = int(os.environ.get("GPRIOR_EXAMPLE_BUDGET", "80"))

prior = gprior.load_prior("phantom-64")
shape = prior.image_shape
names, slices = real_images(shape[1:], mr=[10])
head, _ = phantoms([0], resolution=64, seed=3)

line = torch.arange(64)
distance = ((line[:, None] - 36) ** 2 + (line - 40) ** 2).sqrt()  # in pixels
lesion, around = distance <= 4, (distance > 5) & (distance <= 8)
with_lesion = torch.where(lesion, 1.0, head)

truth = torch.cat([slices, head, with_lesion, head.rot90(1, (2, 3))])
cases = [*names, "phantom", "phantom with a lesion", "phantom on its side"]

# %%
# The operators
# -------------
# One is a partial circulant, which measures 30 % of the numbers, without noise. The
# other measures every pixel, with Gaussian noise of standard deviation 0.1.

noise = GaussianNoise(0.1, rng=generator(0, "example noise"))
operators = {
    "30 % circulant": PartialCirculant(shape, 0.3),
    "noise 0.1": Masking(shape, torch.ones(shape[1:]), noise_model=noise),
}

# %%
# The answers
# -----------
# ``result.generated`` is the best image of the generator, and ``result.x`` is the
# final image after the correction. ``check=True`` computes the plausibility. It
# searches 39 simulated problems first, so this example does it for one of the two
# operators. ``solve`` also warns about images that the prior does not contain; the
# figure shows this instead.

results = {}
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "the prior does not contain", RuntimeWarning)
    for name, A in operators.items():
        check = name == "30 % circulant"
        results[name] = gprior.solve(A(truth), A, prior, steps=STEPS, check=check)

# %%
# The figure
# ----------
# The misfit is what the generated image leaves of the measurements: as a share of
# their size for the circulant, whose noise level is unknown, and in units of the
# noise level for the noisy image. The prior weight is 1 where the correction trusts
# the generated image alone, and 0 where it is total variation alone.

figure, axes = plt.subplots(5, 5, figsize=(10, 12), layout="constrained")
figure.get_layout_engine().set(h_pad=0.1)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
for row, case in enumerate(cases):
    axes[row, 0].set_ylabel(case)
    axes[row, 0].imshow(truth[row, 0].numpy(), cmap="gray", vmin=0, vmax=1)
    for k, (name, result) in enumerate(results.items()):
        said = f"misfit {result.misfit[row]:.2f}"
        if result.plausibility is not None:
            said += f", plausibility {result.plausibility[row]:.2f}"
        weight = f"prior weight {result.prior_weight[row]:.2f}"
        panels = (("generated", result.generated, said), ("final", result.x, weight))
        for axis, (kind, x, title) in zip(axes[row, 1 + 2 * k :], panels, strict=False):
            axis.imshow(x[row, 0].numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set_title(f"{name}, {kind}\n\n{title}" if row == 0 else title, fontsize=9)
            (psnr,), (ssim,) = scores(x[row : row + 1], truth[row : row + 1])
            axis.set_xlabel(f"{psnr:.1f} dB, SSIM {ssim:.2f}", fontsize=9)
axes[0, 0].set_title("truth\n\n", fontsize=9)
plt.show()

# %%
# Is the lesion kept?
# -------------------
# The contrast of the lesion is the mean inside minus the mean of a ring around it.


def contrast(image):
    """Return the contrast of the lesion in an image (1, H, W)."""
    return float(image[0, lesion].mean() - image[0, around].mean())


k = cases.index("phantom with a lesion")
print(f"truth: {contrast(truth[k]):.2f}; without the lesion: {contrast(head[0]):.2f}")
for name, result in results.items():
    generated, final = contrast(result.generated[k]), contrast(result.x[k])
    print(f"{name}: generated {generated:.2f}, final {final:.2f}")

# %%
# What this shows
# ---------------
# The generator can draw only heads like those it was trained on. Its images of the CT
# slice and of the phantom on its side are wrong, and they leave far more of ``y`` than
# samples of the prior do: the plausibility is 0. In both, the final image shows the
# true anatomy, because both operators measure the whole image. An operator that misses
# a part of the image would leave that part to the wrong generator.
#
# The generated image shows the lesion blurred, with less than half of its contrast. The
# correction brings most of the contrast back.
#
# The check says of all five images that the prior does not contain them. That holds for
# the unchanged phantom as well: it is drawn as the training images were, but the
# generator's image of it is far from it.
#
# The check has limits. It sees only what was measured, and an image outside of the prior
# can pass, most of all where half of it is missing (:doc:`/benchmarks`). **A plausibility
# above 0.05 does not prove that an image is right.** The prior weight is
# no such proof either: it is 0.5 for images that the generator got wrong. Where the
# generator is wrong but plausible, its errors can reach the final image: look for the
# bright line in the noisy MR slice that is in "generated" and "final", but not in the
# truth. **None of these pictures is for diagnosis** (:doc:`/medical`).
