"""How long an epoch of a training will take, from the logs of whatever was trained on its dataset before."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median


class EpochTimes:
    """The times of epochs by nnU-Net's folders of folds, each of which is read once."""

    def __init__(self) -> None:
        self._read: dict[Path, list[float]] = {}

    def of(self, fold: Path) -> list[float]:
        """Return the seconds of each finished epoch of a fold."""
        from nnunet_cpr.evaluation.readers.training_logs import read_log

        if fold not in self._read:
            self._read[fold] = read_log(fold)["seconds"].tolist()
        return self._read[fold]

    def expected(self, fold: Path) -> float | None:
        """Return the seconds that an epoch of a fold takes, None while nothing is known.

        That is the median of its own epochs, else of those of its trainer, else of any trainer with the same dataset,
        plans and configuration, by the number of their steps.
        """
        from nnunet_cpr.evaluation.readers.training_logs import steps_per_epoch

        for others in ([fold], list(_folds(fold.parent))):
            if times := [seconds for other in others for seconds in self.of(other)]:
                return median(times)
        steps = [
            seconds / steps_per_epoch(_trainer(other), other)
            for model in _models_like(fold.parent)
            for other in _folds(model)
            for seconds in self.of(other)
        ]
        return median(steps) * steps_per_epoch(_trainer(fold), fold) if steps else None


def _trainer(fold: Path) -> str:
    return fold.parent.name.partition("__")[0]


def _folds(model: Path) -> Iterator[Path]:
    return model.glob("fold_*")


def _models_like(model: Path) -> list[Path]:
    """Return the folders of all trainers with the same dataset, plans and configuration."""
    ending = "".join(model.name.partition("__")[1:])
    return [other for other in model.parent.glob("*") if other.name.endswith(ending)]
