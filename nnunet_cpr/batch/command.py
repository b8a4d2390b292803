"""`nnunet-cpr batch` and `nnunet-cpr status`: the flags. Imports nothing heavy before they run."""

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from nnunet_cpr.files import user_path


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register both commands."""
    batch = subparsers.add_parser(
        "batch",
        usage=(
            "nnunet-cpr batch [-h] [--json] [--dry-run] [--gpus 0,1,... | --jobs N |\n"
            "                        --slurm NAME=VALUE,... | --profile FOLDER] STUDY.yaml"
        ),
        help="run a study: datasets x trainers x seeds x folds, then the comparison",
        description="Runs what is missing of a study and ends with its report. Call it again to go on.",
        epilog="Example: nnunet-cpr batch study.yaml --gpus 0,1",
    )
    _add_study(batch)
    batch.add_argument(
        "--dry-run", action="store_true", help="show what there is to do and what it costs, and do nothing"
    )
    where = batch.add_mutually_exclusive_group()
    where.add_argument("--gpus", metavar="0,1,...", help="of this machine, for the trainings to share (default: all)")
    where.add_argument("--jobs", type=int, metavar="N", help="without GPU: trainings at once (default: 1)")
    where.add_argument(
        "--slurm", metavar="NAME=VALUE,...",
        help="on a SLURM cluster: sbatch's options, such as partition, account, qos, time, mem, cpus, constraint, gres",
    )  # fmt: skip
    where.add_argument("--profile", metavar="FOLDER", help="on a cluster, by a Snakemake profile of yours")
    batch.set_defaults(run=run_batch)

    status = subparsers.add_parser(
        "status",
        help="show how far a study is",
        description="Shows how far each training of a study is, at any time and from any terminal.",
    )
    _add_study(status)
    status.set_defaults(run=run_status)


def _add_study(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY.yaml")
    parser.add_argument("--json", action="store_true", help="print the trainings as JSON")


def run_status(args: argparse.Namespace) -> int:
    """Print the state of every training."""
    from nnunet_cpr.batch.study import read_study

    _show(read_study(user_path(args.study), need_data=False), args.json)
    return 0


def _show(study: Any, as_json: bool) -> None:
    from nnunet_cpr.batch.ensembles import prediction_states
    from nnunet_cpr.batch.states_table import predictions_table, states_table
    from nnunet_cpr.batch.trainings import as_dicts, states_of

    states, predictions = states_of(study), prediction_states(study)
    if as_json:
        print(json.dumps(as_dicts(states) + [asdict(state) for state in predictions], indent=2))
        return
    print(states_table(states, study.gpus_per_training))
    if predictions:
        print(f"\n{predictions_table(predictions)}")


def _show_data(study: Any) -> None:
    """Print for each dataset what there is to do before its trainings."""
    from nnunet_cpr.batch.prepare import is_prepared
    from nnunet_cpr.batch.study_data import is_missing

    if study.weights_sha256 is None:
        print(f"{study.pretrained_weights}: missing")
    for dataset in study.datasets:
        if is_prepared(study, dataset):
            print(f"{dataset}: prepared")
        elif any(is_missing(dataset, plans) for plans in study.plans):
            print(f"{dataset}: missing, neither in nnUNet_raw nor in nnUNet_preprocessed")
        else:
            print(f"{dataset}: to be prepared first")


def run_batch(args: argparse.Namespace) -> int:
    """Run the study: 0 if all is done, 1 if something failed, 130 if it was stopped."""
    if args.json and not args.dry_run:
        raise ValueError("--json goes with --dry-run")
    from nnunet_cpr.batch.gpus import gpu_locks
    from nnunet_cpr.batch.place import check_path, find_place
    from nnunet_cpr.batch.plan import check_output
    from nnunet_cpr.batch.slurm import jobs_left
    from nnunet_cpr.batch.study import read_study

    study = read_study(user_path(args.study), need_data=not args.dry_run)
    check_output(study)
    place = find_place(args, study.device, study.gpus_per_training)
    if args.dry_run:
        _show(study, args.json)
        if not args.json:
            _show_data(study)
        return 0
    if find_spec("snakemake") is None:
        raise ValueError("a batch needs Snakemake: pip install 'nnunet-cpr[batch]' (Python 3.11 or later)")
    check_path(study.output, args)
    if place.gpus:
        gpu_locks(place.gpus)  # so that a folder that is a stranger's is noticed now
    if jobs := jobs_left(study.output, must_know=place.cluster):
        raise ValueError(
            f"jobs of an earlier call are in the queue; wait for them, or stop them with: scancel {' '.join(jobs)}"
        )
    return _run(study, place)


def _run(study: Any, place: Any) -> int:
    from nnunet_cpr.batch.engine import StudyStopped, run_snakemake
    from nnunet_cpr.batch.ensembles import ensembles_of, prediction_states
    from nnunet_cpr.batch.failures import failures, reason_in
    from nnunet_cpr.batch.plan import Plan
    from nnunet_cpr.batch.report import write_study_report
    from nnunet_cpr.batch.slurm import wait_for_jobs
    from nnunet_cpr.batch.states_table import predictions_table, states_table
    from nnunet_cpr.batch.trainings import states_of, trainings_of
    from nnunet_cpr.batch.watch import Watch

    runs, ensembles = trainings_of(study), ensembles_of(study)
    todo = [run for run in runs if not run.is_done()]
    print(f"{len(runs)} trainings, {len(runs) - len(todo)} done before. Logs and report: {study.output}", flush=True)
    tests = [ensemble for ensemble in ensembles if not ensemble.is_done()]
    if ensembles:
        print(f"{len(ensembles)} test sets to predict, {len(ensembles) - len(tests)} done before.", flush=True)
    study.output.mkdir(parents=True, exist_ok=True)
    try:
        code, begin = run_snakemake(
            Plan(study, place.gpus, place.sbatch, place.threads), place, Watch(study, [*todo, *tests])
        )
    except StudyStopped:
        wait_for_jobs(study.output)
        print(f"Stopped. To go on: {shlex.join(['nnunet-cpr', *sys.argv[1:]])}")
        return 130
    missing = [run for run in runs if not run.is_done()]
    untested = [ensemble for ensemble in ensembles if not ensemble.is_done()]
    if missing or untested or code:
        print(states_table(states_of(study), study.gpus_per_training))
        if untested:
            print(f"\n{predictions_table(prediction_states(study))}")
        log = study.output / "snakemake.log"
        undone = f"{len(missing)} of {len(runs)} trainings"
        undone += f" and {len(untested)} of {len(ensembles)} test sets" if untested else ""
        print(f"{undone} are not done; logs: {study.output / 'logs'}, Snakemake's: {log}", file=sys.stderr)
        reasons = [f"{job}: {reason}" for job, reason in failures(study.output).items()]
        if code and not reasons:
            reasons = [f"Snakemake failed with exit code {code}: {reason_in(log, begin) or 'it left no message'}"]
        for reason in reasons:
            print(reason, file=sys.stderr)
    if len(study.trainers) < 2:
        print(f"There is no report: with {study.baseline} alone there is nothing to compare")
        return 1 if missing or untested or code else 0
    whole = not (missing or untested or code)
    for setup in study.setups:
        try:
            print(write_study_report(study, setup, shlex.join(["nnunet-cpr", *sys.argv[1:]])))
        except ValueError as error:
            whole = False
            name = f" for {setup.name}" if len(study.setups) > 1 else ""
            print(f"No report{name}: {error}", file=sys.stderr)
    return 0 if whole else 1
