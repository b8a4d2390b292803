"""The `nnunet-cpr` command: parses arguments, then calls the part of the package that does the work.

argparse, as nnU-Net's own commands: its users type `-tr A B C`, which click-based parsers cannot take.
Nothing here imports torch; a sub-command imports what it needs when it runs.
"""

import argparse
import logging
import sys
from typing import NoReturn

from nnunet_cpr import __version__
from nnunet_cpr.batch import command as batch
from nnunet_cpr.datasets import convert_command as convert
from nnunet_cpr.demo import command as demo
from nnunet_cpr.doctor import command as doctor
from nnunet_cpr.evaluation import command as evaluation
from nnunet_cpr.files import make_nnunet_folders_absolute
from nnunet_cpr.labels import escaped
from nnunet_cpr.plotting import ignore_user_settings
from nnunet_cpr.terminal import run_command
from nnunet_cpr.training import command as trainers


def main(argv: list[str] | None = None) -> int:
    """Run `nnunet-cpr` with the given arguments (default: the command line) and return its exit code.

    A user's mistake arrives as ValueError or OSError and leaves as one line on stderr with exit code 2; Ctrl-C as 130.
    """
    return run_command("nnunet-cpr", lambda: _run(argv))


class _Parser(argparse.ArgumentParser):
    """Shows what was typed without control characters."""

    def error(self, message: str) -> NoReturn:
        super().error(escaped(message))


def _run(argv: list[str] | None) -> int:
    description = "nnU-Net with Constrained Parameter Regularization."
    parser: argparse.ArgumentParser = _Parser(prog="nnunet-cpr", description=description)
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    demo.add_parser(subparsers)
    convert.add_parser(subparsers)
    trainers.add_parser(subparsers)
    evaluation.add_parser(subparsers)
    batch.add_parser(subparsers)
    doctor.add_parser(subparsers)
    args, rest = parser.parse_known_args(argv)
    if len(rest) == 1 and not rest[0].startswith("-") and getattr(args, "source", "") is None:
        args.source = rest.pop()  # argparse gives up an optional SOURCE when a flag comes before it
    if rest:
        subparsers.choices[args.command].error(f"unrecognized arguments: {' '.join(rest)}")
    ignore_user_settings()
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)  # it also says what it then raises
    if args.run is not doctor.run:  # it must see the variables as nnU-Net's commands do
        make_nnunet_folders_absolute()
    return int(args.run(args))


if __name__ == "__main__":
    sys.exit(main())
