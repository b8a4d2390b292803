"""What the paper says a training step takes over AdamW (Franke et al. 2024, Tables I.2 and I.3, four A100 GPUs)."""

from collections.abc import Mapping
from typing import Any

ADAMCPR = {
    "GPT2s": (5.76, -0.40),
    "GPT2m": (6.45, 2.44),
    "GPT2l": (6.09, 3.59),
    "GPT2xl": (5.83, 5.76),
}
"""Percent with a batch of 1 and with the largest batch."""
RIVALS = "In the paper, over all sizes of GPT2: AdaDecay +17 to +61 %, AWD +7 to +30 %, AMOS +21 to +113 %."
ROW = "adamcpr in the paper (4 A100)"


def paper_overhead(row: Mapping[str, Any]) -> str:
    """Return the paper's figure for AdamCPR with the network and batch of a measurement, or nothing."""
    at_1, at_largest = ADAMCPR.get(row["network"], (None, None))
    value = at_largest if row.get("largest") else at_1 if row["batch"] == 1 else None
    return "" if value is None else f"{value:+.2f} %"
