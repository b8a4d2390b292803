"""The trainings that are compared, found by name in nnU-Net's results folder: single models, and ensembles of two."""

from collections.abc import Mapping

from nnunet_cpr.evaluation.readers.configuration_ensembles import ADVICE, ensemble_fold
from nnunet_cpr.evaluation.readers.nnunet_results import Training, models, with_results


def find_trainings(
    datasets: list[str],
    configuration: str,
    trainers: Mapping[str, list[str]],
    plans: str,
    folds: list[str],
    skip_missing: bool = False,
) -> tuple[list[Training], list[Training]]:
    """Return the finished trainings of nnU-Net's results folder, and the missing ones.

    `trainers` maps a name to the runs (seeds) that it groups; `A+B` is the ensemble of two.

    Raises:
        ValueError: nnUNet_results is not set, or a summary.json is missing (unless `skip_missing`); names all that are.
    """
    folds = list(dict.fromkeys(folds))
    found: list[Training] = []
    for dataset, trainer, run, members in models(datasets, configuration, trainers, plans):
        for fold in folds:
            if len(members) > 1:
                found.append(ensemble_fold(dataset, trainer, run, fold, folds, members))
            else:
                found.append(Training(dataset, trainer, run, fold, members[0] / f"fold_{fold}"))
    advice = "finish them (nnUNetv2_train ... --c or --val), name the folds to compare with -f"
    if absent := [one.model.name for one in found if "+" not in one.run and not one.model.is_dir()]:
        advice = f"there is no folder {absent[0]}: check trainer (-tr), configuration (-c) and plans (-p), or {advice}"
    if any("+" in run for runs in trainers.values() for run in runs):
        advice += f"; an ensemble: {ADVICE}"
    return with_results(found, skip_missing, "trainings have no validation result", advice)
