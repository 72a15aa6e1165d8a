"""Geometry of images: proportions in millimetres, axes, calibration, background, other volumes."""

from __future__ import annotations

import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from pydicom.data import get_testdata_file

from gprior.checks import InputError
from gprior.images import (
    ImageFileError,
    fit,
    percentile_intensity,
    read_image,
    to_unit,
    unfit,
    write_like,
)

# A disc of 48 mm is seen with pixels of these heights and widths in mm.
SPACINGS = ((4.0, 1.0), (1.0, 2.0))


def disc(spacing: tuple[float, float], extent: float = 64) -> NDArray[np.float64]:
    """Return a disc of 48 mm in a square of `extent` mm; one pixel has the size `spacing`."""
    height, width = ((np.arange(extent / step) + 0.5) * step - extent / 2 for step in spacing)
    return (np.hypot(height[:, None], width) < 24).astype(float)


def extent_of(picture: NDArray[np.float64]) -> tuple[int, int]:
    """Return height and width of what is above one half."""
    seen = picture > 0.5
    return int(seen.any(1).sum()), int(seen.any(0).sum())


def dicom_file(path: Path, stored: NDArray[Any], **elements: Any) -> None:
    """Write an image of 16 bits as DICOM, with a size of pixels or without."""
    data = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False))
    del data.PixelSpacing
    data.set_pixel_data(stored.astype(np.uint16), "MONOCHROME2", 16)
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    data.save_as(path)


def image_with(kind: str, spacing: tuple[float, float], folder: Path) -> Path:
    """Write the disc in a format that states the size of its pixels."""
    stored = (1000 * disc(spacing)).astype(np.uint16)
    height, width = spacing
    path = folder / f"in.{kind.partition('.')[2] or kind}"
    if kind == "spacing.dcm":
        dicom_file(path, stored, PixelSpacing=[height, width])
    elif kind == "imager.dcm":
        dicom_file(path, stored, ImagerPixelSpacing=[height, width])
    elif kind == "ratio.dcm":
        dicom_file(path, stored, PixelAspectRatio=[int(height), int(width)])
    elif kind == "zooms.nii.gz":
        # Columns of the slice run along the last of its axes, from the right to the left.
        affine = np.diag([width, height, 5.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(stored.T[:, :, None].astype("f4"), affine), path)
    elif kind in ("inch.tif", "cm.tif", "none.tif"):
        unit, scale = {"inch": (2, 25.4), "cm": (3, 10.0), "none": (1, 1.0)}[kind[:-4]]
        tags = {282: scale / width, 283: scale / height, 296: unit}
        Image.fromarray(stored).save(path, tiffinfo=tags)
    else:
        Image.fromarray(stored).save(path, dpi=(25.4 / width, 25.4 / height))
    return path


KINDS = ("spacing.dcm", "imager.dcm", "ratio.dcm", "zooms.nii.gz", "inch.tif", "cm.tif")


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("kind", [*KINDS, "none.tif", "png"])
def test_a_disc_is_round_on_the_grid_of_the_prior(
    kind: str, spacing: tuple[float, float], tmp_path: Path
) -> None:
    image = read_image(image_with(kind, spacing, tmp_path))
    assert image.spacing == pytest.approx(spacing, rel=1e-3)
    known = kind not in ("ratio.dcm", "none.tif")
    assert image.geometry["spacing_unit"] == ("mm" if known else "unknown")
    unit, _ = to_unit(image, (0, 1000))
    for mode in ("pad", "crop"):
        x, record = fit(unit, (64, 64), mode, image.spacing)  # type: ignore[arg-type]
        assert record["resized"] == [64, 64] and json.loads(json.dumps(record)) == record
        tall, wide = extent_of(x[0])
        assert abs(tall - 48) <= 2 and abs(wide - 48) <= 2
        back = unfit(x, record)
        assert back.shape == unit.shape
        assert np.mean((back > 0.5) == (unit > 0.5)) > 0.98
    # Twice as long in one direction: the prior sees it whole, or its middle.
    long = np.concatenate([unit, unit], 2)
    assert fit(long, (64, 64), "pad", image.spacing)[1]["resized"] == [32, 64]
    assert fit(long, (64, 64), "crop", image.spacing)[1]["resized"] == [64, 128]
    assert fit(long, (64, 64), "stretch", image.spacing)[1]["resized"] == [64, 64]


@pytest.mark.parametrize("kind", KINDS)
def test_a_derived_file_has_the_pixels_of_its_source(kind: str, tmp_path: Path) -> None:
    path = image_with(kind, SPACINGS[0], tmp_path)
    image = read_image(path)
    unit, intensity = to_unit(image)
    x, record = fit(unit, (32, 32), "pad", image.spacing)
    write_like(tmp_path / f"out.{path.name[3:]}", unfit(x, record), image, intensity, "test")
    again = read_image(tmp_path / f"out.{path.name[3:]}")
    assert again.pixels.shape == image.pixels.shape
    assert again.geometry["spacing"] == image.geometry["spacing"]
    assert again.geometry["spacing_unit"] == image.geometry["spacing_unit"]


def test_pixels_that_are_square_up_to_rounding_change_nothing() -> None:
    array = np.random.default_rng(0).random((1, 40, 30))
    plain, record = fit(array, (16, 16))
    for spacing in ((0.7, 0.7), (0.70001, 0.7)):
        x, other = fit(array, (16, 16), spacing=spacing)
        np.testing.assert_array_equal(x, plain)
        assert other | {"spacing": None} == record and other["spacing"] == list(spacing)


@pytest.mark.parametrize("bad", [(1,), (1, 0), (1, -2), (np.nan, 1), (np.inf, 1), "ab", 3])
def test_a_spacing_is_two_positive_numbers(bad: Any) -> None:
    with pytest.raises(InputError, match="spacing must be the height and the width of a pixel"):
        fit(np.ones((1, 4, 4)), (2, 2), spacing=bad)


@pytest.mark.parametrize("value", [[0, 1], ["", ""], None])
def test_a_size_of_pixels_that_is_no_size_is_unknown(value: Any, tmp_path: Path) -> None:
    dicom_file(tmp_path / "x.dcm", np.ones((4, 4)), PixelSpacing=value, PixelAspectRatio=[2, 1])
    assert read_image(tmp_path / "x.dcm").spacing == (2, 1)
    dicom_file(tmp_path / "x.dcm", np.ones((4, 4)), PixelSpacing=value)
    assert read_image(tmp_path / "x.dcm").spacing is None
    Image.new("L", (4, 4)).save(tmp_path / "x.tif", tiffinfo={282: 0.0, 283: 72.0})
    assert read_image(tmp_path / "x.tif").spacing is None


def test_nifti_in_metres_and_micrometres_is_in_millimetres(tmp_path: Path) -> None:
    for units, zoom in (("meter", 0.002), ("micron", 2000), ("mm", 2), ("unknown", 2)):
        file = nibabel.Nifti1Image(np.ones((4, 5, 6), "f4"), np.diag([zoom, 2 * zoom, zoom, 1]))
        file.header.set_xyzt_units(units)
        nibabel.save(file, tmp_path / "x.nii")
        assert read_image(tmp_path / "x.nii").spacing == pytest.approx((4, 2))


# --- The axis of a NIfTI file ----------------------------------------------------------------


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1.0, 2, 3, 1])])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_axis_of_a_single_slice_is_found(
    axis: int, affine: NDArray[np.float64], tmp_path: Path
) -> None:
    flat = np.random.default_rng(0).random((64, 48)).astype("f4")
    array = np.expand_dims(flat, axis)
    for more in (array, array[..., None], np.stack([array, -array], -1)):
        nibabel.save(nibabel.Nifti1Image(more, affine), tmp_path / "x.nii.gz")
        found, given = read_image(tmp_path / "x.nii.gz"), read_image(tmp_path / "x.nii.gz", 0, axis)
        assert found.geometry["axis"] == axis and found.slices == 1
        assert sorted(found.pixels.shape) == [1, 48, 64]
        np.testing.assert_array_equal(found.pixels, given.pixels)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_that_was_written_reads_back_as_the_same_image(axis: int, tmp_path: Path) -> None:
    volume = np.random.default_rng(1).random((12, 14, 16)).astype("f4")
    affine = np.array([[0, -2.0, 0, 5], [3, 0, 0.4, 6], [0, 0.3, 4, 7], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / "x.nii")
    image = read_image(tmp_path / "x.nii", slice=3, axis=axis)
    unit, intensity = to_unit(image)
    write_like(tmp_path / "y.nii", unit, image, intensity, "test")
    again = read_image(tmp_path / "y.nii")
    np.testing.assert_allclose(again.pixels, image.pixels, atol=1e-6)
    assert again.geometry["display"] == image.geometry["display"]
    assert again.spacing == pytest.approx(image.spacing)


def test_a_line_is_not_an_image(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.ones((1, 64, 48), "f4"), np.eye(4)), tmp_path / "x.nii")
    with pytest.raises(ImageFileError, match="choose another axis"):
        read_image(tmp_path / "x.nii", axis=2)
    nibabel.save(nibabel.Nifti1Image(np.ones((1, 1, 48), "f4"), np.eye(4)), tmp_path / "x.nii")
    np.save(tmp_path / "x.npy", np.ones((1, 7)))
    for end in ("png", "tif", "jpg"):
        Image.new("L", (1, 7)).save(tmp_path / f"x.{end}")
    dicom_file(tmp_path / "x.dcm", np.ones((7, 1)))
    for end in ("nii", "npy", "png", "tif", "jpg", "dcm"):
        with pytest.raises(ImageFileError, match="at least 2 pixels high and wide"):
            read_image(tmp_path / f"x.{end}")


# --- The calibration of a TIFF ---------------------------------------------------------------

IMAGEJ = "ImageJ=1.53t\nunit=\\u00B5m\nmin=0.0\n"


def tiff(stored: NDArray[Any], order: str, big: bool, tiled: bool, text: bytes) -> bytes:
    """Make a TIFF by hand: strips or tiles of 16 x 16, little- or big-endian, classic or big."""
    height, width = stored.shape
    if tiled:
        padded = np.zeros((-(-height // 16) * 16, -(-width // 16) * 16), stored.dtype)
        padded[:height, :width] = stored
        blocks = [
            padded[i : i + 16, k : k + 16]
            for i in range(0, len(padded), 16)
            for k in range(0, padded.shape[1], 16)
        ]
    else:
        blocks = [stored[i : i + 5] for i in range(0, height, 5)]
    parts = [block.astype(stored.dtype.newbyteorder(order)).tobytes() for block in blocks]
    head = 16 if big else 8
    places = [head + sum(map(len, parts[:i])) for i in range(len(parts))]
    body = b"".join(parts)
    word, large = ("Q", 16) if big else ("I", 4)
    numbers = "H", 3
    entries: list[tuple[int, int, str, tuple[int, ...]]] = [
        (256, *numbers[::-1], (width,)),
        (257, *numbers[::-1], (height,)),
        (258, *numbers[::-1], (8 * stored.dtype.itemsize,)),
        (259, *numbers[::-1], (1,)),
        (262, *numbers[::-1], (1,)),
        (270, 2, "B", tuple(text + b"\0")),
        (282, 5, "I", (1511811, 100000)),
        (283, 5, "I", (3779528, 1000000)),
        (296, *numbers[::-1], (3,)),
        (339, *numbers[::-1], (3 if stored.dtype.kind == "f" else 1,)),
    ]
    if tiled:
        entries += [(322, 3, "H", (16,)), (323, 3, "H", (16,))]
        entries += [(324, large, word, tuple(places)), (325, 4, "I", tuple(map(len, parts)))]
    else:
        entries += [(273, large, word, tuple(places)), (278, 3, "H", (5,))]
        entries += [(279, 4, "I", tuple(map(len, parts)))]
    room = 8 if big else 4
    table, extra = b"", b""
    at = head + len(body)
    after = at + (8 + 20 * len(entries) + 8 if big else 2 + 12 * len(entries) + 4)
    for tag, kind, code, values in sorted(entries):
        data = struct.pack(f"{order}{len(values)}{code}", *values)
        count = len(values) // 2 if kind == 5 else len(values)
        if len(data) > room:
            data, extra = (
                struct.pack(f"{order}{word}", after + len(extra)),
                extra + data + b"\0" * (-len(data) % 8),
            )
        table += struct.pack(f"{order}HH{word}", tag, kind, count) + data.ljust(room, b"\0")
    magic = b"II" if order == "<" else b"MM"
    start = struct.pack(f"{order}HHHQ", 43, 8, 0, at) if big else struct.pack(f"{order}HI", 42, at)
    counted = struct.pack(f"{order}{'Q' if big else 'H'}", len(entries))
    return magic + start + body + counted + table + b"\0" * room + extra


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("tiled", [False, True])
def test_tiff_keeps_its_calibration_however_it_is_encoded(
    dtype: str, order: str, big: bool, tiled: bool, tmp_path: Path
) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (21, 35)).astype(dtype)
    text = "unit=µm, 0.25 per pixel".encode()
    (tmp_path / "in.tif").write_bytes(tiff(stored, order, big, tiled, text))
    if big and order == ">":  # Pillow cannot read it
        with pytest.raises(ImageFileError, match=r"convert it with `tiffcp -L in\.tif new\.tif`"):
            read_image(tmp_path / "in.tif")
        return
    image = read_image(tmp_path / "in.tif")
    assert image.stored_dtype == dtype
    np.testing.assert_array_equal(image.pixels[0], stored)
    assert image.spacing == pytest.approx((10 / 3.779528, 10 / 15.11811))
    unit, intensity = to_unit(image)
    write_like(tmp_path / "out.tif", unit, image, intensity, "test")
    again = read_image(tmp_path / "out.tif")
    np.testing.assert_allclose(again.pixels, image.pixels, rtol=1e-6)
    assert again.geometry == image.geometry
    with Image.open(tmp_path / "out.tif") as picture:
        tags = picture.tag_v2  # type: ignore[attr-defined]
        assert tags[282] * 100000 == 1511811 and tags[283] * 1000000 == 3779528 and tags[296] == 3
        assert tags[270].encode("latin-1") == text
        assert "not for diagnosis" in tags[305]


def test_a_description_does_not_count_pages_that_are_gone(tmp_path: Path) -> None:
    pages = [Image.new("L", (8, 6), 10 * k) for k in range(3)]
    for text, expected in (
        (f"{IMAGEJ}images=3\nslices=3\nspacing=2\n", f"{IMAGEJ}spacing=2\n"),
        ("<OME><Pixels SizeZ='3'/></OME>", None),
        ("three slices of 0.5 mm", "three slices of 0.5 mm"),
    ):
        tags = {270: text, 282: 2.0, 283: 2.0, 296: 1}
        pages[0].save(tmp_path / "in.tif", save_all=True, append_images=pages[1:], tiffinfo=tags)
        image = read_image(tmp_path / "in.tif", slice=0)
        write_like(tmp_path / "out.tif", to_unit(image)[0], image, (0, 255), "test")
        with Image.open(tmp_path / "out.tif") as picture:
            found = picture.tag_v2[270]  # type: ignore[attr-defined]
        assert found == expected or (expected is None and "not for diagnosis" in found)


OME = (
    '<OME><Pixels PhysicalSizeX="0.25" PhysicalSizeXUnit="µm" PhysicalSizeY="1.0" '
    'PhysicalSizeYUnit="µm"/></OME>'
)


@pytest.mark.parametrize(
    ("text", "resolution", "spacing"),
    [
        ("ImageJ=1.53t\nunit=\\u00B5m\n", (4.0, 1.0), (0.001, 0.00025)),
        ("ImageJ=1.53t\nunit=mm\n", (4.0, 1.0), (1.0, 0.25)),
        ("ImageJ=1.53t\nunit=pixel\n", (4.0, 1.0), (1.0, 0.25)),
        (OME, (1.0, 1.0), (0.001, 0.00025)),
        (OME.replace("µm", "mm"), None, (1.0, 0.25)),
        (OME.replace("µm", "pixel"), None, None),
    ],
)
@pytest.mark.parametrize("pages", [1, 3])
@pytest.mark.parametrize("kind", [2, 7])  # a text, or bytes
def test_the_calibration_of_imagej_and_ome(
    text: str,
    resolution: tuple[float, float] | None,
    spacing: tuple[float, float] | None,
    pages: int,
    kind: int,
    tmp_path: Path,
) -> None:
    """Their text is on the first page alone, and the middle one is read."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[270] = text.encode()
    info.tagtype[270] = kind
    rates = {} if resolution is None else {282: resolution[0], 283: resolution[1], 296: 1}
    for tag, value in rates.items():
        info[tag] = value
    page = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8))
    page.encoderinfo = {"tiffinfo": info}
    others = [page.copy() for _ in range(pages - 1)]
    for other in others:
        other.encoderinfo = {"tiffinfo": rates}
    page.save(tmp_path / "in.tif", save_all=True, append_images=others, tiffinfo=info)
    image = read_image(tmp_path / "in.tif")
    assert image.spacing == (None if spacing is None else pytest.approx(spacing))
    write_like(tmp_path / "out.tif", to_unit(image)[0], image, (0, 255), "test")
    assert read_image(tmp_path / "out.tif").spacing == image.spacing


def test_a_ratio_of_pixels_that_is_no_size(tmp_path: Path) -> None:
    """PNG and JPEG can state that a pixel is four times as high as wide, without its size."""
    gray = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8))
    gray.save(tmp_path / "x.png")
    raw = (tmp_path / "x.png").read_bytes()
    chunk = b"pHYs" + struct.pack(">IIB", 4, 1, 0)
    chunk = struct.pack(">I", 9) + chunk + struct.pack(">I", zlib.crc32(chunk))
    at = raw.index(b"IDAT") - 4
    (tmp_path / "x.png").write_bytes(raw[:at] + chunk + raw[at:])
    gray.save(tmp_path / "x.jpg")
    jpeg = bytearray((tmp_path / "x.jpg").read_bytes())
    jpeg[13:18] = struct.pack(">BHH", 0, 4, 1)
    (tmp_path / "x.jpg").write_bytes(jpeg)
    for end in ("png", "jpg"):
        image = read_image(tmp_path / f"x.{end}")
        assert image.spacing == (1.0, 0.25) and image.geometry["spacing_unit"] == "unknown"
    gray.save(tmp_path / "x.jpg")
    assert read_image(tmp_path / "x.jpg").spacing is None


def test_ultrasound_states_the_size_of_its_pixels_in_regions(tmp_path: Path) -> None:
    data = pydicom.dcmread(str(get_testdata_file("MR_small.dcm", download=False)))
    del data.PixelSpacing
    regions = []
    for units in (3, 3, 4):  # a picture in cm, another one, and a curve over seconds
        region = pydicom.Dataset()
        region.PhysicalUnitsXDirection, region.PhysicalUnitsYDirection = units, 3
        region.PhysicalDeltaX, region.PhysicalDeltaY = 0.01 * units, -0.03 * units
        regions.append(region)
    data.SequenceOfUltrasoundRegions = regions
    data.save_as(tmp_path / "x.dcm")
    assert read_image(tmp_path / "x.dcm").spacing == pytest.approx((0.9, 0.3))
    regions[1].PhysicalDeltaX = 0.5
    data.save_as(tmp_path / "x.dcm")
    assert read_image(tmp_path / "x.dcm").spacing is None


def test_a_turned_picture_has_the_resolution_of_its_new_sides(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    ramp = np.add.outer(7 * np.arange(24), 2 * np.arange(32)).astype(np.uint8)
    for end in ("jpg", "tif"):
        tags = {"tiffinfo": {274: 6, 282: 100.0, 283: 50.0, 296: 2}} if end == "tif" else {}
        if end == "jpg":
            tags = {"exif": exif, "dpi": (100, 50)}
        Image.fromarray(ramp).save(tmp_path / f"in.{end}", **tags)
        image = read_image(tmp_path / f"in.{end}")
        quarter = np.rot90(ramp, -1)
        np.testing.assert_allclose(image.pixels[0], quarter, atol=0 if end == "tif" else 8)
        assert image.spacing == pytest.approx((0.254, 0.508))
        write_like(tmp_path / f"out.{end}", to_unit(image)[0], image, (0, 255), "test")
        again = read_image(tmp_path / f"out.{end}")
        assert again.pixels.shape == (1, 32, 24)
        assert again.spacing == pytest.approx((0.254, 0.508))


# --- Volumes in other formats ----------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # nibabel keeps the file of an .mgh open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["x.mgh", "x.mgz", "x.hdr", "x.img", "analyze.hdr"])
def test_other_volumes_are_refused_with_the_line_that_converts_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = np.random.default_rng(0).random((4, 5, 6)).astype("f4")
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    kind = nibabel.Nifti1Pair
    if name.startswith("x.mg"):
        kind = nibabel.MGHImage
    if name.startswith("analyze"):
        kind, affine = nibabel.AnalyzeImage, np.diag([-2.0, 3.0, 4.0, 1.0])
    kind(volume, affine).to_filename(tmp_path / name.replace(".hdr", ".img"))
    with pytest.raises(ImageFileError, match="keeps its geometry") as caught:
        read_image(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    exec(str(caught.value).partition("geometry: ")[2], {})
    again = nibabel.load("volume.nii.gz")
    assert type(again) is nibabel.Nifti1Image
    np.testing.assert_allclose(np.asarray(again.dataobj), volume, rtol=1e-6)
    np.testing.assert_allclose(again.header.get_zooms(), [2, 3, 4])
    np.testing.assert_allclose(np.abs(again.affine[:3, :3]), np.abs(affine[:3, :3]))
    assert read_image("volume.nii.gz").pixels.shape == (1, 5, 4)


@pytest.mark.parametrize("name", ["x.nrrd", "x.mha", "x.mhd"])
def test_volumes_of_itk_are_refused_with_the_line_that_converts_them(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"NRRD0004\n")
    with pytest.raises(ImageFileError, match=f"SimpleITK.ReadImage.'{name}'"):
        read_image(tmp_path / name)


def test_colour_and_complex_nifti_are_refused_with_the_lines_that_convert_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb["R"], rgb["B"] = 90, 30
    wave = np.full((4, 5, 6), 3 + 4j, np.complex64)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    monkeypatch.chdir(tmp_path)
    for array, expected in ((rgb, 40), (wave, 5)):
        nibabel.save(nibabel.Nifti1Image(array, affine), "x.nii.gz")
        with pytest.raises(ImageFileError, match="same geometry") as caught:
            read_image("x.nii.gz")
        exec(str(caught.value).partition("geometry: ")[2], {"nibabel": nibabel, "numpy": np})
        image = read_image("real.nii.gz")
        assert image.spacing == (3, 2)
        np.testing.assert_allclose(image.pixels, expected)


# --- Background ------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["nii.gz", "tif", "npy"])
@pytest.mark.parametrize("intensity", [None, (-5.0, 20.0), "percentile"])
def test_nan_is_background_and_stays_where_it_was(end: str, intensity: Any, tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(3, 17, (40, 32)).astype("f4")
    values[:10], values[20, 5] = np.nan, np.nan
    path = tmp_path / f"in.{end}"
    if end == "npy":
        np.save(path, values)
    elif end == "tif":
        Image.fromarray(values).save(path)
    else:
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 1, 1])), path)
    image = read_image(path)
    nan = np.isnan(values.T if end == "nii.gz" else values)
    assert image.background is not None
    np.testing.assert_array_equal(image.background[0], nan)
    assert image.pixels.min() == np.nanmin(values)
    unit, used = to_unit(image, intensity)
    expected = np.nanpercentile(values, (0.2, 99.8)) if intensity != (-5.0, 20.0) else intensity
    np.testing.assert_allclose(used, expected, rtol=1e-6)
    assert (unit[0][nan] == 0).all()
    # Nothing spreads: away from the border, the resampled background is 0 and the rest is not.
    x, record = fit(unit, (20, 20), "pad", image.spacing)
    assert np.isfinite(x).all()
    back = unfit(x, record)
    write_like(tmp_path / f"out.{end}", back, image, used, "test")
    again = read_image(tmp_path / f"out.{end}")
    np.testing.assert_array_equal(again.background, image.background)
    inside = ~nan
    expected = (used[0] + back * (used[1] - used[0]))[0][inside]
    np.testing.assert_allclose(again.pixels[0][inside], expected, rtol=1e-5)


def test_nothing_but_nan_and_infinity_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((4, 4), np.nan))
    with pytest.raises(ImageFileError, match="no pixel that is a number"):
        read_image(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.array([[np.inf, 1], [np.nan, -np.inf]]))
    with pytest.raises(ImageFileError, match="2 pixels that are infinite"):
        read_image(tmp_path / "x.npy")


def test_percentiles_of_16_bits(tmp_path: Path) -> None:
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64) + 31768
    Image.fromarray(stored).save(tmp_path / "x.png")
    image = read_image(tmp_path / "x.png")
    assert to_unit(image)[1] == (0, 65535)
    expected = tuple(np.percentile(stored, (0.2, 99.8)))
    assert to_unit(image, "percentile")[1] == expected == percentile_intensity(image)
    with pytest.raises(InputError, match="two different finite numbers"):
        to_unit(image, "percent")  # type: ignore[arg-type]


def test_messages_have_no_line_breaks(tmp_path: Path) -> None:
    (tmp_path / "x.mgz").write_bytes(b"")
    with pytest.raises(ImageFileError) as caught:
        read_image(tmp_path / "x.mgz")
    assert not re.search(r"\n", str(caught.value))
