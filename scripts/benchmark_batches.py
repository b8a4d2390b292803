"""Measures how many batches a second augmentation makes: in seeded trainings of ours, and in nnU-Net's own.

Both use nnU-Net's loader and augmentation of the same preprocessed dataset, with the same number of worker processes;
only who runs the workers differs. They take turns. Each fills its queues first, and then only batches that are made
while it is measured count. Prints the rates and, over the rounds, quartiles of their ratio. Needs nnU-Net's variables.

    python scripts/benchmark_batches.py 4 -c 3d_fullres [-w 1 2] [--rounds 11] [--batches 80] [--json FILE]
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.agreement import FEWEST_ROUNDS, find_doubts, quartiles, read_clocks, share_of_others
from benchmarks.formatting import show_span
from benchmarks.machine import describe_machine
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnunet_cpr.training.factory import trainer_class

OURS, THEIRS = "nnUNetTrainerSGD_seed0", "nnUNetTrainerSGD"
IN_ADVANCE = 40
"""More than both keep in their queues."""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="a preprocessed dataset's number or name")
    parser.add_argument("-c", "--configuration", default="3d_fullres")
    parser.add_argument("-p", "--plans", default="nnUNetPlans")
    parser.add_argument("-w", "--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=FEWEST_ROUNDS + 1)
    parser.add_argument("--batches", type=int, default=80, help="in each measurement (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")
    args = parser.parse_args()
    rows = [measure(args, workers) for workers in args.workers]
    print("workers  nnU-Net's, 1/s  ours, 1/s  ours / nnU-Net's (quartiles)")
    for row in rows:
        ratio = f"{row['ratio'][1]:.3f} ({show_span((row['ratio'][0], row['ratio'][2]), 3)})"
        print(f"{row['workers']:7}  {row['nnunet']:14.2f}  {row['ours']:9.2f}  {ratio}")
        for doubt in row["doubts"]:
            print(f"         not a result: {doubt}")
    if args.json:
        content = describe_machine(torch.device("cpu")) | {
            "dataset": maybe_convert_to_dataset_name(args.dataset),
            "configuration": args.configuration,
            "batches": args.batches,
            "rows": rows,
        }
        args.json.write_text(json.dumps(content, indent=2) + "\n")


def measure(args: argparse.Namespace, workers: int) -> dict[str, Any]:
    """Let both take turns, nnU-Net's at the beginning and the end of each round."""
    os.environ["nnUNet_n_proc_DA"] = str(workers)  # noqa: SIM112 (nnU-Net's name)
    rates: dict[str, list[float]] = {OURS: [], THEIRS: []}
    ratios, against_itself = [], []
    before = read_clocks()
    for _ in range(args.rounds):
        first, ours, last = (rate(args, name) for name in (THEIRS, OURS, THEIRS))
        rates[OURS].append(ours)
        rates[THEIRS] += [first, last]
        ratios.append(ours / ((first + last) / 2))
        against_itself.append(last / first)
    others = share_of_others(before, read_clocks(), os.cpu_count() or 1)
    return {
        "workers": workers,
        "rounds": args.rounds,
        "nnunet": quartiles(rates[THEIRS])[1],
        "ours": quartiles(rates[OURS])[1],
        "ratio": quartiles(ratios),
        "doubts": find_doubts(against_itself, others),
    }


def rate(args: argparse.Namespace, name: str) -> float:
    """Return the batches a second of a trainer's training loader, its workers doing nothing else."""
    dataset = maybe_convert_to_dataset_name(args.dataset)
    folder = Path(os.environ["nnUNet_preprocessed"], dataset)  # noqa: SIM112 (nnU-Net's name)
    plans = json.loads((folder / f"{args.plans}.json").read_text()) | {"continue_training": False}
    description = json.loads((folder / "dataset.json").read_text())
    trainer = trainer_class(name)(plans, args.configuration, 0, description, device=torch.device("cpu"))
    trainer.initialize()
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    trainer.dataloader_val._finish()
    for _ in range(IN_ADVANCE):
        next(trainer.dataloader_train)
    begun = time.perf_counter()
    for _ in range(args.batches):
        next(trainer.dataloader_train)
    seconds = time.perf_counter() - begun
    trainer._finish_workers()
    batches: int = args.batches
    return batches / seconds


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as results:
        os.environ["nnUNet_results"] = results  # noqa: SIM112 (nnU-Net's name)
        main()
