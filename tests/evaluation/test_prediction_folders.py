import gzip
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from evaluation_helpers import noise
from evaluation_helpers import write_segmentation as write

from nnunet_cpr import parallel
from nnunet_cpr.evaluation.readers.prediction_folders import locate_in_folders, read_folders
from nnunet_cpr.evaluation.results import CASE_COLUMNS

evaluation = pytest.importorskip("nnunetv2.evaluation.evaluate_predictions")


@pytest.fixture
def folders(tmp_path) -> tuple[Path, dict[str, Path]]:
    """Three cases, two predictions of each."""
    for case in range(3):
        write(tmp_path / "labels" / f"case{case}.nii.gz", noise(case))
        write(tmp_path / "a" / f"case{case}.nii.gz", noise(case + 10))
        write(tmp_path / "b" / f"case{case}.nii.gz", noise(case + 20))
    return tmp_path / "labels", {"A": tmp_path / "a", "B": tmp_path / "b"}


def read(folders, **options):
    reference, predictions = folders
    return read_folders(reference, predictions, "D", 1, **options)


def values(cases) -> dict[tuple[str, str, str], float]:
    assert not cases.duplicated(["trainer", "case", "label"]).any()
    return {(row.trainer, row.case, row.label): row.value for row in cases.itertuples()}


def describe(folder: Path, labels: dict) -> None:
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))


def nnunets(reference: Path, prediction: Path, labels: list, ignore: int | None = None) -> dict:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    metrics = evaluation.compute_metrics(str(reference), str(prediction), SimpleITKIO(), labels, ignore)["metrics"]
    return {label: metrics[label]["Dice"] for label in labels}


def test_dice_is_nnunets(folders):
    cases = read(folders)
    assert list(cases.columns) == CASE_COLUMNS
    assert set(cases["metric"]) == {"Dice"} and set(cases["fold"]) == {0} and set(cases["dataset"]) == {"D"}
    assert (cases["trainer"] == cases["run"]).all()
    found = values(cases)
    assert len(found) == 2 * 3 * 3
    reference, predictions = folders
    for name, folder in predictions.items():
        for case in range(3):
            file = f"case{case}.nii.gz"
            for label, dice in nnunets(reference / file, folder / file, [1, 2, 3]).items():
                assert found[name, f"case{case}", str(label)] == pytest.approx(dice, abs=1e-12)


def test_dice_by_hand(tmp_path):
    reference = np.array([1, 1, 1, 1, 0, 0, 0, 0], np.uint8).reshape(2, 2, 2)
    prediction = np.array([1, 1, 0, 0, 0, 0, 0, 0], np.uint8).reshape(2, 2, 2)
    write(tmp_path / "labels" / "x.nii.gz", reference)
    write(tmp_path / "p" / "x.nii.gz", prediction)
    assert values(read((tmp_path / "labels", {"P": tmp_path / "p"}))) == {("P", "x", "1"): pytest.approx(2 / 3)}


def test_several_processes_give_the_same(folders, monkeypatch):
    reference, predictions = folders
    monkeypatch.setattr(parallel, "START_SECONDS", -1.0)
    assert read(folders).equals(read_folders(reference, predictions, "D", 2))


@pytest.mark.parametrize("beside", [True, False])
def test_labels_have_the_names_of_dataset_json(folders, beside):
    reference, _ = folders
    described = reference if beside else reference.parent
    describe(described, {"background": 0, "liver": 2, "spleen": 1, "never seen": 7})
    cases = read(folders)
    assert list(cases["label"].unique()) == ["liver", "spleen", "never seen", "3"]  # 3 occurs, but has no name
    found = values(cases)
    assert found["A", "case0", "liver"] == pytest.approx(
        nnunets(reference / "case0.nii.gz", reference.parent / "a" / "case0.nii.gz", [2])[2], abs=1e-12
    )
    assert math.isnan(found["A", "case0", "never seen"])


def test_regions_and_ignore_label_are_nnunets(folders):
    reference, predictions = folders
    describe(reference, {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3})
    found = values(read(folders))
    assert {label for _, _, label in found} == {"whole", "core"}
    expected = nnunets(reference / "case1.nii.gz", predictions["B"] / "case1.nii.gz", [(1, 2), (2,)], ignore=3)
    assert found["B", "case1", "whole"] == pytest.approx(expected[(1, 2)], abs=1e-12)
    assert found["B", "case1", "core"] == pytest.approx(expected[(2,)], abs=1e-12)


def test_the_decathlons_dataset_json_names_labels_and_ignore_label(folders):
    """As beside labelsTr: values before names, of which two are the same."""
    reference, predictions = folders
    content = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "lesion", "2": "lesion", "3": "ignore"}}
    (reference.parent / "dataset.json").write_text(json.dumps(content | {"training": []}))
    found = values(read(folders))
    assert {label for _, _, label in found} == {"lesion (label 1)", "lesion (label 2)"}
    expected = nnunets(reference / "case2.nii.gz", predictions["A"] / "case2.nii.gz", [1, 2], ignore=3)
    for value in (1, 2):
        assert found["A", "case2", f"lesion (label {value})"] == pytest.approx(expected[value], abs=1e-12)


def test_a_name_that_looks_like_another_value_hides_none(folders):
    """Label 1 is called 3, and 3 has no name."""
    reference, predictions = folders
    describe(reference, {"background": 0, "3": 1, "": 2})
    cases = read(folders)
    found = values(cases)
    expected = nnunets(reference / "case0.nii.gz", predictions["B"] / "case0.nii.gz", [1, 2, 3])
    of_case = {label: value for (name, case, label), value in found.items() if (name, case) == ("B", "case0")}
    assert of_case == pytest.approx({"3": expected[1], "(label 2)": expected[2], "3 (label 3)": expected[3]}, abs=1e-12)
    locate = locate_in_folders(reference, predictions, cases)
    for name, case in sorted({(row.run, row.case) for row in cases.itertuples()}):
        assert locate("D", name, 0, case).labels == {"3": 1, "(label 2)": 2, "3 (label 3)": 3}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"a": 1, "b": 1}, r"dataset\.json cannot be read .*'a' and 'b' have the same value 1; give each value one"),
        ({"a": "tumor"}, r"'tumor' is no label"),
        (["a"], "not a mapping"),
    ],
)
def test_labels_that_are_none_are_named(folders, labels, message):
    describe(folders[0], labels)
    with pytest.raises(ValueError, match=message):
        read(folders)


def test_a_dataset_json_without_labels(folders):
    (folders[0] / "dataset.json").write_text('{"name": "something else"}')
    with pytest.raises(ValueError, match=r"dataset\.json has no key 'labels'; add it, or move the file away"):
        read(folders)


def test_the_dataset_json_above_a_folder_called_dot(folders, monkeypatch):
    reference, predictions = folders
    describe(reference.parent, {"background": 0, "liver": 1, "spleen": 2, "aorta": 3})
    monkeypatch.chdir(reference)
    assert {label for _, _, label in values(read((Path(), predictions)))} == {"liver", "spleen", "aorta"}


def test_references_without_any_label(tmp_path):
    for folder in ("labels", "p"):
        write(tmp_path / folder / "x.nii.gz", np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(ValueError, match=r"references in .*labels are all empty, and no dataset\.json there names"):
        read((tmp_path / "labels", {"P": tmp_path / "p"}))


def test_a_file_that_may_not_be_read(folders, monkeypatch):
    """Root may read everything, so the system's answer is played."""
    path = folders[1]["B"] / "case1.nii.gz"
    path.write_bytes(b"")
    real = Path.open

    def refuse(self, *args, **options):
        if self == path:
            raise PermissionError(13, "Permission denied", str(path))
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match=r"b/case1\.nii\.gz cannot be read \(permission denied\)"):
        read(folders)


@pytest.mark.parametrize("name", [b"case\xe9.nii.gz", b"case\x1b[31m.nii.gz", b"case\n.nii.gz"])
def test_a_name_that_cannot_be_shown(folders, name):
    content = (folders[0] / "case0.nii.gz").read_bytes()
    for folder in (folders[0], *folders[1].values()):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(content)
    with pytest.raises(ValueError, match="has no UTF-8 name that can be shown; rename its files") as error:
        read(folders)
    assert str(error.value).isprintable()


def test_a_voxel_that_is_nearly_a_label(folders):
    write(folders[0] / "case0.nii.gz", noise(0) * np.float64(1.0000001))
    with pytest.raises(ValueError, match=r"case0\.nii\.gz holds \d\.000000\d; labels are whole numbers"):
        read(folders)


@pytest.mark.parametrize("ending", [".nii", ".mha", ".NII.GZ"])
def test_a_case_that_is_there_twice(folders, ending):
    path = folders[1]["A"] / f"case1{ending}"
    path.write_bytes((folders[1]["A"] / "case1.nii.gz").read_bytes())
    with pytest.raises(ValueError, match="are of the same case"):
        read(folders)


def test_a_label_of_other_cases_is_nan_where_both_are_empty_and_0_where_one_is(tmp_path):
    zeros = np.zeros((2, 3, 4), np.uint8)
    write(tmp_path / "labels" / "x.nii.gz", zeros + 1)
    write(tmp_path / "labels" / "y.nii.gz", zeros + 5)
    write(tmp_path / "p" / "x.nii.gz", zeros + 1)
    write(tmp_path / "p" / "y.nii.gz", zeros + 1)
    found = values(read((tmp_path / "labels", {"P": tmp_path / "p"})))
    assert math.isnan(found.pop(("P", "x", "5")))
    assert found == {("P", "x", "1"): 1.0, ("P", "y", "1"): 0.0, ("P", "y", "5"): 0.0}


def test_a_label_that_only_a_prediction_has_is_named(folders):
    reference, predictions = folders
    odd = noise(11)
    odd[0, 0, 0] = 9
    write(predictions["B"] / "case1.nii.gz", odd)
    with pytest.raises(ValueError, match=r"b/case1\.nii\.gz holds the label 9, which no reference has"):
        read(folders)
    describe(reference, {"background": 0, "rare": 9})
    assert values(read(folders))["B", "case1", "rare"] == 0.0


def test_missing_files_are_counted_and_some_are_named(folders):
    reference, _ = folders
    for case in range(3, 10):
        write(reference / f"case{case}.nii.gz", noise(case))
    names = ", ".join(rf"case{case}\.nii\.gz" for case in range(3, 8))
    with pytest.raises(ValueError, match=rf"/a lacks 7 of 10 predictions: {names}, \.\.\.$"):
        read(folders)
    assert set(read(folders, intersect=True)["case"]) == {"case0", "case1", "case2"}


def test_a_prediction_without_reference_is_named(folders):
    _, predictions = folders
    write(predictions["B"] / "stray.nii.gz", noise(0))
    with pytest.raises(ValueError, match=r"labels lacks 1 of 4 references: stray\.nii\.gz$"):
        read(folders)


def test_no_case_in_common(folders, tmp_path):
    write(tmp_path / "c" / "other.nii.gz", noise(0))
    with pytest.raises(ValueError, match="have no case in common"):
        read((folders[0], {"C": tmp_path / "c"}), intersect=True)


def test_missing_and_empty_folders(folders, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is not a folder"):
        read((tmp_path / "nowhere", folders[1]))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("")
    (tmp_path / "empty" / ".case0.nii.gz").write_text("")
    with pytest.raises(ValueError, match=r"empty holds no segmentation"):
        read((tmp_path / "empty", folders[1]))


TURNED = (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"array": noise(0, shape=(5, 6, 8))}, "size"),
        ({"spacing": (0.7, 0.802, 2.5)}, "spacing"),
        ({"origin": (3.0, -4.0, 5.002)}, "origin"),
        ({"direction": TURNED}, "direction"),
        ({"spacing": (0.7, 0.8005, 2.5), "origin": (3.0005, -4.0, 5.0)}, None),  # rounding
    ],
)
def test_geometry_of_the_reference_is_asked_for(folders, change, wrong):
    _, predictions = folders
    write(predictions["A"] / "case2.nii.gz", **{"array": noise(2), **change})
    if wrong is None:
        read(folders)
    else:
        with pytest.raises(ValueError, match=rf"a/case2\.nii\.gz has the {wrong} .* reference .*labels/case2\.nii\.gz"):
            read(folders)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_truncated_files_are_named(tmp_path, ending, share):
    for folder in ("labels", "p"):
        path = write(tmp_path / folder / f"x{ending}", noise(0, shape=(30, 40, 50)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=rf"p/x{ending} cannot be read; it may be damaged or truncated") as error:
        read((tmp_path / "labels", {"P": tmp_path / "p"}))
    assert "\n" not in str(error.value)


def test_a_damaged_file_is_named(folders):
    path = folders[1]["A"] / "case0.nii.gz"
    path.write_bytes(gzip.compress(b"no image at all" * 100))
    with pytest.raises(ValueError, match=r"a/case0\.nii\.gz cannot be read"):
        read(folders)


def test_plane_images(tmp_path):
    for folder, seed in (("labels", 0), ("p", 1)):
        write(tmp_path / folder / "x.png", noise(seed, shape=(6, 7)))
    expected = 2 * ((noise(0, shape=(6, 7)) == 2) & (noise(1, shape=(6, 7)) == 2)).sum()
    expected /= (noise(0, shape=(6, 7)) == 2).sum() + (noise(1, shape=(6, 7)) == 2).sum()
    assert values(read((tmp_path / "labels", {"P": tmp_path / "p"})))["P", "x", "2"] == pytest.approx(expected)


def test_the_formats_of_reference_and_prediction_may_differ(folders, tmp_path):
    for case in range(3):
        write(tmp_path / "c" / f"case{case}.nrrd", noise(case + 10))
    found = read((folders[0], {"A": tmp_path / "c"}))
    assert found.equals(read((folders[0], {"A": folders[1]["A"]})))


def test_a_damaged_dataset_json_is_named(folders):
    (folders[0] / "dataset.json").write_text('{"labels": [')
    with pytest.raises(ValueError, match=r"labels/dataset\.json cannot be read"):
        read(folders)


def test_where_the_files_of_a_case_are(folders):
    reference, predictions = folders
    describe(reference, {"background": 0, "both": [1, 2]})
    last = locate_in_folders(reference, predictions, read(folders))("D", "B", 0, "case2")
    assert (last.dataset, last.trainer, last.run, last.fold, last.case) == ("D", "B", "B", 0, "case2")
    assert (last.reference, last.prediction) == (reference / "case2.nii.gz", predictions["B"] / "case2.nii.gz")
    assert last.labels == {"both": (1, 2), "3": 3}
