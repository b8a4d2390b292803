"""The job that trains one fold: never two on one fold, and never two on one GPU."""

import itertools
import sys
from pathlib import Path

from nnunet_cpr.batch.attempt import Attempt
from nnunet_cpr.batch.failures import forget_failure, note_failure
from nnunet_cpr.batch.locks import take
from nnunet_cpr.batch.plan import Plan, job_name
from nnunet_cpr.batch.stop_relay import StopRelay
from nnunet_cpr.batch.study import Study
from nnunet_cpr.batch.trainings import CHECKPOINTS, StudyTraining
from nnunet_cpr.evaluation.readers.starting_weights import checksum, note_weights
from nnunet_cpr.nnunet.commands import executable


def train_command(study: Study, run: StudyTraining) -> list[str]:
    """Return nnU-Net's command. With --c it starts, resumes, or only validates, whatever is left.

    nnU-Net takes no weights to begin with where it is to resume.
    """
    begins = study.pretrained_weights and not run.is_begun()
    command, number = [executable("nnUNetv2_train")], study.gpus_per_training
    if number > 1:  # nnU-Net's own command does not hand stop signals on to its processes
        command = [sys.executable, "-m", "nnunet_cpr.training.launch"]
    gpus = ["-num_gpus", str(number)] if number > 1 else []
    return [*command, run.dataset, run.setup.configuration, run.fold, "-tr", run.run, "-p", run.setup.plans,
            "-device", study.device, *gpus, *(["-pretrained_weights", study.pretrained_weights] if begins else ["--c"]),
            *study.train_arguments]  # fmt: skip


def train(plan: Plan, run: StudyTraining) -> int:
    """Train and validate the fold unless that has been done, and return nnU-Net's exit code."""
    study, log, job = plan.study, run.log(plan.study.output), f"train/{job_name(run.key)}"
    log.parent.mkdir(parents=True, exist_ok=True)
    with StopRelay() as stop:
        fold_lock = take(run.lock, wait=False)
        if fold_lock is None:
            print(f"{run.key} is being trained by another process; waiting for it", flush=True)
            note_failure(study.output, job, "waits, because another process trains this fold")
            fold_lock = take(run.lock)
            forget_failure(study.output, job)
        assert fold_lock is not None
        if run.is_done():
            return 0
        if outdated := run.outdated():
            raise ValueError(f"{run.folder}: {outdated}; undo that, or rename or remove the folder to train it again")
        attempt = Attempt(plan, run, job, fold_lock, study.gpus_per_training, stop)
        _set_aside_earlier_training(run)
        if not run.is_begun():
            _note_weights(study, run)
        code = attempt.run(train_command(study, run))
        return attempt.end(code, "" if code or run.is_done() else f"nnU-Net ended well, but {_unfinished(run)}")


def _unfinished(run: StudyTraining) -> str:
    """Say what keeps a training that has ended well from being done."""
    if run.owes_predictions():
        return "left no predictions for the cascade"
    if missing := run.unusable():
        return f"left no result of this training in {missing}"
    return run.outdated() or "left no result of this training"


def _note_weights(study: Study, run: StudyTraining) -> None:
    """Note which weights the training begins with, which must be those that were there when the study was read."""
    if study.pretrained_weights and checksum(Path(study.pretrained_weights)) != study.weights_sha256:
        raise ValueError(f"{study.pretrained_weights} has changed since this call began; call again to use it")
    note_weights(run.folder, study.pretrained_weights, study.weights_sha256 or "")


def _set_aside_earlier_training(run: StudyTraining) -> None:
    """Rename the final checkpoint of an earlier training, as nnU-Net's --c would prefer it to the newer one's latest.

    Our trainers do so themselves, nnU-Net's do not.
    """
    final, latest = run.folder / CHECKPOINTS[0], run.folder / CHECKPOINTS[1]
    if final.is_file() and latest.is_file() and (run.validation / "summary.json").is_file():
        names = (final.with_name(f"{final.name}.old{number or ''}") for number in itertools.count())
        final.rename(next(name for name in names if not name.exists()))
