"""The end of a study: surface metrics of each training, and the reports over all that are finished."""

from nnunet_cpr.batch.plan import report_folder
from nnunet_cpr.batch.study import Study
from nnunet_cpr.evaluation.readers.nnunet_results import Training
from nnunet_cpr.nnunet.setup import Setup
from nnunet_cpr.parallel import job_cores


def measure_surfaces(study: Study, run: Training) -> None:
    """Compute the surface metrics of a training, or of a fold ensemble's test set.

    They are kept beside the predictions, where the report finds them.
    """
    from nnunet_cpr.evaluation.surface.compute import surface_metrics

    files = list(run.case_files().values())
    for one in files:
        one.check()
    surface_metrics(files, study.tolerance, job_cores())


def write_study_report(study: Study, setup: Setup, command: str) -> str:
    """Compare the finished trainings of one setup, write the report, and return what to print.

    Raises:
        ValueError: nothing can be compared yet.
    """
    from nnunet_cpr.evaluation.comparison import compare_trainings
    from nnunet_cpr.evaluation.report.layout import REPORT
    from nnunet_cpr.evaluation.report.write import terminal_table, write_files
    from nnunet_cpr.evaluation.request import make_request
    from nnunet_cpr.output_folder import replace_folder

    request = {
        "datasets": study.datasets,
        "configuration": setup.configuration,
        "plans": setup.plans,
        "trainers": study.trainers,
        "folds": study.folds,
        "baseline": study.baseline,
        "test_set": study.test_set,
        "surface": study.surface,
        "skip_missing": True,
        "output": report_folder(study, setup),
    }
    if study.surface:
        request["tolerance"] = study.tolerance
    checked = make_request(request)
    with replace_folder(checked.output, REPORT) as new:
        results = compare_trainings(checked, command)
        write_files(results, new)
    lines = [terminal_table(results), *(f"! {caution}" for caution in results.cautions)]
    return "\n".join([*lines, f"Report: {checked.output / 'report.html'}"])
