import csv
import dataclasses
import os
import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from nnunet_cpr.evaluation import formatting as report_numbers
from nnunet_cpr.evaluation.figures import comparison as comparison_figures
from nnunet_cpr.evaluation.figures import drawing as figures
from nnunet_cpr.evaluation.margins import verdict
from nnunet_cpr.evaluation.report import latex as report_latex
from nnunet_cpr.evaluation.report import markdown as report_markdown
from nnunet_cpr.evaluation.report import write as report
from nnunet_cpr.evaluation.report.tables import main_tables
from nnunet_cpr.evaluation.report.verdict import finding, verdicts
from nnunet_cpr.evaluation.results import CASE_COLUMNS, FOREGROUND, Results

BASE, ODD = "SGD", "<b>&_x $y$"
NAN = float("nan")

VOID = {"meta", "br", "wbr", "link", "img", "input", "hr"}


def compared(label=FOREGROUND, metric="Dice", dataset="Heart", **given):
    row = {
        "dataset": dataset, "trainer": ODD, "baseline": BASE, "label": label, "metric": metric, "n": 20,
        "difference": 0.0061, "ci_low": 0.0012, "ci_high": 0.0113, "p": 0.004, "p_holm": 0.0123,
        "wins": 14, "ties": 1, "losses": 5, "baseline_mean": 0.8469, "trainer_mean": 0.853,
        "difference_std": 0.01, "effect_size": 0.456, "margin": 0.01, "runs_ci_low": NAN, "runs_ci_high": NAN,
        "detectable": 0.0066, "p_equivalence": 0.04, "p_not_worse": 0.001, "cases_needed": 25, "runs_needed": NAN,
    } | given  # fmt: skip
    return row | {"verdict": verdict(SimpleNamespace(**row))}


def summarized(trainer, label=FOREGROUND, metric="Dice", dataset="Heart", **given):
    row = {
        "dataset": dataset, "trainer": trainer, "label": label, "metric": metric, "n": 20, "mean": 0.853,
        "std": 0.0412, "median": 0.86, "min": 0.7, "max": 0.95, "undefined": 0, "folds": 5, "runs": 1,
        "mean_over_folds": 0.8517, "runs_std": NAN,
    }  # fmt: skip
    return {**row, **given}


def make_results(both=("HD95", "Dice")):
    values = np.random.default_rng(0).uniform(0.7, 0.95, (2 * len(both), 20, 3))
    cases = [
        ("Heart", trainer, case % 5, f"case_{case}", label, metric, values[number, case, column], trainer)
        for number, (metric, trainer) in enumerate([(m, t) for m in both for t in (BASE, ODD)])
        for column, label in enumerate(["atrium", "100% {wall}", FOREGROUND])
        for case in range(20)
    ]
    cases[0] = (*cases[0][:6], NAN, BASE)
    labels = ("atrium", "100% {wall}", FOREGROUND)
    nothing = {"n": 0, "difference": NAN, "ci_low": NAN, "ci_high": NAN, "p": NAN, "p_holm": NAN, "effect_size": NAN}
    nothing |= {"detectable": NAN, "cases_needed": NAN}
    millimeters = {"difference": -1.234, "ci_low": -2.0, "ci_high": -0.5, "baseline_mean": 5.678, "trainer_mean": 4.444}
    rows = [
        compared("atrium"),
        compared("100% {wall}", **nothing, wins=0, ties=0, losses=0, baseline_mean=NAN),
        compared(),
        compared(metric="HD95", **millimeters, p_holm=0.0001),
    ]
    of_extremes = ["dataset", "trainer", "baseline", "label", "metric", "case", "fold", "difference"]
    extremes = [
        ("Heart", ODD, BASE, FOREGROUND, "HD95", "case_7", 2, -3.5),
        ("Heart", ODD, BASE, FOREGROUND, "Dice", "case_8", 3, -0.1),
    ]
    summary = [summarized(trainer, label, metric) for metric in both for trainer in (BASE, ODD) for label in labels]
    return Results(
        title="Heart & <script>alert(1)</script>",
        baseline=BASE,
        trainers=[BASE, ODD],
        cases=pd.DataFrame(cases, columns=CASE_COLUMNS),
        summary=pd.DataFrame(summary),
        trainings=pd.DataFrame(
            [("D", "T", "T", "0", "x", "Dice", 2, 0.25)],
            columns=["dataset", "trainer", "run", "fold", "label", "metric", "n", "mean"],
        ),
        comparisons=pd.DataFrame([row for row in rows if row["metric"] in both]),
        extremes=pd.DataFrame(extremes, columns=of_extremes),
        ranks=None,
        cost=pd.DataFrame(columns=["dataset", "trainer", "run", "fold", "epochs", "seconds_per_epoch", "total_hours"]),
        paper=pd.DataFrame(columns=["dataset", "setting", "dice", "source"]),
        facts={"command": "nnunet-cpr compare -tr '<b>&_x'"},
        cautions=["Only 20 cases & <i>one</i> seed."],
    )


@pytest.fixture
def results():
    return make_results()


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A report's folder, to be read only."""
    folder = tmp_path_factory.mktemp("report") / "out"
    report.write_report(make_results(), folder)
    return folder


class Page(HTMLParser):
    """The page as tables, links, text and tags, with a check that tags are closed in order."""

    def __init__(self, html):
        super().__init__()
        self.tables, self.links, self.tags, self.ids, self.stack, self.words = [], [], [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.links += [
            value for name, value in attrs.items() if name.split(":")[-1] in ("src", "href", "data", "action")
        ]
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag not in VOID:
            self.stack.append(tag)
        if tag == "table":
            self.tables.append({"caption": "", "th": [], "rows": [], "buttons": 0})
        elif tag == "tr":
            self.tables[-1]["rows"].append([])
        elif tag in ("th", "td"):
            self.tables[-1]["rows"][-1].append({"text": "", "title": None, "sort": attrs.get("data-sort")})
            if tag == "th":
                self.tables[-1]["th"].append(attrs.get("scope"))
        elif tag == "button":
            self.tables[-1]["buttons"] += 1
        elif "title" in attrs:
            self.tables[-1]["rows"][-1][-1]["title"] = attrs["title"]

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if "caption" in self.stack:
            self.tables[-1]["caption"] += data
        elif "th" in self.stack or "td" in self.stack:
            self.tables[-1]["rows"][-1][-1]["text"] += data

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def rows(self, caption):
        table = next(table for table in self.tables if table["caption"].startswith(caption))
        return [[cell["text"] for cell in row] for row in table["rows"]]


@pytest.fixture
def page(out):
    return Page((out / "report.html").read_text(encoding="utf-8"))


def test_the_page_fetches_nothing_and_is_whole(page, out):
    html = (out / "report.html").read_text(encoding="utf-8")
    assert page.links
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not re.search(r"@import|url\((?!#)", html)
    assert page.stack == []
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert page.tags.count("svg") == page.tags.count("figure") == 7


def test_tables_have_caption_scope_and_a_button_in_each_header(page):
    assert len(page.tables) == 8
    for table in page.tables:
        assert table["caption"].strip()
        assert set(table["th"]) == {"col", "row"}
        assert table["buttons"] == len(table["rows"][0])
        assert {len(row) for row in table["rows"]} == {table["buttons"]}


def test_names_are_escaped(page, out):
    assert "i" not in page.tags  # but for the template's own, no markup: the names hold b, i and script
    assert page.tags.count("b") == 1 + page.tags.count("figcaption")
    assert page.tags.count("script") == 1
    html = (out / "report.html").read_text(encoding="utf-8")
    assert "<b>&_x" not in html and "<b>&amp;_" not in html
    assert "<b>&_x $y$" in page.text
    assert "alert(1)" in page.text  # as text


def test_values_are_printed_as_promised(page):
    _, baseline, odd = page.rows("Foreground mean Dice")
    rest = ["0.012", "better", "0.46", "14 / 1 / 5", "0.007"]
    assert baseline == ["SGD (baseline)", "1", "20", "0.853 ± 0.041", "", "", "", "", "", ""]
    assert odd == [ODD, "1", "20", "0.853 ± 0.041", "+0.006 [+0.001, +0.011]", *rest]
    assert page.rows("Foreground mean HD95 (mm, lower is better)")[2][4:6] == ["−1.23 [−2.00, −0.50]", "<0.001"]
    assert page.rows("HD95 (mm, lower is better) per label: Heart")[1][3:5] == ["5.68", "4.44"]
    assert page.rows("HD95 (mm, lower is better): cases")[1][-2:] == ["−3.50", "better"]
    assert page.rows("Dice: cases")[1] == [ODD, "case_8", "3", FOREGROUND, "−0.100", "worse"]


def test_datasets_are_named_in_the_rows_or_a_single_one_in_the_caption(tmp_path):
    for names in (["Heart"], ["Heart", "Liver"]):
        results = make_results(["Dice"])
        for key in ("summary", "comparisons", "extremes", "cases", "trainings"):
            frame = getattr(results, key)
            setattr(results, key, pd.concat([frame.assign(dataset=name) for name in names], ignore_index=True))
        main, *_ = main_tables(results)
        assert [column.name for column in main.columns][:2] == [["Trainer", "Runs"], ["Dataset", "Trainer"]][
            len(names) - 1
        ]
        assert main.caption.endswith("to SGD: Heart" if len(names) == 1 else "to SGD")
        assert len(main.rows) == 2 * len(names) and all(len(row) == len(main.columns) for row in main.rows)


def test_dice_comes_first(page):
    assert page.tables[0]["caption"].startswith("Foreground mean Dice")
    assert page.text.index("Figures: Dice") < page.text.index("Figures: HD95")


def test_the_page_begins_with_verdict_and_cautions(page):
    text = page.text[page.text.index("Result Heart") :]
    parts = [
        "higher Dice (better) than the baseline.",
        "0.853 against 0.847: difference +0.006 (95 % CI +0.001 to +0.011)",
    ]
    parts += ["n = 20 cases", "p = 0.012", "lower HD95 (better)", "Only 20 cases & <i>one</i> seed.", "Comparison"]
    parts += ["Figures: Dice", "Per label", "Cases that gained", "Mean, spread", "How it was computed"]
    positions = [text.index(part) for part in parts]
    assert positions == sorted(positions)


def test_undefined_numbers_are_dashes_that_say_so(page):
    table = next(table for table in page.tables if table["caption"] == "Dice per label: Heart")
    (row,) = (row for row in table["rows"] if row[0]["text"] == "100% {wall}")
    assert [cell["text"] for cell in row[3:]] == ["–", "0.853", "– [–]", "–", "not decided", "–", "0 / 0 / 0", "–"]
    assert [cell["title"] for cell in row[3:]] == [
        "undefined",
        None,
        "undefined",
        "undefined",
        None,
        "undefined",
        None,
        "undefined",
    ]
    assert row[3]["sort"] == "" and row[4]["sort"] == "0.853"
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)


def test_empty_tables_are_left_out_and_full_ones_shown(page, tmp_path):
    for heading in ("Ranks", "The paper's figures", "Training time"):
        assert heading not in page.text
    results = make_results(["Dice"])
    results.summary["runs"], results.summary["runs_std"] = 2, 0.0023
    results.ranks = pd.DataFrame(
        [("Heart", "Dice", ODD, 1.25, 1.1, 1.4, 0.83)],
        columns=["dataset", "metric", "trainer", "mean_rank", "rank_low", "rank_high", "first"],
    )
    results.paper = pd.DataFrame([("Heart", "CPR", 0.9276, "Table J.1")], columns=results.paper.columns)
    costs = [("Heart", t, t, fold, 1000, s + fold, 20.0) for t, s in ((BASE, 70.0), (ODD, 77.0)) for fold in (0, 1)]
    results.cost = pd.DataFrame(costs, columns=results.cost.columns)
    report.write_report(results, tmp_path / "full")
    full = Page((tmp_path / "full" / "report.html").read_text(encoding="utf-8"))
    assert "more-figures" in page.ids and "more-figures" not in full.ids
    assert [row[3:5] for row in full.rows("Foreground mean Dice")[:2]] == [
        ["Mean ± SD", "SD between runs"],
        ["0.853 ± 0.041", "0.002"],
    ]
    assert full.rows("Ranks")[1] == [ODD, "1.25 [1.10, 1.40]", "83 %"]
    assert full.rows("Figures printed in the paper")[1] == ["CPR", "0.928", "", "the paper's: Table J.1"]
    assert full.rows("Figures printed in the paper")[2][1:] == ["0.852", "5", "this comparison's, mean over folds"]
    assert full.rows("Training time")[2] == [ODD, "2", "1000", "77.50", "1.10", "77.00 to 78.00", "40.00"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"ci_low": -0.001}, "not decided: no evidence of a difference in the mean, though the rank test finds one"),
        ({"ci_low": 0.0, "p_holm": 0.2}, "not decided: no evidence of a difference, and equality within ±0.01 is not"),
        ({"ci_low": -0.001, "p_holm": 0.2, "difference": -0.0001}, "not decided: no evidence of a difference, and"),
        ({"ci_low": -0.009, "ci_high": 0.009, "p_holm": 0.2}, "equal to the baseline within ±0.01"),
        ({"ci_high": 0.009}, "equal to the baseline within ±0.01 (higher Dice, but by less)"),
        ({"ci_high": 0.009, "p_equivalence": 0.06}, "higher Dice (better)"),
        (
            {"runs_ci_low": -0.02, "runs_ci_high": 0.03},
            "not decided: the difference over these cases may come from",
        ),
        (
            {"ci_low": -0.01, "runs_ci_low": -0.02, "runs_ci_high": 0.03},
            "not decided: no evidence of a difference in the",
        ),
        ({"runs_ci_low": -0.009, "runs_ci_high": 0.009}, "equal to the baseline within ±0.01"),
        ({}, "higher Dice (better) than the baseline"),
        (
            {"difference": -0.01, "ci_low": -0.02, "ci_high": -0.001, "trainer_mean": 0.1},
            "lower Dice (worse) than the baseline",
        ),
        ({"p_holm": 0.06}, "not decided: weak evidence of a higher Dice"),
        ({"p_holm": NAN}, "not decided: weak evidence of a higher Dice"),
        ({"trainer_mean": 0.8}, "not decided: the paired difference and the means disagree"),
        ({"metric": "HD95"}, "higher HD95 (worse) than the baseline"),
        ({"metric": "HD95", "margin": 1.0}, "equal to the baseline within ±1 mm (higher HD95, but by less)"),
        ({"ci_low": NAN, "ci_high": NAN}, "not decided: too few cases to judge"),
        ({"difference": NAN}, "nothing to compare"),
        ({"ci_low": 0.0, "ci_high": 0.0, "wins": 0, "losses": 0}, "equal in every case"),
    ],
)
def test_verdicts_are_neutral(results, given, expected):
    row = compared(**given)
    results.comparisons = pd.DataFrame([row])
    results.summary = results.summary[results.summary["metric"] == row["metric"]]
    (found,) = verdicts(results)["Heart"]
    assert found.finding.startswith(expected)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ci_low": -0.001}, True),
        ({"ci_low": -0.012}, False),
        ({"ci_low": -0.001, "p_not_worse": 0.03}, False),
        ({"ci_low": -0.02, "ci_high": 0.009, "metric": "HD95"}, True),
        ({"ci_low": -0.009, "ci_high": 0.02, "metric": "HD95"}, False),
    ],
)
def test_what_is_not_decided_may_be_not_worse(given, said):
    row = SimpleNamespace(**compared(**given))
    assert (
        finding(row).endswith(", but it is not worse by 0.01 or more" if row.metric == "Dice" else "mm or more") == said
    )


def test_what_would_decide_it(results):
    results.comparisons = pd.DataFrame([compared(ci_low=-0.001, runs_needed=7.0, runs_ci_low=-0.02, runs_ci_high=0.03)])
    (found,) = verdicts(results)["Heart"]
    assert "(95 % CI −0.001 to +0.011 over cases, −0.020 to +0.030 over runs and cases)" in found.numbers
    assert "Smallest difference that so many cases and runs detect in 80 % of studies: 0.007." in found.numbers
    assert "about 25 cases or 7 runs of each trainer would decide it." in found.numbers
    results.comparisons = pd.DataFrame([compared(ci_low=-0.001, cases_needed=18.0)])
    assert "Without the correction for many comparisons, so many cases" in verdicts(results)["Heart"][0].numbers
    for detectable, said in ((0.0, ""), (0.0004, "80 % of studies: below the last digit of Dice.")):
        results.comparisons = pd.DataFrame([compared(detectable=detectable)])
        numbers = verdicts(results)["Heart"][0].numbers
        assert said in numbers and (said or "Smallest" not in numbers)


def test_markdown_says_the_same(out):
    text = (out / "report.md").read_text(encoding="utf-8")
    odd = report_markdown.escape(ODD)
    assert odd == r"\<b\>&amp;\_x \$y\$"
    assert (
        f"| {odd} | 1 | 20 | 0.853 ± 0.041 | +0.006 \\[+0.001, +0.011\\] | 0.012 | better | 0.46 | 14 / 1 / 5 | 0.007 "
        "|" in text
    )
    assert f"**{odd}: higher Dice (better) than the baseline.**" in text
    assert r"> - Only 20 cases &amp; \<i\>one\</i\> seed." in text
    assert "<b>" not in text and "<script>" not in text
    for link in re.findall(r"\]\((figures/.*?)\)", text):
        assert (out / link).read_bytes().startswith(b"\x89PNG")
    for lines in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines.splitlines()}) == 1


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("cases", "dataset trainer fold case label metric value run"),
        (
            "summary",
            "dataset trainer label metric n mean std median min max undefined folds runs mean_over_folds runs_std",
        ),
        ("trainings", "dataset trainer run fold label metric n mean"),
        (
            "comparisons",
            "dataset trainer baseline label metric n difference ci_low ci_high p p_holm wins ties losses baseline_mean "
            "trainer_mean difference_std effect_size margin runs_ci_low runs_ci_high detectable p_equivalence "
            "p_not_worse cases_needed runs_needed verdict",
        ),
    ],
)
def test_csv_columns_are_exact_and_values_come_back(results, out, name, columns):
    with (out / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == columns.split()
    expected = getattr(results, name)[header].itertuples(index=False)
    for line, row in zip(lines, expected, strict=True):
        for text, value in zip(line, row, strict=True):
            if isinstance(value, float) and np.isnan(value):
                assert text == ""
            else:
                assert type(value)(text) == value


def test_latex_escapes_what_latex_would_take_for_commands(results, out):
    special = r"\_{}%&#$~^[*<"
    assert report_latex.escape(special) == (
        r"\textbackslash{}\_\{\}\%\&\#\$\textasciitilde{}\textasciicircum{}{[}{*}$<$"
    )
    table = (out / "table.tex").read_text(encoding="utf-8")
    row = r" & $<$b$>$\&\_x \$y\$ & 20 & 0.853 $\pm$ 0.041 & +0.006 {[}+0.001, +0.011{]} & 0.012 \\"
    assert row in table.splitlines()
    assert re.findall(r"\\(?:top|mid|bottom)rule", table) == [r"\toprule", r"\midrule", r"\bottomrule"]
    for line in table.splitlines():
        if line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == 5
    results.summary = pd.concat([results.summary, pd.DataFrame([summarized(BASE, dataset="[Lung]")])])
    assert "\\midrule\n{[}Lung{]} & SGD (baseline) & 20 & 0.853 $\\pm$ 0.041 &  &  \\\\\n" in report_latex.latex_table(
        results
    )


def test_terminal_table_is_narrow_and_aligned(results):
    lines = report.terminal_table(results).splitlines()
    assert lines[1] == "Heart"
    assert lines[3].split() == [
        "<b>&_x", "$y$", "20", "0.853", "+0.006", "[+0.001,", "+0.011]", "0.012", "better",
    ]  # fmt: skip
    assert (
        lines[0].index("Dice") == lines[2].index("0.853") - 0 or lines[0].index("Dice") == lines[2].index("0.853") + 1
    )
    long = "nnUNetTrainerCPR_" + "x" * 80 + "_seed1"
    results.trainers = [BASE, long]
    for frame in (results.summary, results.comparisons):
        frame["trainer"] = frame["trainer"].replace(ODD, long)
    results.comparisons["difference"] = -0.5
    text = report.terminal_table(results)
    assert "_seed1 " in text and "  CPR_xxx" in text
    assert max(map(len, text.splitlines())) <= 110
    assert "-0.500" in text and text.isascii()
    results.comparisons[["runs_ci_low", "runs_ci_high"]] = -0.7, 0.1234
    text = report.terminal_table(results)
    assert "[-0.700, +0.123]" in text and "CI*]" in text and text.endswith("several runs")
    assert max(map(len, text.splitlines())) <= 110


def test_figures_show_the_numbers_under_safe_names(results, out):
    results.cases["dataset"] = results.summary["dataset"] = results.comparisons["dataset"] = "../a b"
    drawings = {drawing.name: drawing.figure for drawing in comparison_figures.draw_comparison(results)}
    assert list(drawings)[:4] == ["differences-Dice", "labels-Dice-a-b", "cases-Dice-a-b", "distribution-Dice-a-b"]
    (forest,) = drawings["differences-Dice"].axes
    line, point = forest.lines[:2]
    assert line.get_xdata().tolist() == [0.0012, 0.0113] and point.get_xdata() == [0.0061]
    assert forest.texts[0].get_text() == "+0.006 [+0.001, +0.011], n = 20"
    assert "right of 0: better" in forest.get_xlabel()
    assert "left of 0: better" in drawings["differences-HD95"].axes[0].get_xlabel()
    scatter = drawings["cases-Dice-a-b"].axes[0]
    assert len(scatter.lines[1].get_xdata()) == 20
    svg = (out / "figures" / "differences-Dice.svg").read_text(encoding="utf-8")
    assert "&lt;b&gt;&amp;_x $y$</text>" in svg  # neither markup nor a formula
    assert figures.file_names(["a b", "A-b", "c"]) == {"a b": "a-b-1", "A-b": "A-b-2", "c": "c"}


def test_repeats_of_a_case_are_averaged(results):
    again = results.cases[results.cases["trainer"] == ODD].assign(run="second")
    again["value"] += 0.2
    results.cases = pd.concat([results.cases, again])
    drawings = {drawing.name: drawing.figure for drawing in comparison_figures.draw_comparison(results)}
    shown = drawings["cases-Dice-Heart"].axes[0].lines[1].get_ydata()
    first = again[(again["metric"] == "Dice") & (again["label"] == FOREGROUND)].sort_values("case")["value"] - 0.1
    assert np.allclose(shown, first)


def test_writing_twice_gives_the_same_bytes(results, out, tmp_path):
    report.write_report(results, tmp_path)
    names = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    assert len(names) == 8 + 2 * 7
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / name).read_bytes(), name


@pytest.mark.parametrize("name", ["cases.csv", "differences-Dice.svg", "labels-Dice-Heart.png", "report.html"])
def test_a_full_disk_leaves_whole_files(out, tmp_path, monkeypatch, name):
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    changed = dataclasses.replace(make_results(["Dice"]), title="other")

    def full(source, target):
        if target.name == name:
            raise OSError("No space left on device")
        real(source, target)

    real = os.replace
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        report.write_report(changed, tmp_path)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    for path in (tmp_path / "report.html", *tmp_path.rglob(name)):
        assert after[path] == before[path]


@pytest.mark.parametrize(
    ("number", "metric", "text"),
    [
        (0.0004, "Dice", "+0.000"),
        (-0.0004, "Dice", "−0.000"),
        (0.0, "NSD", "0.000"),
        (-1.234, "MASD", "−1.23"),
        (NAN, "Dice", "–"),
    ],
)
def test_differences_keep_their_sign(number, metric, text):
    assert report_numbers.difference(number, metric) == text


@pytest.mark.parametrize(
    ("p", "text"), [(0.00099, "<0.001"), (0.001, "0.001"), (0.0123, "0.012"), (1.0, "1.000"), (NAN, "–")]
)
def test_p_values(p, text):
    assert report_numbers.p_value(p) == text
