"""The sections of the report after verdict and cautions, in their order: what HTML and Markdown both print."""

from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_cpr.evaluation.figures.drawing import Drawing
from nnunet_cpr.evaluation.formatting import margin, plural
from nnunet_cpr.evaluation.metrics import metric
from nnunet_cpr.evaluation.report import tables as report_tables
from nnunet_cpr.evaluation.report.paragraph import paragraph
from nnunet_cpr.evaluation.report.verdict import verdicts
from nnunet_cpr.evaluation.results import CONSTRAINTS, PAIRS, SLICES, TRAINING, Results
from nnunet_cpr.evaluation.statistics import number_of_tests

_ORIENTATION = (
    "Where a file tells how the patient lies, axial and coronal slices have the patient's right on the left, and "
    "sagittal ones the front on the right."
)
_ACROSS = (
    "Mean over datasets of the differences of the foreground means. The datasets are the units here, so n is their "
    "number. The interval is for the mean over datasets of this kind, as if these were drawn from them at random; with "
    "two or three datasets it says little."
)
_PAIRS = (
    "Every trainer against every other: the trainer of the row minus that of the column, and p of Wilcoxon's "
    "signed-rank test with Holm's correction over all pairs of the dataset and metric. In critical-difference "
    "diagrams, a bar joins the trainers that are marked on it, between which no difference is shown (Demsar 2006, "
    "Benavoli 2016); that is no evidence that they are equal."
)


@dataclass(frozen=True)
class Section:
    """A heading with sentences, commands, tables and figures; `folded` ones open on a click."""

    anchor: str
    heading: str
    notes: Sequence[str] = ()
    tables: Sequence[report_tables.Table] = ()
    drawings: Sequence[Drawing] = ()
    folded: bool = False
    commands: Sequence[str] = ()


def make_sections(results: Results, drawings: Sequence[Drawing], of_test_set: Sequence[Drawing] = ()) -> list[Section]:
    """Return the sections; those whose tables or figures are empty are left out."""
    first, *rest = results.metrics
    of_first = [drawing for drawing in drawings if drawing.topic == first]
    of_rest = [drawing for drawing in drawings if drawing.topic in rest]
    sections = [
        Section("comparison", "Comparison", _comparison_notes(results), report_tables.main_tables(results)),
        *([] if results.test_set is None else [_test_set(results.test_set, of_test_set)]),
        Section("figures", f"Figures: {first}", drawings=of_first),
        Section("more-figures", f"Figures: {', '.join(rest)}", drawings=of_rest, folded=True),
        Section("labels", "Per label", tables=report_tables.label_tables(results)),
    ]
    if not results.extremes.empty:
        extremes = report_tables.extremes_tables(results)
        sections.append(Section("cases", "Cases that gained and lost most", tables=extremes))
    sections.append(_of_topic(results, drawings, SLICES, "cases-as-slices", "Cases as slices"))
    if not results.across.empty:
        tables = report_tables.across_tables(results)
        sections.append(Section("datasets", "Over datasets", [_ACROSS], tables))
    if results.pairs is not None:
        of_pairs = [drawing for drawing in drawings if drawing.topic == PAIRS]
        tables = report_tables.pairs_tables(results, results.pairs)
        sections.append(Section("pairs", "All pairs", [_PAIRS], tables, of_pairs))
    if results.ranks is not None:
        sections.append(Section("ranks", "Ranks", tables=report_tables.ranks_tables(results, results.ranks)))
    paper_note = (
        "Rows marked “the paper's” are printed in the paper and were not computed here: other trainings, other "
        "hardware, possibly other splits. Ours are averaged over folds as the paper does, so they can differ slightly "
        "from the means over cases above."
    )
    if not results.paper.empty:
        sections.append(Section("paper", "The paper's figures", [paper_note], [report_tables.paper_table(results)]))
    sections.append(_of_topic(results, drawings, TRAINING, "training", "Training curves"))
    sections.append(_of_topic(results, drawings, CONSTRAINTS, "constraints", "CPR's constraints"))
    if not results.cost.empty:
        sections.append(Section("cost", "Training time", tables=[report_tables.cost_table(results)]))
    sections.append(Section("in-a-paper", "How to describe this in a paper", paragraph(results)))
    spread = report_tables.summary_tables(results)
    sections.append(Section("distribution", "Mean, spread and range", tables=spread, folded=True))
    return [one for one in sections if one.notes or one.drawings or any(table.rows for table in one.tables)]


def _test_set(results: Results, drawings: Sequence[Drawing]) -> Section:
    """What the fold ensembles have predicted of cases that no training has seen."""
    folds = "; ".join(
        f"{dataset}: {plural(part['case'].nunique(), 'case')}, folds {', '.join(str(part['fold'].iloc[0]).split('_'))}"
        for dataset, part in results.cases.groupby("dataset", sort=False)
    )
    notes = [
        "All other sections are about the validation cases of each fold. Here the folds of a trainer predict together, "
        "as one ensemble (nnU-Net averages their logits), and the cases were in no training. "
        f"{folds}.",
        *(
            f"{dataset}, {one.trainer}: {one.finding}. {one.numbers}"
            for dataset, found in verdicts(results).items()
            for one in found
        ),
        f"p: with Holm's correction over the {number_of_tests(results.comparisons)} comparisons of the test set.",
    ]
    tables = [*report_tables.main_tables(results), *report_tables.label_tables(results)]
    return Section("test-set", "Test set (fold ensembles)", notes, tables, drawings)


def _of_topic(results: Results, drawings: Sequence[Drawing], topic: str, anchor: str, heading: str) -> Section:
    """The figures of a topic; what they lack is said, also where there is none."""
    of_topic = [drawing for drawing in drawings if drawing.topic == topic]
    notes = [_ORIENTATION] if topic == SLICES and of_topic else []
    return Section(anchor, heading, [*notes, *results.left_out.get(topic, [])], drawings=of_topic)


def _comparison_notes(results: Results) -> list[str]:
    margins = ", ".join(
        f"{metric} ±{margin(part['margin'].iloc[0], str(metric))}"
        for metric, part in results.comparisons.groupby("metric", sort=False)
    )
    notes = [
        f"Differences are trainer minus {results.baseline}, paired by case; n counts the cases in which both are "
        "defined. Where a label is undefined in some cases, the mean difference can deviate a little from the "
        "difference of the means. SD: over cases. p: Wilcoxon's signed-rank test with Holm's correction over all "
        "comparisons of this report. Effect size: matched-pairs rank-biserial correlation, from −1 to 1, with the sign "
        "of the change. Wins and losses: cases in which the trainer is better or worse than the baseline. Detectable: "
        "the smallest true difference that a study like this one finds with 80 % power (paired t-test at 5 %, without "
        f"Holm's correction). Verdict: equal within the margin ({margins}), better, worse, or not decided."
    ]
    lower = [name for name in results.metrics if metric(name).lower_is_better]
    if lower:
        in_mm = [name for name in lower if metric(name).unit]
        distances = f"{' and '.join(in_mm)} are distances in mm. " if in_mm else ""
        notes.append(
            f"{distances}Of {' and '.join(lower)} less is better, so a negative difference is the better one and a win "
            "is a lower value. For all other metrics a positive difference is the better one."
        )
    if "RVE" in results.metrics:
        notes.append(
            "RVE: relative volume error, (predicted - true volume) / true volume. Its sign tells too much from too "
            "little, so it is summarized, and its absolute value is compared."
        )
    return notes
