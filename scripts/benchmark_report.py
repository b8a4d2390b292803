"""What a comparison report costs: time and memory of `nnunet-cpr compare` on results of the size of a large study.

Writes summary.json files as nnU-Net does, with random Dice, into a temporary folder.

    python scripts/benchmark_report.py [--cases 400] [--labels 15] [--folds 5]
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DATASET = "Dataset999_Benchmark"
TRAINERS = ["nnUNetTrainer", "nnUNetTrainerCPR"]
COUNTS = {"FN": 411, "FP": 179, "IoU": 0.7462365591397849, "TN": 68883, "TP": 1735, "n_pred": 1914, "n_ref": 2146}


def write_results(root: Path, folds: int, cases: int, labels: int) -> None:
    """Write what the command reads."""
    rng = random.Random(0)
    names = {"background": 0, **{f"organ {label}": label for label in range(1, labels + 1)}}
    for trainer in TRAINERS:
        model = root / DATASET / f"{trainer}__nnUNetPlans__3d_fullres"
        for fold in range(folds):
            validation = model / f"fold_{fold}" / "validation"
            validation.mkdir(parents=True)
            per_case = [
                {
                    "metrics": {
                        str(label): {"Dice": rng.betavariate(8, 2), **COUNTS} for label in range(1, labels + 1)
                    },
                    "prediction_file": f"{validation}/case_{fold}_{case:04}.nii.gz",
                    "reference_file": f"/gt_segmentations/case_{fold}_{case:04}.nii.gz",
                }
                for case in range(cases)
            ]
            (validation / "summary.json").write_text(json.dumps({"metric_per_case": per_case}, indent=4))
        (model / "dataset.json").write_text(json.dumps({"labels": names, "file_ending": ".nii.gz"}))


def main() -> None:
    """Run the command once and print its time and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--cases", type=int, default=400, help="of a fold")
    parser.add_argument("--labels", type=int, default=15)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_results(root / "results", args.folds, args.cases, args.labels)
        command = [sys.executable, "-m", "nnunet_cpr.cli", "compare", "-d", DATASET, "-tr", *TRAINERS]
        command += ["-f", *map(str, range(args.folds)), "-o", str(root / "report")]
        start = time.perf_counter()
        subprocess.run(command, check=True, env=os.environ | {"nnUNet_results": str(root / "results")})
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(
        f"{len(TRAINERS)} trainers x {args.folds} folds x {args.cases} cases x {args.labels} labels: "
        f"{seconds:.1f} s, {peak:.2f} GiB at most"
    )


if __name__ == "__main__":
    main()
