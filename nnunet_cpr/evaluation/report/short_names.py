"""Short names for trainers of nnU-Net's, whose full names would fill the page.

What all of them have in common is left out: nnUNetTrainerSGD_wd3e-5_100epochs and nnUNetTrainerCPR_ws2000_100epochs
become SGD_wd3e-5 and CPR_ws2000. Tables for programs (CSV) keep the full names.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from nnunet_cpr.evaluation.results import CaseSlice, Results, SlicedSegmentation

LONGEST = 24
"""Names of up to so many characters are shown as they are."""
PREFIX = "nnUNetTrainer"
RUNS_NAMED = 3


def with_short_names(results: Results) -> Results:
    """Return the results as they are shown: with short names, if one is longer than LONGEST."""
    names = short_names(results.trainers)
    return _renamed(results, names) if names else results


def short_names(trainers: Sequence[str]) -> dict[str, str]:
    """Return short names for trainers with nnU-Net's prefix; none if no name is too long, or two would be equal."""
    named = [trainer for trainer in trainers if trainer.startswith(PREFIX)]
    if max(map(len, named), default=0) <= LONGEST:
        return {}
    members = {trainer: [_parts(member) for member in trainer.split("+")] for trainer in named}
    every = [set(parts[1:]) for of_trainer in members.values() for parts in of_trainer]
    shared = set.intersection(*every) if len(named) > 1 else set[str]()
    short = {}
    for trainer, of_trainer in members.items():
        kept = [[parts[0], *(part for part in parts[1:] if part not in shared)] for parts in of_trainer]
        short[trainer] = "+".join(map("".join, kept))
        if short[trainer] == PREFIX:  # that is another trainer's name
            short[trainer] = trainer
    shown = [short.get(trainer, trainer) for trainer in trainers]
    return short if len(set(shown)) == len(shown) else {}


def _parts(model: str) -> list[str]:
    """Return the kind of trainer (CPR of nnUNetTrainerCPR), its settings, and the configuration and plans, if named."""
    trainer, *own = model.split(":")
    kind, *settings = trainer.removeprefix(PREFIX).split("_")
    return [kind or PREFIX, *(f"_{setting}" for setting in settings), *(f":{one}" for one in own)]


def legend(results: Results) -> dict[str, str]:
    """Return what each name stands for, of those that are not nnU-Net's own name of the trainer."""
    runs = results.cases.groupby("trainer", sort=False)["run"].unique()
    said = {}
    for trainer in results.trainers:
        known = [str(run) for run in runs.get(trainer, [])]
        if known and known != [trainer]:
            more = f" and {len(known) - RUNS_NAMED} more" if len(known) > RUNS_NAMED else ""
            said[trainer] = ", ".join(_abridged(known)[:RUNS_NAMED]) + more
    return said


def _abridged(runs: list[str]) -> list[str]:
    """Return the first run in full and, of runs that differ only in their seeds, the seeds of the others."""
    base = re.sub(r"_seed\d+$", "", runs[0])
    return [
        runs[0],
        *(run.removeprefix(base) if re.fullmatch(rf"{re.escape(base)}_seed\d+", run) else run for run in runs[1:]),
    ]


def _renamed(results: Results, names: Mapping[str, str]) -> Results:
    frames = {
        name: _renamed_frame(value, names) for name, value in vars(results).items() if isinstance(value, pd.DataFrame)
    }
    return replace(
        results,
        **frames,
        baseline=names.get(results.baseline, results.baseline),
        trainers=[names.get(trainer, trainer) for trainer in results.trainers],
        slices=[_renamed_slice(one, names) for one in results.slices],
        test_set=None if results.test_set is None else _renamed(results.test_set, names),
    )


def _renamed_frame(frame: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    columns = {
        key: frame[key].map(lambda name: names.get(name, name)) for key in ("trainer", "baseline") if key in frame
    }
    return frame.assign(**columns)


def _renamed_slice(one: CaseSlice, names: Mapping[str, str]) -> CaseSlice:
    known = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))  # the longest that fits

    def renamed(text: str) -> str:
        return re.sub(rf"\b(?:{known})(?!\w)", lambda found: names[found[0]], text)

    segmentations = [_renamed_segmentation(part, names) for part in one.segmentations]
    return replace(
        one,
        reasons=list(map(renamed, one.reasons)),
        position=renamed(one.position),
        changes=renamed(one.changes),
        segmentations=segmentations,
    )


def _renamed_segmentation(part: SlicedSegmentation, names: Mapping[str, str]) -> SlicedSegmentation:
    return replace(part, trainer=names.get(part.trainer, part.trainer))
