"""How far an nnU-Net training is, from the text log it writes into its fold's folder."""

import re
from pathlib import Path

from nnunet_cpr.evaluation.readers.training_logs import EPOCH, read_pseudo_dice


def epochs_done(fold_folder: Path) -> int:
    """Return the number of finished epochs according to the newest training log, 0 without one."""
    text = _newest_log(fold_folder)
    epochs = list(EPOCH.finditer(text))
    if not epochs:
        return 0
    finished = "Epoch time" in text[epochs[-1].end() :]
    return int(epochs[-1][1]) + finished


def latest_values(fold_folder: Path) -> str:
    """Return the last loss and pseudo Dice of the newest training log as a short text, empty before the first epoch."""
    text = _newest_log(fold_folder)
    losses = re.findall(r"train_loss (\S+)", text)
    dice = re.findall(r"Pseudo dice (\[.*?\]) *\n", text)
    if not losses or not dice:
        return ""
    per_label = " / ".join(f"{value:.2f}" for value in read_pseudo_dice(dice[-1]))
    return f"loss {float(losses[-1]):.2f}, pseudo Dice {per_label}"


def _newest_log(fold_folder: Path) -> str:
    logs = sorted(fold_folder.glob("training_log_*.txt"), key=lambda path: path.stat().st_mtime)
    return logs[-1].read_text(encoding="utf-8", errors="replace") if logs else ""
