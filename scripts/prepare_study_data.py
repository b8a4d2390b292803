"""Make the data of the small studies from what is installed: text, and folders of images. Nothing is downloaded.

Each has three parts: for training, for tuning (validation), and for the last numbers (test). A training script knows
two, so there are two sets with the same training part: `tuning` has the validation part, `final` the test part.

    python scripts/prepare_study_data.py --out runs/study-data
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.command import run_script_command
from harness.images import Sample, load_digits
from harness.shifted_images import shifted
from train_clip import DIGITS, DIGITS_SIZE

from nnunet_cpr.files import user_path, write_whole

TRAINED_BYTES, HELD_OUT_BYTES, BLOCK_BYTES = 20_000, 60_000, 2_000
"""Of the text for training, of each other part, and of what is in one part without a break."""
TRAINED_OF_A_CLASS = 20


def make_texts(out: Path) -> None:
    """Write tuning.txt and final.txt: of Python's documentation of its topics, with the first quarter for training."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics)).encode()
    # Blocks take turns, because topics of one kind stand together.
    ends = range(BLOCK_BYTES, TRAINED_BYTES + 2 * HELD_OUT_BYTES + 1, BLOCK_BYTES)
    blocks = [text[end - BLOCK_BYTES : end] for end in ends]
    turns = ((0,), (1, 3, 5), (2, 4, 6))
    train, validation, test = (
        b"".join(block for number, block in enumerate(blocks) if number % 7 in part) for part in turns
    )
    for name, other in (("tuning", validation), ("final", test)):
        with write_whole(out / f"{name}.txt") as temporary:
            temporary.write_bytes(train + other)


def make_digits(out: Path) -> None:
    """Write shifted digits (`new`) and plain ones (`old`) as PNG files in folders, a few of each class for training."""
    digits = load_digits(DIGITS_SIZE, 0.2)
    few = [sample for label in range(10) for sample in [s for s in digits.train if s[1] == label][:TRAINED_OF_A_CLASS]]
    validation, test = digits.val[::2], digits.val[1::2]
    for kind, change in (("new", lambda samples, seed: shifted(samples, seed)), ("old", lambda samples, _: samples)):
        for name, held_out, seed in (("tuning", validation, 1), ("final", test, 2)):
            folder = out / kind / name
            write_images(folder / "train", change(few, 0))
            write_images(folder / "val", change(held_out, seed))


def write_images(folder: Path, samples: Sequence[Sample]) -> None:
    """Write images into a folder for each class."""
    for number, (image, label) in enumerate(samples):
        path = folder / DIGITS[label] / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(path) as temporary:
            image.save(temporary, format="PNG")


def prepare(out: Path) -> None:
    """Make all of it."""
    (out / "topics").mkdir(parents=True, exist_ok=True)
    make_texts(out / "topics")
    make_digits(out / "digits")
    print(f"the data of the studies are in {out}")


def main(argv: list[str] | None = None) -> int:
    """Prepare, and return the exit code. A user's mistake leaves as one line on stderr with exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where to write")
    args = parser.parse_args(argv)
    return run_script_command("prepare_study_data.py", lambda: prepare(user_path(args.out)))


if __name__ == "__main__":
    sys.exit(main())
