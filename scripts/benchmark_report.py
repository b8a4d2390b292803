"""What a comparison report costs: time and memory of `nnunet-cpr compare` on results of the size of a large study.

Writes what nnU-Net leaves into a temporary folder, with random numbers: summary.json, logs and the trace of CPR of 1000
epochs and 60 tensors, and volumes of the size of an abdominal CT. All cases are links to the same volumes. The opponent
is a plain script: json, pandas and SciPy's bootstrap and Wilcoxon test of every trainer and label, no report.

    python scripts/benchmark_report.py [--cases 400] [--labels 15] [--folds 5] [--trainers 2] [--size 512 512 130]
"""

import argparse
import json
import os
import random
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from benchmarks.processes import measured
from scipy import stats

from nnunet_cpr.files import user_path

DATASET = "Dataset999_Benchmark"
BASELINE, CPR = "nnUNetTrainer", "nnUNetTrainerCPR"
EPOCHS, TENSORS, STEPS = 1000, 60, 250
COUNTS = {"FN": 411, "FP": 179, "IoU": 0.7462365591397849, "TN": 68883, "TP": 1735, "n_pred": 1914, "n_ref": 2146}


def trainers_of(number: int) -> list[str]:
    """Return the names of so many trainers."""
    return [BASELINE, CPR, *(f"{CPR}_ws{1000 * more}" for more in range(1, number - 1))]


def write_results(root: Path, trainers: list[str], folds: int, cases: int, labels: int) -> None:
    """Write what the command reads."""
    rng = random.Random(0)
    names = {"background": 0, **{f"organ {label}": label for label in range(1, labels + 1)}}
    for trainer in trainers:
        model = root / "results" / DATASET / f"{trainer}__nnUNetPlans__3d_fullres"
        for fold in range(folds):
            validation = model / f"fold_{fold}" / "validation"
            validation.mkdir(parents=True)
            per_case = [
                {
                    "metrics": {
                        str(label): {"Dice": rng.betavariate(8, 2), **COUNTS} for label in range(1, labels + 1)
                    },
                    "prediction_file": f"{validation}/{case}.nii.gz",
                    "reference_file": f"/gt_segmentations/{case}.nii.gz",
                }
                for case in cases_of(fold, cases)
            ]
            (validation / "summary.json").write_text(json.dumps({"metric_per_case": per_case}, indent=4))
            write_log(validation.parent, labels, rng)
            if trainer != BASELINE:
                write_trace(validation.parent, rng)
        (model / "dataset.json").write_text(json.dumps({"labels": names, "file_ending": ".nii.gz"}))


def cases_of(fold: int, cases: int) -> list[str]:
    """Return the names of a fold's cases."""
    return [f"case_{fold}_{case:04}" for case in range(cases)]


def write_log(folder: Path, labels: int, rng: random.Random) -> None:
    """Write the log of a training as nnU-Net does."""
    lines = []
    for epoch in range(EPOCHS):
        dice = 0.9 * (1 - 0.99**epoch)
        values = [f"np.float32({dice + rng.gauss(0, 0.02):.4f})" for _ in range(labels)]
        lines += [
            "",
            f"Epoch {epoch}",
            "Current learning rate: 0.01",
            f"train_loss {0.3 - dice + rng.gauss(0, 0.02):.4f}",
            f"val_loss {0.32 - dice + rng.gauss(0, 0.03):.4f}",
            f"Pseudo dice [{', '.join(values)}]",
            f"Epoch time: {70 + rng.random():.2f} s",
        ]
    text = "".join(f"2026-11-23 10:52:41.161192: {line} \n" for line in lines)
    (folder / "training_log_2026_11_23_10_52_41.txt").write_text(text)


def write_trace(folder: Path, rng: random.Random) -> None:
    """Write a CPR trace: R grows until the warm start ends, then it is held."""
    lines = ["epoch,step,tensor,reg,kappa,lagmul"]
    sizes = [10 ** rng.uniform(0, 3) for _ in range(TENSORS)]
    for epoch in range(EPOCHS):
        bounded = epoch >= 4
        for tensor, size in enumerate(sizes):
            reg = size * (1.05 if bounded else 1 + epoch / 80) * (1 - 0.01 * rng.random())
            lagmul = max(0.0, rng.gauss(0, 1e-4)) if bounded else 0
            bound = f"{size * 1.05:.9g}" if bounded else "inf"
            name = f"encoder.stages.{tensor}.convs.conv.weight"
            lines.append(f"{epoch},{STEPS * (epoch + 1)},{name},{reg:.9g},{bound},{lagmul:.9g}")
    (folder / "cpr_trace.csv").write_text("\n".join(lines) + "\n")


def write_volumes(
    root: Path, trainers: list[str], folds: int, cases: int, labels: int, size: tuple[int, int, int]
) -> None:
    """Write an image, a reference and a segmentation of each trainer, and link every case to them."""
    rng = np.random.default_rng(0)
    affine = np.diag([0.8, 0.8, 3.0, 1.0])
    x, y, z = np.ogrid[tuple(slice(0, length) for length in size)]
    image = rng.normal(40, 20, size).astype(np.int16)
    volumes = {name: np.zeros(size, dtype=np.uint8) for name in ("reference", *trainers)}
    for label in range(1, labels + 1):
        center, radius = rng.uniform(0.2, 0.8, 3) * size, rng.uniform(0.04, 0.1) * size[0]
        for shift, volume in enumerate(volumes.values()):
            distance = (x - center[0] - 3 * shift) ** 2 + (y - center[1]) ** 2 + (3.75 * (z - center[2])) ** 2
            volume[distance < (radius + shift) ** 2] = label
            image[volumes["reference"] == label] += 5
    arrays: dict[str, np.ndarray] = {**volumes, "image": image}
    for name, array in arrays.items():
        nib.save(nib.Nifti1Image(array, affine), root / f"{name}.nii.gz")
    truth, images = root / "preprocessed" / DATASET / "gt_segmentations", root / "raw" / DATASET / "imagesTr"
    places = {"reference": truth, "image": images}
    for place in places.values():
        place.mkdir(parents=True)
    for fold in range(folds):
        model = {t: root / "results" / DATASET / f"{t}__nnUNetPlans__3d_fullres" for t in trainers}
        predicted = {t: folder / f"fold_{fold}" / "validation" for t, folder in model.items()}
        for case in cases_of(fold, cases):
            for name, place in {**places, **predicted}.items():
                suffix = "_0000" if name == "image" else ""
                (place / f"{case}{suffix}.nii.gz").symlink_to(root / f"{name}.nii.gz")


def plain_analysis(root: Path, trainers: list[str]) -> None:
    """Compare every label, and the mean over labels, with the baseline as a plain script would."""
    dice = {}
    for trainer in trainers:
        model = root / "results" / DATASET / f"{trainer}__nnUNetPlans__3d_fullres"
        paths = sorted(model.glob("fold_*/validation/summary.json"))
        content = [case for path in paths for case in json.loads(path.read_text())["metric_per_case"]]
        rows = [{label: of["Dice"] for label, of in case["metrics"].items()} for case in content]
        dice[trainer] = pd.DataFrame(rows, index=[case["prediction_file"].rsplit("/", 1)[1] for case in content])
        dice[trainer]["mean"] = dice[trainer].mean(axis=1)
    for trainer in trainers[1:]:
        for label, values in (dice[trainer] - dice[BASELINE]).items():
            found = stats.bootstrap((values,), np.mean, n_resamples=9999, batch=100, method="BCa", rng=0)
            print(trainer, label, values.mean(), *found.confidence_interval, stats.wilcoxon(values).pvalue)


def run_command(root: Path, report: Path, trainers: list[str], folds: int) -> None:
    """Become the command that is measured."""
    folders = {f"nnUNet_{name}": str(root / name) for name in ("results", "raw", "preprocessed")}
    command = [sys.executable, "-m", "nnunet_cpr.cli", "compare", "-d", DATASET, "-tr", *trainers]
    os.execve(sys.executable, [*command, "-f", *map(str, range(folds)), "-o", str(report)], os.environ | folders)


def main() -> None:
    """Run both once and print their time and peak memory, and the size of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--cases", type=int, default=400, help="of a fold")
    parser.add_argument("--labels", type=int, default=15)
    parser.add_argument("--trainers", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 130), help="of a volume, in voxels")
    parser.add_argument("--keep", type=user_path, help="copy the report here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, trainers = Path(folder), trainers_of(args.trainers)
        write_results(root, trainers, args.folds, args.cases, args.labels)
        # In a process of its own: Linux counts what this one ever needed as the peak of the command that it starts.
        measured(write_volumes, root, trainers, args.folds, args.cases, args.labels, tuple(args.size))
        report = args.keep or root / "report"
        plain, plain_cpu, plain_memory = measured(plain_analysis, root, trainers)
        seconds, cpu, memory = measured(run_command, root, report, trainers, args.folds)
        page = (report / "report.html").stat().st_size
    print(
        f"{len(trainers)} trainers x {args.folds} folds x {args.cases} cases x {args.labels} labels, "
        f"{EPOCHS} epochs, {TENSORS} tensors, volumes of {' x '.join(map(str, args.size))}:\n"
        f"nnunet-cpr compare  {seconds:.1f} s ({cpu:.1f} s of processor time), {memory:.2f} GiB at most, "
        f"report.html {page / 2**20:.1f} MiB\n"
        f"plain script        {plain:.1f} s ({plain_cpu:.1f} s of processor time), {plain_memory:.2f} GiB at most\n"
        f"ratio               {seconds / plain:.2f}"
    )


if __name__ == "__main__":
    main()
