"""What a training takes from a folder: which files, slices and values, and the split."""

from __future__ import annotations

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from typer.testing import CliRunner

from gprior import InputError
from gprior.cli import main
from gprior.training import Choice, folder_set, survey_folder

SIZE = 16


def noise(*shape, top=256, seed=0):
    return np.random.default_rng(seed).integers(0, top, shape)


def picture(path, top=256, dtype="u1", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(SIZE, SIZE, top=top, seed=seed).astype(dtype)).save(path, "PNG")


def pictures(folder, count):
    for i in range(count):
        picture(folder / f"{i:02}.png", seed=i)


def volume(path, values):
    nibabel.save(nibabel.Nifti1Image(values.astype("f4"), np.eye(4)), path)


def survey(folder, **choice):
    return survey_folder(folder, Choice(**choice))


# --- Files -----------------------------------------------------------------------------------


def test_content_decides_and_hidden_files_are_passed_over(tmp_path):
    pictures(tmp_path, 20)
    picture(tmp_path / "IM000001")  # a PNG without an extension
    scan = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False))
    scan.save_as(tmp_path / "IM000002")
    for name in (".hidden.png", "._00.png", ".cache/a.png", "__MACOSX/a.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    found = survey(tmp_path)
    assert {one.path.name for one in found.slices} == {
        *(f"{i:02}.png" for i in range(20)),
        "IM000001",
        "IM000002",
    }
    assert (found.others, found.skipped, found.empty) == (1, (), 0)


def test_unreadable_files_are_in_one_report_with_reasons(tmp_path):
    pictures(tmp_path, 20)
    whole = (tmp_path / "00.png").read_bytes()
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(whole[:60])
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("L", (1, 9)).save(tmp_path / "line.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = survey(tmp_path)
    assert len(found.slices) == 20
    assert sorted(name for name, _ in found.skipped) == [
        "a.png", "b.png", "empty.png", "gone.png", "line.png",
    ]  # fmt: skip
    report = found.passed_over()
    assert report.startswith(f"5 files of {tmp_path} were passed over:\n  2: a.png, b.png: ")
    for reason in ("damaged", "empty", "No such file", "at least 2 pixels high and wide"):
        assert reason in report
    with pytest.warns(UserWarning, match="5 files of .* were passed over"):
        found.warn()


def test_empty_slices_are_skipped_and_counted(tmp_path):
    pictures(tmp_path, 20)
    Image.new("L", (SIZE, SIZE), 7).save(tmp_path / "constant.png")
    np.save(tmp_path / "nan.npy", np.full((SIZE, SIZE), np.nan))
    found = survey(tmp_path)
    assert (len(found.slices), found.empty, found.skipped) == (20, 2, ())
    # Of values from 0 to 255, nothing is left in a window above them.
    with pytest.raises(InputError, match=r"0 images.*Passed over were 22 empty slices"):
        survey(tmp_path, intensity=(300.0, 400.0))


# --- Slices ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slices", "taken"), [("middle", [10]), ("all", range(2, 18)), ("3-5", [3, 4, 5])]
)
def test_slices_of_a_volume(tmp_path, slices, taken):
    for i in range(20):
        volume(tmp_path / f"{i:02}.nii", noise(SIZE, SIZE, 20, seed=i))
    found = survey(tmp_path, slices=slices)
    assert [one.index for one in found.slices if one.path.name == "00.nii"] == list(taken)
    assert found.facts()["volumes"] == 20


def test_a_volume_with_an_empty_middle_keeps_its_other_slices(tmp_path):
    for i in range(3):
        values = noise(SIZE, SIZE, 20, seed=i).astype("f4")
        values[..., 10], values[..., 4] = np.nan, 0
        volume(tmp_path / f"{i}.nii.gz", values)
    found = survey(tmp_path, slices="all")
    assert (len(found.slices), found.empty, found.skipped) == (3 * 14, 6, ())
    assert {one.index for one in found.slices} == set(range(2, 18)) - {4, 10}


def test_the_middle_of_a_dicom_series_is_by_position(tmp_path):
    scan = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False))
    for patient in range(3):
        series = pydicom.uid.generate_uid()
        for i in range(10):
            scan.PatientID, scan.SeriesInstanceUID = f"P{patient}", series
            scan.ImagePositionPatient = [0, 0, -5 * i]  # against the order of the names
            scan.save_as(tmp_path / f"{patient}-{i}")
    found = survey(tmp_path, slices="all")
    assert sorted({one.path.name[-1] for one in found.slices}) == list("12345678")
    assert found.facts()["patients"] == found.facts()["volumes"] == 3


# --- The split -------------------------------------------------------------------------------


@pytest.mark.parametrize("folders", ["classes", "patients"])
def test_no_patient_is_on_both_sides(tmp_path, folders):
    place = tmp_path / "head" if folders == "classes" else tmp_path
    for patient in range(6):
        pictures(place / f"P{patient}", 5)
    found = survey(tmp_path, folders=folders)
    sides = [set(), set()]
    for i, one in enumerate(found.slices):
        sides[i in found.held_out].add(one.patient)
    assert found.split_by == "patient" and sides[0].isdisjoint(sides[1]) and sides[1]
    assert found.classes == (("head",) if folders == "classes" else ())


def test_one_patient_is_split_by_volume_with_a_warning(tmp_path):
    for i in range(4):
        (tmp_path / "head" / "P").mkdir(parents=True, exist_ok=True)
        volume(tmp_path / "head" / "P" / f"{i}.nii", noise(SIZE, SIZE, 10, seed=i))
    found = survey(tmp_path, slices="all")
    assert found.split_by == "volume"
    held = {found.slices[i].path for i in found.held_out}
    assert len(held) == 1 and len(found.held_out) == 8
    with pytest.warns(UserWarning, match="no patient can be held out"):
        found.warn()


# --- Values ----------------------------------------------------------------------------------


def test_a_warning_where_16_bits_use_a_small_part_of_their_range(tmp_path):
    for i in range(20):
        picture(tmp_path / f"{i}.png", 4096, "u2", i)
    with pytest.warns(UserWarning, match="of the range 0 to 65535.* 16 of 256 gray levels") as seen:
        dark = folder_set(tmp_path, SIZE, 1)
    assert len(seen) == 1 and len(dark.images.unique()) == 17
    for intensity in ((0.0, 4095.0), "percentile"):  # a warning would be an error
        found = folder_set(tmp_path, SIZE, 1, intensity=intensity)
        assert len(found.images.unique()) > 250
        kept = [intensity] if isinstance(intensity, str) else list(intensity)
        assert found.facts["intensity"] == (kept[0] if isinstance(intensity, str) else kept)


def test_padding_is_black_in_training_images(tmp_path):
    scan = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False))
    stored = np.full((64, 64), 400, "i2")
    stored[:32] = -32768
    stored[40:44, 40:44] = 800
    scan.add_new(0x00280120, "SS", -32768)
    scan.PixelData = stored.tobytes()
    for i in range(20):
        scan.PatientID = f"P{i}"
        scan.save_as(tmp_path / f"{i}")
    images = folder_set(tmp_path, 32, 1, intensity=(0.0, 800.0)).images
    assert images[0, 0, :15].max() == 0
    assert 120 <= images[0, 0, 18, 5] <= 135 and images[0, 0, 17:, :10].max() < 145


# --- The command -----------------------------------------------------------------------------


def call(*words):
    return CliRunner().invoke(main, ["train", *map(str, words)])


@pytest.mark.filterwarnings("ignore:1 files of")
def test_check_reads_the_folder_and_does_not_train(tmp_path):
    data, out = tmp_path / "slices", tmp_path / "out"
    for patient in range(5):
        pictures(data / "head" / f"P{patient}", 5)
    (data / "head" / "P0" / "bad.png").write_bytes(b"")
    result = call(data, "--check", "--out", out, "--intensity", "0,200")
    assert result.exit_code == 0, result.output
    for line in (
        "25 images of 5 patients in 25 volumes (middle)",
        "sizes: 25 x 16 x 16",
        "values: png, uint8: 0 to 255",
        "split by patient: 20 images of 4 patients for training, 5 of 1 held out",
        "passed over: 0 empty slices, 1 unreadable files, 0 files that are no images",
    ):
        assert line in result.output
    assert [path.name for path in out.iterdir()] == ["skipped.txt"]
    assert (out / "skipped.txt").read_text().startswith("head/P0/bad.png\t")
    assert call("phantoms", "--check").exit_code == 2
    assert "intensity must be LO,HI" in call(data, "--check", "--intensity", "1").output
    assert "slices must be" in call(data, "--check", "--slices", "some").output
