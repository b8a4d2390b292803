"""Make datasets of few training cases from a dataset of many: all with the same validation cases and the same test set.

Fold 0 of such a dataset trains on few cases and validates on many. The cases of a smaller one are among those of a
larger one. The images and labels are links. Needs nnUNet_raw and nnUNet_preprocessed.

    python scripts/prepare_few_cases.py Dataset004_Hippocampus --as 408:8 --as 424:24 --validation 40 --test 100
"""

import argparse
import glob
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from harness.command import run_script_command

from nnunet_cpr.files import write_json
from nnunet_cpr.labels import read_dataset_json
from nnunet_cpr.nnunet.paths import needed_folder

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed")


def draw(cases: list[str], most: int, validation: int, test: int, seed: int) -> tuple[list[str], list[str], list[str]]:
    """Return cases for training in the order in which datasets get them, for validation, and for the test set."""
    if min(validation, test) < 0:
        raise ValueError("--validation and --test must not be negative")
    needed = most + validation + test
    if needed > len(cases):
        raise ValueError(f"{needed} cases are asked for, but there are {len(cases)}")
    order = [str(case) for case in np.random.default_rng(seed).permutation(sorted(cases))]
    held_out = validation + test
    return order[held_out : held_out + most], sorted(order[:validation]), sorted(order[validation:held_out])


def images_of(source: Path, case: str, ending: str) -> list[Path]:
    """Return the files of a case's channels."""
    return sorted((source / "imagesTr").glob(f"{glob.escape(case)}_????{ending}"))


def write_dataset(
    source: Path, description: dict[str, Any], name: str, train: list[str], validation: list[str], test: list[str]
) -> None:
    """Link the cases into a dataset of nnU-Net's with a test set, and write its split."""
    ending = description["file_ending"]
    raw, preprocessed = (needed_folder(variable) / name for variable in VARIABLES)
    for part, cases in (("Tr", [*train, *validation]), ("Ts", test)):
        for kind in ("images", "labels"):
            (raw / f"{kind}{part}").mkdir(parents=True)
        for case in cases:
            for image in images_of(source, case, ending):
                (raw / f"images{part}" / image.name).symlink_to(image.absolute())
            label = source / "labelsTr" / f"{case}{ending}"
            (raw / f"labels{part}" / label.name).symlink_to(label.absolute())
    write_json(raw / "dataset.json", description | {"numTraining": len(train) + len(validation)})
    preprocessed.mkdir(parents=True)
    write_json(preprocessed / "splits_final.json", [{"train": sorted(train), "val": validation}])


def prepare(source: Path, sizes: list[tuple[int, int]], validation: int, test: int, seed: int) -> None:
    """Write a dataset for each pair of `sizes`: nnU-Net's number of it, and how many training cases it has."""
    if not (source / "dataset.json").is_file():
        raise ValueError(f"{source} is no dataset of nnU-Net's: it has no dataset.json")
    description = read_dataset_json(source / "dataset.json")
    ending = description.get("file_ending")
    if "dataset" in description or not isinstance(ending, str):
        raise ValueError(f"{source}: its dataset.json has no file_ending, or lists files elsewhere than in imagesTr")
    cases = [path.name.removesuffix(ending) for path in (source / "labelsTr").glob(f"*{ending}")]
    if without := [case for case in sorted(cases) if not images_of(source, case, ending)]:
        raise ValueError(f"{source}: {without[0]} has a label, but no image")
    train, val, test_cases = draw(cases, max(size for _, size in sizes), validation, test, seed)
    numbers = [number for number, _ in sizes]
    for number in numbers:
        if numbers.count(number) > 1:
            raise ValueError(f"the number {number} is given twice")
        for variable in VARIABLES:
            for folder in needed_folder(variable).glob(f"Dataset{number:03}_*"):
                raise ValueError(f"{folder} is there already; remove it, or give another number")
    task = source.name.partition("_")[2] or source.name
    for number, size in sizes:
        name = f"Dataset{number:03}_{task}{size}cases"
        try:
            write_dataset(source, description, name, train[:size], val, test_cases)
        except BaseException:
            for variable in VARIABLES:
                shutil.rmtree(needed_folder(variable) / name, ignore_errors=True)
            raise
        print(f"{name}: {size} cases for training, {len(val)} for validation, {len(test_cases)} for the test")


def _number_and_size(text: str) -> tuple[int, int]:
    number, _, size = text.partition(":")
    if not (number.isdecimal() and size.isdecimal() and 0 < int(number) < 1000 and int(size)):
        raise argparse.ArgumentTypeError(f"{text} is not NUMBER:CASES, such as 408:8")
    return int(number), int(size)


def main(argv: list[str] | None = None) -> int:
    """Prepare, and return the exit code. A user's mistake leaves as one line on stderr with exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="its folder's name in nnUNet_raw")
    parser.add_argument("--as", dest="sizes", action="append", required=True, type=_number_and_size,
                        metavar="NUMBER:CASES", help="a new dataset's number, and its training cases")  # fmt: skip
    parser.add_argument("--validation", type=int, default=40, metavar="N", help="cases (default: 40)")
    parser.add_argument("--test", type=int, default=100, metavar="N", help="cases (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    args = parser.parse_args(argv)

    def work() -> None:
        prepare(needed_folder("nnUNet_raw") / args.dataset, args.sizes, args.validation, args.test, args.seed)

    return run_script_command("prepare_few_cases.py", work)


if __name__ == "__main__":
    sys.exit(main())
