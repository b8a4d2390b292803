"""`nnunet-cpr compare` on odd trainings and odd folders of segmentations."""

import gzip
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import odd_oracle as oracle
from odd_texts import NAMES, NUMBERS, for_files, scalars, yaml_text
from odd_worlds import (
    ACCEPTED,
    DISK,
    EITHER,
    MODEL,
    PLACE,
    REFUSED,
    REQUEST,
    TEXT,
    NotHereError,
    OracleError,
    World,
    odd,
    pick,
)

CACHE = "nnunet_cpr_surface_metrics.json"
FLAGS = {"datasets": "-d", "trainers": "-tr", "configuration": "-c", "plans": "-p", "folds": "-f", "reference": "--reference",
         "predictions": "--pred", "baseline": "--baseline", "empty": "--empty", "tolerance": "--tolerance", "seed": "--seed",
         "processes": "-np", "output": "-o", "intersect": "--intersect", "skip_missing": "--skip-missing",
         "surface": "--surface"}  # fmt: skip
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
        image = nib.Nifti1Image(segmentation.array, segmentation.affine(), dtype=segmentation.array.dtype)
        nib.save(image, path)
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
    # SimpleITK knows no odd names, and writes by the ending.
    plain = path.with_name(f"plain{segmentation.ending.lower()}")
    SimpleITK.WriteImage(image, str(plain), True)
    plain.rename(path)


class Compare(World):
    """What folders and trainings have in common."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.data = self.folder / "data"
        self.data.mkdir()
        self.request: dict[str, Any] = {}
        self.extra: list[str] = []
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
        return name.endswith(CACHE)

    def before_run(self) -> None:
        from nnunet_cpr.evaluation import figures, report, statistics

        statistics.BOOTSTRAP_SAMPLES = 50
        if not self.drawn:
            figures.save_figure = lambda figure, path: path.write_bytes(b"")
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
        users = getattr(self, "users_files", [])
        for name in users:
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
                    masks = [np.isin(one.array, value) for one in (truth, guess)]
                    key = (dataset, name, name, "0", case, label)
                    values[*key, "Dice"] = self._policy(oracle.dice(*masks, ignored))
                    if self.surface:
                        for metric, number in oracle.distances(*masks, list(truth.spacing)).items():
                            values[*key, metric] = number
                        near = oracle.surface_dice(*masks, list(truth.spacing), self.tolerance)
                        values[*key, "NSD"] = self._policy(near)
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
            return [
                name if [name] == runs else f"{name}={','.join(runs)}" for name, runs in value.items()
            ]
        return super().on_the_command_line(key, value)

    def expected(self) -> dict[oracle.Key, oracle.Value]:
        found: dict[oracle.Key, oracle.Value] = {}
        shown = {run: name for name, runs in self.groups.items() for run in runs}
        for (dataset, run, fold), cases in self.values.items():
            for case, values in cases.items():
                for name, dice in values.items():
                    key = (dataset, shown[run], run, fold, case, name)
                    value = None if math.isnan(dice) else Fraction(str(dice))
                    found[*key, "Dice"] = self._policy(value)
                    if self.surface:
                        label = self.labels[name]
                        truth, guess = self.truths[dataset, case], self.guesses[dataset, run, fold, case]
                        masks = [np.isin(one.array, label) for one in (truth, guess)]
                        for metric, number in oracle.distances(*masks, list(self.spacing)).items():
                            found[*key, metric] = number
                        near = oracle.surface_dice(*masks, list(self.spacing), self.tolerance)
                        found[*key, "NSD"] = self._policy(near)
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


# Images


def _one(world: World) -> tuple[str, str, Segmentation]:
    """Return a place, a case and its segmentation, of a prediction or of the reference."""
    place, cases = pick(world, folders_only(world).all_files())
    case = pick(world, cases)
    return place, case, cases[case]


def _nifti(world: World) -> Folders:
    own = folders_only(world)
    if not next(iter(own.reference.values())).ending.startswith(".nii"):
        raise NotHereError
    return own


def _all(world: Folders) -> list[Segmentation]:
    return [one for _, cases in world.all_files() for one in cases.values()]


def _with_header(change: Callable[[Any], None]) -> Callable[[Segmentation, Path], None]:
    """Return a writer of NIfTI that changes the header at last."""

    def write(one: Segmentation, path: Path) -> None:
        image = nib.Nifti1Image(one.array, one.affine(), dtype=one.array.dtype)
        image.header["vox_offset"] = 352
        change(image.header)
        raw = image.header.binaryblock + bytes(4) + one.array.tobytes(order="F")
        path.write_bytes(gzip.compress(raw) if path.name.endswith(".gz") else raw)

    return write


@odd(MODEL)
def other_units(world: World) -> str:
    """Lengths in meters or micrometers."""
    own = _nifti(world)
    unit, factor = pick(world, [(1, 1e-3), (3, 1e3)])

    def change(header: Any) -> None:
        header["xyzt_units"] = unit
        header["pixdim"][1:4] *= factor
        for row in ("srow_x", "srow_y", "srow_z"):
            header[row] *= factor
        for name in ("qoffset_x", "qoffset_y", "qoffset_z"):
            header[name] = header[name] * factor

    for one in _all(own):
        one.write = _with_header(change)
    return f"NIfTI units {unit}"


@odd(MODEL, ACCEPTED)
def unknown_units(world: World) -> str:
    for one in _all(_nifti(world)):
        one.write = _with_header(lambda header: header.__setitem__("xyzt_units", 0))
    return "NIfTI without units"


@odd(MODEL)
def negative_pixdim(world: World) -> str:
    own = _nifti(world)
    axis = pick(world, [1, 2, 3])

    def change(header: Any) -> None:
        header["pixdim"][axis] *= -1

    for one in _all(own):
        one.write = _with_header(change)
    return f"pixdim[{axis}] negative"


@odd(MODEL)
def zero_pixdim(world: World) -> str:
    own = _nifti(world)
    axis, value = pick(world, [1, 2, 3]), pick(world, [0.0, math.nan, math.inf, 1e-30])

    def change(header: Any) -> None:
        header["pixdim"][axis] = value

    for one in _all(own):
        one.write = _with_header(change)
    if own.surface:  # what lengths are meant is not known
        own.unknown |= {"HD95", "MASD", "NSD"}
        own.verdict = EITHER
    return f"pixdim[{axis}] is {value}"


@odd(MODEL)
def no_codes(world: World) -> str:
    own = _nifti(world)
    forms = pick(world, [(0, 0), (1, 0), (0, 1), (2, 1), (4, 99)])

    def change(header: Any) -> None:
        header["qform_code"], header["sform_code"] = forms

    for one in _all(own):
        one.write = _with_header(change)
    return f"qform and sform codes {forms}"


@odd(MODEL)
def sheared(world: World) -> str:
    own = folders_only(world)
    if not next(iter(own.reference.values())).ending.startswith(".nii"):
        raise NotHereError
    shear = np.eye(4)
    shear[0, 2] = pick(world, [0.05, 0.3])
    for one in _all(own):
        one.turn = AFFINE @ shear
    own.unknown |= {"HD95", "MASD", "NSD"}
    return "sheared"


@odd(MODEL, ACCEPTED)
def turned(world: World) -> str:
    own = folders_only(world)
    turn = np.eye(4)
    angle = own.rng.uniform(0.1, 1.4)
    turn[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    if own.rng.random() < 0.5:
        turn[:3, :3] = turn[[1, 2, 0], :3]
    for one in _all(own):
        one.turn = turn
    return "turned in space"


@odd(MODEL, REFUSED)
def fourth_axis(world: World) -> str:
    own = _nifti(world)
    _, case, one = _one(own)
    one.array = np.stack([one.array, one.array], axis=-1)
    return f"4D: {case} with two volumes"


@odd(MODEL)
def fourth_axis_of_one(world: World) -> str:
    own = _nifti(world)
    for one in _all(own):
        one.write = lambda one, path: nib.save(nib.Nifti1Image(one.array[..., None], one.affine()), path)
    return "4D with one volume"


@odd(MODEL, ACCEPTED)
def one_voxel(world: World) -> str:
    own = folders_only(world)
    case = pick(own, own.reference)
    for _, cases in own.all_files():
        cases[case].array = cases[case].array[:1, :1, :1]
    own.unknown |= {"NSD"}
    return f"{case} of one voxel"


@odd(MODEL, ACCEPTED)
def one_slice(world: World) -> str:
    own = folders_only(world)
    axis = pick(own, [0, 1, 2])
    for one in _all(own):
        one.array = one.array.take([0], axis)
    own.unknown |= {"NSD"}
    return f"one slice across axis {axis}"


@odd(MODEL, REFUSED)
def no_voxels(world: World) -> str:
    own = _nifti(world)
    place, case, one = _one(own)
    one.write = _with_header(lambda header: header["dim"].__setitem__(pick(own, [0, 1, 2, 3]), 0))
    return f"{place}/{case} with a dimension of 0"


@odd(MODEL, ACCEPTED)
def empty_masks(world: World) -> str:
    own = folders_only(world)
    place, cases = pick(own, own.all_files())
    case = pick(own, cases)
    cases[case].array[:] = 0
    found = {v for one in own.reference.values() for v in np.unique(one.array)}
    guessed = {v for cases in own.predictions.values() for one in cases.values() for v in np.unique(one.array)}
    if not guessed - found <= {0, *own.labels.values()} or not found - {0}:
        own.verdict = EITHER
    return f"{place}/{case} without any label"


@odd(MODEL)
def nothing_anywhere(world: World) -> str:
    own = folders_only(world)
    for one in _all(own):
        one.array[:] = 0
    return "no label in any file"


@odd(MODEL)
def other_type(world: World) -> str:
    own = _nifti(world)
    kind = pick(own, ["int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "float32", "float64", ">i2", ">f4"])
    one = _one(own)[2]
    one.array = one.array.astype(kind)
    if kind.startswith(">"):
        one.write = lambda one, path: nib.save(
            nib.Nifti1Image(one.array, one.affine(), nib.Nifti1Header(endianness=">")), path
        )
    return f"labels as {kind}"


@odd(MODEL, REFUSED)
def colors(world: World) -> str:
    own = _nifti(world)
    place, case, one = _one(own)
    color = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])

    def write(one: Segmentation, path: Path) -> None:
        nib.save(nib.Nifti1Image(np.stack([one.array] * 3, -1).view(color)[..., 0].copy(), one.affine()), path)

    one.write = write
    return f"{place}/{case} in color"


@odd(MODEL, REFUSED)
def complex_numbers(world: World) -> str:
    place, case, one = _one(_nifti(world))
    one.array = one.array.astype(np.complex64) + 1j
    return f"{place}/{case} of complex numbers"


@odd(MODEL, REFUSED)
def no_label(world: World) -> str:
    own = _nifti(world)
    place, case, one = _one(own)
    value = pick(own, [1.5, math.nan, math.inf, -1, 65536, 70000, 2**40, 0.999, 1e-3])
    one.array = one.array.astype(np.float64)
    one.array.flat[own.rng.randrange(one.array.size)] = value
    return f"{place}/{case} holds {value}"


@odd(MODEL)
def huge_labels(world: World) -> str:
    own = folders_only(world)
    value = pick(own, [255, 1000, 32768, 65535])
    if own.labels or own.reference[next(iter(own.reference))].ending not in (".nii.gz", ".nii"):
        raise NotHereError
    for one in _all(own):
        one.array = np.where(one.array == 1, value, one.array).astype(np.uint16)
    return f"1 is {value}"


@odd(MODEL)
def scaled(world: World) -> str:
    own = _nifti(world)
    place, case, one = _one(own)
    slope, offset = pick(own, [(2.0, 0.0), (0.5, 0.0), (1.0, -1.0), (0.1, 0.0), (1 / 3, 0.0)])
    values = np.rint((one.array - offset) / slope).astype(np.int16)
    exact = np.allclose(values * slope + offset, one.array, atol=1e-6)
    if not exact:
        raise NotHereError

    def write(one: Segmentation, path: Path) -> None:
        image = nib.Nifti1Image(values, one.affine())
        header = image.header
        header["scl_slope"], header["scl_inter"], header["vox_offset"] = slope, offset, 352
        raw = header.binaryblock + bytes(4) + values.tobytes(order="F")
        path.write_bytes(gzip.compress(raw) if path.name.endswith(".gz") else raw)

    one.write = write
    return f"{place}/{case} scaled by {slope:g} and {offset:g}"


@odd(MODEL, REFUSED)
def other_place(world: World) -> str:
    own = folders_only(world)
    name = pick(own, own.predictions)
    case = pick(own, own.predictions[name])
    one = own.predictions[name][case]
    if one.ending not in (".nii.gz", ".nii"):
        raise NotHereError
    what = pick(own, ["shape", "spacing", "origin", "direction", "transposed"])
    if what == "shape":
        one.array = one.array[1:]
    elif what == "spacing":
        one.spacing = (one.spacing[0] * pick(own, [1.01, 2, 100]), *one.spacing[1:])
    elif what == "transposed":
        if len(set(one.array.shape)) < 3:
            raise NotHereError
        one.array = one.array.transpose(1, 2, 0)
    else:
        affine = one.affine()
        affine[0, 3 if what == "origin" else 0] *= -1 if what == "direction" else 1.5
        one.write = lambda one, path: nib.save(nib.Nifti1Image(one.array, affine, dtype=one.array.dtype), path)
    return f"{name}/{case} with another {what}"


@odd(MODEL, ACCEPTED)
def within_tolerance(world: World) -> str:
    own = _nifti(world)
    one = pick(own, list(next(iter(own.predictions.values())).values()))
    affine = one.affine()
    affine[:3, 3] += 1e-5
    one.write = lambda one, path: nib.save(nib.Nifti1Image(one.array, affine, dtype=one.array.dtype), path)
    return "origin off by 1e-5 mm"


@odd(MODEL)
def other_format(world: World) -> str:
    own = folders_only(world)
    ending = pick(own, [".nii", ".mha", ".nrrd", ".gipl", ".NII.GZ", ".Nii", ".MHA"])
    alone = own.rng.random() < 0.5
    for _, cases in own.all_files()[1:2] if alone else own.all_files():
        for one in cases.values():
            if one.write or not np.allclose(one.turn, AFFINE):
                raise NotHereError
            one.ending = ending
    if ending == ".gipl":
        own.unknown |= {"HD95", "MASD", "NSD"}
    return f"{'one folder' if alone else 'all'} in {ending}"


@odd(MODEL)
def plane_pictures(world: World) -> str:
    own = folders_only(world)
    ending = pick(own, [".png", ".bmp", ".tif", ".PNG"])
    for one in _all(own):
        if one.write or one.array.ndim != 3:
            raise NotHereError
        one.array, one.ending = one.array[:, :, :1].astype(np.uint8), ending
        one.spacing = (1.0, 1.0, 999.0)
    own.unknown |= {"NSD"}
    return f"plane {ending}"


@odd(MODEL)
def tiff_volumes(world: World) -> str:
    own = folders_only(world)
    ending = pick(own, [".tif", ".tiff"])
    if min(one.array.shape[2] for one in _all(own)) < 2:
        raise NotHereError
    for one in _all(own):
        if one.write:
            raise NotHereError
        one.ending = ending
    if own.rng.random() < 0.4:
        for one in _all(own):
            one.write = _tiff_without_spacing
        own.unknown |= {"HD95", "MASD", "NSD"}
        return f"volumes in {ending} without a spacing"
    return f"volumes in {ending}"


def _tiff_without_spacing(one: Segmentation, path: Path) -> None:
    import tifffile

    tifffile.imwrite(path, one.array.T)


@odd(MODEL)
def nifti_2(world: World) -> str:
    for one in _all(_nifti(world)):
        one.write = lambda one, path: nib.save(nib.Nifti2Image(one.array, one.affine(), dtype=one.array.dtype), path)
    return "NIfTI-2"


@odd(MODEL)
def wrong_compression(world: World) -> str:
    own = _nifti(world)
    place, case, one = _one(own)

    def write(one: Segmentation, path: Path) -> None:
        raw = nib.Nifti1Image(one.array, one.affine(), dtype=one.array.dtype).to_bytes()
        path.write_bytes(raw if path.name.endswith(".gz") else gzip.compress(raw))

    def two_members(one: Segmentation, path: Path) -> None:
        raw = nib.Nifti1Image(one.array, one.affine(), dtype=one.array.dtype).to_bytes()
        path.write_bytes(gzip.compress(raw[:100]) + gzip.compress(raw[100:]))

    def garbage_after(one: Segmentation, path: Path) -> None:
        raw = nib.Nifti1Image(one.array, one.affine(), dtype=one.array.dtype).to_bytes() + b"garbage"
        path.write_bytes(gzip.compress(raw) if path.name.endswith(".gz") else raw)

    one.write = pick(own, [write, two_members, garbage_after])
    return f"{place}/{case}: gzip, {one.write.__name__.replace('_', ' ')}"


# Names and layouts of folders


@odd(MODEL)
def odd_case_names(world: World) -> str:
    own = folders_only(world)
    name = pick(own, for_files([n for n in NAMES if len(n.encode(errors="replace")) < 200]))
    old = pick(own, own.reference)
    for _, cases in own.all_files():
        if old in cases:
            renamed = {name if case == old else case: one for case, one in cases.items()}
            cases.clear()
            cases.update(renamed)
    own.words.append(name)
    return f"a case called {name!r}"


@odd(MODEL)
def odd_prediction_names(world: World) -> str:
    own = folders_only(world)
    old, new = pick(own, own.predictions), pick(own, NAMES)
    if new in own.predictions or ("=" in new and not own.as_yaml):
        raise NotHereError
    own.predictions = {new if name == old else name: cases for name, cases in own.predictions.items()}
    own.places = {new if name == old else name: place for name, place in own.places.items()}
    own.words.append(new)
    return f"a prediction called {new!r}"


@odd(MODEL)
def odd_folder_names(world: World) -> str:
    own = folders_only(world)
    new = pick(own, for_files([n for n in NAMES if len(n.encode(errors="replace")) < 200] + ["..x", "x.nii.gz", "-f", ".hidden"]))
    if own.rng.random() < 0.5:
        own.reference_place = new
    else:
        own.places[pick(own, own.places)] = new
    return f"a folder called {new!r}"


@odd(MODEL)
def odd_label_names(world: World) -> str:
    own = folders_only(world)
    name, value = pick(own, [*NAMES, "", "ignore", "background", "Ignore", "2", "3"]), pick(own, [1, 1, own.top, own.top + 3])
    own.labels = {**{f"label {v}": v for v in range(1, own.top + 1) if v != value}, name: value}
    if name in ("ignore", "background"):
        own.checked = False  # these have a meaning
    own.words.append(name)
    return f"label {value} called {name!r}"


@odd(MODEL)
def regions(world: World) -> str:
    own = folders_only(world)
    own.labels = {"whole": tuple(range(1, own.top + 1)), "first": pick(own, [1, (1,)]), "last": own.top}
    return "regions"


@odd(MODEL)
def ignore_label(world: World) -> str:
    own = folders_only(world)
    own.labels = {f"label {v}": v for v in range(1, own.top + 1)}
    own.ignore = own.top + 1
    for one in own.reference.values():
        one.array[own.numbers.random(one.array.shape) < 0.2] = own.ignore
    return "an ignore label"


@odd(MODEL)
def odd_description(world: World) -> str:
    own = folders_only(world)
    said, own.description = pick(
        own,
        [
            ("a list", []),
            ("without labels", {"file_ending": ".nii.gz"}),
            ("labels a list", {"labels": ["a", "b"]}),
            ("the Decathlon's", {"labels": {str(v): f"label {v}" if v else "background" for v in range(own.top + 1)}}),
            ("values as texts", {"labels": {"background": "0", **{f"label {v}": str(v) for v in range(1, own.top + 1)}}}),
            ("values as floats", {"labels": {"background": 0.0, **{f"label {v}": float(v) for v in range(1, own.top + 1)}}}),
            ("one value twice", {"labels": {"background": 0, "a": 1, "b": 1}}),
            ("values true and false", {"labels": {"background": False, "label 1": True}}),
            ("a value of none", {"labels": {"background": 0, "a": None}}),
            ("a value of 1.5", {"labels": {"background": 0, "a": 1.5}}),
            ("an empty region", {"labels": {"background": 0, "a": []}}),
            ("a nested region", {"labels": {"background": 0, "a": [[1]]}}),
            ("no background", {"labels": {f"label {v}": v for v in range(1, own.top + 1)}}),
            ("a background of 1", {"labels": {"background": 1, "a": 2}}),
            ("two backgrounds", {"labels": {"background": 0, "air": 0, "label 1": 1}}),
            ("an ignore label that is a list", {"labels": {"background": 0, "label 1": 1, "ignore": [2]}}),
            ("no labels at all", {"labels": {}}),
        ],
    )  # fmt: skip
    own.labels = {}
    named = ("the Decathlon's", "values as texts", "values as floats", "no background")
    if said in named:
        own.labels = {f"label {v}": v for v in range(1, own.top + 1)}
    else:
        own.checked = False
    return f"dataset.json: {said}"


@odd(DISK)
def stray_files(world: World) -> str:
    own = folders_only(world)
    place, cases = pick(own, own.all_files())
    folder = own.data / place
    case = next(iter(cases))
    ending = cases[case].ending
    said, verdict = pick(
        own,
        [("notes.txt", ACCEPTED), ("Thumbs.db", ACCEPTED), (".DS_Store", ACCEPTED), ("plans.json", ACCEPTED),
         ("a folder", ACCEPTED), (f"._{case}{ending}", ACCEPTED), (f".{case}{ending}", ACCEPTED), (f"{case}{ending}.tmp", ACCEPTED),
         (f"{case} (1){ending}", EITHER), ("a folder.nii.gz", EITHER), (f"{case}.nii.gz.part", ACCEPTED), ("a pipe", ACCEPTED)],
    )  # fmt: skip
    path = folder / said
    if path.exists():
        raise NotHereError
    if said.startswith("a folder"):
        path.mkdir()
    elif said == "a pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"x" if "(1)" not in said else (folder / f"{case}{ending}").read_bytes())
    if verdict == EITHER:
        own.verdict = EITHER
        own.checked = False
    return f"{place} holds {said}"


@odd(DISK, REFUSED)
def lost_case(world: World) -> str:
    own = folders_only(world)
    place, cases = pick(own, own.all_files())
    if len(cases) < 2:
        raise NotHereError
    case = pick(own, cases)
    path = own.data / place / f"{case}{cases[case].ending}"
    said = pick(own, ["missing", "a dangling link", "a loop of links", "a folder", "empty"])
    path.unlink()
    if said == "a dangling link":
        path.symlink_to(own.data / "store" / "gone.nii.gz")
    elif said == "a loop of links":
        path.symlink_to(path)
    elif said == "a folder":
        path.mkdir()
    elif said == "empty":
        path.touch()
    return f"{place}/{case} is {said}"


@odd(DISK, REFUSED)
def lost_everywhere(world: World) -> str:
    """The links of a data manager whose files were not fetched: the case is lost in every folder."""
    own = folders_only(world)
    if len(own.reference) < 2:
        raise NotHereError
    case = pick(own, own.reference)
    for place, cases in own.all_files():
        path = own.data / place / f"{case}{cases[case].ending}"
        path.unlink()
        path.symlink_to(own.data / "annex" / "objects" / path.name)
    return f"{case} is a dangling link in every folder"


@odd(DISK, ACCEPTED)
def links(world: World) -> str:
    own = folders_only(world)
    place, cases = pick(own, own.all_files())
    folder = own.data / place
    said = pick(own, ["files", "folder", "relative links"])
    store = own.data / "store"
    store.mkdir()
    if said == "folder":
        own.checked = own.checked and place != own.reference_place  # the dataset's name is the folder's
        folder.rename(store / "inner")
        folder.symlink_to(store / "inner", target_is_directory=True)
        return f"{place} is a link"
    for path in list(folder.iterdir()):
        path.rename(store / path.name)
        path.symlink_to(store / path.name if said == "files" else Path("..") / "store" / path.name)
    return f"{place} holds links"


@odd(DISK, REFUSED)
def case_twice(world: World) -> str:
    own = folders_only(world)
    place, cases = pick(own, own.all_files())
    case, one = next(iter(cases.items()))
    other = ".nii" if one.ending != ".nii" else ".nii.gz"
    if one.ending.lower() in (".nii", ".nii.gz") and one.ending != one.ending.lower():
        raise NotHereError
    Segmentation(one.array, one.spacing).save(own.data / place / f"{case}{other}")
    return f"{place}/{case} twice, {one.ending} and {other}"


@odd(DISK, REFUSED)
def bad_folder(world: World) -> str:
    own = folders_only(world)
    place, _ = pick(own, own.all_files())
    folder = own.data / place
    said = pick(own, ["missing", "empty", "a file", "a dangling link"])
    shutil.rmtree(folder)
    if said == "empty":
        folder.mkdir()
    elif said == "a file":
        folder.write_text("x")
    elif said == "a dangling link":
        folder.symlink_to("nowhere")
    return f"{place} is {said}"


@odd(REQUEST, ACCEPTED)
def intersect(world: World) -> str:
    own = folders_only(world)
    own.request["intersect"] = True
    if len(own.reference) > 1 and own.rng.random() < 0.7:
        place, cases = own.all_files()[own.rng.randrange(1, 1 + len(own.predictions))]
        case = pick(own, cases)
        path = own.data / place / f"{case}{cases[case].ending}"
        if path.is_symlink() or not path.is_file():
            raise NotHereError
        path.unlink()
        del cases[case]
        if len({v for c in own._cases() for v in np.unique(own.reference[c].array)}) <= own.top:
            own.verdict = EITHER
        return f"--intersect without {place}/{case}"
    return "--intersect"


@odd(REQUEST)
def same_folder(world: World) -> str:
    own = folders_only(world)
    first, second = list(own.predictions)[:2]
    own.predictions[second] = own.predictions[first]
    own.request["predictions"][second] = own.request["predictions"][first]
    return "two predictions of one folder"


@odd(REQUEST)
def reference_as_prediction(world: World) -> str:
    own = folders_only(world)
    first = next(iter(own.predictions))
    if own.ignore is not None:
        raise NotHereError
    own.predictions[first] = own.reference
    own.request["predictions"][first] = own.request["reference"]
    return "the reference as a prediction"


@odd(REQUEST)
def odd_paths(world: World) -> str:
    own = folders_only(world)
    say = pick(own, ["relative", "~", "trailing slash", "..", "trailing space", "double slash", "variable", "file:"])
    path = own.data / own.reference_place
    base = own.data if own.as_yaml else own.cwd
    texts = {
        "relative": os.path.relpath(path, base),
        "~": "~/data/" + own.reference_place,
        "trailing slash": f"{path}/",
        "..": f"{path}/../{own.reference_place}",
        "trailing space": f"{path} ",
        "double slash": str(path).replace("/data/", "//data///"),
        "variable": "$HOME/" + own.reference_place,
        "file:": f"file://{path}",
    }
    own.request["reference"] = texts[say]
    if say == "~":
        own.environment["HOME"] = str(own.folder)
        if not own.as_yaml:  # the shell expands it
            own.request["reference"] = str(path)
    if say in ("relative", "trailing slash", "..", "double slash", "~"):
        own.verdict = ACCEPTED if len(own.chosen) == 1 else own.verdict
    else:
        own.verdict = REFUSED if len(own.chosen) == 1 else own.verdict
    return f"the reference's path with {say}"


# Trainings


@odd(MODEL)
def odd_training_labels(world: World) -> str:
    own = trainings_only(world)
    old = pick(own, own.foreground())
    new = pick(own, [*NAMES, "", "0", "2", "Background", "Ignore", "3", "(1, 2)"])
    if new in own.labels:
        raise NotHereError
    own.labels = {new if name == old else name: value for name, value in own.labels.items()}
    for cases in own.values.values():
        for case in cases:
            cases[case] = {new if name == old else name: dice for name, dice in cases[case].items()}
    own.words.append(new)
    return f"a label called {new!r}"


@odd(DISK)
def rewritten_labels(world: World) -> str:
    own = trainings_only(world)
    said, change = pick(
        own,
        [
            ("a region of one", lambda n, v: [v] if isinstance(v, int) and v else v),
            ("values as texts", lambda n, v: str(v) if isinstance(v, int) else v),
            ("values as floats", lambda n, v: float(v) if isinstance(v, int) else v),
            ("background as text", lambda n, v: "0" if v == 0 else v),
            ("background as a list", lambda n, v: [0] if v == 0 else v),
            ("background as [\"0\"]", lambda n, v: ["0"] if v == 0 else v),
        ],
    )
    for path in own.data.glob("results/*/*/dataset.json"):
        content = json.loads(path.read_text())
        content["labels"] = {name: change(name, value) for name, value in content["labels"].items()}
        path.write_text(json.dumps(content))
    return f"dataset.json: {said}"


@odd(DISK)
def training_ignore(world: World) -> str:
    own = trainings_only(world)
    own.ignore = 9
    for path in own.data.glob("results/*/*/dataset.json"):
        content = json.loads(path.read_text())
        content["labels"]["ignore"] = 9
        path.write_text(json.dumps(content))
    return "an ignore label"


@odd(DISK)
def odd_summary(world: World) -> str:
    own = trainings_only(world)
    path = pick(own, own.summaries())
    content = json.loads(path.read_text())
    entries = content["metric_per_case"]
    entry = pick(own, entries)
    key = pick(own, entry["metrics"])
    said = pick(
        own,
        ["Dice null", "Dice a text", "Dice a word", "Dice above 1", "Dice below 0", "Dice infinite", "Dice true", "a list",
         "no Dice", "a label more", "a label less", "key 1.0", "key with spaces", "no cases", "a case twice", "Windows path",
         "no file name", "an empty file name", "more keys", "v1", "NaN as text", "Dice 1.0000001", "byte order mark", "UTF-16",
         "cases a mapping", "metrics null", "int Dice", "a dot file", "ending .nii"],
    )  # fmt: skip
    metrics = entry["metrics"]
    harmless = {"Windows path", "more keys"}
    values = {"Dice null": None, "Dice a text": "0.25", "Dice a word": "high", "Dice above 1": 1.5, "Dice below 0": -0.5,
              "Dice infinite": math.inf, "Dice true": True, "a list": [0.5], "NaN as text": "nan", "Dice 1.0000001": 1.0000001,
              "int Dice": 1}  # fmt: skip
    refused = {"Dice a word", "Dice above 1", "Dice below 0", "Dice infinite", "a list", "no Dice", "a label more", "v1",
               "a label less", "no cases", "a case twice", "metrics null", "Dice null", "UTF-16"}  # fmt: skip
    if said in values:
        metrics[key]["Dice"] = values[said]
    elif said == "no Dice":
        del metrics[key]["Dice"]
    elif said == "a label more":
        metrics["77"] = {"Dice": 0.5}
    elif said == "a label less":
        del metrics[key]
    elif said in ("key 1.0", "key with spaces"):
        entry["metrics"] = {f"{k}.0" if said == "key 1.0" else f" {k} ": v for k, v in metrics.items()}
    elif said == "no cases":
        content["metric_per_case"] = []
    elif said == "a case twice":
        entries.append(entries[0])
    elif said == "Windows path":
        entry["prediction_file"] = entry["prediction_file"].replace("/", "\\")
    elif said == "no file name":
        del entry["prediction_file"]
    elif said == "an empty file name":
        entry["prediction_file"] = ""
    elif said == "a dot file":
        entry["prediction_file"] = "/x/.nii.gz"
    elif said == "ending .nii":
        entry["prediction_file"] = entry["prediction_file"].removesuffix(".gz")
    elif said == "more keys":
        content |= {"x": 1}
        metrics[key] |= {"HD95": 3.0, "é": None}
    elif said == "v1":
        content = {"results": {"all": [{"1": {"Dice": 0.5}, "test": "a", "reference": "b"}], "mean": {}}, "name": "x"}
    elif said == "cases a mapping":
        content["metric_per_case"] = {str(n): one for n, one in enumerate(entries)}
    elif said == "metrics null":
        entry["metrics"] = None
    text = json.dumps(content)
    encoding = {"byte order mark": "utf-8-sig", "UTF-16": "utf-16"}.get(said, "utf-8")
    path.write_text(text, encoding=encoding)
    if said not in harmless:
        own.checked = False
    if said in refused and len(own.chosen) == 1:
        own.verdict = REFUSED
    if said == "v1":
        own.words.append("nnUNet")
    return f"summary.json with {said}"


@odd(DISK)
def odd_results(world: World) -> str:
    own = trainings_only(world)
    path = pick(own, own.summaries())
    validation, fold, model = path.parent, path.parents[1], path.parents[2]
    said = pick(
        own,
        ["validation is a link", "fold is a link", "model is a link", "dataset is a link", "summary is a link",
         "summary dangles", "no dataset.json", "no plans.json", "empty log", "odd log", "odd trace", "no predictions",
         "fold is a file", "other labels in one model", "stray folders", "summary is a folder", "dataset.json dangles"],
    )  # fmt: skip
    store = own.data / "store"
    store.mkdir()
    moved = {"validation is a link": validation, "fold is a link": fold, "model is a link": model,
             "dataset is a link": model.parent, "summary is a link": path}.get(said)  # fmt: skip
    if moved:
        moved.rename(store / moved.name)
        moved.symlink_to(store / moved.name)
        own.verdict = ACCEPTED if len(own.chosen) == 1 else own.verdict
    elif said in ("summary dangles", "summary is a folder"):
        path.unlink()
        path.symlink_to("nowhere") if said == "summary dangles" else path.mkdir()
    elif said in ("no dataset.json", "dataset.json dangles"):
        (model / "dataset.json").unlink()
        if said != "no dataset.json":
            (model / "dataset.json").symlink_to("nowhere")
    elif said == "no plans.json":
        (model / "plans.json").unlink()
    elif said == "empty log":
        (fold / "training_log_2026_1_2_3_4_5.txt").touch()
    elif said == "odd log":
        (fold / "training_log_2026_1_2_3_4_5.txt").write_bytes(b"\xff\xfe 2026-11-23 13:40:44.339281: Epoch 99999999999999999999\n")
    elif said == "odd trace":
        (fold / "cpr_trace.csv").write_text("epoch,step,tensor,reg,kappa,lagmul\n0,1,é,nan,inf,-inf\n0,1,,,,\n")
    elif said == "no predictions":
        for file in validation.glob("*.nii.gz"):
            file.unlink()
    elif said == "fold is a file":
        shutil.rmtree(fold)
        fold.write_text("x")
    elif said == "other labels in one model":
        (model / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "x": 1}, "file_ending": ".nii.gz"}))
    elif said == "stray folders":
        for name in (".git", "fold_x", "ensembles", "crossval_results_folds_0_1_2_3_4"):
            (model / name).mkdir()
    fine = {"no plans.json", "empty log", "odd log", "odd trace", "stray folders", *(["no predictions"] * (not own.surface))}
    if said in fine and len(own.chosen) == 1:
        own.verdict = ACCEPTED
    if not moved and said not in fine:
        own.verdict = REFUSED if len(own.chosen) == 1 else own.verdict
        own.checked = False
    return said


@odd(DISK)
def odd_truths(world: World) -> str:
    """Where the references are that only surface metrics need."""
    own = trainings_only(world)
    said = pick(own, ["in labelsTr", "nowhere", "dangling", "other spacing"])
    for path in own.data.glob("preprocessed/*/gt_segmentations/*"):
        if said == "in labelsTr":
            target = own.data / "raw" / path.parts[-3] / "labelsTr" / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        elif said == "other spacing":
            image = nib.load(path)
            affine = image.affine.copy()
            affine[:3, :3] *= 2
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)
        else:
            path.unlink()
            if said == "dangling":
                path.symlink_to("nowhere")
    if len(own.chosen) == 1:
        own.verdict = REFUSED if own.surface and said != "in labelsTr" else ACCEPTED
    return f"references {said}"


@odd(REQUEST)
def odd_datasets(world: World) -> str:
    own = trainings_only(world)
    first = own.datasets[0]
    said, value, good = pick(
        own,
        [
            ("4", "4", True), ("004", "004", True), ("a full name", first, True), ("twice", [first, "4"], None),
            ("04 ", "04 ", None), ("4.0", "4.0", False), ("five", "99", False), ("a name", "Tiny", False),
            ("part of a name", "Dataset004", False), ("a path", f"{first}/", None), ("up", "../x", False), ("", "", False),
            ("-4", "-4", None), ("4,27", "4,27", False), ("Task", "Task004_Tiny", False), ("Arabic", "٤", None),
            ("small letters", first.lower(), False),
        ],
    )  # fmt: skip
    if own.datasets != ["Dataset004_Tiny"]:
        raise NotHereError
    own.request["datasets"] = value if isinstance(value, list) else [value]
    if good is not None and len(own.chosen) == 1:
        own.verdict = ACCEPTED if good else REFUSED
    own.words += ["-d", "dataset"]
    return f"-d {said}"


@odd(REQUEST)
def odd_folds(world: World) -> str:
    own = trainings_only(world)
    value = pick(own, [*NUMBERS, "00", "fold_0", "0-4", "0,1", "all ", "ALL", "../fold_0", "5"])
    own.request["folds"] = [value]
    own.checked = False
    if len(own.chosen) == 1 and value not in ("0", "5", "-0", "+2", " 3 ", "1e3", "١", "", "1_0"):
        own.verdict = REFUSED
    return f"-f {value[:40]!r}"


@odd(REQUEST)
def fold_twice(world: World) -> str:
    own = trainings_only(world)
    own.request["folds"] = [*own.folds, own.folds[0]]
    return "a fold twice"


@odd(REQUEST)
def odd_trainers(world: World) -> str:
    own = trainings_only(world)
    runs = own.runs()
    value = pick(
        own,
        [[runs[0]], [runs[0], runs[0]], [*runs, runs[0]], [f"A={runs[0]},{runs[0]}", runs[1]], [f"A={runs[0]}", f"A={runs[1]}"],
         [f"={runs[0]}", runs[1]], [f"A={runs[0]},", runs[1]], ["nnUNetTrainerNone", runs[0]], ["", runs[0]], [" ", runs[0]],
         [f"{runs[0]} ", runs[1]], ["../x", runs[0]], [f"A=B={runs[0]}", runs[1]], ["*", runs[0]], ["x" * 300, runs[0]],
         [], [f"A={runs[0]}, {runs[1]}", runs[-1]]],
    )  # fmt: skip
    own.request["trainers"] = value
    own.checked = False
    own.words.append("name two")
    if len(own.chosen) == 1:
        own.verdict = REFUSED
    return f"-tr {value}"


@odd(REQUEST)
def odd_shown_names(world: World) -> str:
    own = trainings_only(world)
    old = pick(own, own.groups)
    new = pick(own, NAMES)
    if new in own.groups or ("=" in new and not own.as_yaml):
        raise NotHereError
    own.groups = {new if name == old else name: runs for name, runs in own.groups.items()}
    own.request["trainers"] = own.groups
    own.words.append(new)
    return f"a trainer shown as {new!r}"


@odd(REQUEST)
def odd_plans(world: World) -> str:
    own = trainings_only(world)
    key = pick(own, ["plans", "configuration"])
    own.request[key] = pick(own, ["", " ", "x", "../..", "nnUNetPlans/", "3D_FULLRES", "*", "é", "a__b", "nan", "x" * 300])
    own.checked = False
    if len(own.chosen) == 1 and own.request[key].strip():
        own.verdict = REFUSED
    return f"{key} {own.request[key][:30]!r}"


@odd(REQUEST)
def skip_missing(world: World) -> str:
    own = trainings_only(world)
    own.request["skip_missing"] = True
    if own.rng.random() < 0.7:
        key = pick(own, own.values)
        path = own.model(key[0], key[1]) / f"fold_{key[2]}" / "validation" / "summary.json"
        if not path.is_file() or path.is_symlink():
            raise NotHereError
        path.unlink()
        own.checked = False
        return f"--skip-missing without {key}"
    return "--skip-missing"


@odd(PLACE)
def odd_environment(world: World) -> str:
    own = trainings_only(world)
    name = f"nnUNet_{pick(own, ['raw', 'preprocessed', 'results'])}"
    path = Path(own.environment[name])
    said = pick(own, ["not set", "empty", "~", "relative", "trailing slash", "trailing space", "a file", "missing", "a link",
                      "newline", "quoted", "null device", "root"])  # fmt: skip
    if said == "not set":
        del own.environment[name]
    else:
        own.environment[name] = {
            "empty": "", "~": f"~/data/{path.name}", "relative": os.path.relpath(path, own.cwd), "trailing slash": f"{path}/",
            "trailing space": f"{path} ", "a file": str(own.data / "afile"), "missing": str(own.data / "gone"),
            "a link": str(own.data / "alink"), "newline": f"{path}\n", "quoted": f'"{path}"', "null device": "/dev/null",
            "root": "/",
        }[said]  # fmt: skip
    (own.data / "afile").write_text("x")
    (own.data / "alink").symlink_to(path)
    if said == "~":
        own.environment["HOME"] = str(own.folder)
    if said in ("relative", "trailing slash", "a link") and len(own.chosen) == 1:
        own.verdict = ACCEPTED
    return f"{name}: {said}"


# Both


@odd(REQUEST)
def odd_numbers(world: World) -> str:
    own = world
    key = pick(own, ["tolerance", "seed", "processes"])
    value: Any = pick(own, [*NUMBERS, "0.5", "3"])
    if key == "tolerance":
        own.surface, own.request["surface"] = True, True
        own.unknown |= {"NSD"}
    bad = {"tolerance": {"-1", "0", "nan", "", "three", "1,5", "0x10", "--", "True", "None", "0.1.2", "inf", "-inf", "-0", "1e400"},
           "seed": set(NUMBERS) - {"0", " 3 ", "1_0", "١", "9" * 30, "9" * 5000, "+2", "-0"},
           "processes": {"-1", "1.5", "nan", "inf", "", "three", "--", "1e3", "0.1.2", "None", "True"}}[key]  # fmt: skip
    if own.as_yaml:
        bad = {v for v in bad if v not in ("True", "None", "1e3")}
        try:
            value = json.loads(value)
        except ValueError:
            bad.add(value)
    own.request[key] = value
    if str(value) in bad and len(own.chosen) == 1:
        own.verdict = REFUSED
    own.words.append(key)
    return f"{key} {str(value)[:40]!r}"


@odd(REQUEST)
def odd_empty_policy(world: World) -> str:
    value = pick(world, ["NaN", "NAN", "0.0", "1.0", "2", "none", "", "0 ", "-1"])
    world.request["empty"] = value
    world.checked = False
    return f"--empty {value!r}"


@odd(REQUEST, REFUSED)
def unknown_baseline(world: World) -> str:
    if "baseline" in world.request:
        raise NotHereError
    world.request["baseline"] = pick(world, ["x", " ", "ONE", "one ", "nnUNetTrainer ", "é", "0"])
    return f"--baseline {world.request['baseline']!r}"


@odd(REQUEST, ACCEPTED)
def other_baseline(world: World) -> str:
    if "baseline" in world.request:
        raise NotHereError
    names = list(world.request["predictions"] if "predictions" in world.request else world.request["trainers"])
    world.request["baseline"] = names[-1].partition("=")[0]
    return "another baseline"


@odd(REQUEST)
def useless_keys(world: World) -> str:
    """What belongs to the other kind of comparison."""
    if "predictions" in world.request:
        key = pick(world, ["datasets", "trainers", "folds", "configuration", "plans"])
        world.request[key] = {"datasets": ["4"], "trainers": ["nnUNetTrainer", "B"], "folds": ["0"]}.get(key, "2d")
    else:
        key = pick(world, ["reference", "predictions"])
        world.request[key] = str(world.data) if key == "reference" else [f"x={world.data}", f"y={world.data}"]
    if key != "reference" and len(world.chosen) == 1:
        world.verdict = REFUSED
    world.checked = False
    return f"{key}, too"


@odd(REQUEST, REFUSED)
def missing_key(world: World) -> str:
    key = pick(world, ["reference", "predictions"] if "predictions" in world.request else ["datasets", "trainers"])
    del world.request[key]
    world.words += ["-tr", "--pred", "-d"]
    return f"without {key}"


@odd(REQUEST, REFUSED)
def unknown_flags(world: World) -> str:
    world.extra += pick(world, [["--x"], ["-x", "1"], ["extra"], ["--surfaces"], ["--seed"], ["-o"], ["--out", "x"], ["--config"]])
    return f"and {world.extra}"


@odd(REQUEST)
def flags_twice(world: World) -> str:
    world.extra += pick(world, [["--seed", "1", "--seed", "2"], ["-np", "1", "-np", "2"]])
    return f"and {world.extra}"


@odd(TEXT)
def no_such_config(world: World) -> str:
    world.extra += ["--config", pick(world, ["", "nowhere.yaml", "/dev/null", "/", ".", "/proc/self/mem", "x" * 300, "/dev/zero0"])]
    if not world.as_yaml:
        world.argv += world.extra[-2:]
    world.checked = False
    if len(world.chosen) == 1 and world.extra[-1]:
        world.verdict = REFUSED
    return f"--config {world.extra[-1][:30]!r}"


# The output


REPORT = ["report.html", "report.md", "cases.csv", "summary.csv", "comparisons.csv", "table.tex", "manifest.json"]


@odd(PLACE)
def output_state(world: World) -> str:
    output = world.folder / "out" / "report"
    if str(world.request.get("output")) != str(output) or world.output != output:
        raise NotHereError
    said = pick(
        world,
        ["a file", "a dangling link", "a link to a folder", "an empty folder", "foreign files", "a foreign report.html",
         "a foreign cases.csv", "half made", "a link to a file", "a folder of figures", "hidden files", "a git repository",
         "report.html is a folder", "figures is a file", "figures is a link", "report.html is a link"],
    )  # fmt: skip
    users: list[str] = []
    target = world.folder / "target"

    def put(name: str, text: str = "the user's") -> None:
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        users.append(str(path.relative_to(world.folder)))

    verdict = EITHER
    if said == "a file":
        output.write_text("the user's")
        verdict = REFUSED
    elif said == "a dangling link":
        output.symlink_to(target)
        world.output = None if world.rng.random() < 0 else output
    elif said == "a link to a folder":
        target.mkdir()
        output.symlink_to(target)
        verdict = ACCEPTED
    elif said == "a link to a file":
        target.write_text("the user's")
        output.symlink_to(target)
        verdict = REFUSED
    elif said == "an empty folder":
        output.mkdir()
        verdict = ACCEPTED
    elif said == "foreign files":
        put("thesis.tex")
        put("data/a.txt")
        verdict = REFUSED
    elif said == "a foreign report.html":
        put(pick(world, ["report.html", "report.html", "index.html"]))
        put("cases.csv", "my,own\n1,2\n")
    elif said == "a foreign cases.csv":
        put(pick(world, [name for name in REPORT if name != "report.html"]))
    elif said == "half made":
        (output / "figures").mkdir(parents=True)
        (output / "cases.csv").write_text("dataset,trainer,fold,case,label,metric,value,run\n")
    elif said == "a folder of figures":
        put("figures/mine.png")
    elif said == "hidden files":
        put(".mine")
        put(f".{os.getpid()}-report.html")
        put(".999999-notes.txt")
    elif said == "a git repository":
        put(".git/config")
    elif said == "report.html is a folder":
        put("report.html/x")
    elif said == "figures is a file":
        put("figures")
    elif said == "figures is a link":
        output.mkdir()
        target.mkdir()
        (target / "notes.txt").write_text("the user's")
        users.append("target/notes.txt")
        (output / "figures").symlink_to(target)
    elif said == "report.html is a link":
        output.mkdir()
        target.write_text("the user's")
        users.append("target")
        (output / "report.html").symlink_to(target)
    world.users_files = users
    if len(world.chosen) == 1:
        world.verdict = verdict
    return f"output: {said}"


@odd(PLACE)
def output_place(world: World) -> str:
    said = pick(
        world,
        ["nested", "relative", "below a file", "the data", "the predictions", "too long", "device", "proc", "empty", "..", "cwd",
         "trailing slash", "odd name", "~ in it", "null", "hyphen"],
    )  # fmt: skip
    if world.output != world.folder / "out" / "report" or world.as_yaml or "-o" not in world.argv:
        raise NotHereError
    (world.folder / "out" / "afile").write_text("x")
    name = pick(world, for_files([n for n in NAMES if len(n.encode(errors="replace")) < 200]))
    texts = {
        "nested": str(world.folder / "out" / "a" / "b" / "c"), "relative": "../out/rel",
        "below a file": str(world.folder / "out" / "afile" / "x"), "the data": str(world.data),
        "the predictions": str(world.data / pick(world, os.listdir(world.data))), "too long": str(world.folder / "out" / ("x" * 300)),
        "device": "/dev/null", "proc": "/proc/x", "empty": "", "..": str(world.folder / "out" / "a" / ".." / "b"),
        "cwd": ".", "trailing slash": str(world.folder / "out" / "s") + "/", "odd name": str(world.folder / "out" / name),
        "~ in it": "~/report", "null": "a" * 5000, "hyphen": str(world.folder / "out" / "-x"),
    }  # fmt: skip
    text = texts[said]
    world.argv[world.argv.index("-o") + 1] = text
    world.output = (world.cwd / text) if text and text[0] != "~" else world.cwd / "~" / "report"
    if said in ("device", "proc", "empty"):
        world.output = None
    if len(world.chosen) == 1:
        refused = {"below a file", "the data", "the predictions", "too long", "device", "proc", "null", "empty"}
        world.verdict = REFUSED if said in refused else ACCEPTED if said != "~ in it" else EITHER
    if said == "~ in it":  # within quotes the shell does not expand it
        world.checked = False
        world.output = world.home / "report"
    return f"-o {text[-40:]!r} ({said})"


def _names_between(first: Callable[..., str], last: Callable[..., str]) -> set[str]:
    names = [name for name, value in globals().items() if hasattr(value, "phase")]
    return set(names[names.index(first.__name__) : names.index(last.__name__) + 1])


OF_FOLDERS = _names_between(other_units, reference_as_prediction) | {"odd_paths"}
OF_TRAININGS = _names_between(odd_training_labels, odd_environment)
