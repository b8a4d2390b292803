"""Stands in for nnUNetv2_predict: same arguments and files, but a prediction is a text that names its case.

`fail-predict` in the folder FAKE_NNUNET makes it fail after its first case; while `hold-predict` is there, it does not
go on after that. Standard library only.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("i", "o", "d", "c", "p", "tr", "chk", "device", "npp", "nps", "prev_stage_predictions"):
    parser.add_argument(f"-{name}")
parser.add_argument("-f", nargs="+")
parser.add_argument("--continue_prediction", action="store_true")
parser.add_argument("--disable_progress_bar", action="store_true")
args = parser.parse_args()
control = Path(os.environ["FAKE_NNUNET"])
model = Path(os.environ["nnUNet_results"]) / args.d / f"{args.tr}__{args.p}__{args.c}"  # noqa: SIM112
output = Path(args.o)


def tell(event: str, **more: object) -> None:
    content = {"event": event, "model": model.name, "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), **more}
    with (control / "events.jsonl").open("a") as stream:
        stream.write(json.dumps(content) + "\n")


for fold in args.f:
    (model / f"fold_{fold}" / args.chk).read_bytes()
cases = sorted(path.name[: -len("_0000.nii.gz")] for path in Path(args.i).glob("*_0000.nii.gz"))
cases = [case for case in cases if not (args.continue_prediction and (output / f"{case}.nii.gz").is_file())]
tell("predict", arguments=sys.argv[1:], cases=cases)
for case in cases:
    if args.c == "3d_cascade_fullres":
        assert Path(args.prev_stage_predictions, f"{case}.nii.gz").is_file()
    source = Path(args.i) / f"{case}_0000.nii.gz"
    (output / f"{case}.nii.gz").write_bytes(source.read_bytes())
    if (control / "fail-predict").exists():
        sys.exit("RuntimeError: told to fail to predict")
    while (control / "hold-predict").exists():
        time.sleep(0.02)
tell("predicted")
