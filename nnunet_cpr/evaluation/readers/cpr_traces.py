"""The constraints of finished CPR trainings, from the trace in each fold's folder."""

from collections.abc import Mapping, Sequence

import pandas as pd

from nnunet_cpr.evaluation.readers.nnunet_results import Training, name_trainings
from nnunet_cpr.evaluation.results import TRACE_COLUMNS
from nnunet_cpr.training.settings import parse
from nnunet_cpr.training.trace import TRACE_FILE, implausible

TYPES: Mapping[str, type] = {
    "tensor": str, "epoch": int, "step": int, "reg": float, "kappa": float, "lagmul": float,
}  # fmt: skip


def read_traces(trainings: Sequence[Training]) -> tuple[pd.DataFrame, list[str]]:
    """Return TRACE_COLUMNS, a row a tensor and epoch, and sentences on CPR trainings whose trace cannot be read."""
    frames, without, left_out = [], [], []
    for training in trainings:
        path = training.folder / TRACE_FILE
        if not path.is_file():
            if _is_cpr(training.run.partition(":")[0]):
                without.append(training)
            continue
        try:
            frame = pd.read_csv(path, usecols=list(TYPES), dtype=TYPES)
            _check(frame)
        except (OSError, ValueError, OverflowError) as error:
            left_out.append(f"Left out, because it cannot be read: {path} ({' '.join(str(error).split())}).")
            continue
        named = {"dataset": training.dataset, "trainer": training.trainer, "run": training.run, "fold": training.fold}
        frames.append(frame.assign(**named))
    if without:
        left_out.append(f"Left out, because there is no {TRACE_FILE}: {name_trainings(without)}.")
    if not frames:
        return pd.DataFrame(columns=TRACE_COLUMNS), left_out
    rows = pd.concat(frames, ignore_index=True)[TRACE_COLUMNS]
    return rows.astype(dict.fromkeys(TRACE_COLUMNS[:5], "category")), left_out  # a tenth of the memory of strings


def _check(frame: pd.DataFrame) -> None:
    """Raise ValueError for what no training writes."""
    numbers = frame[["reg", "kappa", "lagmul"]].to_numpy()
    if (wrong := implausible(numbers)).any():
        raise ValueError(f"it holds {numbers[wrong][0]:g}, which no training writes")
    if (frame[["epoch", "step"]] < 0).any(axis=None) or frame["tensor"].isna().any():
        raise ValueError("it has rows without a tensor, or of a negative epoch or step")


def _is_cpr(run: str) -> bool:
    try:
        return parse(run).cpr is not None
    except ValueError:  # not one of our trainers
        return False
