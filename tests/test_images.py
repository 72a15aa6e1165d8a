"""Reading and writing image files: values, geometry, privacy, damaged files.

The real images are samples inside the installed packages pydicom and nibabel.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.pixels import apply_rescale, set_pixel_data

from gprior.checks import InputError
from gprior.images import (
    STAMP,
    ImageFileError,
    default_intensity,
    fit,
    from_unit,
    raster,
    read_image,
    save_png,
    to_unit,
    unfit,
    write_like,
)

NIBABEL = Path(nibabel.__file__).parent / "tests" / "data"
BRAIN = NIBABEL / "example4d.nii.gz"
ANATOMICAL = NIBABEL / "anatomical.nii"


def dicom(name: str) -> Path:
    path = get_testdata_file(name, download=False)
    assert path is not None
    return Path(str(path))


def pixels16(shape: tuple[int, ...] = (7, 11), seed: int = 0) -> NDArray[np.uint16]:
    """Return values that use all 16 bits."""
    stored = np.random.default_rng(seed).integers(0, 65536, shape).astype(np.uint16)
    stored.flat[:3] = 0, 65535, 257
    return stored


def save_tiff(path: Path, stored: NDArray[Any], **options: Any) -> Path:
    Image.fromarray(stored).save(path, "TIFF", **options)
    return path


def rewrite(source: Path, target: Path, shift: float = 0.0) -> tuple[Any, Any]:
    """Write the pixels of `source`, plus `shift`, as its reconstruction; return both images."""
    image = read_image(source)
    unit, intensity = to_unit(image)
    write_like(target, unit + shift, image, intensity, "test")
    return image, read_image(target)


# --- PNG, TIFF, JPEG, NPY --------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_kept_both_ways(tmp_path: Path, suffix: str) -> None:
    stored = pixels16()
    Image.fromarray(stored).save(tmp_path / f"in{suffix}")
    image, again = rewrite(tmp_path / f"in{suffix}", tmp_path / f"out{suffix}")
    for read in (image, again):
        assert read.stored_dtype == "uint16"
        assert read.value_range == (0, 65535)
        assert read.pixels.dtype == np.float64
        np.testing.assert_array_equal(read.pixels, stored[None])


def test_big_endian_and_multipage_tiff(tmp_path: Path) -> None:
    pages = [pixels16(seed=k) for k in range(3)]
    big = [Image.frombytes("I;16B", (11, 7), page.astype(">u2").tobytes()) for page in pages]
    big[0].save(tmp_path / "x.tif", save_all=True, append_images=big[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif", slice=2).pixels[0], pages[2])
    middle = read_image(tmp_path / "x.tif")
    np.testing.assert_array_equal(middle.pixels[0], pages[1])
    assert middle.geometry == {"pages": 3, "page": 1}
    with pytest.raises(ValueError, match="slice must be an integer from 0 to 2, got 3"):
        read_image(tmp_path / "x.tif", slice=3)


@pytest.mark.parametrize("index", [True, 1.0, "1", -1])
def test_a_slice_is_an_integer(tmp_path: Path, index: Any) -> None:
    """NumPy's integers are integers; booleans and floats are not."""
    save_tiff(
        tmp_path / "x.tif", pixels16(), save_all=True, append_images=[Image.new("I;16", (2, 2))]
    )
    assert read_image(tmp_path / "x.tif", slice=np.int64(1)).geometry["page"] == 1
    assert read_image(BRAIN, axis=np.int64(1)).geometry["axis"] == 1
    with pytest.raises(ImageFileError, match="slice must be an integer from 0 to 1, got"):
        read_image(tmp_path / "x.tif", slice=index)


@pytest.mark.parametrize(
    ("stored", "tags", "dtype"),
    [
        (np.array([[-5, 7], [300, -32768]], np.int16), {339: 2}, "int16"),
        (np.array([[-5, 7], [2**30, -(2**31)]], np.int32), {}, "int32"),
        (np.array([[-5.5, 0.25], [1e6, 3]], np.float32), {}, "float32"),
    ],
)
def test_signed_and_float_tiff(
    tmp_path: Path, stored: NDArray[Any], tags: dict[int, int], dtype: str
) -> None:
    plain = stored.view(np.uint16) if dtype == "int16" else stored
    save_tiff(tmp_path / "in.tif", plain, tiffinfo=tags)
    image, again = rewrite(tmp_path / "in.tif", tmp_path / "out.tif")
    assert image.stored_dtype == again.stored_dtype == dtype
    assert image.value_range is None
    np.testing.assert_array_equal(image.pixels[0], stored)
    np.testing.assert_allclose(again.pixels[0], stored, rtol=1e-6, atol=0.2 * (dtype == "float32"))


def test_white_is_zero_tiff_reads_bright_as_large(tmp_path: Path) -> None:
    """Tag 262 = 0 means that 0 is white; 8 and 16 bits must agree on what is bright."""
    data = save_tiff(tmp_path / "x.tif", pixels16()).read_bytes()
    entry = struct.pack("<HHI", 262, 3, 1)
    assert data.count(entry) == 1
    (tmp_path / "x.tif").write_bytes(data.replace(entry + b"\1", entry + b"\0"))
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif").pixels[0], 65535 - pixels16())


def test_alpha_palette_bilevel_and_cmyk(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    gray = rgb[..., 0]
    alpha = np.full((5, 6), 40, np.uint8)

    def read(picture: Image.Image, name: str) -> NDArray[np.float64]:
        picture.save(tmp_path / name)
        image = read_image(tmp_path / name)
        assert image.stored_dtype == "uint8"
        assert image.value_range == (0.0, 255.0)
        return image.pixels

    chw = np.moveaxis(rgb, 2, 0)
    np.testing.assert_array_equal(read(Image.fromarray(rgb), "rgb.png"), chw)
    rgba = np.dstack([rgb, alpha])
    np.testing.assert_array_equal(read(Image.fromarray(rgba), "rgba.png"), chw)
    la = Image.merge("LA", (Image.fromarray(gray), Image.fromarray(alpha)))
    np.testing.assert_array_equal(read(la, "la.png"), gray[None])
    shades = Image.fromarray(gray)
    shades.putpalette([value for shade in range(256) for value in (shade,) * 3])
    np.testing.assert_array_equal(read(shades, "graypalette.png"), gray[None])
    few = Image.fromarray(rgb).quantize(200)
    np.testing.assert_array_equal(
        read(few, "palette.png"), np.moveaxis(np.array(few.convert("RGB")), 2, 0)
    )
    np.testing.assert_array_equal(
        read(Image.fromarray(gray > 99), "one.png"), 255.0 * (gray > 99)[None]
    )
    assert read(Image.fromarray(rgb).convert("CMYK"), "cmyk.tif").shape == (3, 5, 6)


def png16(color_type: int, channels: int) -> bytes:
    """Make a 16-bit PNG of several channels, which Pillow silently reads as 8-bit."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    rows = b"".join(b"\0" + bytes(range(2 * channels * 4)) for _ in range(3))
    header = struct.pack(">IIBBBBB", 4, 3, 16, color_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_colour_is_refused_not_reduced(
    tmp_path: Path, color_type: int, channels: int
) -> None:
    (tmp_path / "x.png").write_bytes(png16(color_type, channels))
    with pytest.raises(ImageFileError, match=r"16 bits in each of several channels.*\.npy"):
        read_image(tmp_path / "x.png")


def test_jpeg_upright_and_close(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 16 * 24).reshape(16, 24).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(ramp).save(tmp_path / "in.jpg", exif=exif, quality=100, dpi=(300, 300))
    image, again = rewrite(tmp_path / "in.jpg", tmp_path / "out.jpg")
    assert image.format == "jpeg"
    assert image.geometry == again.geometry
    size = pytest.approx(25.4 / 300)
    assert image.geometry == {"dpi": [300, 300], "spacing": [size, size], "spacing_unit": "mm"}
    for read in (image, again):
        assert np.abs(read.pixels[0] - np.rot90(ramp, -1)).max() <= 4
    with Image.open(tmp_path / "out.jpg") as picture:
        assert STAMP.encode() in picture.info["comment"]


@pytest.mark.parametrize("shape", [(5, 6), (1, 5, 6), (3, 5, 6)])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int32", "float16", "float64"])
def test_npy(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    array = (np.random.default_rng(0).random(shape) * 200 > 90).astype(dtype)
    np.save(tmp_path / "in.npy", array)
    image, again = rewrite(tmp_path / "in.npy", tmp_path / "out.npy")
    assert image.pixels.shape == (shape[0] if len(shape) == 3 else 1, 5, 6)
    assert image.value_range == {"bool": (0, 1), "uint8": (0, 255), "uint16": (0, 65535)}.get(dtype)
    stored = np.load(tmp_path / "out.npy")
    assert stored.shape == shape
    assert stored.dtype == ("float64" if dtype == "float64" else "float32")
    np.testing.assert_allclose(again.pixels, image.pixels, atol=1e-6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5, 3)), r"shape \(4, 5, 3\)"),
        (np.zeros(4), r"shape \(4,\)"),
        (np.zeros((4, 4), complex), "magnitude"),
        (np.array([[None, {}]], object), "cannot be read"),
        (np.array([[np.inf, 1.0], [np.nan, 2.0]]), "1 pixels that are infinite"),
        (np.zeros((0, 4)), "0 x 4 pixels"),
    ],
)
def test_npy_that_is_no_image(tmp_path: Path, array: NDArray[Any], message: str) -> None:
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(ImageFileError, match=message) as caught:
        read_image(tmp_path / "x.npy")
    assert "x.npy" in str(caught.value)


# --- Intensities and previews ----------------------------------------------------------------


def test_to_unit_is_linear_and_inverts() -> None:
    image = read_image(dicom("CT_small.dcm"))
    unit, intensity = to_unit(image, (-160, 240))
    assert intensity == (-160.0, 240.0)
    assert unit.min() < 0 and unit.max() > 1
    np.testing.assert_allclose(unit, (image.pixels + 160) / 400)
    np.testing.assert_allclose(from_unit(unit, intensity), image.pixels, atol=1e-9)
    flipped, _ = to_unit(image, (240, -160))
    np.testing.assert_allclose(flipped, 1 - unit)


@pytest.mark.parametrize(
    "bad", [(1, 1), (0, np.nan), (0,), (0, 1, 2), (-np.inf, 1), (0, "a"), (0, None), (0, True), 5]
)
def test_intensity_must_be_two_different_numbers(bad: Any) -> None:
    with pytest.raises(InputError, match="intensity must be two different finite numbers"):
        to_unit(read_image(dicom("MR_small.dcm")), bad)


def test_default_intensity(tmp_path: Path) -> None:
    def of(array: NDArray[Any]) -> tuple[float, float]:
        np.save(tmp_path / "x.npy", array)
        return default_intensity(read_image(tmp_path / "x.npy"))

    ramp = np.arange(10_000.0).reshape(100, 100)
    assert of(ramp / 10_000) == (0, 1)
    np.testing.assert_allclose(of(ramp), (19.998, 9979.002))
    hot = ramp.copy()
    hot[0, :3] = 1e9
    assert of(hot)[1] < 10_000
    sparse = np.zeros((100, 100))
    sparse[3, 4] = 7
    assert of(sparse) == (0, 7)
    with pytest.raises(
        ValueError, match=r"intensity must be given.*constant.*give two different numbers LO, HI"
    ):
        of(np.full((4, 4), 5.0))


def test_padding_and_values_below_air_do_not_count(tmp_path: Path) -> None:
    expected = default_intensity(read_image(dicom("CT_small.dcm")))
    for value, tagged in ((1500, True), (-3000, False)):
        data = pydicom.dcmread(dicom("CT_small.dcm"))
        stored = data.pixel_array.copy()
        corner = stored[:64, :64] * 0 + value + (0 if tagged else 1024)
        stored[:64, :64] = corner
        data.PixelPaddingValue = value if tagged else -32768
        set_pixel_data(data, stored, "MONOCHROME2", 16)
        data.save_as(tmp_path / "x.dcm")
        image = read_image(tmp_path / "x.dcm")
        assert image.pixels[0, 0, 0] == (value - 1024 if tagged else value)
        kept = np.ones((128, 128), bool)
        kept[:64, :64] = False
        percentiles = np.percentile(image.pixels[0][kept], (0.2, 99.8))
        np.testing.assert_allclose(default_intensity(image), percentiles, atol=3)
        assert abs(default_intensity(image)[0] - expected[0]) < 50


def test_save_png_clamps(tmp_path: Path) -> None:
    array = np.array([[-1.0, 0.5], [1.0, 3.0]])
    save_png(tmp_path / "x.png", array)
    assert read_image(tmp_path / "x.png").pixels.tolist() == [[[0, 128], [255, 255]]]
    save_png(tmp_path / "x.png", array[None], bits=16)
    assert read_image(tmp_path / "x.png").pixels.tolist() == [[[0, 32768], [65535, 65535]]]
    save_png(tmp_path / "x.png", np.stack([array] * 3))
    assert read_image(tmp_path / "x.png").pixels.shape == (3, 2, 2)
    for bad in (np.zeros((2, 4, 4)), np.zeros((1, 1, 4, 4)), np.array([[np.nan]])):
        with pytest.raises(ValueError, match="array"):
            save_png(tmp_path / "y.png", bad)
    with pytest.raises(ValueError, match="bits must be 8"):
        save_png(tmp_path / "y.png", np.zeros((3, 4, 4)), bits=16)
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


# --- Grids -----------------------------------------------------------------------------------


def blob(shape: tuple[int, int], centre: tuple[float, float], width: float) -> NDArray[np.float64]:
    """Return a Gaussian; `centre` is in pixels, and the first pixel reaches from 0 to 1."""
    rows, columns = (np.arange(n) + 0.5 - c for n, c in zip(shape, centre, strict=True))
    picture: NDArray[np.float64] = np.exp(-(rows[:, None] ** 2 + columns**2) / (2 * width**2))
    return picture


def centroid(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.clip(picture, 0, None)
    axes = [np.arange(n) + 0.5 for n in picture.shape]
    moments = [float(weights.sum(1) @ axes[0]), float(weights.sum(0) @ axes[1])]
    return np.array(moments) / float(weights.sum())


@pytest.mark.parametrize("mode", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("shape", [(96, 60), (60, 97), (64, 64), (300, 484), (31, 20)])
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_landmark_goes_where_the_record_says_and_back(
    mode: Any, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    centre = (0.45 * shape[0], 0.56 * shape[1])
    width = 0.05 * min(shape)
    there, record = fit(blob(shape, centre, width)[None], size, mode)
    record = json.loads(json.dumps(record))
    assert there.shape == (1, *size)
    scale = np.array(record["resized"]) / shape
    expected = np.array(record["offset"]) + scale * centre
    assert np.abs(centroid(there[0]) - expected).max() < 0.1
    if mode != "stretch":
        assert abs(scale[0] / scale[1] - 1) < 0.02
    back = unfit(there, record)
    assert back.shape == (1, *shape)
    assert np.abs(centroid(back[0]) - centre).max() < 0.1 / scale.min()


def test_pad_shows_everything_and_crop_fills() -> None:
    ones = np.ones((3, 30, 20))
    padded, record = fit(ones, (12, 12), "pad")
    np.testing.assert_allclose(padded[:, :, 2:10], 1, atol=1e-6)
    assert padded[:, :, :2].max() == padded[:, :, 10:].max() == 0
    np.testing.assert_allclose(unfit(padded, record), ones, atol=1e-6)
    cropped, record = fit(ones, (12, 12), "crop")
    np.testing.assert_allclose(cropped, 1, atol=1e-6)
    back = unfit(cropped, record)
    # The 20 columns and the middle 20 of the 30 rows are kept. No pixel is between 0 and 1.
    np.testing.assert_allclose(back[:, 5:25], 1, atol=1e-6)
    assert back[:, :5].max() == back[:, 25:].max() == 0


def test_fit_without_a_change_of_size_is_exact_and_shrinking_is_antialiased() -> None:
    array = np.random.default_rng(0).standard_normal((1, 9, 9))
    for mode in ("pad", "crop", "stretch"):
        same, record = fit(array, (9, 9), mode)
        np.testing.assert_array_equal(same, array)
        np.testing.assert_array_equal(unfit(same, record), array)
    checker = np.indices((64, 64)).sum(0)[None] % 2
    small, _ = fit(checker, (8, 8))
    assert np.abs(small - 0.5).max() < 0.02


def test_fit_refuses() -> None:
    with pytest.raises(ValueError, match=r"\(C, H, W\)"):
        fit(np.zeros((4, 4)), (2, 2))
    for size in ((2, 0), (2.5, 2), (2,), (2, 2, 2), ("a", 2), (True, 2), 2):
        with pytest.raises(InputError, match="size must be two positive integers"):
            fit(np.zeros((1, 4, 4)), size)  # type: ignore[arg-type]
    assert fit(np.zeros((1, 4, 4)), np.array([2, 3]))[0].shape == (1, 2, 3)
    with pytest.raises(ValueError, match="'pad', 'crop' or 'stretch', got 'fill'"):
        fit(np.zeros((1, 4, 4)), (2, 2), "fill")  # type: ignore[arg-type]
    _, record = fit(np.zeros((1, 4, 4)), (2, 2))
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(1, 4, 4\)"):
        unfit(np.zeros((1, 4, 4)), record)


# --- DICOM -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm",
        "examples_overlay.dcm",
        "examples_rgb_color.dcm",
        "SC_rgb_rle_2frame.dcm",
        "SC_rgb_rle_16bit.dcm",
    ],
)
def test_dicom_values_and_derived_header(tmp_path: Path, name: str) -> None:
    source = pydicom.dcmread(dicom(name))
    image, again = rewrite(dicom(name), tmp_path / "out.dcm")
    stored = pydicom.pixels.pixel_array(source, index=image.geometry["frame"])
    expected = stored if stored.ndim == 3 else apply_rescale(stored, source)[..., None]
    np.testing.assert_array_equal(image.pixels, np.moveaxis(expected, 2, 0))
    np.testing.assert_array_equal(again.pixels, image.pixels)
    same_place = dict(again.geometry, frame=0, frames=1) == dict(image.geometry, frame=0, frames=1)
    assert same_place

    derived = pydicom.dcmread(tmp_path / "out.dcm")
    assert derived.file_meta.MediaStorageSOPInstanceUID == derived.SOPInstanceUID
    assert list(derived.ImageType[:2]) == ["DERIVED", "SECONDARY"]
    assert derived.SeriesDescription == STAMP == "generative reconstruction, not for diagnosis"
    assert derived.DerivationDescription == f"{STAMP}: test"
    assert derived.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert derived.SOPInstanceUID != source.SOPInstanceUID
    assert derived.SeriesInstanceUID != source.SeriesInstanceUID
    assert not any(e.tag.is_private or 0x6000 <= e.tag.group <= 0x60FF for e in derived)
    changed = [
        "SOPInstanceUID",
        "SeriesInstanceUID",
        "SeriesNumber",
        "ImageType",
        "PixelData",
        "SeriesDescription",
        "InstanceCreationDate",
        "InstanceCreationTime",
        "ContentDate",
        "ContentTime",
        "DerivationDescription",
        "SourceImageSequence",
        "PlanarConfiguration",
        "NumberOfFrames",
        "DataSetTrailingPadding",
        "SmallestImagePixelValue",
        "LargestImagePixelValue",
        "HighBit",
        "IconImageSequence",
    ]
    for element in source:
        if element.tag.is_private or element.tag.group >= 0x6000 or element.keyword in changed:
            continue
        assert derived[element.tag].value == element.value, element.keyword
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PixelSpacing", "BitsStored"):
        assert derived.get(keyword) == source.get(keyword)


def test_ct_is_in_hounsfield_units_and_new_values_survive_up_to_rounding(tmp_path: Path) -> None:
    image = read_image(dicom("CT_small.dcm"))
    assert (image.pixels.min(), image.pixels.max()) == (-896, 1167)
    assert image.geometry["spacing_mm"] == [0.661468, 0.661468]
    assert image.geometry["slice_thickness_mm"] == 5
    new = np.random.default_rng(0).uniform(-1000, 2000, image.pixels.shape)
    new[0, 0, :2] = -1e6, 1e6
    write_like(tmp_path / "x.dcm", (new + 1000) / 3000, image, (-1000, 2000), "größer\nthan é")
    again = read_image(tmp_path / "x.dcm").pixels
    assert np.abs(again - new).ravel()[2:].max() <= 0.5 + 1e-9
    assert again[0, 0, :2].tolist() == [-32768 - 1024, 32767 - 1024]


def test_values_stay_within_bits_stored(tmp_path: Path) -> None:
    image = read_image(dicom("examples_overlay.dcm"))
    write_like(tmp_path / "x.dcm", image.pixels * 0 + 9, image, (0, 1e4), "test")
    assert read_image(tmp_path / "x.dcm").pixels.max() == 4095
    assert pydicom.dcmread(tmp_path / "x.dcm").BitsStored == 12


def test_monochrome1_is_inverted_by_the_default_intensity(tmp_path: Path) -> None:
    data = pydicom.dcmread(dicom("MR_small.dcm"))
    data.PhotometricInterpretation = "MONOCHROME1"
    data.save_as(tmp_path / "in.dcm")
    normal, _ = to_unit(read_image(dicom("MR_small.dcm")))
    image, again = rewrite(tmp_path / "in.dcm", tmp_path / "out.dcm")
    np.testing.assert_allclose(to_unit(image)[0], 1 - normal)
    assert image.inverted and again.inverted
    np.testing.assert_array_equal(again.pixels, image.pixels)


def enhanced(path: Path) -> NDArray[np.int16]:
    """Write an enhanced multi-frame MR of three frames, made of MR_small."""
    data = pydicom.dcmread(dicom("MR_small.dcm"))
    frames = np.stack([data.pixel_array + k for k in range(3)]).astype(np.int16)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        del data[keyword]
    data.SOPClassUID = pydicom.uid.EnhancedMRImageStorage
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.75], 3
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    data.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for k in range(3):
        position, values, kind, group = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [0, 4 * k, 0]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 2 + k, 10, "US"
        kind.FrameType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
        group.PlanePositionSequence = [position]
        group.PixelValueTransformationSequence = [values]
        group.MRImageFrameTypeSequence = [kind]
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = groups
    set_pixel_data(data, frames, "MONOCHROME2", 16)
    data.save_as(path)
    return frames


def test_enhanced_multiframe(tmp_path: Path) -> None:
    frames = enhanced(tmp_path / "in.dcm")
    assert read_image(tmp_path / "in.dcm").geometry["frame"] == 1
    image = read_image(tmp_path / "in.dcm", slice=2)
    np.testing.assert_array_equal(image.pixels[0], frames[2] * 4.0 + 10)
    assert image.geometry["position_mm"] == [0, 8, 0]
    assert image.geometry["orientation"] == [1, 0, 0, 0, 0, -1]
    assert image.geometry["spacing_mm"] == [0.5, 0.75]
    unit, intensity = to_unit(image)
    write_like(tmp_path / "out.dcm", unit, image, intensity, "test")
    again = read_image(tmp_path / "out.dcm")
    np.testing.assert_array_equal(again.pixels, image.pixels)
    assert again.geometry == dict(image.geometry, frame=0, frames=1)
    derived = pydicom.dcmread(tmp_path / "out.dcm")
    assert derived.NumberOfFrames == 1
    assert derived.SourceImageSequence[0].ReferencedFrameNumber == 3
    kind = derived.PerFrameFunctionalGroupsSequence[0].MRImageFrameTypeSequence[0].FrameType
    assert list(kind) == ["DERIVED", "SECONDARY", "M", "NONE"]


def test_old_multiframe_does_not_claim_the_position_of_another_frame(tmp_path: Path) -> None:
    data = pydicom.dcmread(dicom("MR_small.dcm"))
    set_pixel_data(data, np.stack([data.pixel_array] * 3), "MONOCHROME2", 16)
    data.save_as(tmp_path / "in.dcm")
    image, again = rewrite(tmp_path / "in.dcm", tmp_path / "out.dcm")
    assert image.geometry["frames"] == 3 and again.geometry["frames"] == 1
    assert image.geometry["position_mm"] is None and again.geometry["position_mm"] is None


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_becomes_colour(tmp_path: Path, bits: int) -> None:
    table = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(f"uint{bits}")
    data = pydicom.dcmread(dicom("examples_rgb_color.dcm"))
    for color, entries in zip(("Red", "Green", "Blue"), table, strict=True):
        name = f"{color}PaletteColorLookupTable"
        data.add_new(tag_for_keyword(f"{name}Descriptor"), "US", [256, 0, bits])
        setattr(data, f"{name}Data", (entries << (bits - 8)).tobytes())
    index = np.arange(256, dtype=np.uint8).reshape(16, 16)
    set_pixel_data(data, index, "PALETTE COLOR", 8)
    data.save_as(tmp_path / "in.dcm")
    image, again = rewrite(tmp_path / "in.dcm", tmp_path / "out.dcm")
    np.testing.assert_array_equal(image.pixels, table.reshape(3, 16, 16))
    np.testing.assert_array_equal(again.pixels, image.pixels)
    derived = pydicom.dcmread(tmp_path / "out.dcm")
    assert derived.PhotometricInterpretation == "RGB"
    assert not any("Palette" in element.keyword for element in derived)


def test_dicom_without_preamble_needs_the_extension(tmp_path: Path) -> None:
    data = pydicom.dcmread(dicom("MR_small_implicit.dcm"))
    bare = io.BytesIO()
    del data.file_meta
    data.preamble = None
    pydicom.dcmwrite(bare, data, implicit_vr=True, little_endian=True)
    (tmp_path / "x.dcm").write_bytes(bare.getvalue())
    image, again = rewrite(tmp_path / "x.dcm", tmp_path / "out.dcm")
    np.testing.assert_array_equal(
        image.pixels[0], pydicom.dcmread(dicom("MR_small.dcm")).pixel_array
    )
    np.testing.assert_array_equal(again.pixels, image.pixels)
    (tmp_path / "x.bin").write_bytes(bare.getvalue())
    with pytest.raises(ImageFileError, match="not an image that gprior reads"):
        read_image(tmp_path / "x.bin")


@pytest.mark.parametrize("name", ["rtplan.dcm", "reportsi.dcm", "waveform_ecg.dcm"])
def test_dicom_without_an_image(name: str) -> None:
    with pytest.raises(ImageFileError, match="DICOM file without integer pixel data"):
        read_image(dicom(name))


SECRETS = {
    "PatientName": "Zyxwv^Quentin",
    "PatientID": "PID-7719-X",
    "PatientBirthDate": "19370419",
    "StudyDate": "20031224",
    "SeriesDate": "20031225",
    "AcquisitionDate": "20031226",
    "InstitutionName": "St Elsewhere",
    "ReferringPhysicianName": "Refer^Ida",
    "AccessionNumber": "ACC88123",
    "StudyInstanceUID": "1.2.3.4.5.6.7.8.99",
    "StudyID": "STUDY-5521",
}


def test_no_patient_data_in_geometry_repr_errors_or_logs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    data = pydicom.dcmread(dicom("CT_small.dcm"))
    for keyword, value in SECRETS.items():
        setattr(data, keyword, value)
    data.save_as(tmp_path / "in.dcm")
    image, _ = rewrite(tmp_path / "in.dcm", tmp_path / "out.dcm")
    texts = [json.dumps(image.geometry), repr(image), str(image)]

    content = (tmp_path / "in.dcm").read_bytes()
    name = SECRETS["PatientName"].encode()
    spacing = b"0.661468\\0.661468"
    assert spacing in content
    for damaged in (
        content[:-5000],  # truncated
        content.replace(spacing, name.ljust(len(spacing))),  # pydicom quotes what is not a number
        content.replace(b"MONOCHROME2", name[:11]),
        content.replace(b"MONOCHROME2", b"PALETTE    "),
    ):
        (tmp_path / "bad.dcm").write_bytes(damaged)
        with pytest.raises(ImageFileError) as caught:
            read_image(tmp_path / "bad.dcm")
        assert caught.value.__suppress_context__  # a printed traceback does not have them either
        texts.append(str(caught.value))
    with pytest.raises(ValueError, match="unfit") as wrong_grid:
        write_like(tmp_path / "x.dcm", np.zeros((1, 4, 4)), image, (0, 1), "test")
    texts += [str(wrong_grid.value), caplog.text, *capfd.readouterr()]
    for text in texts:
        for secret in SECRETS.values():
            assert secret not in text
            assert secret[:8] not in text
    # The derived file belongs to the same patient and study.
    derived = pydicom.dcmread(tmp_path / "out.dcm")
    for keyword, value in SECRETS.items():
        assert str(derived[keyword].value) == value


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "examples_overlay.dcm"])
def test_no_identifying_element_of_the_samples_in_what_is_public(name: str) -> None:
    data = pydicom.dcmread(dicom(name))
    image = read_image(dicom(name))
    public = json.dumps(image.geometry) + repr(image)
    count = 0
    for element in data.iterall():
        identifying = element.VR in ("PN", "DA", "DT", "UI") or element.keyword in (
            "PatientID",
            "InstitutionName",
            "StationName",
            "AccessionNumber",
            "StudyID",
        )
        value = str(element.value)
        if identifying and len(value) > 3:
            count += 1
            assert value not in public, element.keyword
    assert count > 5


# --- NIfTI -----------------------------------------------------------------------------------


def world(affine: NDArray[np.float64], voxel: tuple[int, ...]) -> NDArray[np.float64]:
    where: NDArray[np.float64] = affine[:3, :3] @ voxel + affine[:3, 3]
    return where


@pytest.mark.parametrize("source", [BRAIN, ANATOMICAL, NIBABEL / "example_nifti2.nii.gz"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_nifti_slice_returns_to_its_voxels_and_its_place(
    tmp_path: Path, source: Path, axis: int
) -> None:
    file = nibabel.load(source)
    volume = np.asarray(file.dataobj)
    volume = volume[..., 0] if volume.ndim == 4 else volume
    index = volume.shape[axis] // 2 - 1
    image = read_image(source, slice=index, axis=axis)
    unit, intensity = to_unit(image)
    out = tmp_path / "".join(["out", *source.suffixes])
    write_like(out, unit, image, intensity, "test")
    assert (out.read_bytes()[:2] == b"\x1f\x8b") == (source.suffix == ".gz")
    again = nibabel.load(out)
    assert type(again) is type(file)
    assert again.get_data_dtype().newbyteorder("=") == np.float32
    expected = np.take(volume, [index], axis)
    assert again.shape == expected.shape
    np.testing.assert_allclose(np.asarray(again.dataobj), expected, rtol=1e-6, atol=1e-3)
    start = tuple(index if a == axis else 0 for a in range(3))
    end = tuple(index if a == axis else 3 for a in range(3))
    for kind in ("affine", "get_qform", "get_sform"):
        before, after = getattr(file, kind), getattr(again, kind)
        before, after = (m if isinstance(m, np.ndarray) else m() for m in (before, after))
        np.testing.assert_allclose(world(after, (0, 0, 0)), world(before, start), atol=1e-3)
        moved = tuple(0 if a == axis else 3 for a in range(3))
        np.testing.assert_allclose(world(after, moved), world(before, end), atol=1e-3)
    for key in ("qform_code", "sform_code", "xyzt_units"):
        assert again.header[key] == file.header[key]
    np.testing.assert_allclose(again.header["pixdim"][:4], file.header["pixdim"][:4], rtol=1e-6)
    assert STAMP in again.header["descrip"].item().decode()


def test_nifti_is_upright(tmp_path: Path) -> None:
    """A voxel at the patient's front right top appears where a radiologist looks for it."""
    for codes in ("LAS", "RAS", "PIR", "SLA", "ASR"):
        ras = np.zeros((12, 10, 8), np.float32)
        ras[10, 8, 7] = 1  # right, anterior, superior
        target = nibabel.orientations.axcodes2ornt(codes)
        file = nibabel.Nifti1Image(ras, np.diag([2.0, 3.0, 4.0, 1.0])).as_reoriented(
            nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), target)
        )
        nibabel.save(file, tmp_path / "x.nii")
        data = np.asarray(file.dataobj)
        spot = np.argwhere(data)[0]
        for axis, code in enumerate(codes):
            image = read_image(tmp_path / "x.nii", slice=int(spot[axis]), axis=axis)
            row, column = np.argwhere(image.pixels[0])[0]
            height, width = image.pixels[0].shape
            # Axial and coronal: the patient's right is at the left. Sagittal: the front is.
            shape, place, spacing = {
                "S": ((10, 12), (1, 1), [3, 2]),
                "I": ((10, 12), (1, 1), [3, 2]),
                "A": ((8, 12), (0, 1), [4, 2]),
                "P": ((8, 12), (0, 1), [4, 2]),
                "L": ((8, 10), (0, 1), [4, 3]),
                "R": ((8, 10), (0, 1), [4, 3]),
            }[code]
            assert (height, width) == shape, (codes, axis)
            assert (row, column) == place, (codes, axis)
            assert image.geometry["spacing"] == spacing


def test_nifti_defaults_scaling_and_truthful_geometry() -> None:
    file = nibabel.load(BRAIN)
    image = read_image(BRAIN)
    assert image.pixels.shape == (1, 96, 128)
    assert image.stored_dtype == "int16"
    geometry = json.loads(json.dumps(image.geometry, allow_nan=False))
    assert geometry["axis"] == 2 and geometry["slice"] == 12
    assert geometry["units"] == "mm"
    assert geometry["axis_codes"] == ["L", "A", "S"]
    np.testing.assert_allclose(geometry["affine"], file.affine)
    stored = np.asarray(file.dataobj)[:, :, 12, 0]
    np.testing.assert_allclose(image.pixels[0], stored.T[::-1])
    scaled = read_image(NIBABEL / "functional.nii")
    assert scaled.pixels.max() > 1000 and scaled.pixels.max() % 1 != 0


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 2), (3, 1)])
def test_nifti_codes_are_kept(tmp_path: Path, codes: tuple[int, int]) -> None:
    affine = np.array([[0, -2.0, 0, 5], [3, 0, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1]])
    file = nibabel.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), None)
    file.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"of all slices"))
    if codes[0]:
        file.set_qform(affine, codes[0])
    if codes[1]:
        file.set_sform(affine, codes[1])
    nibabel.save(file, tmp_path / "in.nii")
    image = read_image(tmp_path / "in.nii", slice=4)
    unit, intensity = to_unit(image)
    write_like(tmp_path / "out.nii", unit, image, intensity, "test")
    before, after = nibabel.load(tmp_path / "in.nii"), nibabel.load(tmp_path / "out.nii")
    assert len(before.header.extensions) == 1 and len(after.header.extensions) == 0
    np.testing.assert_allclose(world(after.affine, (1, 2, 0)), world(before.affine, (1, 2, 4)))
    if any(codes):
        assert (int(after.header["qform_code"]), int(after.header["sform_code"])) == codes


def test_nifti_of_two_and_five_dimensions_and_other_types(tmp_path: Path) -> None:
    flat = np.arange(12, dtype=np.float32).reshape(3, 4)
    for array in (flat, flat[:, :, None], np.stack([flat, -flat], -1)[:, :, None, None, :]):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "x.nii")
        image, again = rewrite(tmp_path / "x.nii", tmp_path / "out.nii")
        np.testing.assert_array_equal(image.pixels[0], flat.T[::-1, ::-1])
        np.testing.assert_allclose(again.pixels, image.pixels, atol=1e-5)
    nibabel.save(nibabel.Nifti1Image(flat.astype(np.complex64), np.eye(4)), tmp_path / "x.nii")
    with pytest.raises(ImageFileError, match="magnitude"):
        read_image(tmp_path / "x.nii")
    with pytest.raises(ImageFileError, match="slice must be an integer from 0 to 23, got 24"):
        read_image(BRAIN, slice=24)
    with pytest.raises(ImageFileError, match="axis must be an integer from 0 to 2, got 3"):
        read_image(BRAIN, axis=3)
    with pytest.raises(ImageFileError, match="axis=1 is for NIfTI"):
        read_image(dicom("CT_small.dcm"), axis=1)


# --- Recognition, damage, writing ------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_nifti_affine_without_a_place_in_the_world(tmp_path: Path, value: float) -> None:
    file = nibabel.Nifti2Image(np.zeros((3, 4, 5), np.float32), np.eye(4))
    content = file.to_bytes()
    header = file.header.copy()
    header["srow_x"][0] = value
    (tmp_path / "x.nii").write_bytes(header.binaryblock + content[540:])
    with pytest.raises(ImageFileError, match="affine with values that are not finite"):
        read_image(tmp_path / "x.nii")


def samples(folder: Path) -> dict[str, bytes]:
    """Return one small file of each format."""
    picture = Image.fromarray(pixels16((24, 20)))
    color = Image.fromarray(pixels16((24, 20, 3)).astype(np.uint8))
    files: dict[str, Callable[[Path], None]] = {
        "a.png": picture.save,
        "a.tif": picture.save,
        "lzw.tif": lambda path: picture.save(path, compression="tiff_lzw"),
        "a.jpg": color.save,
        "a.npy": lambda path: np.save(path, pixels16((24, 20))),
        "a.dcm": lambda path: _ignore(path.write_bytes(dicom("MR_small.dcm").read_bytes())),
        "rle.dcm": lambda path: _ignore(path.write_bytes(dicom("MR_small_RLE.dcm").read_bytes())),
        "a.nii": lambda path: _ignore(path.write_bytes(ANATOMICAL.read_bytes())),
        "a.nii.gz": lambda path: _ignore(
            path.write_bytes(gzip.compress(ANATOMICAL.read_bytes(), mtime=0))
        ),
    }
    for name, save in files.items():
        save(folder / name)
    return {name: (folder / name).read_bytes() for name in files}


def _ignore(_: object) -> None: ...


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    for name, content in samples(tmp_path).items():
        expected = read_image(tmp_path / name)
        for other in ("x.png", "x.dcm", "noname"):
            (tmp_path / other).write_bytes(content)
            image = read_image(tmp_path / other)
            assert image.format == expected.format
            np.testing.assert_array_equal(image.pixels, expected.pixels)


def test_mutated_files_give_an_image_or_one_clear_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    outcomes = {"read": 0, "refused": 0}
    for name, content in samples(tmp_path).items():
        for trial in range(60):
            data = bytearray(content)
            if trial % 4 == 0:
                data = data[: int(rng.integers(0, len(data)))]
            else:  # mostly in the header, where damage does more than change a pixel
                reach = len(data) if trial % 4 == 1 else min(len(data), 600)
                for place in rng.integers(0, reach, int(rng.integers(1, 9))):
                    data[place] = int(rng.integers(0, 256))
            path = tmp_path / f"mutated-{name}"
            path.write_bytes(data)
            try:
                image = read_image(path)
                assert image.pixels.ndim == 3 and np.isfinite(image.pixels).all()
                json.dumps(image.geometry, allow_nan=False)
                outcomes["read"] += 1
            except ImageFileError as error:
                assert str(path) in str(error)
                outcomes["refused"] += 1
                continue
            # An image that could be read can be written, or is refused with a clear error.
            suffix = raster.EXTENSIONS[image.format][-1]
            try:
                intensity = default_intensity(image)
                write_like(tmp_path / f"out{suffix}", to_unit(image)[0], image, intensity, "test")
            except ValueError as error:
                assert str(path) in str(error)
    assert min(outcomes.values()) > 50, outcomes


@given(
    magic=st.sampled_from(
        [
            *(b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"\xff\xd8\xff", b"\x93NUMPY", b"\x1f\x8b"),
            *(b"\0" * 128 + b"DICM", b"\0" * 344 + b"n+1\0", b"\x1c\x02\0\0n+2\0", b""),
        ]
    ),
    rest=st.binary(max_size=400),
)
@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
def test_random_bytes_after_known_first_bytes(tmp_path: Path, magic: bytes, rest: bytes) -> None:
    (tmp_path / "x").write_bytes(magic + rest)
    with pytest.raises(ImageFileError, match=r"x "):
        read_image(tmp_path / "x")


def bombs() -> dict[str, bytes]:
    """Return small files that promise very large images."""
    npy = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        npy, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
    )
    png = bytearray(png16(0, 1))
    png[16:24] = struct.pack(">II", 12_000, 12_000)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    header = nibabel.Nifti1Header()
    header.set_data_shape((30_000, 30_000, 3))
    header["magic"], header["vox_offset"] = b"n+1", 352
    zeros = bytes(10**7)
    data = pydicom.dcmread(dicom("MR_small_RLE.dcm"))
    data.Rows = data.Columns = 60_000
    big = io.BytesIO()
    data.save_as(big)
    return {
        "x.npy": npy.getvalue(),
        "x.png": bytes(png),
        "x.nii.gz": gzip.compress(header.binaryblock + bytes(4) + zeros),
        "x.dcm": big.getvalue(),
    }


def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    import tracemalloc

    for name, content in bombs().items():
        (tmp_path / name).write_bytes(content)
        tracemalloc.start()
        with pytest.raises(ImageFileError, match=r"pixels, the limit is|cannot be read"):
            read_image(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 5e7, name
        tracemalloc.stop()
    (tmp_path / "x.png").write_bytes(png16(0, 1))
    assert read_image(tmp_path / "x.png").pixels.shape == (1, 3, 4)


def test_an_image_file_error_is_an_input_error() -> None:
    """The command line shows an InputError to the user, and any other ValueError as a bug."""
    assert issubclass(ImageFileError, InputError)


def test_files_that_cannot_be_opened_or_are_something_else(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cannot open .*missing\.png: No such file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(IsADirectoryError, match="cannot open"):
        read_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageFileError, match="is empty"):
        read_image(tmp_path / "empty.png")
    np.savez(tmp_path / "x.npz", np.zeros(3))
    with pytest.raises(ImageFileError, match=r"none of PNG, TIFF, JPEG, NPY, DICOM, NIfTI"):
        read_image(tmp_path / "x.npz")


def test_write_like_refuses_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = read_image(BRAIN)
    unit, intensity = to_unit(image)
    with pytest.raises(ValueError, match=r"must end in \.nii\.gz or \.nii.*is nifti"):
        write_like(tmp_path / "x.png", unit, image, intensity, "test")
    with pytest.raises(ValueError, match=r"unit_array must have the shape \(1, 96, 128\).*unfit"):
        write_like(tmp_path / "x.nii", unit[:, :64, :64], image, intensity, "test")
    with pytest.raises(ValueError, match="NaN or infinite"):
        write_like(tmp_path / "x.nii", unit * np.nan, image, intensity, "test")

    def full(*args: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write the reconstruction to .*No space left"):
        write_like(tmp_path / "x.nii", unit, image, intensity, "test")
    with pytest.raises(OSError, match=r"cannot write the picture to .*No space left"):
        save_png(tmp_path / "x.png", unit)
    assert list(tmp_path.iterdir()) == []


def test_from_scan_to_prior_and_back(tmp_path: Path) -> None:
    """The chain of the command line on a non-square scan, with a prior of 64 by 64 pixels."""
    source = dicom("examples_overlay.dcm")
    image = read_image(source)
    unit, intensity = to_unit(image)
    small, record = fit(unit, (64, 64))
    with pytest.raises(ValueError, match="unfit"):
        write_like(tmp_path / "x.dcm", small, image, intensity, "identity")
    back = unfit(small, record)
    write_like(tmp_path / "x.dcm", back, image, intensity, "identity")
    again = read_image(tmp_path / "x.dcm")
    assert again.geometry == image.geometry
    assert np.corrcoef(again.pixels.ravel(), image.pixels.ravel())[0, 1] > 0.95
    expected = np.clip(from_unit(back, intensity), 0, 4095)
    assert np.abs(again.pixels - expected).max() <= 0.5 + 1e-9


def test_import_is_light() -> None:
    code = "import sys, gprior.images, gprior.files; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("torch", "deepinv", "pydicom", "nibabel", "PIL", "scipy"):
        assert heavy not in done.stdout.split()
