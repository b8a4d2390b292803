"""From a request to its results: read, check, compare."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import pandas as pd

from nnunet_cpr.evaluation import formatting as numbers
from nnunet_cpr.evaluation import statistics
from nnunet_cpr.evaluation.cautions import other_references, trained_with, unequal_lengths
from nnunet_cpr.evaluation.figures.slice_selection import read_slices
from nnunet_cpr.evaluation.intervals import BOOTSTRAP_SAMPLES
from nnunet_cpr.evaluation.margins import margin_of
from nnunet_cpr.evaluation.metrics import METRICS
from nnunet_cpr.evaluation.metrics import metric as of_metric
from nnunet_cpr.evaluation.published_results import published
from nnunet_cpr.evaluation.readers.case_files import CaseFiles, Locate
from nnunet_cpr.evaluation.readers.configuration_ensembles import EnsembleFold
from nnunet_cpr.evaluation.readers.cpr_traces import read_traces
from nnunet_cpr.evaluation.readers.fold_ensembles import FoldEnsemble, find_ensembles
from nnunet_cpr.evaluation.readers.nnunet_results import (
    MEMBERS,
    Training,
    locate_in_trainings,
    model_name,
    shortened,
)
from nnunet_cpr.evaluation.readers.starting_weights import compare_weights
from nnunet_cpr.evaluation.readers.training_logs import read_cost, read_logs
from nnunet_cpr.evaluation.readers.trainings import find_trainings
from nnunet_cpr.evaluation.request import Request
from nnunet_cpr.evaluation.results import CONSTRAINTS, FOREGROUND, SLICES, TRAINING, Results
from nnunet_cpr.labels import escaped, printable
from nnunet_cpr.nnunet.setup import Setup
from nnunet_cpr.parallel import job_cores

SMALL = 50
"""Below this number of cases the report warns."""


def compare_trainings(request: Request, command: str) -> Results:
    """Read what is asked for and compare it. Raises ValueError for what cannot be compared, naming the files."""
    if not request.trainers:
        return _compare_folders(request, command)
    found = find_trainings(
        request.datasets, request.configuration, request.trainers, request.plans, request.folds, request.skip_missing
    )
    trainings, said = _comparable(request, *found, "trainings")
    results = _compare_results(request, command, trainings, said)
    _add_pictures(results, request, trainings)
    results.cost = read_cost(results.epochs)
    if _setups(request) == "3d_fullres":
        results.paper = published(list(results.cases["dataset"].unique()))
    if request.test_set:
        _add_test_set(results, request, command)
    return results


def _setups(request: Request) -> str:
    """Name the configurations and plans that are compared."""
    default = Setup(request.plans, request.configuration)
    runs = [run for of_trainer in request.trainers.values() for run in of_trainer]
    members = [member for run in runs for member in run.split(MEMBERS)]
    found = dict.fromkeys(model_name(member, default).partition("__")[2] for member in members)
    names = [Setup(*name.split("__", 1)) for name in found]
    return ", ".join(
        one.configuration if one.plans == Request.plans else f"{one.configuration} of {one.plans}" for one in names
    )


def _compare_folders(request: Request, command: str) -> Results:
    from nnunet_cpr.evaluation.readers.prediction_folders import dataset_labels, left_out, read_folders

    assert request.reference is not None
    dataset = printable(request.reference.resolve().name)
    options = {"intersect": request.intersect, "counts": request.counts}
    cases = read_folders(request.reference, request.predictions, dataset, _processes(request), **options)
    said = left_out(request.reference, request.predictions)
    title = f"{dataset}: {len(request.predictions)} folders of segmentations"
    ignores = dataset_labels(request.reference)[1] is not None
    results = _compare(request, command, title, cases, said, ignores)
    _add_pictures(results, request)
    return results


def _compare_results(request: Request, command: str, trainings: Sequence[Training], said: list[str]) -> Results:
    """Compare the results that nnU-Net has written."""
    cases = pd.concat([training.cases(request.counts) for training in trainings], ignore_index=True)
    compared = cases["trainer"].nunique()
    title = f"{', '.join(cases['dataset'].unique())}: {_setups(request)}, {compared} trainers"
    ignores = any(t.ignore_label is not None for t in trainings)
    return _compare(request, command, title, cases, said, ignores, trainings)


def _add_test_set(results: Results, request: Request, command: str) -> None:
    """Compare the test sets in the same way; where that is not possible yet, the reason is a caution."""
    found = find_ensembles(
        request.datasets, request.configuration, request.trainers, request.plans, request.folds, request.skip_missing
    )
    try:
        ensembles, said = _comparable(request, *found, "test sets")
        test_set = _compare_results(request, command, ensembles, said)
    except ValueError as error:
        if not request.skip_missing:
            raise
        results.cautions.append(f"Test set: {error}")
        return
    results.test_set = test_set
    results.cautions += [f"Test set: {text}" for text in test_set.cautions if text not in results.cautions]


def _add_pictures(results: Results, request: Request, trainings: Sequence[Training] = ()) -> None:
    """Add what is drawn besides the metrics: the course of the trainings, and slices of cases."""
    single = _single(trainings)
    results.epochs, without_logs = read_logs(single)
    results.cautions += unequal_lengths(results.epochs)
    results.traces, without_traces = read_traces(single)
    locate = _locate(request, trainings, results.cases)
    results.slices, unseen = read_slices(results.cases, results.extremes, request.baseline, locate)
    results.left_out = {TRAINING: without_logs, CONSTRAINTS: without_traces, SLICES: unseen}


def _compare(
    request: Request,
    command: str,
    title: str,
    cases: pd.DataFrame,
    said: list[str],
    ignores: bool,
    trainings: Sequence[Training] = (),
) -> Results:
    """Check and compare the cases; `ignores` tells whether their labels have an ignore label."""
    cases, cautions = check_cases(cases, request.intersect or request.skip_missing)
    cautions = [*said, *cautions]
    files = _all_files(request, trainings, cases) if request.surface or request.lesions else []
    if request.lesions:
        from nnunet_cpr.evaluation.lesions import lesion_metrics

        measured = lesion_metrics(files, request.lesions, request.lesion_rule, _processes(request))
        cases = pd.concat([cases, measured], ignore_index=True)
    if request.surface:
        measured, doubts = _surface(request, files)
        cases = pd.concat([cases, measured], ignore_index=True)
        cautions += doubts
        if ignores:
            cautions.append("Surface metrics count voxels with the ignore label as background; Dice leaves them out.")
    cases, missed = apply_penalty(cases, request.missed_hd95)
    cases, touched = apply_policy(cases, request.empty)
    cases = statistics.add_foreground(cases)

    summary = statistics.summarize(cases)
    comparisons = statistics.compare(cases, request.baseline, request.seed, request.margin)
    present = set(cases["trainer"].unique())
    names = [name for name in request.names if name in present]
    tests = statistics.number_of_tests(comparisons)
    facts = {
        "command": escaped(command),
        "intervals": f"BCa bootstrap, 95 %, {BOOTSTRAP_SAMPLES} samples of cases, seed {request.seed}",
        "test": f"Wilcoxon signed-rank, two-sided; Holm's correction over the {tests} comparisons of this report",
        "margin": _margins(list(comparisons["metric"].unique()), request.margin),
        "effect size": "matched-pairs rank-biserial correlation",
        "foreground mean": "of a case: over its defined labels; of a trainer: over labels of their means (nnU-Net's)",
        "mean over folds": "the foreground mean of each training, averaged (the paper's)",
        "empty in label and prediction": f"{_POLICIES[request.empty]}; {touched} values",
    }
    if request.lesions:
        facts["lesions"] = (
            f"connected components of {', '.join(request.lesions)}; matched by the rule {request.lesion_rule}"
        )
    if request.surface:
        from nnunet_cpr.evaluation.surface.distances import library

        policy = "left out" if request.missed_hd95 is None else f"counted as {request.missed_hd95:.10g} mm"
        facts["HD95 where label or prediction alone is empty"] = f"{policy}; {missed} values"
        facts["surface metrics"] = f"{library()}; NSD at {request.tolerance:.10g} mm; HD95 and MASD in mm"
    facts["versions"] = ", ".join(
        [f"{p} {version(p)}" for p in ("nnunet-cpr", "nnunetv2", "scipy", "statsmodels", "pandas")]
        + [f"Python {platform.python_version()}"]
    )
    return Results(
        title=title,
        baseline=request.baseline,
        trainers=names,
        cases=cases,
        summary=summary,
        trainings=statistics.per_training(cases),
        comparisons=comparisons,
        extremes=statistics.extremes(cases, request.baseline),
        ranks=statistics.rank(cases, request.seed),
        pairs=statistics.compare_all(cases, names, request.seed, request.margin),
        across=statistics.over_datasets(comparisons),
        facts=facts,
        cautions=[*cautions, *_cautions(cases, summary, request, trainings)],
    )


def _comparable(
    request: Request, found: Sequence[Training], missing: Sequence[Training], what: str
) -> tuple[list[Training], list[str]]:
    """Return the finished trainings that can be compared, and what to say about the missing ones.

    `what` names them: trainings, or the test sets that were predicted by them.
    """
    trainings, said = list(found), []
    for dataset in dict.fromkeys(t.dataset for t in [*trainings, *missing]):
        lacking = [t.title for t in missing if t.dataset == dataset]
        if lacking:
            said.append(f"{dataset}: {len(lacking)} {what} are missing: {shortened(lacking)}.")
        outdated = [t.unusable() for t in missing if t.dataset == dataset and (t.validation / "summary.json").is_file()]
        if outdated:
            said.append(f"{dataset}: results of earlier trainings are left out: {shortened(outdated)}.")
        present = [t for t in trainings if t.dataset == dataset]
        trainers = {t.trainer for t in present}
        folds = [{t.fold for t in present if t.run == run} for run in {t.run for t in present}]
        reason = ""
        if request.baseline not in trainers or len(trainers) < 2:
            reason = "there is no finished training of the baseline and another trainer"
        elif not set.intersection(*folds):
            reason = "its finished trainings have no fold in common"
        if reason:
            trainings = [t for t in trainings if t.dataset != dataset]
            said.append(f"{dataset} is left out: {reason}.")
    if not trainings:
        raise ValueError(f"nothing can be compared yet with the baseline {request.baseline}: {' '.join(said)}")
    said += [f"{t.dataset}, {t.run} fold {t.fold}: {doubt.text}." for t in trainings if (doubt := t.doubt())]
    return trainings, said + compare_weights(_single(trainings)) + trained_with(trainings) + other_references(trainings)


def _single(trainings: Sequence[Training]) -> list[Training]:
    """Return the trainings that are not ensembles."""
    return [training for training in trainings if not isinstance(training, EnsembleFold)]


_POLICIES = {"nan": "left out, as nnU-Net does", "0": "counted as 0", "1": "counted as 1"}


def check_cases(cases: pd.DataFrame, intersect: bool) -> tuple[pd.DataFrame, list[str]]:
    """Return the cases to compare, and what to say about those left out.

    Raises:
        ValueError: a case is in two folds, trainers have other labels, or (without `intersect`) other cases.
    """
    cautions = []
    kept = []
    for dataset, part in cases.groupby("dataset", sort=False):
        labels = {run: sorted(rows["label"].unique()) for run, rows in part.groupby("run", sort=False)}
        first, expected = next(iter(labels.items()))
        for run, found in labels.items():
            if found != expected:
                raise ValueError(f"{dataset}: {run} has the labels {found}, but {first} has {expected}")
        sets: dict[str, set[str]] = {}
        for run, rows in part.groupby("run", sort=False):
            in_folds = rows.drop_duplicates(["case", "fold"]).groupby("case")["fold"].nunique()
            if (in_folds > 1).any():
                case = in_folds.index[in_folds > 1][0]
                raise ValueError(f"{dataset}: {run} validated {case} in several folds; a case may count once")
            sets[str(run)] = set(rows["case"])
        common, union = set.intersection(*sets.values()), set.union(*sets.values())
        if common != union:
            lacking = {run: sorted(union - has) for run, has in sets.items() if union - has}
            if not intersect:
                said = "; ".join(f"{run} lacks {shortened(names)}" for run, names in lacking.items())
                raise ValueError(f"{dataset}: the trainers have different cases: {said}; --intersect compares the rest")
            if not common:
                raise ValueError(f"{dataset}: the trainers have no case in common")
            cautions.append(
                f"{dataset}: {len(union - common)} of {len(union)} cases are left out: not every trainer has them."
            )
        kept.append(part[part["case"].isin(common)])
    return pd.concat(kept, ignore_index=True), cautions


def apply_policy(cases: pd.DataFrame, empty: str) -> tuple[pd.DataFrame, int]:
    """Return the cases with the value of the policy where label and prediction are both empty, and how many there are.

    Only Dice and NSD have a value there by convention; distances stay undefined.
    """
    touched = cases["value"].isna() & cases["metric"].isin(
        [name for name, one in METRICS.items() if one.empty_is_defined]
    )
    if empty != "nan":
        cases = cases.assign(value=cases["value"].mask(touched, float(empty)))
    return cases, int(touched.sum())


def apply_penalty(cases: pd.DataFrame, hd95: float | None) -> tuple[pd.DataFrame, int]:
    """Return the cases with this HD95 (None: unchanged) where label or prediction alone is empty, and their number.

    There NSD is 0 and a distance is undefined, and nowhere else both.
    """
    undefined = (cases["metric"] == "HD95") & cases["value"].isna()
    if not undefined.any():
        return cases, 0
    keys = ["dataset", "run", "fold", "case", "label"]
    nowhere = cases.loc[(cases["metric"] == "NSD") & (cases["value"] == 0), keys]
    missed = undefined & pd.MultiIndex.from_frame(cases[keys]).isin(pd.MultiIndex.from_frame(nowhere))
    if hd95 is not None:
        cases = cases.assign(value=cases["value"].mask(missed, hd95))
    return cases, int(missed.sum())


def _cautions(cases: pd.DataFrame, summary: pd.DataFrame, request: Request, trainings: Sequence[Training]) -> list[str]:
    said = []
    for dataset, part in cases.groupby("dataset", sort=False):
        n = part["case"].nunique()
        if n < SMALL:
            said.append(f"{dataset}: n = {n} only; single cases weigh much, and small differences cannot be seen.")
        if request.trainers:
            runs = part.groupby("trainer")["run"].nunique()
            if not any(isinstance(t, FoldEnsemble) for t in trainings):
                said += _fold_cautions(str(dataset), set(part["fold"]))
            if (runs == 1).any():
                single = ", ".join(runs.index[runs == 1])
                said.append(
                    f"{dataset}: one run (seed) of {single}: intervals and tests cover the choice of cases, not "
                    "what another seed would change."
                )
    for row in summary.itertuples():
        if row.n == 0 and row.label != FOREGROUND:
            said.append(f"{row.dataset}: {row.label} has no defined {row.metric} for {row.trainer}; it is left out.")
    said += _one_sided(cases, request.baseline)
    undefined = cases[cases["value"].isna() & (cases["label"] != FOREGROUND)].groupby("metric").size()
    said += [f"{count} values of {metric} are undefined and left out." for metric, count in undefined.items()]
    return said


def _fold_cautions(dataset: str, folds: set[str]) -> list[str]:
    if "all" in folds:
        return [f"{dataset}: fold all was validated on its own training cases; this says nothing of new ones."]
    if len(folds) < 5:
        return [f"{dataset}: {len(folds)} of nnU-Net's 5 folds; this is not a cross-validation."]
    return []


def _one_sided(cases: pd.DataFrame, baseline: str) -> list[str]:
    """Say where one of two trainers is undefined: the pair is left out, and with it perhaps a failure of the other."""
    said = []
    known = cases[cases["label"] != FOREGROUND]
    for (dataset, metric), part in known.groupby(["dataset", "metric"], sort=False):
        table = part.pivot_table(index=["case", "label"], columns="trainer", values="value", dropna=False, sort=False)
        for trainer in table.columns.drop(baseline):
            for one, other in ((baseline, trainer), (trainer, baseline)):
                count = int((table[one].isna() & table[other].notna()).sum())
                if count:
                    said.append(
                        f"{dataset}: {metric} is undefined for {one} but not for {other} in {count} places "
                        "(cases x labels), which are left out of their comparison"
                        + (
                            "; see also --empty."
                            if of_metric(str(metric)).empty_is_defined
                            else ": failures may hide there."
                        )
                    )
    return said


def _locate(request: Request, trainings: Sequence[Training], cases: pd.DataFrame) -> Locate:
    """Return what finds the files of the cases."""
    if request.trainers:
        return locate_in_trainings(trainings)
    assert request.reference is not None
    from nnunet_cpr.evaluation.readers.prediction_folders import locate_in_folders

    return locate_in_folders(request.reference, request.predictions, cases)


def _surface(request: Request, files: list[CaseFiles]) -> tuple[pd.DataFrame, list[str]]:
    """Return the surface metrics of the cases, and what to say about their spacing."""
    from nnunet_cpr.evaluation.surface.compute import spacing_cautions, surface_metrics

    cautions = spacing_cautions(files)
    return surface_metrics(files, request.tolerance, _processes(request)), cautions


def _all_files(request: Request, trainings: Sequence[Training], cases: pd.DataFrame) -> list[CaseFiles]:
    """Return the files of all cases. Raises ValueError if one is missing."""
    locate = _locate(request, trainings, cases)
    keys = cases[["dataset", "run", "fold", "case"]].drop_duplicates()
    files = [locate(*key) for key in keys.itertuples(index=False)]
    for one in files:
        one.check()
    return files


def _margins(metrics: list[str], given: Mapping[str, float]) -> str:
    return ", ".join(
        f"{name} ±{numbers.margin(margin_of(name, given), name)} ({'asked for' if name in given else 'default'})"
        for name in metrics
    )


def _processes(request: Request) -> int:
    return request.processes or job_cores()
