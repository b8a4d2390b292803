"""Stands in for nnUNetv2_train: same arguments, files, exit codes and resuming, but an epoch is a short sleep.

FAKE_NNUNET names a folder. events.jsonl there gets what every process did; `fail-TRAINER-FOLD` there makes a training
fail after its first epoch; while `hold` is there, the epoch whose number is in it does not end; locks of its own
there show whether two processes ever train one fold, or use one GPU. Standard library only: it starts in
milliseconds.
"""

import argparse
import fcntl
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("dataset")
parser.add_argument("configuration")
parser.add_argument("fold")
parser.add_argument("-tr")
parser.add_argument("-p")
parser.add_argument("-device")
parser.add_argument("-num_gpus", type=int, default=1)
parser.add_argument("-pretrained_weights")
parser.add_argument("--c", action="store_true")
args = parser.parse_args()
assert not (args.c and args.pretrained_weights)
control = Path(os.environ["FAKE_NNUNET"])
gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
model = Path(os.environ["nnUNet_results"]) / args.dataset / f"{args.tr}__{args.p}__{args.configuration}"  # noqa: SIM112
folder = model / f"fold_{args.fold}"
latest, final = folder / "checkpoint_latest.pth", folder / "checkpoint_final.pth"


def tell(event: str, **more: object) -> None:
    content = {"event": event, "fold": f"{model.name}/{args.fold}", "pid": os.getpid(), "gpu": gpu,
               "threads": os.environ.get("NNUNET_CPR_THREADS"), "workers": os.environ.get("nnUNet_n_proc_DA"),  # noqa: SIM112
               "waiting": os.environ.get("OMP_WAIT_POLICY"),
               "python_path": os.environ.get("PYTHONPATH"), **more}  # fmt: skip
    with (control / "events.jsonl").open("a") as stream:
        stream.write(json.dumps(content) + "\n")


def held(epoch: int) -> bool:
    try:
        return not stop and epoch >= int((control / "hold").read_text())
    except (FileNotFoundError, ValueError):
        return False


def alone(what: str) -> None:
    stream = (control / f"alone-{what}").open("w")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell("clash", what=what)
    kept.append(stream)


kept: list[object] = []
stop: list[int] = []
# As our trainers; schedulers send signals to every process of a job.
for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(name, lambda number, _: stop.append(number))
alone(f"{model.name}-{args.fold}")
if args.device == "cuda":
    assert gpu is not None and len(gpu.split(",")) == args.num_gpus
    for number in gpu.split(","):
        alone(f"gpu-{number}")
predicted = "predicted_next_stage/3d_cascade_fullres"
if args.configuration == "3d_cascade_fullres":
    first = model.with_name(f"{args.tr}__{args.p}__3d_lowres") / predicted
    assert sorted(path.name for path in first.iterdir()) == [f"case_{k}.b2nd" for k in range(10)]
folder.mkdir(parents=True, exist_ok=True)
(model / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"}))
named = re.search(r"(\d+)epoch", args.tr)
assert named
epochs = int(named[1])
first = int(latest.read_text()) + 1 if args.c and latest.is_file() else 0
first = epochs if args.c and final.is_file() else first
tell("begin", epoch=first, arguments=sys.argv[1:])
with (folder / f"training_log_{os.getpid()}.txt").open("a") as log:
    for epoch in range(first, epochs):
        begun = time.time()
        log.write(f"2026-01-01 00:00:00.0: Epoch {epoch}\n")
        time.sleep(0.05)
        while held(epoch):
            time.sleep(0.02)
        log.write(f"2026-01-01 00:00:01.0: Epoch time: {time.time() - begun:.2f} s\n")
        log.flush()
        if (control / f"fail-{args.tr}-{args.fold}").exists():
            tell("fail")
            sys.exit("RuntimeError: told to fail")
        checkpoint = folder / ".checkpoint"
        checkpoint.write_text(str(epoch))
        tell("epoch", epoch=epoch)  # before the rename: an epoch that is saved is always told
        checkpoint.replace(latest)
        if stop and epoch + 1 < epochs:
            tell("stopped", signal=stop[0])
            # A training still takes a step when signals to all processes of its job arrive one after the other. This
            # one is gone in milliseconds, and a late one would meet Python while it ends, without our handlers.
            for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
                signal.signal(name, signal.SIG_IGN)
            sys.exit(75)
if not final.is_file():
    latest.replace(final)
cases = [f"case_{5 * k + int(args.fold)}" for k in range(2)]
dice_of = {case: 0.8 + 0.01 * k + 0.001 * (sum(map(ord, args.tr)) % 7) for k, case in enumerate(cases)}
per_case = [
    {
        "metrics": {"1": {"Dice": dice, "IoU": 0.5}},
        "prediction_file": f"{folder}/validation/{case}.nii.gz",
        "reference_file": f"{folder}/{case}.nii.gz",
    }
    for case, dice in dice_of.items()
]
if args.configuration == "3d_lowres":
    (model / predicted).mkdir(parents=True, exist_ok=True)
    for case in cases:
        (model / predicted / f"{case}.b2nd").touch()
mean = {"Dice": sum(dice_of.values()) / len(dice_of)}
summary = {"metric_per_case": per_case, "mean": {"1": mean}, "foreground_mean": mean}
(folder / "validation").mkdir(exist_ok=True)
(folder / "validation" / "summary.json").write_text(json.dumps(summary))
tell("done")
