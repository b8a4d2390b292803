"""The paper's own results (Franke et al. 2024), to stand beside those of the settings that correspond to them."""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

RESULTS_FILE = Path(__file__).with_name("paper_results.csv")
OF_THE_TABLES = {"reg_function": ("l2", None), "step_form": ("explicit", None), "adaptive_bounds": (False, None)}
"""What these settings are in all tables."""


class Published(NamedTuple):
    """A figure of the paper, and of which training it is; `same_size` tells whether it is of the run's own size."""

    value: float
    model: str
    training: str
    same_size: bool


def published(script: str, settings: dict[str, Any], metric: str) -> Published | None:
    """Return the paper's value of a setting, or None.

    Of the run's own size it must have the same number of steps. A size that the paper does not report gets the figure
    in the script's first table of the same optimizer and weight decay, or the same rule with a warm start of as many
    warmups: to compare the order of settings, not the values.
    """
    if any(settings.get(name) not in allowed for name, allowed in OF_THE_TABLES.items()):
        return None
    table = pd.read_csv(RESULTS_FILE, comment="#")
    table = table[(table["script"] == script) & (table["metric"] == metric)]
    same_size = bool((table["size"] == settings.get("size")).any())
    if same_size:
        table = table[(table["size"] == settings["size"]) & (table["steps"] == settings["max_steps"])]
    else:
        table = table[(table[["size", "steps"]] == table[["size", "steps"]].head(1).to_numpy()).all(axis=1)]
    warm_start = settings.get("kappa_init_method") == "warm_start"
    asked = {
        "optimizer": settings["optimizer"],
        "weight_decay": settings.get("weight_decay"),
        "kappa_init_method": settings.get("kappa_init_method"),
        "warmups": settings["kappa_init_param"] / settings["warmup_steps"]
        if warm_start and settings["warmup_steps"]
        else None,
        "mu": settings.get("kappa_update"),
    }
    for name, value in asked.items():
        table = table[table[name].isna() if value is None else table[name] == value]
    if table.empty:
        return None
    row = table.iloc[0]
    return Published(
        row["value"], row["model"], f"{row['model']} on {row['data']}, {row['steps']} steps, {row['source']}", same_size
    )
