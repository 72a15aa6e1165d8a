"""A volume that is read slice by slice and written as a volume keeps values, places and order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from gprior.images import (
    ImageFileError,
    open_volume,
    read_image,
    to_unit,
    volume_intensity,
    write_volume,
)


def write_series(folder: Path, count: int = 5) -> list[Any]:
    """Write a CT series whose names and instance numbers are not in the order of the slices."""
    folder.mkdir(exist_ok=True)
    headers = []
    for k in range(count):
        data = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
        place = (3 * k) % count
        data.PixelData = (data.pixel_array + place).astype("<i2").tobytes()
        data.ImagePositionPatient = [-10.0, 20.0, 5.0 * place - 40]
        data.SOPInstanceUID = f"1.2.3.{place + 1}"
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.InstanceNumber = count - k
        data.save_as(folder / f"im{k}")
        headers.append(data)
    return sorted(headers, key=lambda data: float(data.ImagePositionPatient[2]))


def rewrite(source: Path, out: Path, indices: range | None = None, axis: int | None = None) -> Path:
    """Write slices as they were read."""
    out.mkdir(exist_ok=True)
    with open_volume(source, axis) as volume:
        indices = range(volume.count) if indices is None else indices
        intensity = volume_intensity(volume, indices, None)
        name = write_volume(
            out,
            volume,
            indices,
            lambda i: to_unit(volume.read(i), intensity)[0],
            intensity,
            "test",
        )
    return out / name


def test_a_series_is_sorted_by_position_and_every_instance_is_linked(tmp_path: Path) -> None:
    headers = write_series(tmp_path / "in")
    (tmp_path / "in" / ".hidden").write_bytes((tmp_path / "in" / "im0").read_bytes())
    (tmp_path / "in" / "notes.txt").write_text("no image")
    out = rewrite(tmp_path / "in", tmp_path / "out")
    files = sorted(out.iterdir())
    assert [file.name for file in files] == [f"{k:04}.dcm" for k in range(1, 6)]
    derived = [pydicom.dcmread(file) for file in files]
    assert len({data.SeriesInstanceUID for data in derived}) == 1
    assert derived[0].SeriesInstanceUID != headers[0].SeriesInstanceUID
    assert len({data.SOPInstanceUID for data in derived}) == 5
    for number, (source, data) in enumerate(zip(headers, derived, strict=True), 1):
        assert data.InstanceNumber == number
        assert data.ImagePositionPatient == source.ImagePositionPatient
        assert data.StudyInstanceUID == source.StudyInstanceUID
        assert data.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
        np.testing.assert_array_equal(data.pixel_array, source.pixel_array)


def test_a_folder_must_have_one_series(tmp_path: Path) -> None:
    write_series(tmp_path / "in", 2)
    data = pydicom.dcmread(tmp_path / "in" / "im0")
    data.SeriesInstanceUID = "1.2.3.4"
    data.save_as(tmp_path / "in" / "other")
    with (
        pytest.raises(ImageFileError, match="2 series of 2 and 1 files"),
        open_volume(tmp_path / "in"),
    ):
        pass
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageFileError, match="no DICOM images"), open_volume(tmp_path / "empty"):
        pass
    np.save(tmp_path / "x.npy", np.zeros((4, 4)))
    with (
        pytest.raises(ImageFileError, match="is npy, but a volume"),
        open_volume(tmp_path / "x.npy"),
    ):
        pass


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("lo", [0, 3])
def test_nifti_reads_back_as_the_same_volume(
    tmp_path: Path, axis: int, suffix: str, lo: int
) -> None:
    values = np.random.default_rng(0).normal(size=(8, 9, 10)).astype("f4")
    affine = np.array([[0, -2, 0, 3], [1.5, 0, 0, 4], [0, 0.1, -3, 5], [0, 0, 0, 1.0]])
    file = nibabel.Nifti1Image(values, affine)
    file.set_sform(affine, 2)
    file.set_qform(affine, 1)
    nibabel.save(file, tmp_path / f"in{suffix}")
    indices = range(lo, values.shape[axis])
    out = rewrite(tmp_path / f"in{suffix}", tmp_path, indices, axis)
    assert out.name == f"reconstruction{suffix}"
    again = nibabel.load(out)
    kept = np.moveaxis(np.moveaxis(values, axis, 0)[lo:], 0, axis)
    np.testing.assert_allclose(np.asarray(again.dataobj), kept, atol=1e-5)
    corner = [0, 0, 0, 1]
    moved = [lo if a == axis else 0 for a in range(3)] + [1]
    np.testing.assert_allclose(again.affine @ corner, file.affine @ moved, atol=1e-5)
    assert (int(again.header["sform_code"]), int(again.header["qform_code"])) == (2, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({f"in{suffix}", out.name})


def test_empty_slices_are_nan(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(8, 9, 6)).astype("f4")
    values[:, :, [0, 3]] = np.nan
    values[0] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "in.nii")
    with open_volume(tmp_path / "in.nii") as volume:
        intensity = volume_intensity(volume, range(6), None)

        def unit_of(index: int) -> Any:
            return None if index in (0, 3) else to_unit(volume.read(index), intensity)[0]

        name = write_volume(tmp_path, volume, range(6), unit_of, intensity, "test")
    np.testing.assert_allclose(np.asarray(nibabel.load(tmp_path / name).dataobj), values, atol=1e-5)


def test_frames_of_one_file_become_a_series_with_their_places(tmp_path: Path) -> None:
    source = Path(str(get_testdata_file("rtdose.dcm", download=False)))
    files = sorted(rewrite(source, tmp_path / "out", range(2, 6)).iterdir())
    for index, file in enumerate(files, 2):
        image, again = read_image(source, index), read_image(file)
        np.testing.assert_array_equal(again.pixels, image.pixels)
        assert again.geometry["position_mm"] == image.geometry["position_mm"]
        assert pydicom.dcmread(file).SourceImageSequence[0].ReferencedFrameNumber == index + 1


def test_one_intensity_for_all_slices(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    with open_volume(tmp_path / "in") as volume:
        lo, hi = volume_intensity(volume, range(5), None)
        together = np.stack([volume.read(i).pixels for i in range(5)])
        np.testing.assert_allclose([lo, hi], np.percentile(together, (0.2, 99.8)), atol=20)
        assert volume_intensity(volume, range(5), (-160.0, 240.0)) == (-160, 240)
