"""A paragraph that describes the comparison as a paper's methods section would, with its references."""

from nnunet_cpr.evaluation import formatting as numbers
from nnunet_cpr.evaluation.metrics import METRICS
from nnunet_cpr.evaluation.results import Results
from nnunet_cpr.evaluation.statistics import number_of_tests

_MEASURED = {
    "NSD": "normalized surface distance (NSD)",
    "HD95": "95th percentile of the Hausdorff distance (HD95)",
    "MASD": "mean average surface distance (MASD)",
    "Precision": "precision",
    "Recall": "recall",
    "RVE": "relative volume error (RVE)",
    "absolute RVE": "absolute relative volume error",
    "Lesion F1": "lesion-wise F1",
    "Lesion sensitivity": "lesion-wise sensitivity",
    "Lesion Dice": "lesion-wise Dice",
}
REFERENCES = [
    "Intervals: Efron, J Am Stat Assoc 1987;82:171-185. Rank test: Wilcoxon, Biometrics Bull 1945;1:80-83. Correction: "
    "Holm, Scand J Stat 1979;6:65-70. Equivalence: Schuirmann, J Pharmacokinet Biopharm 1987;15:657-680.",
]
_RUNS = (
    "Runs and cases: Davison & Hinkley, Bootstrap Methods and their Application, Cambridge 1997. Degrees of freedom: "
    "Satterthwaite, Biometrics Bull 1946;2:110-114."
)
_PAIRS = (
    "Critical-difference diagram: Demsar, J Mach Learn Res 2006;7:1-30; with pairwise tests: Benavoli et al, J Mach "
    "Learn Res 2016;17(5):1-10."
)


def paragraph(results: Results) -> list[str]:
    """Return the sentences, and the references that they need."""
    several = bool(results.comparisons["runs_ci_low"].notna().any())
    shown = results.metrics
    further = [_MEASURED.get(name, name) for name in shown if name != "Dice"]
    cases = results.cases.groupby("dataset")["case"].nunique()
    counts = [f"{numbers.plural(int(cases[dataset]), 'case')} ({dataset})" for dataset in results.datasets]
    tests = number_of_tests(results.comparisons)
    runs = sorted(set(results.summary["runs"]))
    margins = ", ".join(
        f"±{numbers.margin(part['margin'].iloc[0], str(name))} ({name})"
        for name, part in results.comparisons.groupby("metric", sort=False)
        if name in METRICS
    )
    text = (
        f"Segmentations of {', '.join(counts)} were compared by the Dice similarity coefficient"
        f"{f', and by {_listed(further)}' if further else ''}, per label and as the mean over foreground labels. "
        f"{_trained(runs)}"
        f"Each method was compared with {results.baseline}, paired by case. We report mean differences with 95 % "
        "confidence intervals (bias-corrected and accelerated bootstrap over cases, 9,999 samples"
        f"{'; and a two-level bootstrap over runs and cases with 1,999 samples' if several else ''}), and p-values of "
        f"Wilcoxon's signed-rank test with Holm's correction over all {tests} comparisons. "
        f"Two methods were considered equal if the 95 % interval{' over runs and cases' if several else ''} lay within "
        f"a margin of {margins} and two one-sided t-tests agreed at the 5 % level. Computed with nnunet-cpr"
        f"{_version(results)}."
    )
    references = [*REFERENCES, *([_RUNS] if several else []), *([_PAIRS] if results.pairs is not None else [])]
    return [text, " ".join(references)]


def _trained(runs: list[int]) -> str:
    if max(runs) < 2:
        return ""
    counts = str(runs[0]) if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    return f"Each method has {counts} runs, whose values were averaged per case. "


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _version(results: Results) -> str:
    named = results.facts.get("versions", "").partition("nnunet-cpr ")[2].partition(",")[0]
    return f" {named}" if named else ""
