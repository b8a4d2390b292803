"""`nnunet-cpr convert`: the flags. Imports nothing heavy before it runs."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_cpr.files import user_path
from nnunet_cpr.parallel import job_cores

if TYPE_CHECKING:
    from nnunet_cpr.datasets.conversion import Convertible

DATASETS = ("btcv", "heart", "brats2020", "amos22")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "convert",
        help="turn a downloaded BTCV, Heart, BraTS 2020 or AMOS22 folder into an nnU-Net dataset",
        description="Checks a downloaded challenge dataset and writes it below $nnUNet_raw, complete or not at all.",
        epilog="Example: nnunet-cpr convert btcv ~/Downloads/Abdomen --link",
    )
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="the unpacked download")
    parser.add_argument(
        "-d", dest="number", type=int, metavar="NUMBER",
        help="the dataset's number (default: btcv 17, heart 2, brats2020 82, amos22 218, with --mr 219)",
    )  # fmt: skip
    parser.add_argument("--mr", action="store_true", help="amos22: the MR images, too, not only CT")
    parser.add_argument("--link", action="store_true", help="symbolic links to the source's files instead of copies")
    parser.add_argument("--dry-run", action="store_true", help="check only, write nothing")
    parser.add_argument(
        "--inverse", nargs=2, metavar=("PREDICTIONS", "OUTPUT"),
        help="instead: turn a folder of predictions back into the challenge's label values",
    )  # fmt: skip
    parser.add_argument("-np", dest="processes", type=int, metavar="N", help="processes (default: one a core)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert, or restore the challenge's label values, and say what was done."""
    processes = job_cores() if args.processes is None else args.processes
    if processes < 1:
        raise ValueError(f"-np {processes}: at least one process is needed")
    if args.inverse:
        return _restore(args, processes)
    if args.source is None:
        raise ValueError("give SOURCE, the folder of the unpacked download")
    source = user_path(args.source)
    if not source.is_dir():
        raise ValueError(f"{source} is not a folder; give the folder of the unpacked download")
    if args.number is not None and not 1 <= args.number <= 999:
        raise ValueError(f"-d {args.number}: nnU-Net's numbers are 1 to 999")
    if args.mr and args.dataset != "amos22":
        raise ValueError(f"--mr is for amos22; {args.dataset} has one kind of images")

    from nnunet_cpr.datasets.conversion import convert

    dataset = _read(args.dataset, source, args.number, args.mr)
    try:
        target, cautions = convert(dataset, args.link, args.dry_run, processes)
    except KeyboardInterrupt:
        print("\nInterrupted; nothing was left behind.", file=sys.stderr)
        return 130
    for caution in cautions:
        print(f"! {caution}")
    print(f"Test cases, which have no label, for imagesTs: {dataset.number_of_test_cases}")
    if args.dry_run:
        print(f"{dataset.number_of_cases} training cases passed the checks; they would be written to {target}")
        return 0
    print(f"{dataset.number_of_cases} training cases written to {target}")
    print(f"Next: nnUNetv2_plan_and_preprocess -d {int(target.name[7:10])} --verify_dataset_integrity")
    return 0


def _read(name: str, source: Path, number: int | None, mr: bool) -> "Convertible":
    from nnunet_cpr.datasets import amos22, brats2020, btcv, heart

    reads: dict[str, Callable[[], Convertible]] = {
        "amos22": lambda: amos22.read(source, number, mr),
        "brats2020": lambda: brats2020.read(source, number),
        "btcv": lambda: btcv.read(source, number),
        "heart": lambda: heart.read(source, number),
    }
    return reads[name]()


def _restore(args: argparse.Namespace, processes: int) -> int:
    if args.source is not None or args.link or args.dry_run or args.mr or args.number is not None:
        raise ValueError("--inverse takes PREDICTIONS and OUTPUT, and besides it only -np")
    if args.dataset != "brats2020":
        raise ValueError(f"{args.dataset}: nnU-Net's label values are the challenge's own; no --inverse is needed")

    from nnunet_cpr.datasets.brats2020 import VALUES
    from nnunet_cpr.datasets.challenge_labels import restore_labels
    from nnunet_cpr.datasets.conversion import leftovers

    predictions, output = map(user_path, args.inverse)
    for caution in leftovers(output.absolute()):
        print(f"! {caution}")
    print(f"{restore_labels(predictions, output, VALUES, processes)} segmentations written to {output}")
    return 0
