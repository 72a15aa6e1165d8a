"""What the header of a DICOM file says about its values is applied, and survives a derived file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import set_pixel_data
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from gprior.images import (
    ImageFile,
    ImageFileError,
    default_intensity,
    fit,
    read_image,
    to_unit,
    write_like,
)

PADDING, LIMIT = 0x00280120, 0x00280121


def sample(name: str = "MR_small.dcm") -> Any:
    return pydicom.dcmread(str(get_testdata_file(name, download=False)))


def derive(data: Any, folder: Path, slice: int | None = None) -> tuple[ImageFile, ImageFile, Any]:
    """Return an image as it is read, the derived image, and the header of the derived file."""
    data.save_as(folder / "in.dcm", enforce_file_format=True)
    image = read_image(folder / "in.dcm", slice)
    unit, intensity = to_unit(image)
    write_like(folder / "out.dcm", unit, image, intensity, "test")
    return image, read_image(folder / "out.dcm"), pydicom.dcmread(folder / "out.dcm")


def test_dose_is_in_gray_and_each_plane_has_its_place(tmp_path: Path) -> None:
    data = sample("rtdose.dcm")
    expected = data.pixel_array[3] * float(data.DoseGridScaling)
    first = [float(value) for value in data.ImagePositionPatient]
    image, again, derived = derive(data, tmp_path, 3)
    np.testing.assert_allclose(image.pixels[0], expected, rtol=1e-12)
    np.testing.assert_array_equal(again.pixels, image.pixels)
    assert (derived.BitsAllocated, derived.DoseGridScaling) == (32, data.DoseGridScaling)
    offset = float(data.GridFrameOffsetVector[3])
    assert offset != 0
    assert image.geometry["position_mm"] == [first[0], first[1], first[2] + offset]
    assert again.geometry["position_mm"] == image.geometry["position_mm"]


def test_dose_without_a_scaling_is_refused(tmp_path: Path) -> None:
    data = sample("rtdose.dcm")
    del data.DoseGridScaling
    data.save_as(tmp_path / "in.dcm")
    with pytest.raises(ImageFileError, match="scaling to physical units: DoseGridScaling"):
        read_image(tmp_path / "in.dcm")


def real_world(slope: float | None, intercept: float | None = 0.0) -> Dataset:
    item = Dataset()
    item.RealWorldValueFirstValueMapped, item.RealWorldValueLastValueMapped = 0, 4095
    if slope is None:
        item.RealWorldValueLUTData = [0.0, 1.0]
    else:
        item.RealWorldValueSlope, item.RealWorldValueIntercept = slope, intercept
    return item


@pytest.mark.parametrize("place", ["file", "shared", "frame"])
def test_real_world_values(tmp_path: Path, place: str) -> None:
    data = sample()
    if place == "file":
        data.RealWorldValueMappingSequence = [real_world(0.25, -3.0)]
    else:
        group, identity = Dataset(), Dataset()
        identity.RescaleSlope, identity.RescaleIntercept, identity.RescaleType = 1, 0, "US"
        group.RealWorldValueMappingSequence = [real_world(0.25, -3.0)]
        group.PixelValueTransformationSequence = [identity]
        groups = {"shared": "Shared", "frame": "PerFrame"}
        setattr(data, f"{groups[place]}FunctionalGroupsSequence", [group])
    image, again, _ = derive(data, tmp_path)
    np.testing.assert_array_equal(image.pixels[0], data.pixel_array * 0.25 - 3)
    np.testing.assert_array_equal(again.pixels, image.pixels)


@pytest.mark.parametrize("maps", [[real_world(None)], [real_world(1.0), real_world(2.0)]])
def test_real_world_maps_that_are_no_line_are_refused(tmp_path: Path, maps: list[Any]) -> None:
    data = sample()
    data.RealWorldValueMappingSequence = maps
    data.save_as(tmp_path / "in.dcm")
    with pytest.raises(ImageFileError, match=r"RealWorldValueMappingSequence.*scaling"):
        read_image(tmp_path / "in.dcm")


def test_a_rescale_slope_comes_before_real_world_values(tmp_path: Path) -> None:
    data = sample("CT_small.dcm")
    data.RealWorldValueMappingSequence = [real_world(7.0)]
    image, again, _ = derive(data, tmp_path)
    assert image.pixels.min() == -896
    np.testing.assert_array_equal(again.pixels, image.pixels)


@pytest.mark.parametrize(("element", "units"), [(0x00, "GML"), (0x09, "BQML")])
def test_pet_in_counts_takes_the_factor_of_the_file(
    tmp_path: Path, element: int, units: str
) -> None:
    data = sample()
    data.Modality, data.Units, data.RescaleSlope, data.RescaleIntercept = "PT", "CNTS", 2, 0
    block = data.private_block(0x7053, "Philips PET Private Group", create=True)
    block.add_new(element, "DS", "0.000125")
    image, again, derived = derive(data, tmp_path)
    np.testing.assert_allclose(image.pixels[0], data.pixel_array * 2 * 0.000125)
    np.testing.assert_allclose(again.pixels, image.pixels, rtol=1e-12)
    assert (derived.Units, derived.get("SUVType")) == (units, "BW" if units == "GML" else None)


def test_pet_in_counts_without_a_factor_is_refused(tmp_path: Path) -> None:
    data = sample()
    data.Modality, data.Units = "PT", "CNTS"
    data.save_as(tmp_path / "in.dcm")
    with pytest.raises(ImageFileError, match=r"Units CNTS.*scaling"):
        read_image(tmp_path / "in.dcm")


def test_pet_in_counts_takes_real_world_values(tmp_path: Path) -> None:
    data = sample()
    data.Modality, data.Units, data.RescaleSlope, data.RescaleIntercept = "PT", "CNTS", 2, 0
    data.RealWorldValueMappingSequence = [real_world(0.25)]
    image, again, _ = derive(data, tmp_path)
    np.testing.assert_array_equal(image.pixels[0], data.pixel_array * 0.25)
    np.testing.assert_array_equal(again.pixels, image.pixels)


# --- Bits ------------------------------------------------------------------------------------


def in_bits(values: NDArray[Any], bits: int, high: int, signed: bool) -> Any:
    """Return a file with values in the bits up to `high`; the bits above are 0."""
    data = sample()
    data.PixelRepresentation, data.BitsStored, data.HighBit = int(signed), bits, high
    words = (values.astype(np.int64) & (2**bits - 1)) << (high + 1 - bits)
    data.PixelData = words.astype("<u2").tobytes()
    return data


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("bits", "high"), [(12, 11), (12, 15), (12, 13), (16, 15), (10, 9)])
def test_values_are_in_the_bits_that_the_file_states(
    tmp_path: Path, bits: int, high: int, signed: bool
) -> None:
    lo = -(2 ** (bits - 1)) if signed else 0
    values = np.random.default_rng(0).integers(lo, lo + 2**bits, (64, 64))
    image, again, derived = derive(in_bits(values, bits, high, signed), tmp_path)
    np.testing.assert_array_equal(image.pixels[0], values)
    np.testing.assert_array_equal(again.pixels, image.pixels)
    assert (derived.BitsStored, derived.HighBit) == (bits, bits - 1)


@pytest.mark.parametrize("big", [False, True])
def test_the_sign_may_be_repeated_in_the_bits_above(tmp_path: Path, big: bool) -> None:
    values = np.random.default_rng(0).integers(-2048, 2048, (64, 64)).astype("<i2")
    data = in_bits(values, 12, 11, signed=True)
    data.PixelData = values.astype(">i2" if big else "<i2").tobytes()
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian if big else ExplicitVRLittleEndian
    pydicom.dcmwrite(tmp_path / "in.dcm", data)
    np.testing.assert_array_equal(read_image(tmp_path / "in.dcm").pixels[0], values)


@pytest.mark.parametrize(("bits", "high"), [(12, 11), (12, 15)])
def test_bits_outside_of_those_stated_are_refused(tmp_path: Path, bits: int, high: int) -> None:
    """Twelve bits are stated, sixteen are used: to drop four of them would change the values."""
    data = in_bits(np.zeros((64, 64)), bits, high, signed=False)
    data.PixelData = np.arange(64 * 64, dtype="<u2").tobytes()[:-2] + b"\xff\xff"
    data.save_as(tmp_path / "in.dcm")
    with pytest.raises(ImageFileError, match="uses bits outside"):
        read_image(tmp_path / "in.dcm")


@pytest.mark.parametrize(("bits", "high"), [(6, 5), (6, 7), (8, 7)])
@pytest.mark.parametrize("signed", [False, True])
def test_words_of_8_bits(tmp_path: Path, bits: int, high: int, signed: bool) -> None:
    lo = -(2 ** (bits - 1)) if signed else 0
    values = np.random.default_rng(0).integers(lo, lo + 2**bits, (64, 64))
    data = in_bits(values, bits, high, signed)
    data.BitsAllocated = 8
    data.PixelData = ((values & (2**bits - 1)) << (high + 1 - bits)).astype("u1").tobytes()
    data["PixelData"].VR = "OB"
    image, again, _ = derive(data, tmp_path)
    np.testing.assert_array_equal(image.pixels[0], values)
    np.testing.assert_array_equal(again.pixels, image.pixels)


@pytest.mark.parametrize("high", [11, 15])
def test_compressed_words_and_colour_are_in_the_bits_that_the_file_states(
    tmp_path: Path, high: int
) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (64, 64))
    data = in_bits(values, 12, high, signed=False)
    data.BitsStored, data.HighBit = 16, 15  # pydicom would compress the lower bits alone
    data.compress(RLELossless)
    data.BitsStored, data.HighBit = 12, high
    image, again, _ = derive(data, tmp_path)
    np.testing.assert_array_equal(image.pixels[0], values)
    np.testing.assert_array_equal(again.pixels, image.pixels)

    data = sample("SC_rgb_rle_16bit.dcm")
    data.decompress()
    values = np.random.default_rng(1).integers(0, 4096, (100, 100, 3))
    data.BitsStored, data.HighBit = 12, high
    data.PixelData = (values << (high - 11)).astype("<u2").tobytes()
    image, again, derived = derive(data, tmp_path)
    np.testing.assert_array_equal(image.pixels, np.moveaxis(values, 2, 0))
    np.testing.assert_array_equal(again.pixels, image.pixels)
    assert image.value_range == (0, 4095) and (derived.BitsStored, derived.HighBit) == (12, 11)


def test_an_overlay_in_the_unused_bits_is_no_part_of_the_values(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (64, 64))
    data = in_bits(values, 12, 11, signed=False)
    data.PixelData = (values | ((values % 2) << 12)).astype("<u2").tobytes()
    data.add_new(0x60000102, "US", 12)
    image, again, _ = derive(data, tmp_path)
    np.testing.assert_array_equal(image.pixels[0], values)
    np.testing.assert_array_equal(again.pixels, image.pixels)


@pytest.mark.parametrize(("bits", "high"), [(12, 10), (0, 15), (17, 16), (12, 16)])
def test_impossible_layouts_are_refused(tmp_path: Path, bits: int, high: int) -> None:
    data = sample()
    data.BitsStored, data.HighBit = bits, high
    data.save_as(tmp_path / "in.dcm")
    with pytest.raises(ImageFileError, match="impossible bit layout"):
        read_image(tmp_path / "in.dcm")


# --- Padding ---------------------------------------------------------------------------------


def padded(tags: dict[int, tuple[str, int]], values: NDArray[Any]) -> Any:
    data = sample()
    set_pixel_data(data, values, "MONOCHROME2", 16)
    for tag, (kind, value) in tags.items():
        data.add_new(tag, kind, value)
    return data


@pytest.mark.parametrize(
    ("kind", "dtype", "tags"),
    [
        ("one value", "i2", {PADDING: ("SS", -2000)}),
        ("range", "i2", {PADDING: ("SS", -2000), LIMIT: ("SS", -1900)}),
        ("range downward", "i2", {PADDING: ("SS", -1900), LIMIT: ("SS", -2000)}),
        ("other sign", "i2", {PADDING: ("US", 65536 - 2000), LIMIT: ("US", 65536 - 1900)}),
        ("large", "u2", {PADDING: ("US", 63536), LIMIT: ("US", 65535)}),
        ("large, other sign", "u2", {PADDING: ("SS", -2000), LIMIT: ("SS", -1)}),
    ],
)
def test_padding_is_outside_of_the_image(
    tmp_path: Path, kind: str, dtype: str, tags: dict[int, tuple[str, int]]
) -> None:
    values = (sample().pixel_array % 1000).astype(dtype)
    values[:20] = np.array(-2000).astype(dtype)
    if LIMIT in tags:
        values[20:25] = np.array(-1950).astype(dtype)
    edge = 25 if LIMIT in tags else 20
    image, again, _ = derive(padded(tags, values), tmp_path)
    assert image.background is not None
    assert image.background[0, :edge].all() and not image.background[0, edge:].any()
    lo, hi = default_intensity(image)
    assert 0 <= lo < hi <= 1000
    unit, _ = to_unit(image)
    assert (unit[image.background] == 0).all()
    np.testing.assert_array_equal(again.pixels, image.pixels)
    np.testing.assert_array_equal(again.background, image.background)


def test_padding_may_lie_outside_of_the_bits_stored(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (64, 64)).astype("u2")
    data = in_bits(values, 12, 11, signed=False)
    values[:9] = 63536
    data.PixelData = values.astype("<u2").tobytes()
    data.add_new(PADDING, "US", 63536)
    image, again, _ = derive(data, tmp_path)
    assert image.background is not None and image.background.sum() == 9 * 64
    np.testing.assert_array_equal(again.pixels, image.pixels)
    np.testing.assert_array_equal(again.background, image.background)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_does_not_bleed_into_tissue(tmp_path: Path, photometric: str) -> None:
    rows, columns = np.mgrid[:256, :256] - 127.5
    inside = np.hypot(rows, columns) < 122
    data = padded({PADDING: ("SS", -32768)}, np.where(inside, 400, -32768).astype("i2"))
    data.PhotometricInterpretation = photometric
    data.save_as(tmp_path / "in.dcm")
    unit, _ = to_unit(read_image(tmp_path / "in.dcm"), (0, 800))
    grid = fit(unit, (64, 64))[0][0]
    assert grid.max() < 0.54 and abs(grid[32, 32] - 0.5) < 1e-6 and abs(grid[0, 0]) < 1e-6


def test_a_reconstruction_is_not_written_into_padding(tmp_path: Path) -> None:
    values = (sample().pixel_array % 1000).astype("i2")
    values[:20] = -2000
    data = padded({PADDING: ("SS", -2000)}, values)
    data.save_as(tmp_path / "in.dcm")
    image = read_image(tmp_path / "in.dcm")
    write_like(tmp_path / "out.dcm", np.full(image.pixels.shape, 0.5), image, (0, 1000), "test")
    again = read_image(tmp_path / "out.dcm").pixels[0]
    assert (again[:20] == -2000).all() and (again[20:] == 500).all()


# --- Headers ---------------------------------------------------------------------------------

NAME = "Löwe^Zoë".encode("latin-1")
SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name[:21])
@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192", "ISO_IR 138", "\\ISO 2022 IR 87"])
def test_text_of_the_source_is_copied_byte_by_byte(
    tmp_path: Path, charset: str, syntax: Any
) -> None:
    """The declared character set may not fit the bytes."""
    data = sample("MR_small_bigendian.dcm" if syntax == ExplicitVRBigEndian else "MR_small.dcm")
    data.SpecificCharacterSet = charset.split("\\")
    data.PatientName = data.PatientID = data.PatientComments = "Q" * len(NAME)
    inner = Dataset()
    inner.ScheduledProcedureStepDescription = inner.PerformingPhysicianName = "Q" * len(NAME)
    data.RequestAttributesSequence = [inner]
    data.file_meta.TransferSyntaxUID = syntax
    if syntax == ImplicitVRLittleEndian:
        data = pydicom.dcmread(str(get_testdata_file("MR_small_implicit.dcm", download=False)))
        data.SpecificCharacterSet = charset.split("\\")
        data.PatientName = data.PatientID = data.PatientComments = "Q" * len(NAME)
        data.RequestAttributesSequence = [inner]
    pydicom.dcmwrite(tmp_path / "in.dcm", data)
    content = (tmp_path / "in.dcm").read_bytes()
    assert content.count(b"Q" * len(NAME)) == 5
    (tmp_path / "in.dcm").write_bytes(content.replace(b"Q" * len(NAME), NAME))
    image = read_image(tmp_path / "in.dcm")
    unit, intensity = to_unit(image)
    write_like(tmp_path / "out.dcm", unit, image, intensity, "test")
    assert (tmp_path / "out.dcm").read_bytes().count(NAME) == 5
    np.testing.assert_array_equal(read_image(tmp_path / "out.dcm").pixels, image.pixels)


@pytest.mark.parametrize(
    "keyword",
    [
        "PerFrameFunctionalGroupsSequence",
        "SharedFunctionalGroupsSequence",
        "PixelValueTransformationSequence",
        "RealWorldValueMappingSequence",
        "ModalityLUTSequence",
        "PlanePositionSequence",
        "SourceImageSequence",
    ],
)
@pytest.mark.parametrize("depth", [0, 1])
def test_an_empty_sequence_counts_as_absent(tmp_path: Path, keyword: str, depth: int) -> None:
    data = sample()
    if depth:
        group = Dataset()
        setattr(group, keyword, [])
        data.PerFrameFunctionalGroupsSequence = [group]
    else:
        setattr(data, keyword, [])
    image, again, _ = derive(data, tmp_path)
    np.testing.assert_array_equal(image.pixels[0], sample().pixel_array)
    np.testing.assert_array_equal(again.pixels, image.pixels)
    assert image.geometry["position_mm"] is not None


def nuclear(data: Any) -> None:
    data.NumberOfFrames = 3
    data.FrameIncrementPointer = [0x00540010, 0x00540020]
    data.EnergyWindowVector, data.DetectorVector = [1, 1, 1], [1, 2, 3]
    data.NumberOfEnergyWindows, data.NumberOfDetectors = 1, 3
    data.FrameTimeVector = [0, 10, 10]
    data.RepresentativeFrameNumber, data.FrameTime = 2, 10
    data.SliceLocationVector = [1.0, 2.0, 3.0]


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_a_derived_frame_is_no_part_of_a_concatenation_and_points_to_no_mask(
    tmp_path: Path,
) -> None:
    data = sample("rtdose.dcm")
    data.ConcatenationUID = data.SOPInstanceUIDOfConcatenationSource = "1.2.3"
    data.InConcatenationNumber, data.InConcatenationTotalNumber = 1, 2
    data.ConcatenationFrameOffsetNumber = 0
    for name in ("Rotation", "Phase"):
        item = Dataset()
        setattr(item, f"NumberOfFramesIn{name}", 15)
        setattr(data, f"{name}InformationSequence", [item])
    mask = Dataset()
    mask.MaskFrameNumbers = [1, 2]
    data.MaskSubtractionSequence = [mask]
    _, _, derived = derive(data, tmp_path, 3)
    left = [e.keyword for e in derived.iterall() if "Frame" in e.keyword or "Conc" in e.keyword]
    assert left == ["ReferencedFrameNumber", "FrameOfReferenceUID", "NumberOfFrames"]


def test_a_derived_frame_carries_nothing_of_the_other_frames(tmp_path: Path) -> None:
    data = sample()
    set_pixel_data(data, np.stack([data.pixel_array] * 3), "MONOCHROME2", 16)
    nuclear(data)
    _, again, derived = derive(data, tmp_path, 1)
    assert again.geometry["frames"] == derived.NumberOfFrames == 1
    left = [e.keyword for e in derived if e.keyword.endswith(("Vector", "Pointer"))]
    left += [e.keyword for e in derived if e.keyword.startswith("NumberOf")]
    assert left == ["NumberOfAverages", "NumberOfFrames"]
    assert "RepresentativeFrameNumber" not in derived and "FrameTime" not in derived
    assert derived.SourceImageSequence[0].ReferencedFrameNumber == 2


@pytest.mark.parametrize(
    "name",
    ["SC_rgb_rle_32bit.dcm", "rtdose_rle.dcm", "rtdose_expb.dcm", "examples_palette.dcm"],
)
def test_what_can_be_read_can_be_written(tmp_path: Path, name: str) -> None:
    image, again, _ = derive(sample(name), tmp_path)
    np.testing.assert_array_equal(again.pixels, image.pixels)


def test_a_file_that_states_another_encoding_than_it_has(tmp_path: Path) -> None:
    """Its syntax says that every element has a value representation, and none of them has."""
    image = read_image(str(get_testdata_file("SC_rgb_jpeg.dcm", download=False)))
    unit, intensity = to_unit(image)
    write_like(tmp_path / "out.dcm", unit, image, intensity, "test")
    np.testing.assert_array_equal(read_image(tmp_path / "out.dcm").pixels, image.pixels)


def test_a_segmentation_of_single_bits_is_refused_when_written(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match=r"stores 1 bits.*\.npy"):
        derive(sample("liver_1frame.dcm"), tmp_path)
    assert not (tmp_path / "out.dcm").exists()


def test_fractions_of_a_segmentation_are_shares(tmp_path: Path) -> None:
    data = sample()
    set_pixel_data(data, (data.pixel_array % 256).astype("u1"), "MONOCHROME2", 8)
    data.SegmentationType, data.MaximumFractionalValue = "FRACTIONAL", 255
    image, again, _ = derive(data, tmp_path)
    assert image.pixels.max() == 1
    np.testing.assert_array_equal(again.pixels, image.pixels)


MUTATIONS: list[Callable[[Any], None]] = [
    lambda d: d.add_new(0x00281052, "DS", ""),
    lambda d: d.add_new(PADDING, "SS", None),
    lambda d: d.add_new(0x3004000E, "DS", "0"),
    lambda d: d.add_new(0x00280103, "US", 7),
]


@pytest.mark.parametrize("index", range(len(MUTATIONS)))
def test_odd_headers_give_an_image_or_one_clear_error(tmp_path: Path, index: int) -> None:
    data = sample()
    MUTATIONS[index](data)
    data.save_as(tmp_path / "in.dcm")
    try:
        image = read_image(tmp_path / "in.dcm")
    except ImageFileError as error:
        assert "correct the tags" in str(error) or "correct the tag" in str(error)
    else:
        np.testing.assert_array_equal(image.pixels[0], sample().pixel_array)
