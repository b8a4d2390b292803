"""Whether the prediction of a test set belongs to the folds, images and labels that are there now."""

import json
import shutil

import pytest

from nnunet_cpr.evaluation.readers.fold_ensembles import RECORD, FoldEnsemble, ensemble_folder, find_ensembles

DATASET = "Dataset004_Tiny"


@pytest.fixture
def ensemble(tmp_path, monkeypatch):
    """A finished prediction of two cases by two folds; the files hold texts, as nothing here reads images."""
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    raw = tmp_path / "raw" / DATASET
    for part in ("imagesTs", "labelsTs"):
        (raw / part).mkdir(parents=True)
    for case in ("a", "b"):
        (raw / "imagesTs" / f"{case}_0000.nii.gz").write_text(f"image {case}")
        (raw / "labelsTs" / f"{case}.nii.gz").write_text(f"label {case}")
    model = tmp_path / "results" / DATASET / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    for fold in "01":
        (model / f"fold_{fold}").mkdir(parents=True)
        (model / f"fold_{fold}" / "checkpoint_final.pth").write_text(f"weights {fold}")
    labels = {"background": 0, "organ": 1}
    (model / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
    found = FoldEnsemble(DATASET, "nnUNetTrainer", "nnUNetTrainer", "0_1", ensemble_folder(model, ["1", "0"]))
    found.folder.mkdir()
    (found.folder / RECORD).write_text(json.dumps(found.made_of()))
    (found.folder / "summary.json").write_text('{"metric_per_case": [{}]}')
    return found


def raw(ensemble):
    return ensemble.labels_folder.parent


CHANGES = {
    "nothing": (lambda one: None, ""),
    "copied with other times": (lambda one: [shutil.copy(path, path.with_suffix(".copy")).replace(path)
                                             for path in raw(one).glob("*/*")], ""),
    "a checkpoint is deleted": (lambda one: (one.folder.parent / "fold_1" / "checkpoint_final.pth").unlink(), ""),
    "another machine": (lambda one: shutil.rmtree(raw(one)), ""),
    "trained again": (lambda one: (one.folder.parent / "fold_1" / "checkpoint_final.pth").write_text("others"),
                      "trained again since: fold 1"),
    "another image": (lambda one: (raw(one) / "imagesTs" / "b_0000.nii.gz").write_text("other"),
                      "the images of b have changed"),
    "one more channel": (lambda one: (raw(one) / "imagesTs" / "b_0001.nii.gz").write_text("other"),
                         "the images of b have changed"),
    "another label": (lambda one: (raw(one) / "labelsTs" / "a.nii.gz").write_text("corrected"),
                      "the labels of a have changed"),
    "one more case": (lambda one: (raw(one) / "labelsTs" / "c.nii.gz").write_text("label c"),
                      "the test set has new cases: c"),
    "one case fewer": (lambda one: (raw(one) / "labelsTs" / "a.nii.gz").unlink(), "the test set lacks cases: a"),
    "no record": (lambda one: (one.folder / RECORD).unlink(), "is missing or damaged, so nobody knows which model"),
    "damaged record": (lambda one: (one.folder / RECORD).write_text('{"checkpoints": []}'), "is missing or damaged"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed(ensemble, change):
    make, expected = CHANGES[change]
    make(ensemble)
    again = FoldEnsemble(ensemble.dataset, ensemble.trainer, ensemble.run, ensemble.fold, ensemble.folder)
    assert expected in again.changed() and bool(again.changed()) == bool(expected)
    arguments = [DATASET], "3d_fullres", {"nnUNetTrainer": ["nnUNetTrainer"]}, "nnUNetPlans", ["0", "1"]
    usable, unusable = find_ensembles(*arguments, skip_missing=True)
    assert (len(usable), len(unusable)) == ((0, 1) if expected else (1, 0))
    if expected:
        with pytest.raises(ValueError, match=r"^1 of 1 fold ensembles have no result of the test set: .*; run the"):
            find_ensembles(*arguments)


def test_a_corrected_label_leaves_the_predictions_valid(ensemble):
    (raw(ensemble) / "labelsTs" / "a.nii.gz").write_text("corrected")
    assert ensemble.changed() and not ensemble.changed_prediction()


def test_files_are_those_of_the_test_set(ensemble):
    case = {"prediction_file": "/elsewhere/a.nii.gz", "reference_file": "/elsewhere/labels/a.nii.gz"}
    case["metrics"] = {"1": {"Dice": 0.5}}
    (ensemble.folder / "summary.json").write_text(json.dumps({"metric_per_case": [case]}))
    label = raw(ensemble) / "labelsTs" / "a.nii.gz"
    files = ensemble.case_files()["a"]
    assert (files.reference, files.prediction) == (label, ensemble.folder / "a.nii.gz")
    assert files.images[0] == raw(ensemble) / "imagesTs" / "a_0000.nii.gz"
