"""The tables of a study's trainings, and of the predictions of its test sets, on the terminal."""

from collections import Counter
from collections.abc import Sequence

from nnunet_cpr.batch.ensembles import PredictionState
from nnunet_cpr.batch.trainings import State

ORDER = ("done", "running", "resumable", "failed", "missing", "outdated")
PREDICTION_ORDER = ("predicted", "running", "failed", "missing", "outdated")


def states_table(states: list[State], gpus: int = 1) -> str:
    """Return a row a training, the counts, and how many epochs and hours of training are left."""
    several = _several_setups(states)
    rows = [("dataset", *(["plans", "configuration"] * several), "trainer", "fold", "state", "epochs", "hours left")]
    for state in states:
        setup = [state.plans, state.configuration] * several
        hours = "?" if state.hours_left is None else f"{state.hours_left:.1f}"
        epochs = f"{state.epochs_done}/{state.epochs}"
        rows.append((state.dataset, *setup, state.run, state.fold, state.state, epochs, hours))
    lines = _aligned(rows, [state.note for state in states])
    counts = Counter(state.state for state in states)
    known = [state.hours_left for state in states if state.hours_left is not None]
    hours = f"{sum(known):.1f} hours of training left on {'one device' if gpus == 1 else f'{gpus} GPUs'}"
    if unknown := len(states) - len(known):
        hours = f"{hours}, not counting {unknown} trainings of which no epoch was timed" if any(known) else ""
        hours = hours or f"no epoch was timed yet, so the hours left are unknown for {unknown} trainings"
    counted = ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])
    total = sum(state.epochs for state in states)
    left = total - sum(state.epochs_done for state in states)
    return "\n".join([*lines, "", f"{len(states)} trainings: {counted}; {left} of {total} epochs left; {hours}"])


def predictions_table(states: list[PredictionState]) -> str:
    """Return a row for each test set and trainer, and the counts."""
    several = _several_setups(states)
    rows = [("dataset", *(["plans", "configuration"] * several), "trainer", "", "state")]
    for state in states:
        setup = [state.plans, state.configuration] * several
        rows.append((state.dataset, *setup, state.run, state.fold, state.state))
    counts = Counter(state.state for state in states)
    counted = ", ".join(f"{counts[state]} {state}" for state in PREDICTION_ORDER if counts[state])
    return "\n".join([*_aligned(rows, [state.note for state in states]), "", f"{len(states)} test sets: {counted}"])


def _several_setups(states: Sequence[State] | Sequence[PredictionState]) -> bool:
    return len({(state.plans, state.configuration) for state in states}) > 1


def _aligned(rows: Sequence[tuple[str, ...]], notes: list[str]) -> list[str]:
    """Return lines with columns of the same width, each row but the first followed by its note."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        + (f"  {note}" if note else "")
        for row, note in zip(rows, ["", *notes], strict=True)
    ]
