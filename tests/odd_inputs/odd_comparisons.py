"""Worlds of `nnunet-cpr compare`: folders of segmentations and finished trainings, with the numbers that are right."""

import json
import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import odd_oracle as oracle
from odd_texts import scalars, yaml_text
from odd_worlds import (
    MODEL,
    REQUEST,
    TEXT,
    NotHereError,
    OracleError,
    World,
)

CACHE = "nnunet_cpr_surface_metrics.json"
FLAGS = {"datasets": "-d", "trainers": "-tr", "configuration": "-c", "plans": "-p", "folds": "-f",
    "reference": "--reference",
         "predictions": "--pred", "baseline": "--baseline", "empty": "--empty", "tolerance": "--tolerance",
         "seed": "--seed",
         "processes": "-np", "output": "-o", "intersect": "--intersect", "skip_missing": "--skip-missing",
         "surface": "--surface", "margin": "--margin", "counts": "--counts", "lesions": "--lesions",
         "lesion_rule": "--lesion-rule", "missed_hd95": "--missed-hd95"}  # fmt: skip
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass
class Segmentation:
    """An array (x, y, z) and how it is written."""

    array: np.ndarray
    spacing: tuple[float, ...]
    """True, in mm, x first."""
    ending: str = ".nii.gz"
    turn: np.ndarray = field(default_factory=lambda: AFFINE.copy())
    """The direction of the axes."""
    write: Callable[["Segmentation", Path], None] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse a second way to write a file, which would undo the oddity of the first."""
        if name == "write" and value is not None and getattr(self, "write", None) is not None:
            raise NotHereError
        super().__setattr__(name, value)

    def affine(self) -> np.ndarray:
        """Return the affine of the true place."""
        affine = self.turn @ np.diag([*self.spacing[:3], 1.0])
        affine[:3, 3] = 3.0, -4.0, 5.0
        return affine

    def save(self, path: Path) -> None:
        """Write the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        (self.write or save)(self, path)


def save(segmentation: Segmentation, path: Path) -> None:
    """Write NIfTI with nibabel, anything else as nnU-Net would."""
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(segmentation.array, segmentation.affine(), dtype=segmentation.array.dtype), path)
        return
    import SimpleITK

    if name.endswith((".tif", ".tiff")) and segmentation.array.shape[2] > 1:
        import tifffile

        tifffile.imwrite(path, segmentation.array.T)
        beside = path.with_name(path.name[: -len(segmentation.ending)] + ".json")
        beside.write_text(json.dumps({"spacing": list(segmentation.spacing[::-1])}))
        return
    array = segmentation.array.T
    flat = name.endswith((".png", ".bmp", ".tif", ".tiff"))
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array[0] if flat else array))
    if not flat:
        image.SetSpacing(segmentation.spacing)
        image.SetOrigin((-3.0, 4.0, 5.0))
        image.SetDirection((np.diag([-1.0, -1.0, 1.0]) @ segmentation.turn[:3, :3]).ravel())
    # SimpleITK knows no odd names, and aborts at some; it writes by the ending.
    with tempfile.TemporaryDirectory() as place:
        plain = Path(place) / f"plain{segmentation.ending.lower()}"
        SimpleITK.WriteImage(image, str(plain), True)
        shutil.move(plain, path)


class Compare(World):
    """What folders and trainings have in common."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.data = self.folder / "data"
        self.data.mkdir()
        self.request: dict[str, Any] = {}
        self.extra: list[str] = []
        self.users_files: list[str] = []
        self.as_yaml = self.rng.random() < 0.4
        self.yaml: Path | None = None
        self.output = self.folder / "out" / "report"
        self.output.parent.mkdir()
        self.surface = self.rng.random() < 0.35
        self.tolerance = 1.0
        self.unknown: set[str] = set()
        self.checked = True
        self.drawn = self.rng.random() < 0.15
        self.make()

    def make(self) -> None:
        """Fill the model."""

    def write(self) -> None:
        """Write the files of the model."""

    def expected(self) -> dict[oracle.Key, oracle.Value]:
        """Return what the report must hold."""
        raise NotImplementedError

    def loosen(self) -> None:
        """Note that the request is no longer known, so that numbers cannot be checked."""
        self.checked = False

    def end_phase(self, phase: int) -> None:
        if phase == MODEL:
            self.write()
        elif phase == REQUEST:
            self._write_request()
        elif phase == TEXT and self.yaml:
            self.argv = ["compare", "--config", str(self.yaml), *self.extra]

    def _write_request(self) -> None:
        if self.surface:
            self.request.setdefault("surface", True)
            if self.rng.random() < 0.5:
                self.tolerance = round(self.rng.uniform(0.3, 3), 3)
                self.request.setdefault("tolerance", self.tolerance)
        self.request.setdefault("output", str(self.output))
        self.words += scalars(self.request)
        if self.as_yaml:
            self.yaml = self.data / "request.yaml"
            self.yaml.write_text(yaml_text(self.request), encoding="utf-8", errors="surrogateescape")
            return
        self.argv = ["compare"]
        for key, value in self.request.items():
            if value is True:
                self.argv.append(FLAGS[key])
            elif value is not False:
                self.argv += [FLAGS[key], *self.on_the_command_line(key, value)]
        self.argv += self.extra

    def on_the_command_line(self, key: str, value: Any) -> list[str]:
        """Return a value as arguments."""
        return [str(one) for one in value] if isinstance(value, list) else [str(value)]

    def may_change(self, name: str) -> bool:
        return name.endswith(CACHE) or super().may_change(name)

    def before_run(self) -> None:
        from nnunet_cpr.evaluation import intervals
        from nnunet_cpr.evaluation.figures import drawing as figures
        from nnunet_cpr.evaluation.report import write as report

        intervals.BOOTSTRAP_SAMPLES = 50
        if not self.drawn:

            def save_figure(figure: Any, path: Path) -> None:
                path.write_bytes(b"")

            figures.save_figure = save_figure
            for name in vars(report).copy():
                if name.startswith("draw_"):
                    setattr(report, name, lambda results: [])

    def baseline(self) -> str:
        """Return the baseline's name."""
        named = self.request["trainers"] if "trainers" in self.request else self.request["predictions"]
        return str(self.request.get("baseline") or next(iter(named)))

    def check_success(self, out: str, err: str) -> None:
        if not self.checked:
            return
        if self.output is None:
            raise OracleError("accepted without an output")
        oracle.check_report(self.output, self.expected(), self.baseline(), self.unknown)

    def excused(self, err: str) -> bool:
        return "no case has a" in err

    def check_users_files(self, before: dict[str, str], after: dict[str, str]) -> None:
        for name in self.users_files:
            if before.get(name) != after.get(name):
                raise OracleError(f"the user's file {name} was changed or removed")


class Folders(Compare):
    """A reference folder and folders of predictions."""

    def make(self) -> None:
        rng = np.random.default_rng(self.rng.randrange(2**32))
        self.numbers = rng
        count = self.rng.choice([1, 2, 3, 3, 4, 6])
        shape = tuple(self.rng.choice([4, 5, 6, 7]) for _ in range(3))
        spacing = tuple(self.rng.choice([0.5, 0.7, 0.8, 1.0, 2.5, 3.0]) for _ in range(3))
        ending = self.rng.choice([".nii.gz"] * 6 + [".nii", ".mha", ".nrrd"])
        self.top = self.rng.choice([1, 2, 3])
        self.labels: dict[str, Any] = {}
        self.ignore: int | None = None
        self.description: Any = None
        if self.rng.random() < 0.4:
            self.labels = {f"label {value}": value for value in range(1, self.top + 1)}
        names = [f"case_{number}" for number in range(count)]
        self.reference = {name: self._random(shape, spacing, ending) for name in names}
        self.predictions = {
            name: {case: self._near(one) for case, one in self.reference.items()}
            for name in self.rng.sample(["one", "two", "three"], self.rng.choice([2, 2, 3]))
        }
        self.places = {name: f"pred_{name}" for name in self.predictions}
        self.reference_place = "truth"
        self.request = {"reference": "", "predictions": {}}
        if self.rng.random() < 0.3:
            self.request["processes"] = self.rng.choice([1, 2])
        self.empty = self.rng.choice(["nan", "nan", "0", "1"])
        if self.empty != "nan":
            self.request["empty"] = self.empty

    def _random(self, shape: tuple[int, ...], spacing: tuple[float, ...], ending: str) -> Segmentation:
        array = self.numbers.integers(0, self.top + 1, shape).astype(np.uint8)
        return Segmentation(array, spacing, ending)

    def _near(self, other: Segmentation) -> Segmentation:
        """A copy with some voxels replaced."""
        noise = self.numbers.random(other.array.shape) < 0.3
        values = self.numbers.integers(0, self.top + 1, other.array.shape).astype(np.uint8)
        return Segmentation(np.where(noise, values, other.array), other.spacing, other.ending)

    def all_files(self) -> list[tuple[str, dict[str, Segmentation]]]:
        """Return the place of every folder and its segmentations."""
        found = [(self.places[name], cases) for name, cases in self.predictions.items()]
        return [(self.reference_place, self.reference), *found]

    def write(self) -> None:
        for place, cases in self.all_files():
            (self.data / place).mkdir(parents=True, exist_ok=True)
            for case, one in cases.items():
                one.save(self.data / place / f"{case}{one.ending}")
        if self.labels or self.ignore is not None or self.description is not None:
            labels = {"background": 0, **{n: list(v) if isinstance(v, tuple) else v for n, v in self.labels.items()}}
            if self.ignore is not None:
                labels["ignore"] = self.ignore
            content = self.description if self.description is not None else {"labels": labels, "file_ending": ".nii.gz"}
            (self.data / self.reference_place / "dataset.json").write_text(json.dumps(content))
        self.request["reference"] = str(self.data / self.reference_place)
        self.request["predictions"] = {name: str(self.data / place) for name, place in self.places.items()}

    def on_the_command_line(self, key: str, value: Any) -> list[str]:
        if key == "predictions" and isinstance(value, dict):
            return [f"{name}={folder}" for name, folder in value.items()]
        return super().on_the_command_line(key, value)

    def _cases(self) -> list[str]:
        common = [case for case in self.reference if all(case in cases for cases in self.predictions.values())]
        return common if self.request.get("intersect") else list(self.reference)

    def expected(self) -> dict[oracle.Key, oracle.Value]:
        labels = dict(self.labels)
        named = {v for value in labels.values() for v in (value if isinstance(value, tuple) else (value,))}
        cases = self._cases()
        found = {int(v) for case in cases for v in np.unique(self.reference[case].array)}
        labels |= {str(v): v for v in sorted(found - named - {0, self.ignore})}
        dataset = (self.data / self.reference_place).resolve().name
        values: dict[oracle.Key, oracle.Value] = {}
        for name, predictions in self.predictions.items():
            for case in cases:
                truth, guess = self.reference[case], predictions[case]
                ignored = truth.array == self.ignore if self.ignore is not None else None
                for label, value in labels.items():
                    masks = np.isin(truth.array, value), np.isin(guess.array, value)
                    of_metrics: dict[str, oracle.Value] = {"Dice": self._policy(oracle.dice(*masks, ignored))}
                    if self.surface:
                        of_metrics |= oracle.distances(*masks, list(truth.spacing))
                        near = oracle.surface_dice(*masks, list(truth.spacing), self.tolerance)
                        of_metrics["NSD"] = self._policy(near)
                    shown = oracle.label_name(label, value)
                    for metric, number in of_metrics.items():
                        values[dataset, name, name, "0", case, shown, metric] = number
        if self.surface and self.ignore is not None:
            self.unknown |= {"HD95", "MASD", "NSD"}
        return {key: value for key, value in values.items() if key[-1] not in self.unknown}

    def _policy(self, value: oracle.Value) -> oracle.Value:
        return Fraction(int(self.empty)) if value is None and self.empty != "nan" else value

    def check_success(self, out: str, err: str) -> None:
        super().check_success(out, err)
        if self.checked and self.surface and self.ignore is not None and "ignore" not in out:
            raise OracleError("an ignore label and surface metrics, but no caution")


class Trainings(Compare):
    """nnU-Net's results with summaries."""

    def make(self) -> None:
        self.numbers = np.random.default_rng(self.rng.randrange(2**32))
        rng = self.rng
        self.datasets = rng.choice([["Dataset004_Tiny"], ["Dataset004_Tiny"], ["Dataset004_Tiny", "Dataset027_Other"]])
        self.folds = rng.choice([["0"], ["0", "1"], ["0", "1", "2", "3", "4"], ["all"], ["3"]])
        self.groups = rng.choice(
            [
                {"nnUNetTrainer": ["nnUNetTrainer"], "nnUNetTrainerCPR": ["nnUNetTrainerCPR"]},
                {"WD": ["nnUNetTrainerSGD_seed0", "nnUNetTrainerSGD_seed1"], "CPR": ["nnUNetTrainerCPR_seed0"]},
                {"A": ["nnUNetTrainerSGD"], "B": ["nnUNetTrainerCPR"], "C": ["nnUNetTrainerAdamW"]},
            ]
        )
        self.plans, self.configuration = "nnUNetPlans", rng.choice(["3d_fullres", "3d_fullres", "2d"])
        count = rng.choice([1, 2, 3])
        self.labels: dict[str, Any] = {"background": 0, **{f"part {v}": v for v in range(1, count + 1)}}
        if rng.random() < 0.3 and count > 1:
            self.labels["whole"] = [*range(1, count + 1)]
        self.ignore: int | None = None
        self.spacing = tuple(rng.choice([0.7, 1.0, 2.5]) for _ in range(3))
        shape = tuple(rng.choice([4, 5, 6]) for _ in range(3))
        per_fold = rng.choice([1, 2, 3])
        self.values: dict[tuple[str, str, str], dict[str, dict[str, float]]] = {}
        self.truths: dict[tuple[str, str], Segmentation] = {}
        self.guesses: dict[tuple[str, str, str, str], Segmentation] = {}
        for dataset in self.datasets:
            for fold in self.folds:
                cases = [f"case_{fold}_{n}" for n in range(per_fold)]
                for case in cases:
                    self.truths[dataset, case] = self._random(shape, count)
                for run in self.runs():
                    self.values[dataset, run, fold] = {case: self._dice() for case in cases}
                    for case in cases:
                        self.guesses[dataset, run, fold, case] = self._random(shape, count)
        self.request = {"datasets": self.datasets, "trainers": self.groups}
        self.extra_summary: dict[str, Any] = {}
        self.key_style = str
        if self.folds != ["0", "1", "2", "3", "4"] or rng.random() < 0.5:
            self.request["folds"] = self.folds
        if self.configuration != "3d_fullres":
            self.request["configuration"] = self.configuration
        self.environment |= {f"nnUNet_{name}": str(self.data / name) for name in ("raw", "preprocessed", "results")}
        self.empty = rng.choice(["nan", "nan", "0", "1"])
        if self.empty != "nan":
            self.request["empty"] = self.empty

    def runs(self) -> list[str]:
        """Return nnU-Net's names of all trainers."""
        return [run for runs in self.groups.values() for run in runs]

    def foreground(self) -> dict[str, Any]:
        """Return the labels that nnU-Net evaluates."""
        return {n: v for n, v in self.labels.items() if n != "ignore" and v not in (0, [0], "0")}

    def _random(self, shape: tuple[int, ...], top: int) -> Segmentation:
        return Segmentation(self.numbers.integers(0, top + 1, shape).astype(np.uint8), self.spacing)

    def _dice(self) -> dict[str, float]:
        """Dice of a case by label, in few digits so that ties happen."""
        found = {}
        for name in self.foreground():
            value = self.rng.choice([round(self.rng.random(), 1), round(self.rng.random(), 4), math.nan, 0.0, 1.0])
            found[name] = value if self.rng.random() < 0.3 or not math.isnan(value) else 0.5
        return found

    def model(self, dataset: str, run: str) -> Path:
        """Return nnU-Net's folder of a model."""
        return self.data / "results" / dataset / f"{run}__{self.plans}__{self.configuration}"

    def summary_key(self, value: Any) -> str:
        """Return a label as nnU-Net writes it into a summary."""
        return str(tuple(value)) if isinstance(value, (list, tuple)) else str(value)

    def write(self) -> None:
        for name in ("raw", "preprocessed", "results"):
            (self.data / name).mkdir(exist_ok=True)
        labels = {**self.labels, **({} if self.ignore is None else {"ignore": self.ignore})}
        for (dataset, case), truth in self.truths.items():
            truth.save(self.data / "preprocessed" / dataset / "gt_segmentations" / f"{case}.nii.gz")
        for (dataset, run, fold), cases in self.values.items():
            model = self.model(dataset, run)
            validation = model / f"fold_{fold}" / "validation"
            validation.mkdir(parents=True, exist_ok=True)
            (model / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
            (model / "plans.json").write_text(json.dumps({"image_reader_writer": "SimpleITKIO"}))
            entries = [
                {
                    "metrics": {
                        self.summary_key(self.labels[name]): {"Dice": dice, "IoU": 0.5, "n_pred": 3}
                        for name, dice in values.items()
                    },
                    "prediction_file": f"/elsewhere/validation/{case}.nii.gz",
                    "reference_file": f"/elsewhere/gt/{case}.nii.gz",
                }
                for case, values in cases.items()
            ]
            content = {"metric_per_case": entries, "foreground_mean": {"Dice": 0.5}, **self.extra_summary}
            (validation / "summary.json").write_text(json.dumps(content))
            for case in cases:
                self.guesses[dataset, run, fold, case].save(validation / f"{case}.nii.gz")

    def summaries(self) -> list[Path]:
        """Return every summary.json."""
        return [
            self.model(dataset, run) / f"fold_{fold}" / "validation" / "summary.json"
            for dataset, run, fold in self.values
        ]

    def on_the_command_line(self, key: str, value: Any) -> list[str]:
        if key == "trainers" and isinstance(value, dict):
            return [name if [name] == runs else f"{name}={','.join(runs)}" for name, runs in value.items()]
        return super().on_the_command_line(key, value)

    def expected(self) -> dict[oracle.Key, oracle.Value]:
        found: dict[oracle.Key, oracle.Value] = {}
        shown = {run: name for name, runs in self.groups.items() for run in runs}
        for (dataset, run, fold), cases in self.values.items():
            for case, values in cases.items():
                for name, dice in values.items():
                    value = None if math.isnan(dice) else Fraction(str(dice))
                    of_metrics: dict[str, oracle.Value] = {"Dice": self._policy(value)}
                    if self.surface:
                        label = self.labels[name]
                        truth, guess = self.truths[dataset, case], self.guesses[dataset, run, fold, case]
                        masks = np.isin(truth.array, label), np.isin(guess.array, label)
                        of_metrics |= oracle.distances(*masks, list(self.spacing))
                        near = oracle.surface_dice(*masks, list(self.spacing), self.tolerance)
                        of_metrics["NSD"] = self._policy(near)
                    label_name = oracle.label_name(name, self.labels[name])
                    for metric, number in of_metrics.items():
                        found[dataset, shown[run], run, fold, case, label_name, metric] = number
        if self.ignore is not None:
            self.unknown |= {"HD95", "MASD", "NSD"}
        return {key: value for key, value in found.items() if key[-1] not in self.unknown}

    def _policy(self, value: oracle.Value) -> oracle.Value:
        return Fraction(int(self.empty)) if value is None and self.empty != "nan" else value


def folders_only(world: World) -> Folders:
    """Return the world if it is one of folders."""
    if not isinstance(world, Folders):
        raise NotHereError
    return world


def trainings_only(world: World) -> Trainings:
    """Return the world if it is one of trainings."""
    if not isinstance(world, Trainings):
        raise NotHereError
    return world
