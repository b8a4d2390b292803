"""Critical-difference diagrams: mean ranks, and which trainers no difference is shown between (Demsar 2006).

With pairwise tests a trainer may differ from two others between which it ranks, so a bar says on itself whom it joins.
"""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from nnunet_cpr.evaluation.figures.drawing import Drawing, file_names, short, slug, style
from nnunet_cpr.evaluation.results import PAIRS, Results
from nnunet_cpr.evaluation.uncertainty import LEVEL
from nnunet_cpr.plotting import default_style


def draw_pairs(results: Results) -> Iterator[Drawing]:
    """Draw a diagram for each dataset, of the first metric; none with fewer than three trainers."""
    if results.pairs is None or results.ranks is None:
        return
    metric = results.metrics[0]
    for dataset, name in file_names(results.datasets).items():
        pairs = _of(results.pairs, dataset, metric)
        ranks = _of(results.ranks, dataset, metric).set_index("trainer")["mean_rank"]
        if len(ranks) > 2:
            yield Drawing(
                f"critical-difference-{slug(metric)}-{name}",
                PAIRS,
                f"{dataset}: mean ranks by the cases' foreground mean {metric}, 1 is best",
                "A bar joins the trainers that are marked on it, between which Wilcoxon's test with Holm's correction "
                "shows no difference.",
                critical_differences(results, ranks, pairs),
            )


@default_style()
def critical_differences(results: Results, ranks: pd.Series, pairs: pd.DataFrame) -> Figure:
    """Draw mean ranks on a line, and bars over trainers that do not differ significantly."""
    from scikit_posthocs import critical_difference_diagram

    p = pd.DataFrame(1.0, index=ranks.index, columns=ranks.index)
    for row in pairs.itertuples(index=False):
        if row.trainer in p.index and row.baseline in p.index and row.p_holm == row.p_holm:
            p.loc[row.trainer, row.baseline] = p.loc[row.baseline, row.trainer] = row.p_holm
    figure = Figure(figsize=(8.5, 1.2 + 0.35 * len(ranks)), layout="constrained")
    ax = figure.subplots()
    colors = {trainer: style(results, trainer)[0] for trainer in ranks.index}
    drawn = critical_difference_diagram(
        ranks, p, ax=ax, alpha=LEVEL, color_palette=colors, left_only=True, label_props={"fontsize": 9},
        label_fmt_left="{label} ({rank:.2f})", crossbar_props={"marker": "o", "markersize": 4},
    )  # fmt: skip
    shown = {f"{trainer} ({ranks[trainer]:.2f})": trainer for trainer in ranks.index}
    for text in drawn["labels"]:
        trainer = shown[text.get_text()]
        text.set(text=f"{short(trainer)} ({ranks[trainer]:.2f})", color="black")
    return figure


def _of(frame: pd.DataFrame, dataset: str, metric: str) -> pd.DataFrame:
    return frame[(frame["dataset"] == dataset) & (frame["metric"] == metric)]
