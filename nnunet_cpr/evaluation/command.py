"""`nnunet-cpr compare`: the flags. Imports nothing heavy before it runs."""

import argparse
import shlex
import sys
from typing import Any

from nnunet_cpr.evaluation.report.layout import REPORT
from nnunet_cpr.evaluation.request import EMPTY_POLICIES, LESION_RULES, make_request, read_yaml
from nnunet_cpr.files import user_path
from nnunet_cpr.output_folder import replace_folder


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "compare",
        help="compare finished trainings: Dice, intervals, tests, figures, one HTML report",
        description="Compares finished nnU-Net trainings, or folders of segmentations, with a baseline.",
        epilog="Example: nnunet-cpr compare -d 4 -c 3d_fullres -tr nnUNetTrainer nnUNetTrainerCPR -o report",
        argument_default=argparse.SUPPRESS,
    )
    many: Any = {"action": "extend", "nargs": "+"}
    nnunet = parser.add_argument_group("nnU-Net's results, named as in nnU-Net's commands")
    nnunet.add_argument("-d", dest="datasets", metavar="DATASET", help="ids or names", **many)
    nnunet.add_argument("-c", dest="configuration", help="default: 3d_fullres")
    nnunet.add_argument(
        "-tr", dest="trainers", metavar="TRAINER",
        help="the baseline first; NAME=TRAINER_seed0,TRAINER_seed1 groups repeats under one name; TRAINER:2d or "
        "TRAINER:3d_fullres:PLANS is of another configuration or plans", **many,
    )  # fmt: skip
    nnunet.add_argument("-p", dest="plans", help="default: nnUNetPlans")
    nnunet.add_argument("-f", dest="folds", metavar="FOLD", help="default: 0 1 2 3 4", **many)
    nnunet.add_argument(
        "--skip-missing", action="store_true", help="compare the finished trainings by the cases that all of them have"
    )
    nnunet.add_argument(
        "--test-set", action="store_true", help="also what the folds together predicted of imagesTs (nnunet-cpr batch)"
    )
    folders = parser.add_argument_group("or folders of segmentations by any tool")
    folders.add_argument("--reference", metavar="FOLDER", help="the true labels")
    folders.add_argument("--pred", dest="predictions", metavar="NAME=FOLDER", help="repeatable", **many)
    both = parser.add_argument_group("both")
    both.add_argument("--baseline", metavar="NAME", help="default: the first trainer or prediction")
    both.add_argument("-o", dest="output", metavar="FOLDER", help="the report's folder (default: comparison)")
    both.add_argument(
        "--empty", choices=EMPTY_POLICIES,
        help="Dice and NSD where label and prediction are both empty (default: nan, left out, as nnU-Net does)",
    )  # fmt: skip
    both.add_argument("--intersect", action="store_true", help="compare the cases that all have, where they differ")
    both.add_argument("--counts", action="store_true", help="precision, recall and volume errors, too (voxel counts)")
    both.add_argument(
        "--lesions", metavar="LABEL", help="lesion-wise F1, sensitivity and Dice of these labels, too", **many
    )
    both.add_argument(
        "--lesion-rule", choices=LESION_RULES, help="which lesions belong together (default: overlap, sharing a voxel)"
    )
    both.add_argument("--surface", action="store_true", help="NSD, HD95 and MASD, too (nnunet-cpr[surface])")
    both.add_argument(
        "--missed-hd95", type=float, metavar="MM",
        help="HD95 where label or prediction alone is empty (BraTS: 374; default: left out)",
    )  # fmt: skip
    both.add_argument("--tolerance", type=float, metavar="MM", help="of NSD (default: 1)")
    both.add_argument(
        "--margin", metavar="X", help="of Dice, or METRIC=X: smaller differences mean nothing (default: 0.01; report)",
        **many,
    )  # fmt: skip
    both.add_argument("--seed", type=int, help="of the bootstrap (default: 0)")
    both.add_argument("-np", dest="processes", type=int, help="processes (default: one a core)")
    parser.add_argument("--config", metavar="FILE", help="a YAML file with these settings; flags win")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare, write the report, and print the table."""
    given = vars(args).copy()
    del given["run"], given["command"]
    config = given.pop("config", None)
    try:
        request = make_request({**({} if config is None else read_yaml(user_path(config))), **given})
    except ValueError as error:
        if config is None or config in str(error) or given.keys() - {"output"}:  # it may be a flag's mistake
            raise
        raise ValueError(f"{config}: {error}") from error
    with replace_folder(request.output, REPORT) as new:
        from nnunet_cpr.evaluation.comparison import compare_trainings
        from nnunet_cpr.evaluation.report.write import terminal_table, write_files

        results = compare_trainings(request, shlex.join(["nnunet-cpr", *sys.argv[1:]]))
        write_files(results, new)
    print(terminal_table(results))
    for caution in results.cautions:
        print(f"! {caution}")
    print(f"Report: {request.output / 'report.html'}")
    return 0
