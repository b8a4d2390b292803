"""`nnunet-cpr demo`: its arguments, and what is printed around the stages. Imports no torch."""

import argparse
import shlex
import signal
import sys
import time

from nnunet_cpr.demo.settings import STEPS
from nnunet_cpr.exclusive import exclusive
from nnunet_cpr.files import user_path
from nnunet_cpr.output_folder import check_folder


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "demo",
        help="train nnU-Net with CPR and with weight decay on a small dataset and compare",
        description="Converts, plans, preprocesses, trains nnU-Net with weight decay and with CPR (same steps, same "
        "seed), validates, and writes a report. Finished stages are not repeated; an interrupted training goes on.",
    )
    parser.add_argument(
        "--data",
        help="a folder with imagesTr, labelsTr and dataset.json as in the Medical Segmentation Decathlon "
        "(default: the MNI152 brain template, which needs no download)",
    )
    parser.add_argument("--out", default="demo", help="where everything is written (default: %(default)s)")
    parser.add_argument(
        "--steps",
        type=int,
        default=STEPS,
        help="optimizer steps per training, a multiple of 10 (default: %(default)s; other data needs more, e.g. 2000)",
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu", "mps"), help="where to train (default: cuda if there is one, else cpu)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of both trainings (default: %(default)s)")
    parser.add_argument(
        "--fold", type=int, choices=range(5), default=0, help="of nnU-Net's cross-validation (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo. Returns 0, 1 if one of nnU-Net's commands failed, or 130 when interrupted."""
    from nnunet_cpr.demo.subprocesses import CommandFailed

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is an interruption too
    try:
        _run(args)
    except CommandFailed as error:
        print(f"nnunet-cpr: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; nothing is running any more. The same command goes on from here.", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _run(args: argparse.Namespace) -> None:
    from nnunet_cpr.demo.data import open_data
    from nnunet_cpr.demo.device import probe
    from nnunet_cpr.demo.pipeline import run_stages
    from nnunet_cpr.demo.settings import Settings
    from nnunet_cpr.demo.workspace import Workspace
    from nnunet_cpr.evaluation.report.layout import REPORT

    start = time.monotonic()
    data = open_data(None if args.data is None else user_path(args.data))
    machine = probe()
    device = machine.choose(args.device)
    settings = Settings(args.steps, args.seed, args.fold, device, device == "cpu" and machine.bf16_cpu)
    workspace = Workspace(user_path(args.out), data.name)
    with exclusive(workspace.out):
        workspace.check(settings)
        check_folder(workspace.report(settings), REPORT)
        print(f"Data:      {data.title}")
        print(
            f"Trainings: weight decay and CPR, {settings.steps} steps each, seed {settings.seed}, fold {settings.fold}"
        )
        print(f"Device:    {device}, {settings.precision}")
        print(f"Folder:    {workspace.out}\n", flush=True)
        run_stages(workspace, data, settings)

        from nnunet_cpr.demo.report import write_report

        command = shlex.join(["nnunet-cpr", *sys.argv[1:]])
        page, text = write_report(workspace, data, settings, machine, command)
    print(f"\n{text}\n\nReport: {page}\nTotal time: {(time.monotonic() - start) / 60:.1f} min")
