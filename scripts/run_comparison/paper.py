"""The paper's own results (Franke et al. 2024), to stand beside those of the settings that correspond to them."""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

RESULTS_FILE = Path(__file__).with_name("paper_results.csv")
OF_THE_TABLES = {"reg_function": ("l2", None), "step_form": ("explicit", None), "adaptive_bounds": (False, None)}
"""What these settings are in all tables."""


STATEMENTS = {
    "train_gpt2": "AMOS diverges with GPT2s, and AdamCPR after 200,000 steps is as good as AdamW after 300,000",
    "train_clip": "AdamW has 0.7440 to 0.7539 with CLIP ViT-B/32 on ImageNet; we do not know with which weight decays",
    "train_cifar100": "with ResNet18 a warm start of two warmups is the best one, and Kappa-IP is better than weight "
    "decay; we do not know the numbers",
    "train_lora": "with Mistral-7B on PubMedQA AdamCPR is better than AdamW at each learning rate and forgets less; "
    "we do not know the numbers",
    "train_grokking": "AdamCPR with k = 0.8 understands the task long before AdamW with weight decay 0.1",
}
"""What the paper says of a script's model besides the figures in the file, as far as we know it."""


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
