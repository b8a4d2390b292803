"""Stands in for nnUNetv2_evaluate_folder: the Dice of a case depends on its name and on the trainer's."""

import argparse
import json
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("reference")
parser.add_argument("prediction")
for name in ("djfile", "pfile", "o", "np"):
    parser.add_argument(f"-{name}")
args = parser.parse_args()
trainer = Path(args.prediction).parent.name
dice_of = {
    path: 0.5 + 0.01 * k + 0.001 * (sum(map(ord, trainer)) % 7)
    for k, path in enumerate(sorted(Path(args.reference).glob("*.nii.gz")))
    if (Path(args.prediction) / path.name).is_file()
}
per_case = [
    {
        "metrics": {"1": {"Dice": dice, "IoU": 0.5}},
        "prediction_file": str(Path(args.prediction) / path.name),
        "reference_file": str(path),
    }
    for path, dice in dice_of.items()
]
mean = {"Dice": sum(dice_of.values()) / len(dice_of)}
summary = {"metric_per_case": per_case, "mean": {"1": mean}, "foreground_mean": mean}
Path(args.o).write_text(json.dumps(summary))
