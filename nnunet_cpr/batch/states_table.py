"""The table of a study's trainings on the terminal."""

from collections import Counter

from nnunet_cpr.batch.runs import State

ORDER = ("done", "running", "resumable", "failed", "missing", "outdated")


def states_table(states: list[State], gpus: int = 1) -> str:
    """Return a row a training, the counts, and how many epochs and hours of training are left."""
    rows = [("dataset", "trainer", "fold", "state", "epochs", "hours left")]
    rows += [
        (state.dataset, state.run, state.fold, state.state, f"{state.epochs_done}/{state.epochs}",
         "?" if state.hours_left is None else f"{state.hours_left:.1f}")
        for state in states
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    notes = ["", *(f"  {state.note}" if state.note else "" for state in states)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + note
        for row, note in zip(rows, notes, strict=True)
    ]
    counts = Counter(state.state for state in states)
    known = [state.hours_left for state in states if state.hours_left is not None]
    hours = f"{sum(known):.1f} hours of training left on {'one device' if gpus == 1 else f'{gpus} GPUs'}"
    if unknown := len(states) - len(known):
        hours = f"{hours}, not counting {unknown} trainings of which no epoch was timed" if any(known) else ""
        hours = hours or f"no epoch was timed yet, so the hours left are unknown for {unknown} trainings"
    counted = ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])
    epochs = sum(state.epochs for state in states)
    left = epochs - sum(state.epochs_done for state in states)
    return "\n".join([*lines, "", f"{len(states)} trainings: {counted}; {left} of {epochs} epochs left; {hours}"])
