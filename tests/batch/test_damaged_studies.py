"""Whatever is damaged of what `nnunet-cpr status` and `batch --dry-run` read: lines that say so, or it does not count.

INPUTS says how many damaged versions of each file are tried (default: 10, and 300 by the slow test), SEED which.
"""

import json

import pytest
from batch_helpers import DATASET, prepared_dataset
from damaging import Fuzz, contents, inputs, one_line

from nnunet_cpr.cli import main

FOLD = f"results/{DATASET}/nnUNetTrainerSGD_3epochs__nnUNetPlans__3d_fullres/fold_0"
RECORD = f"studies/records/{DATASET}/nnUNetTrainerCPR_ws500_10epochs__nnUNetPlans__3d_fullres/fold_1.json"
LOG = "".join(
    f"2026-11-23 13:40:44.339281: {text} \n" for e in range(3) for text in (f"Epoch {e}", "Epoch time: 61.5 s")
)
FILES = ["study.yaml", f"preprocessed/{DATASET}/nnUNetPlans.json", f"preprocessed/{DATASET}/splits_final.json",
         f"raw/{DATASET}/dataset.json", f"{FOLD}/validation/summary.json", f"{FOLD}/training_log_2026_1_2_3_4_5.txt",
         RECORD]  # fmt: skip


@pytest.fixture
def fuzz(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    good = tmp_path / "good"
    prepared_dataset(good / "preprocessed")
    raw, fold, record = good / "raw" / DATASET, good / FOLD, good / RECORD
    for folder in (raw / "labelsTr", fold / "validation", record.parent):
        folder.mkdir(parents=True)
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(description))
    (fold / "validation" / "summary.json").write_text('{"metric_per_case": [{"metrics": {}}]}')
    (fold / "training_log_2026_1_2_3_4_5.txt").write_text(LOG)
    (good / "studies" / "study.json").write_text('{"study": {}, "gpus": [], "runs": {}}')
    record.write_text('{"outcome": "failed", "exit_code": 1, "host": "h", "begun": 1.0, "ended": 2.0}')
    (good / "study.yaml").write_text(
        "datasets: [4]\ntrainers:\n  SGD: nnUNetTrainerSGD_3epochs\n  CPR: nnUNetTrainerCPR_ws500_10epochs\n"
        "folds: [0, 1]\nbaseline: SGD\ndevice: cpu\nseeds: []\noutput: studies\n".replace("seeds: []\n", "")
    )
    fuzz = Fuzz(good, tmp_path)

    def look(folder):
        for name in ("raw", "preprocessed", "results"):
            monkeypatch.setenv(f"nnUNet_{name}", str(folder / name))
        before = contents(folder)
        found = [
            one_line(capsys, main([*command, str(folder / "study.yaml")]), several=True)
            for command in (["status", "--json"], ["batch", "--dry-run"])
        ]
        assert contents(folder) == before, "something changed"
        return found[0] or found[1]

    assert look(good) is None
    fuzz.look = look
    return fuzz


def run(fuzz, count):
    for name in FILES:
        fuzz.spoil(name, count, fuzz.look)
    fuzz.end()


def test_a_few_damaged_files(fuzz):
    run(fuzz, inputs(10))


@pytest.mark.slow
def test_many_damaged_files(fuzz):
    run(fuzz, inputs(100))
