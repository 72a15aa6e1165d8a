"""k-space and sinograms: what is written is read, in its order, units and geometry."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import gprior
from gprior.checkpoints import save_prior
from gprior.commands.outcome import cases_of
from gprior.commands.reconstruct import Options, run
from gprior.commands.task import prepare
from gprior.measurements import low_resolution_phase, read_kspace, read_sinogram
from gprior.measurements.kspace import _centre
from gprior.operators import mri_mask

H, W, COILS = 32, 24, 4


def fourier(x):
    shifted = np.fft.ifftshift(x, axes=(-2, -1))
    return np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(-2, -1))


def plane(height=H, width=W):
    return np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]


def head(height=H, width=W):
    """A smooth complex image, whose phase is smooth, in units far from those of a prior."""
    v, u = plane(height, width)
    magnitude = np.clip(1.2 - (u / 0.7) ** 2 - (v / 0.8) ** 2, 0, 1) * (1 + 0.3 * np.sin(5 * u + v))
    return 3e-5 * magnitude * np.exp(1j * (0.9 * u - 0.7 * v + 0.4))


def coil_maps(coils=COILS, height=H, width=W):
    v, u = plane(height, width)
    turn = 2 * np.pi * np.arange(coils)[:, None, None] / coils
    away = (u - 1.1 * np.cos(turn)) ** 2 + (v - 1.1 * np.sin(turn)) ** 2
    maps = np.exp(-away) * np.exp(1j * (turn + 0.6 * u * np.cos(turn) + 0.5 * v))
    return (maps / np.sqrt((np.abs(maps) ** 2).sum(0))).astype(np.complex64)


@pytest.fixture
def kspace():
    """k-space (coils, H, W) of the head, as float64 sees it."""
    return fourier(coil_maps() * head())


@pytest.fixture
def mask():
    return mri_mask((H, W), 2, 0.3).numpy()


def relative(a, b):
    return np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b))


def in_file_units(acquisition):
    """Return y as complex numbers in the units and the order of the file."""
    y = acquisition.y[0].numpy().astype(np.float64)
    return (y[0] + 1j * y[1]) * acquisition.unit


# --- k-space in files of NumPy ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["kspace", "y"])
@pytest.mark.parametrize("columns", [True, False])
def test_kspace_of_several_coils_comes_back(name, columns, kspace, mask, tmp_path):
    given = mask[0] if columns else mask
    np.savez(tmp_path / "k.npz", mask=given, maps=coil_maps(), **{name: kspace * mask})
    found = read_kspace(tmp_path / "k.npz")
    assert found.y.shape == (1, 2, COILS, H, W) and found.image_shape == (2, H, W)
    assert relative(in_file_units(found), kspace * mask) < 1e-6  # in the order of the coils
    assert np.array_equal(found.A.mask[0, 0], mask)
    assert relative(found.A.coil_maps[0], coil_maps()) < 1e-6
    x = torch.tensor(np.stack([head().real, head().imag])[None] / found.unit, dtype=torch.float32)
    assert relative(found.A.A(x), found.y) < 1e-5  # A is what was measured
    assert relative(found.in_file_units(x)[0], head()) < 1e-6
    assert found.record["scale"] == found.intensity[1] == found.unit
    assert found.record["axes"] == "coils, readout, phase encoding"
    assert found.record["maps"] == "file" and found.record["shape"] == [COILS, H, W]


def test_the_scale_is_the_99th_percentile_of_the_zero_filled_image(kspace, mask, tmp_path):
    np.savez(tmp_path / "k.npz", kspace=1e9 * kspace * mask, mask=mask, maps=coil_maps())
    found = read_kspace(tmp_path / "k.npz")
    filled = np.fft.ifftshift(1e9 * kspace * mask, axes=(-2, -1))
    filled = np.fft.fftshift(np.fft.ifft2(filled, norm="ortho"), axes=(-2, -1))
    expected = np.percentile(np.abs((coil_maps().conj() * filled).sum(0)), 99)
    assert found.record["scale"] == pytest.approx(expected, rel=1e-5)
    x = found.A.A_adjoint(found.y)[0]
    assert torch.quantile(x.square().sum(0).sqrt().flatten(), 0.99) == pytest.approx(1, rel=1e-4)


def test_one_coil_without_a_mask(tmp_path, mask):
    np.save(tmp_path / "k.npy", fourier(head()) * mask)
    found = read_kspace(tmp_path / "k.npy")
    assert found.y.shape == (1, 2, H, W) and found.record["maps"] == "none"
    assert np.array_equal(found.A.mask[0, 0], mask)  # what is 0 was not sampled
    assert relative(in_file_units(found), fourier(head()) * mask) < 1e-6


def test_a_slice_is_chosen_by_default_the_middle_one(kspace, tmp_path):
    volume = np.stack([kspace, 2 * kspace, 5 * kspace])
    maps = np.stack([coil_maps()] * 3)
    np.savez(tmp_path / "k.npz", kspace=volume, maps=maps)
    assert relative(in_file_units(read_kspace(tmp_path / "k.npz")), 2 * kspace) < 1e-6
    last = read_kspace(tmp_path / "k.npz", slice=2)
    assert relative(in_file_units(last), 5 * kspace) < 1e-6
    assert last.record["slice"] == 2 and last.record["slices"] == 3
    with pytest.raises(gprior.InputError, match=r"slice 3 of .* it has 0 to 2"):
        read_kspace(tmp_path / "k.npz", slice=3)


def test_an_acceleration_drops_a_part_of_what_was_measured(kspace, tmp_path):
    np.savez(tmp_path / "k.npz", kspace=kspace, maps=coil_maps())
    found = read_kspace(tmp_path / "k.npz", "mri:4,center=0.2", seed=2)
    expected = mri_mask((H, W), 4, 0.2, seed=2)
    assert torch.equal(found.A.mask[0, 0], expected)
    assert relative(in_file_units(found), kspace * expected.numpy()) < 1e-6


def test_the_phase_is_that_of_the_low_resolution_image(kspace, mask, tmp_path):
    np.savez(tmp_path / "k.npz", kspace=kspace * mask, mask=mask, maps=coil_maps())
    found = read_kspace(tmp_path / "k.npz")
    inside = np.abs(head()) > 1e-5
    wrong = np.angle(np.exp(1j * (found.phase.numpy() - np.angle(head()))))[inside]
    assert np.abs(wrong).mean() < 0.1
    assert found.record["phase"] == "low resolution"
    given = np.linspace(-1, 1, H * W).reshape(H, W)
    np.savez(tmp_path / "k.npz", kspace=kspace * mask, maps=coil_maps(), phase=given)
    found = read_kspace(tmp_path / "k.npz")
    np.testing.assert_allclose(found.phase, given, atol=1e-6)
    assert found.record["phase"] == "file"


def test_a_phase_needs_the_centre():
    mask = torch.ones(H, W)
    mask[:, W // 2 + 1] = 0
    with pytest.raises(gprior.InputError, match="must sample the centre"):
        low_resolution_phase(torch.ones(1, H, W, dtype=torch.complex64), mask)


def test_an_adapted_prior_has_the_phase_and_keeps_its_proportions(kspace, tmp_path, tiny_prior):
    np.savez(tmp_path / "k.npz", kspace=kspace, maps=coil_maps())
    found = read_kspace(tmp_path / "k.npz")
    base = tiny_prior(16, 1)
    x = found.adapt(base).sample(1)
    assert x.shape == (1, 2, H, W)
    square = base.adapt((1, 32, 32)).sample(1)[..., :, 4:28]  # 16 x 16 covers 32 x 24 as 32 x 32
    torch.testing.assert_close(x[:, :1], square * found.phase.double().cos())
    torch.testing.assert_close(x[:, 1:], square * found.phase.double().sin())


def test_oversampling_of_the_readout_is_removed(tmp_path):
    wide = np.zeros((2 * H, W), complex)
    wide[H // 2 : H // 2 + H] = head()
    mask = mri_mask((2 * H, W), 2, 0.3).numpy()
    np.savez(tmp_path / "k.npz", kspace=fourier(wide) * mask, mask=mask[0], readout=H)
    found = read_kspace(tmp_path / "k.npz")
    assert found.image_shape == (2, H, W) and found.record["readout"] == [2 * H, H]
    assert relative(in_file_units(found), fourier(head()) * mask[:H]) < 1e-5


def test_maps_are_estimated_from_the_centre(tmp_path):
    pytest.importorskip("sigpy")
    size, maps = 48, coil_maps(6, 48, 48)
    truth, mask = head(size, size), mri_mask((size, size), 2, 0.4).numpy()
    np.savez(tmp_path / "k.npz", kspace=fourier(maps * truth) * mask, mask=mask)
    found = read_kspace(tmp_path / "k.npz")
    assert found.record["maps"] == "ESPIRiT" and found.A.coil_maps.shape == (1, 6, size, size)
    x = np.abs(found.in_file_units(found.A.A_dagger(found.y))[0])
    inside = np.abs(truth) > 0.1 * np.abs(truth).max()
    assert relative(x[inside], np.abs(truth)[inside]) < 0.1
    # Maps have a common phase in every pixel that no measurement shows.
    angle = (found.A.coil_maps[0].numpy() * maps.conj()).sum(0)
    inside = np.abs(truth) > 0.3 * np.abs(truth).max()
    assert np.abs(angle)[inside].min() > 0.95


@pytest.mark.parametrize(("columns", "side"), [((18, 30), 12), ((18, 31), 13), ((19, 30), 11)])
def test_an_even_number_of_central_lines_is_a_centre(columns, side):
    """Twelve lines of 48 are 18 to 29, six before zero frequency and five after it."""
    mask = torch.zeros(48, 48)
    mask[:, slice(*columns)] = 1
    assert _centre(mask, 24) == side


def test_maps_without_sigpy_or_without_a_centre(kspace, mask, tmp_path, monkeypatch):
    np.savez(tmp_path / "k.npz", kspace=kspace * mask, mask=mask)
    with pytest.raises(gprior.InputError, match=r"maps are needed.*fewer than 12 x 12"):
        read_kspace(tmp_path / "k.npz")
    np.savez(tmp_path / "k.npz", kspace=kspace)
    monkeypatch.setitem(__import__("sys").modules, "sigpy.mri.app", None)
    with pytest.raises(gprior.InputError, match=r"maps are needed.*sigpy.*gprior\[mri\]"):
        read_kspace(tmp_path / "k.npz")


ONES = np.ones((H, W), complex)
BAD = {
    "real": ({"kspace": ONES.real}, "must be complex"),
    "five axes": ({"kspace": ONES[None, None, None]}, "must be complex, .H, W."),
    "nothing": ({"mask": np.ones(W)}, r"array kspace or y; it has \['mask'\]"),
    "NaN": ({"kspace": ONES * np.nan}, "must be finite"),
    "zeros": ({"kspace": 0 * ONES}, "must not be 0"),
    "mask of another size": ({"kspace": ONES, "mask": np.ones(W + 1)}, r"shape \(24,\) or"),
    "mask of weights": ({"kspace": ONES, "mask": np.full(W, 0.5)}, "must be 0 or 1"),
    "maps of another size": (
        {"kspace": np.ones((3, H, W), complex), "maps": np.ones((2, H, W), complex)},
        r"shape \(3, 32, 24\)",
    ),
    "phase of another size": ({"kspace": ONES, "phase": np.ones((2, 2))}, "phase of"),
    "pickle": ({"kspace": np.array([{}], dtype=object)}, "not a whole .npz"),
}


@pytest.mark.parametrize("case", BAD)
def test_kspace_that_is_refused(case, tmp_path):
    arrays, message = BAD[case]
    np.savez(tmp_path / "k.npz", **arrays)
    with pytest.raises(gprior.InputError, match=message):
        read_kspace(tmp_path / "k.npz")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "k.txt").write_text("k-space")
    with pytest.raises(gprior.InputError, match="none of HDF5"):
        read_kspace(tmp_path / "k.txt")
    with pytest.raises(FileNotFoundError):
        read_kspace(tmp_path / "none.npz")
    np.save(tmp_path / "k.npy", ONES)
    with pytest.raises(gprior.InputError, match="spec must be mri"):
        read_kspace(tmp_path / "k.npy", "ct:4")


# --- HDF5 ------------------------------------------------------------------------------------

HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>{0}</x><y>{2}</y><z>1</z></matrixSize></encodedSpace>
<reconSpace><matrixSize><x>{1}</x><y>{2}</y><z>1</z></matrixSize></reconSpace>
</encoding></ismrmrdHeader>"""


def test_fastmri_of_several_coils(kspace, mask, tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "k.h5", "w") as file:
        file["kspace"] = np.stack([kspace * mask, 3 * kspace * mask])
        file["mask"] = mask[0].astype(bool)
        file["sensitivity_maps"] = np.stack([coil_maps(), coil_maps()])
    found = read_kspace(tmp_path / "k.h5")
    assert relative(in_file_units(found), 3 * kspace * mask) < 1e-6
    assert found.record["format"] == "fastMRI" and found.record["slice"] == 1
    assert relative(found.A.coil_maps[0], coil_maps()) < 1e-6
    first = read_kspace(tmp_path / "k.h5", slice=0)
    assert relative(in_file_units(first), kspace * mask) < 1e-6


@pytest.mark.parametrize("stated", ["header", "target"])
def test_fastmri_of_one_coil_with_oversampling(stated, tmp_path):
    h5py = pytest.importorskip("h5py")
    wide = np.zeros((2 * H, W), complex)
    wide[H // 2 : H // 2 + H] = head()
    with h5py.File(tmp_path / "k.h5", "w") as file:
        file["kspace"] = fourier(wide)[None].astype(np.complex64)
        if stated == "header":
            file["ismrmrd_header"] = HEADER.format(2 * H, H, W)
        else:
            file["ismrmrd_header"] = "not a header"
            file["reconstruction_esc"] = np.abs(head())[None, :, 4:-4]
    found = read_kspace(tmp_path / "k.h5")
    assert found.image_shape == (2, H, W) and found.record["maps"] == "none"
    assert relative(in_file_units(found), fourier(head())) < 1e-5


def write_ismrmrd(path, kspace, mask, trajectory="cartesian"):
    """Write the sampled lines in a random order, with a noise scan and a second repetition."""
    ismrmrd = pytest.importorskip("ismrmrd")
    xsd = ismrmrd.xsd
    coils, samples, columns = kspace.shape

    def space(x):
        size = xsd.matrixSizeType(x=x, y=columns, z=1)
        view = xsd.fieldOfViewMm(x=200.0, y=200.0, z=5.0)
        return xsd.encodingSpaceType(matrixSize=size, fieldOfView_mm=view)

    limit = xsd.limitType(minimum=0, maximum=columns - 1, center=columns // 2)
    encoding = xsd.encodingType(
        encodedSpace=space(samples),
        reconSpace=space(samples // 2),
        encodingLimits=xsd.encodingLimitsType(kspace_encoding_step_1=limit),
        trajectory=xsd.trajectoryType(trajectory),
    )
    conditions = xsd.experimentalConditionsType(H1resonanceFrequency_Hz=63_500_000)
    header = xsd.ismrmrdHeader(experimentalConditions=conditions, encoding=[encoding])
    lines = []
    order = np.random.default_rng(0).permutation(np.flatnonzero(mask[0]))
    for row, factor, repetition in [
        (c, f, r) for c in order for f, r in ((0.5, 0), (1.5, 0), (9, 1))
    ]:
        data = np.ascontiguousarray(factor * kspace[:, :, row]).astype(np.complex64)
        line = ismrmrd.Acquisition.from_array(data)
        line.idx.kspace_encode_step_1, line.idx.repetition = int(row), repetition
        line.center_sample = samples // 2
        lines.append(line)
    noise = ismrmrd.Acquisition.from_array(np.full((coils, samples), 7, np.complex64))
    noise.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    with ismrmrd.File(path, mode="w") as file:
        file["dataset"].header = header
        file["dataset"].acquisitions = [noise, *lines]


def test_ismrmrd_lines_are_sorted_and_averaged(mask, tmp_path):
    wide = np.zeros((2 * H, W), complex)
    wide[H // 2 : H // 2 + H] = head()
    tall = np.concatenate([mask, mask])
    write_ismrmrd(tmp_path / "k.h5", fourier(wide)[None], tall)
    found = read_kspace(tmp_path / "k.h5")
    assert relative(in_file_units(found), fourier(head()) * mask) < 1e-5
    assert np.array_equal(found.A.mask[0, 0], mask)
    assert found.record["format"] == "ISMRMRD" and found.record["readout"] == [2 * H, H]
    assert found.record["lines_read"] == 2 * int(mask[0].sum())


def test_ismrmrd_that_is_not_cartesian_is_refused(kspace, mask, tmp_path):
    write_ismrmrd(tmp_path / "k.h5", kspace, mask, "radial")
    with pytest.raises(gprior.InputError, match=r"Cartesian 2-D scan.*radial.*\.npz"):
        read_kspace(tmp_path / "k.h5")


def test_hdf5_that_is_refused(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "k.h5"
    with h5py.File(path, "w") as file:
        file["image"] = np.ones(3)
    with pytest.raises(gprior.InputError, match=r"dataset named kspace.*\['image'\]"):
        read_kspace(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(gprior.InputError, match="not a whole HDF5 file"):
        read_kspace(path)
    with h5py.File(path, "w") as file:
        file["kspace"] = np.ones((3, H, W))
    with pytest.raises(gprior.InputError, match=r"kspace of .* must be complex"):
        read_kspace(path)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(gprior.InputError, match=r"needs h5py.*gprior\[mri\]"):
        read_kspace(path)


# --- Sinograms -------------------------------------------------------------------------------

SIDE, SPACING, WATER = 64, 2.0, 0.02  # pixels, mm, 1/mm
DISCS = ((0.0, 0.0, 50.0, WATER), (18.0, -10.0, 14.0, 0.8 * WATER))  # x, y, radius, attenuation


def chords(points, directions):
    """Return line integrals through the discs along rays (..., 2)."""
    total = 0.0
    for x, y, radius, value in DISCS:
        to = np.array([x, y]) - points
        away = directions[..., 0] * to[..., 1] - directions[..., 1] * to[..., 0]
        total = total + value * 2 * np.sqrt(np.maximum(radius**2 - away**2, 0))
    return total


def parallel_sinogram(angles, detectors=SIDE):
    s = (np.arange(detectors) - (detectors - 1) / 2)[:, None] * SPACING
    t = np.deg2rad(angles)
    across = np.stack([np.cos(t), np.sin(t)], -1)
    along = np.stack([-np.sin(t), np.cos(t)], -1)
    return chords(s[..., None] * across, np.broadcast_to(along, (detectors, len(t), 2)))


FAN = {"source_radius": 300.0, "detector_radius": 200.0, "detector_spacing": 3.0, "size": SIDE}


def fan_sinogram(angles, detectors=80):
    u = (np.arange(detectors) - (detectors - 1) / 2)[:, None, None] * FAN["detector_spacing"]
    t = np.deg2rad(angles)
    axis, across = np.stack([np.cos(t), np.sin(t)], -1), np.stack([np.sin(t), -np.cos(t)], -1)
    source = -FAN["source_radius"] * axis
    ray = FAN["detector_radius"] * axis + u * across - source
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    return chords(np.broadcast_to(source, ray.shape), ray)


def region(image, x, y, radius=6):
    """Return the mean of an image around a point in mm; y points up."""
    axis = (np.arange(len(image)) - (len(image) - 1) / 2) * SPACING
    inside = (axis - x) ** 2 + (-axis[:, None] - y) ** 2 < radius**2
    return image[inside].mean()


@pytest.mark.parametrize("geometry", ["parallel", "fan"])
@pytest.mark.parametrize("window", [None, (-1000, 2000), (1500, -1000)])
def test_a_sinogram_is_in_hounsfield_units(geometry, window, tmp_path):
    angles = np.arange(0, 180 if geometry == "parallel" else 360, 6.0)
    y = parallel_sinogram(angles) if geometry == "parallel" else fan_sinogram(angles)
    fan = FAN if geometry == "fan" else {}
    arrays = {"angles": angles, "pixel_spacing": SPACING, "geometry": geometry, **fan}
    np.savez(tmp_path / "s.npz", sinogram=y, **arrays)
    found = read_sinogram(tmp_path / "s.npz", window)
    assert found.y.shape == (1, 1, *y.shape) and found.image_shape == (1, SIDE, SIDE)
    image = found.in_file_units(found.A.A_dagger(found.y))[0]
    assert region(image, -20, 20) == pytest.approx(0, abs=15)  # water
    assert region(image, 18, -10) == pytest.approx(800, abs=15)  # right of the centre and below
    assert region(image, 0, 58, 3) == pytest.approx(-1000, abs=60)  # air
    assert found.intensity == (window or (-1000, 1000)) and found.record["units"] == "HU"


def test_any_water_value_and_order_of_the_axes(tmp_path):
    angles = np.arange(0, 180, 6.0)
    y = parallel_sinogram(angles)
    np.savez(tmp_path / "a.npz", sinogram=y, angles=angles, pixel_spacing=SPACING)
    np.savez(
        tmp_path / "b.npz", y=1.5 * y.T, angles=angles, pixel_spacing=SPACING, mu_water=1.5 * WATER
    )
    a, b = read_sinogram(tmp_path / "a.npz"), read_sinogram(tmp_path / "b.npz")
    torch.testing.assert_close(a.y, b.y, atol=1e-5, rtol=1e-5)
    assert b.record["axes"] == "angles, detectors" and b.record["mu_water"] == 1.5 * WATER


def test_detectors_along_the_diagonal(tmp_path):
    angles = np.arange(0, 180, 6.0)
    y = parallel_sinogram(angles, 91)
    np.savez(tmp_path / "s.npz", sinogram=y, angles=angles, pixel_spacing=SPACING, size=SIDE)
    found = read_sinogram(tmp_path / "s.npz")
    image = found.in_file_units(found.A.A_dagger(found.y))[0]
    assert image.shape == (SIDE, SIDE)
    assert region(image, 18, -10) == pytest.approx(800, abs=15)


def test_without_a_length_the_scale_is_a_percentile_and_is_undone(tmp_path):
    angles = np.arange(0, 180, 6.0)
    np.savez(tmp_path / "s.npz", sinogram=parallel_sinogram(angles), angles=angles)
    found = read_sinogram(tmp_path / "s.npz")
    back = found.A.A_dagger(found.y, fbp=True)
    assert torch.quantile(back.flatten(), 0.99) == pytest.approx(1, rel=1e-4)
    image = found.in_file_units(found.A.A_dagger(found.y))[0]
    assert region(image, -20, 20) == pytest.approx(WATER * SPACING, rel=0.02)  # per pixel
    y = found.y[0, 0].numpy() * found.unit
    assert relative(y, parallel_sinogram(angles)) < 1e-5
    with pytest.raises(gprior.InputError, match="pixel_spacing in mm"):
        read_sinogram(tmp_path / "s.npz", (-1000, 1000))


ANGLES = np.arange(8.0)
SINOGRAMS = {
    "no angles": ({"sinogram": np.ones((16, 8))}, "angles is missing"),
    "no sinogram": ({"angles": ANGLES}, "y is missing"),
    "other angles": ({"y": np.ones((16, 9)), "angles": ANGLES}, r"\(detectors, 8\)"),
    "NaN": ({"y": np.full((16, 8), np.nan), "angles": ANGLES}, "must be finite"),
    "counts": ({"y": -np.ones((16, 8)), "angles": ANGLES}, "without positive values"),
    "geometry": ({"y": np.ones((16, 8)), "angles": ANGLES, "geometry": "cone"}, "got 'cone'"),
    "size": ({"y": np.ones((16, 8)), "angles": ANGLES, "size": 5}, "size of .* must be 16"),
    "fan": (
        {"y": np.ones((16, 8)), "angles": ANGLES, "geometry": "fan", "size": 16},
        "must state pixel_spacing, source_radius, detector_radius, detector_spacing in mm",
    ),
    "spacing": ({"y": np.ones((16, 8)), "angles": ANGLES, "pixel_spacing": -1}, "one positive"),
}


@pytest.mark.parametrize("case", SINOGRAMS)
def test_sinograms_that_are_refused(case, tmp_path):
    arrays, message = SINOGRAMS[case]
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(gprior.InputError, match=message):
        read_sinogram(tmp_path / "s.npz")


def test_an_odd_window_is_refused(tmp_path):
    angles = np.arange(0, 180, 6.0)
    y = parallel_sinogram(angles)
    np.savez(tmp_path / "s.npz", sinogram=y, angles=angles, pixel_spacing=SPACING)
    with pytest.raises(gprior.InputError, match="two different finite numbers"):
        read_sinogram(tmp_path / "s.npz", (5, 5))


# --- On the command line ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def prior_file(tiny_prior, tmp_path_factory):
    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    save_prior(tiny_prior(16, 1, 0, torch.float32), path)
    return path


def reconstruct(source, out, operator, prior, **others):
    constants = ("steps=1", "init=random")
    options = Options(operator, prior=str(prior), device="cpu", constants=constants, **others)
    run(source, out, options)
    return json.loads((out / "record.json").read_text())


def test_kspace_from_the_command_line(kspace, mask, prior_file, tmp_path):
    np.savez(tmp_path / "k.npz", kspace=kspace * mask, mask=mask[0], maps=coil_maps())
    out = tmp_path / "out"
    record = reconstruct(tmp_path / "k.npz", out, "mri", prior_file, noise=1e-7)
    x = np.load(out / "reconstruction.npy")
    image = np.load(out / "on-input-grid.npy")
    assert x.shape == (1, 2, H, W) and image.shape == (H, W) and image.dtype == np.complex64
    scale = record["acquisition"]["scale"]
    assert relative(image, (x[0, 0] + 1j * x[0, 1]) * scale) < 1e-5
    assert record["acquisition"]["intensity"] == [0, scale]
    misfit = fourier(coil_maps() * image) * mask - kspace * mask
    expected = np.linalg.norm(misfit) / np.linalg.norm(kspace * mask)
    assert record["data_consistency"] == [pytest.approx(expected, rel=1e-3)]
    assert record["stopping_rule"] == ["discrepancy"]
    page = (out / "report.html").read_text()
    assert "% of y" in page and "99th percentile" in page and "Pseudo-inverse" in page


def test_panels_of_complex_images_show_magnitudes(kspace, mask, prior_file, tmp_path):
    np.savez(tmp_path / "k.npz", kspace=kspace * mask, mask=mask[0], maps=coil_maps())
    constants = ("steps=1", "init=random")
    options = Options("mri", prior=str(prior_file), device="cpu", constants=constants)
    task = prepare(tmp_path / "k.npz", options)
    result = gprior.solve(task.y, task.A, task.prior, **task.constants)
    (case,) = cases_of(task, result)
    panels = {panel.title: panel.image for panel in case.panels}
    assert list(panels) == ["Aᵀ y, rescaled", "Pseudo-inverse", "Generated", "Reconstruction"]
    for title, x in (("Generated", result.generated), ("Reconstruction", result.x)):
        magnitude = np.hypot(*x[0].numpy()).clip(0, 1)
        np.testing.assert_allclose(panels[title], magnitude[None], atol=1e-6)


def test_a_sinogram_from_the_command_line(prior_file, tmp_path):
    angles = np.arange(0, 180, 6.0)
    y = parallel_sinogram(angles)
    np.savez(tmp_path / "s.npz", sinogram=y, angles=angles, pixel_spacing=SPACING)
    out = tmp_path / "out"
    record = reconstruct(tmp_path / "s.npz", out, "ct", prior_file, intensity="-1000,1500")
    x, image = np.load(out / "reconstruction.npy"), np.load(out / "on-input-grid.npy")
    assert image.shape == (SIDE, SIDE) and record["acquisition"]["units"] == "HU"
    inside = (x[0, 0] > 0) & (x[0, 0] < 1)
    np.testing.assert_allclose(image[inside], -1000 + 2500 * x[0, 0][inside], atol=0.1)
    assert 0 < record["data_consistency"][0] < 2


@pytest.mark.parametrize("operator", ["mri:2", "ct:12"])
def test_an_image_is_measured_as_a_scanner_does(operator, prior_file, tmp_path):
    image = np.clip(np.abs(head(16, 16)) / 4e-5, 0, 1)
    np.save(tmp_path / "image.npy", image)
    out = tmp_path / "out"
    record = reconstruct(tmp_path / "image.npy", out, operator, prior_file, simulate=True)
    assert record["image"]["shape"] == [1, 16, 16]
    assert np.load(out / "on-input-grid.npy").shape == (16, 16)
    assert np.load(out / "reconstruction.npy").shape[1] == (2 if operator == "mri:2" else 1)


@pytest.mark.parametrize(
    ("operator", "option"),
    [("mri", {"fit": "crop"}), ("mri", {"intensity": "0,1"}), ("ct", {"slice": 1})],
)
def test_options_that_a_scanner_has_no_use_for(operator, option, prior_file, tmp_path):
    with pytest.raises(gprior.InputError, match="is for images"):
        reconstruct(tmp_path / "k.npz", tmp_path / "out", operator, prior_file, **option)
