"""The job that predicts a test set with all folds of a trainer as one ensemble, and evaluates the predictions."""

import itertools
import shutil
from pathlib import Path

from nnunet_cpr.batch.attempt import Attempt
from nnunet_cpr.batch.ensembles import Ensemble
from nnunet_cpr.batch.locks import take
from nnunet_cpr.batch.plan import Plan, job_name
from nnunet_cpr.batch.stop_relay import StopRelay
from nnunet_cpr.evaluation.readers.fold_ensembles import RECORD
from nnunet_cpr.evaluation.readers.labeled_cases import labeled_cases
from nnunet_cpr.evaluation.readers.provenance import FINAL
from nnunet_cpr.evaluation.readers.segmentation_files import read_segmentation
from nnunet_cpr.files import read_json, temporary_path, write_json
from nnunet_cpr.nnunet.commands import executable
from nnunet_cpr.parallel import job_cores
from nnunet_cpr.training.stopping import RESUME_ME

IMAGES = "images"
"""Of the labeled cases: links to imagesTs, which may hold more, below the predictions while they are made."""


def predict(plan: Plan, ensemble: Ensemble) -> int:
    """Predict and evaluate the test set unless that has been done, and return the exit code.

    What an earlier model has predicted is renamed, and what this one has is gone on from.
    """
    study, log, job = plan.study, ensemble.log(plan.study.output), f"predict/{job_name(ensemble.key)}"
    log.parent.mkdir(parents=True, exist_ok=True)
    with StopRelay() as stop:
        lock = take(ensemble.lock)  # another study may have the same folds
        assert lock is not None
        if ensemble.is_done():
            return 0
        if waits := ensemble.waits_for():
            raise ValueError(f"{waits[0].folder} is not trained and validated, or was trained again")
        if ensemble.first and not ensemble.first.is_done():
            raise ValueError(f"{ensemble.first.folder}, the first stage's, is not predicted, or was trained again")
        attempt = Attempt(plan, ensemble, job, lock, 1, stop)
        _begin(ensemble)
        code = attempt.run(predict_command(ensemble, study.device))
        if code == 0 and not attempt.stopped:
            code = _evaluate(ensemble, attempt)
        if attempt.stopped:
            code = RESUME_ME
        unfinished = (
            "" if code or ensemble.is_done() else ensemble.changed() or "nnU-Net ended well, but left no result"
        )
        return attempt.end(code, unfinished)


def predict_command(ensemble: Ensemble, device: str) -> list[str]:
    """Return nnU-Net's command, which leaves out what is predicted already."""
    plans, configuration = ensemble.setup
    before = ["-prev_stage_predictions", str(ensemble.first.folder)] if ensemble.first else []
    workers = str(min(3, job_cores()))  # nnU-Net's own number, where there are so many cores
    return [executable("nnUNetv2_predict"), "-i", str(ensemble.folder / IMAGES), "-o", str(ensemble.folder),
            "-d", ensemble.dataset, "-c", configuration, "-p", plans, "-tr", ensemble.run, "-f", *ensemble.folds,
            "-chk", FINAL, "-device", device, "-npp", workers, "-nps", workers, *before,
            "--continue_prediction", "--disable_progress_bar"]  # fmt: skip


def _begin(ensemble: Ensemble) -> None:
    """Make the folder ready: nothing of another model, no half-written file, a record, and links to the images."""
    folder, model = ensemble.folder, ensemble.folder.parent
    if folder.is_dir() and ensemble.changed_prediction():
        _set_aside(folder)
    folder.mkdir(exist_ok=True)
    summary = folder / "summary.json"
    if summary.is_file():  # of other labels, or damaged
        _set_aside(summary)
    write_json(folder / RECORD, ensemble.made_of())
    assert ensemble.labels_folder is not None
    ending = read_json(model / "dataset.json")["file_ending"]
    cases = labeled_cases(ensemble.labels_folder.parent, ending)
    for case in cases:
        _remove_unreadable(folder / f"{case.name}{ending}", ensemble.reader)
    links = folder / IMAGES
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir()
    for case in cases:
        spacing = case.images[0].with_name(f"{case.name}.json")  # nnU-Net keeps that of TIFF volumes there
        for path in [*case.images, *([spacing] if spacing.is_file() else [])]:
            (links / path.name).symlink_to(path.resolve())


def _evaluate(ensemble: Ensemble, attempt: Attempt) -> int:
    """Write nnU-Net's summary.json, whole or not at all."""
    shutil.rmtree(ensemble.folder / IMAGES)
    model = ensemble.folder.parent
    summary = ensemble.folder / "summary.json"
    temporary = temporary_path(summary)
    command = [executable("nnUNetv2_evaluate_folder"), str(ensemble.labels_folder), str(ensemble.folder),
               "-djfile", str(model / "dataset.json"), "-pfile", str(model / "plans.json"),
               "-o", str(temporary), "-np", str(min(8, job_cores()))]  # fmt: skip
    try:
        code = attempt.run(command)
        if code == 0:
            temporary.replace(summary)
    finally:
        temporary.unlink(missing_ok=True)
    return code


def _set_aside(path: Path) -> None:
    """Rename what an earlier call has left."""
    names = (path.with_name(f"{path.name}.old{number or ''}") for number in itertools.count())
    path.rename(next(name for name in names if not name.exists()))


def _remove_unreadable(prediction: Path, reader: str | None) -> None:
    """Remove a prediction that a killed process has left half-written, which nnU-Net would take for done."""
    if prediction.is_file():
        try:
            read_segmentation(prediction, reader)
        except ValueError:
            prediction.unlink()
