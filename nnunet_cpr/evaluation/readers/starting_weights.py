"""Which pretrained weights a fold was trained from. nnU-Net keeps no record of them, so `nnunet-cpr batch` does.

Imports no torch.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_cpr.evaluation.readers.nnunet_results import Training, shortened
from nnunet_cpr.evaluation.readers.provenance import logs_that_begin
from nnunet_cpr.files import read_json, refuse_pipe, write_json

FILE = "pretrained_weights.json"
"""In a fold's folder: the weights, their SHA-256, and the logs that were there before the training began."""
_BYTES = 1 << 20


def checksum(weights: Path) -> str:
    """Return the SHA-256 of a file of weights. Raises OSError or ValueError if it cannot be read."""
    refuse_pipe(weights)
    content = hashlib.sha256()
    with weights.open("rb") as stream:
        while part := stream.read(_BYTES):
            content.update(part)
    return content.hexdigest()


def note_weights(fold: Path, weights: str, sha256: str) -> None:
    """Note that a training begins in a fold's folder, and from which weights (empty: from random ones)."""
    if not sha256:
        (fold / FILE).unlink(missing_ok=True)
        return
    fold.mkdir(parents=True, exist_ok=True)
    logs = sorted(path.name for path in fold.glob("training_log_*.txt"))
    write_json(fold / FILE, {"file": weights, "sha256": sha256, "earlier_logs": logs})


def noted_weights(fold: Path) -> tuple[str, str]:
    """Return the file and the SHA-256 of the weights that a fold's training began with, empty if none are known.

    A training that was begun in the same folder since, without `nnunet-cpr batch`, began with others.
    """
    try:
        content: dict[str, Any] = read_json(fold / FILE)
        begun = [name for name in logs_that_begin(fold) if name not in content["earlier_logs"]]
        return (str(content["file"]), str(content["sha256"])) if len(begun) <= 1 else ("", "")
    except FileNotFoundError:
        return "", ""
    except (OSError, ValueError, KeyError, TypeError):
        return f"as {fold / FILE} is damaged, nobody knows which", "unknown"


def other_weights(fold: Path, wanted: str) -> str:
    """Say why a fold was not trained from the weights with the SHA-256 `wanted` (empty: none); empty if it was."""
    file, found = noted_weights(fold)
    if found == wanted:
        return ""
    if not found:
        return "it was not trained from the study's pretrained weights, or not by nnunet-cpr batch"
    return f"it was trained from {'other ' if wanted else ''}pretrained weights, {file}"


def compare_weights(trainings: Sequence[Training]) -> list[str]:
    """Return a sentence for each dataset whose trainings did not all begin with the same weights."""
    said = []
    for dataset in dict.fromkeys(training.dataset for training in trainings):
        begun: dict[tuple[str, str], list[Training]] = {}
        for training in trainings:
            if training.dataset == dataset:
                begun.setdefault(noted_weights(training.folder), []).append(training)
        if len(begun) > 1:
            parts = []
            for (file, _), those in begun.items():
                names = shortened([f"{training.run} fold {training.fold}" for training in those])
                parts.append(f"{names} from {file or 'weights that are not noted'}")
            said.append(f"{dataset}: trainings began with different weights: {'; '.join(parts)}.")
    return said
