"""`nnunet-cpr convert` on odd downloads: what it accepts must become a complete dataset that nnU-Net can read."""

import contextlib
import gzip
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from conversion_helpers import BRATS_CHANNELS, amos, brats, btcv, image, label, write
from odd_texts import NAMES, NUMBERS, for_files
from odd_worlds import (
    ACCEPTED,
    DISK,
    EITHER,
    MODEL,
    PLACE,
    REFUSED,
    REQUEST,
    NotHereError,
    OracleError,
    World,
    odd,
    pick,
)

SHAPE = (14, 9, 6)
NUMBER = {"btcv": 17, "heart": 2, "brats2020": 82, "amos22": 218}
BRATS_VALUES = {0: 0, 1: 2, 2: 1, 4: 3}


class Convert(World):
    """A download of one challenge, and nnUNet_raw."""

    dataset = ""
    word: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.dataset = pick(self, ["btcv", "heart", "brats2020", "amos22"])
        self.source = self.folder / "download"
        self.raw = self.folder / "raw"
        self.output = self.raw
        self.repeatable = False
        self.environment["nnUNet_raw"] = str(self.raw)
        self.flags: list[str] = []
        self.number = NUMBER[self.dataset]
        self.mr = self.dataset == "amos22" and self.rng.random() < 0.4
        if self.mr:
            self.number = 219
            self.flags.append("--mr")
        self.link = self.rng.random() < 0.3
        self.dry = self.rng.random() < 0.2
        self.flags += ["--link"] * self.link + ["--dry-run"] * self.dry
        if self.rng.random() < 0.5:
            self.flags += ["-np", str(self.rng.choice([1, 1, 2]))]
        self.source_text = str(self.source)
        self.extra: list[str] = []
        self.heart_labels: dict[str, Any] = {"0": "background", "1": "left atrium"}
        self.users_files: list[str] = []

    def end_phase(self, phase: int) -> None:
        if phase == MODEL:
            getattr(self, f"_make_{self.dataset}")()
        elif phase == REQUEST:
            self.argv = [
                "convert",
                self.dataset if self.word is None else self.word,
                self.source_text,
                *self.flags,
                *self.extra,
            ]

    def _make_btcv(self) -> None:
        btcv(self.source, numbers=(1, 2, 3), shape=SHAPE)

    def _make_brats2020(self) -> None:
        brats(self.source, pick(self, [".nii", ".nii.gz"]), numbers=(1, 2, 355), shape=SHAPE)

    def _make_amos22(self) -> None:
        amos(self.source)

    def _make_heart(self) -> None:
        for number in range(5):
            write(self.source / "imagesTr" / f"la_{number}.nii.gz", image((9, 8, 7), number))
            values = tuple(range(1, len(self.heart_labels))) or (1,)
            write(self.source / "labelsTr" / f"la_{number}.nii.gz", label((14, 14, 7), values)[:9, :8])
        write(self.source / "imagesTs" / "la_9.nii.gz", image((9, 8, 7), 9))
        pairs = [{"image": f"./imagesTr/la_{n}.nii.gz", "label": f"./labelsTr/la_{n}.nii.gz"} for n in range(5)]
        content = {"name": "Heart", "modality": {"0": "MRI"}, "labels": self.heart_labels, "numTraining": 5}
        (self.source / "dataset.json").write_text(json.dumps(content | {"training": pairs, "test": []}))

    def may_change(self, name: str) -> bool:
        return name == "raw" or super().may_change(name)  # the folder itself may be made before a refusal

    def files(self, kind: str = "all") -> list[Path]:
        """Return the image or label files of the training cases."""
        patterns = {
            "btcv": ("RawData/Training/img/*.nii.gz", "RawData/Training/label/*.nii.gz"),
            "heart": ("imagesTr/*.nii.gz", "labelsTr/*.nii.gz"),
            "amos22": ("images[TV][ra]/amos_0[0-4]*.nii.gz", "labels[TV][ra]/amos_0[0-4]*.nii.gz"),
            "brats2020": ("*/*/*_[tf][12l]*.nii*", "*/*/*_[sS]eg*.nii*"),
        }[self.dataset]
        images, labels = (sorted(self.source.glob(pattern)) for pattern in patterns)
        return {"images": images, "labels": labels, "all": [*images, *labels]}[kind]

    def before_run(self) -> None:
        from nnunet_cpr.demo import subprocesses

        def convert_here(command: list[str], log: Path, variables: dict[str, str], meters: list[Any]) -> None:
            """Run nnU-Net's converter in this process, which has imported it."""
            import multiprocessing.dummy

            from nnunetv2.dataset_conversion import convert_MSD_dataset as converter

            class Here:
                Pool = multiprocessing.dummy.Pool

            converter.multiprocessing = type("", (), {"get_context": lambda how: Here})
            before = dict(os.environ)
            os.environ.update(variables)
            try:
                converter.convert_msd_dataset(command[2], int(command[4]), 1)
            except Exception as error:
                log.write_text(f"{type(error).__name__}: {error}\n")
                raise subprocesses.CommandFailed(str(error)) from error
            finally:
                os.environ.clear()
                os.environ.update(before)

        subprocesses.run_command = convert_here

    def expected(self) -> dict[str, tuple[list[Path], Path | None]]:
        """Return the source's channels and label of every case, found apart from the package."""
        found: dict[str, tuple[list[Path], Path | None]] = {}
        if self.dataset == "btcv":
            for path in self.source.glob("**/Training/img/*"):
                if match := re.fullmatch(r"img(\d{4})\.nii\.gz", path.name):
                    found[f"img{match[1]}"] = [path], path.parents[1] / "label" / f"label{match[1]}.nii.gz"
            for path in self.source.glob("**/Testing/img/*"):
                if match := re.fullmatch(r"img(\d{4})\.nii\.gz", path.name):
                    found[f"img{match[1]}"] = [path], None
        elif self.dataset == "brats2020":
            for folder in self.source.glob("**/BraTS20_Training_*/"):
                if folder.is_dir():
                    channels = [next(folder.glob(f"{folder.name}_{c}.nii*"), folder / c) for c in BRATS_CHANNELS]
                    labels = [*folder.glob(f"{folder.name}_seg.nii*"), *folder.glob("*Segm.nii")]
                    found[folder.name] = channels, labels[0] if labels else None
        else:
            parts = ("Tr", "Va", "Ts") if self.dataset == "amos22" else ("Tr", "Ts")
            for part in parts:
                for path in (self.source / f"images{part}").glob("*.nii.gz"):
                    match = re.fullmatch(r"amos_(\d{4})\.nii\.gz", path.name)
                    if self.dataset == "amos22" and not (match and (self.mr or int(match[1]) <= 500)):
                        continue
                    if path.name[0] not in "._":
                        beside = self.source / f"labels{part}" / path.name
                        found[path.name.removesuffix(".nii.gz")] = [path], None if part == "Ts" else beside
        return found

    def check_success(self, out: str, err: str) -> None:
        made = [path for path in self.raw.glob("Dataset*")] if self.raw.is_dir() else []
        made = [path for path in made if str(path.name) not in self.users_files]
        if self.dry:
            if made:
                raise OracleError(f"--dry-run wrote {made[0].name}")
            return
        if not self.output or self.output != self.raw:
            return
        if len(made) != 1:
            raise OracleError(f"{len(made)} datasets below nnUNet_raw")
        if not made[0].name.startswith(f"Dataset{self.number:03d}_"):
            raise OracleError(f"the dataset is {made[0].name}, its number should be {self.number}")
        self._check_dataset(made[0])

    def _check_dataset(self, folder: Path) -> None:
        description = json.loads((folder / "dataset.json").read_text())
        ending = description["file_ending"]
        expected = self.expected()
        values = BRATS_VALUES if self.dataset == "brats2020" else None
        for part, wanted in (
            ("imagesTr", {f"{n}_{i:04d}{ending}" for n, (c, s) in expected.items() if s for i in range(len(c))}),
            ("labelsTr", {f"{n}{ending}" for n, (_, s) in expected.items() if s}),
            ("imagesTs", {f"{n}_{i:04d}{ending}" for n, (c, s) in expected.items() if not s for i in range(len(c))}),
        ):
            found = {path.name for path in (folder / part).glob("*")}
            if found != wanted:
                raise OracleError(f"{part} differs in {sorted(found ^ wanted)[:3]}")
        if description["numTraining"] != sum(bool(s) for _, s in expected.values()):
            raise OracleError(f"numTraining is {description['numTraining']}")
        if self.dataset == "heart" and description["labels"] != {n: int(v) for v, n in self.heart_labels.items()}:
            raise OracleError(f"dataset.json says {description['labels']}")
        for name, (channels, segmentation) in expected.items():
            part = "imagesTr" if segmentation else "imagesTs"
            copies = [folder / part / f"{name}_{i:04d}{ending}" for i in range(len(channels))]
            for copy, channel in zip(copies, channels, strict=True):
                _check_equal(copy, channel)
            target = folder / "labelsTr" / f"{name}{ending}"
            if segmentation:
                _check_mapped(target, segmentation, values)
            _check_with_nnunet(copies, target if segmentation else None, description)


def _check_equal(copy: Path, source: Path) -> None:
    ours: Any = nib.load(copy)
    theirs: Any = nib.load(source)
    if not np.array_equal(np.asanyarray(ours.dataobj), np.asanyarray(theirs.dataobj)):
        raise OracleError(f"{copy.name} holds other voxels than its source")
    if not np.allclose(ours.affine, theirs.affine, atol=1e-4):
        raise OracleError(f"{copy.name} lies elsewhere than its source")


def _check_mapped(target: Path, source: Path, values: dict[int, int] | None) -> None:
    images: list[Any] = [nib.load(target), nib.load(source)]
    ours, theirs = (np.asanyarray(one.dataobj) for one in images)
    wanted = theirs if values is None else np.vectorize(lambda v: values.get(int(v), -1))(theirs)
    if not np.array_equal(ours, wanted):
        raise OracleError(f"{target.name} holds other labels than its source")


def _check_with_nnunet(images: list[Path], segmentation: Path | None, description: dict[str, Any]) -> None:
    """Read a case as nnU-Net's preprocessing will."""
    import SimpleITK
    from nnunetv2.imageio import reader_writer_registry as registry

    # The command's own child must not be quiet, so this is undone.
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            _read_with_nnunet(registry, images, segmentation, description)
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(True)


def _read_with_nnunet(
    registry: Any, images: list[Path], segmentation: Path | None, description: dict[str, Any]
) -> None:
    reader = registry.determine_reader_writer_from_dataset_json(description, str(images[0]), verbose=False)()
    try:
        voxels, properties = reader.read_images([str(path) for path in images])
        if segmentation:
            labels, of_labels = reader.read_seg(str(segmentation))
    except Exception as error:
        raise OracleError(f"nnU-Net cannot read {images[0].name}: {' '.join(str(error).split())[-200:]}") from error
    if segmentation and (
        voxels.shape[1:] != labels.shape[1:] or not np.allclose(properties["spacing"], of_labels["spacing"], rtol=1e-3)
    ):
        raise OracleError(f"for nnU-Net {segmentation.name} does not fit its image")


class Inverse(World):
    """Predictions of BraTS to be turned back."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.predictions = self.folder / "predictions"
        self.output = self.folder / "out" / "labels"
        self.output.parent.mkdir()
        self.repeatable = False
        self.texts = [str(self.predictions), str(self.output)]
        self.extra: list[str] = []
        self.name = "brats2020"
        for number in range(self.rng.choice([1, 2, 3])):
            ending = pick(self, [".nii.gz", ".nii.gz", ".nii"])
            write(self.predictions / f"BraTS20_Validation_{number:03d}{ending}", label(SHAPE, (1, 2, 3)))
        for name in ("dataset.json", "plans.json", "predict_from_raw_data_args.json"):
            (self.predictions / name).write_text("{}")

    def end_phase(self, phase: int) -> None:
        if phase == REQUEST:
            self.argv = ["convert", self.name, "--inverse", *self.texts, *self.extra]

    def check_success(self, out: str, err: str) -> None:
        if self.output is None:
            raise OracleError("accepted without an output")
        back = {new: old for old, new in BRATS_VALUES.items()}
        sources = {p.name: p for p in self.predictions.resolve().iterdir() if p.name.endswith((".nii", ".nii.gz"))}
        sources = {name: path for name, path in sources.items() if not name.startswith("._")}  # of macOS
        found = {path.name for path in self.output.iterdir()}
        if found != set(sources):
            raise OracleError(f"the output differs in {sorted(found ^ set(sources))[:3]}")
        for name, source in sources.items():
            _check_mapped(self.output / name, source, back)


def either(world: World) -> Convert:
    """Return the world if it is a conversion."""
    if not isinstance(world, Convert):
        raise NotHereError
    return world


def inverse(world: World) -> Inverse:
    """Return the world if it is an inverse conversion."""
    if not isinstance(world, Inverse):
        raise NotHereError
    return world


def _file(world: World, kind: str = "all") -> Path:
    if isinstance(world, Inverse):
        return pick(world, sorted(p for p in world.predictions.glob("*.nii*") if p.is_file()))
    files = [path for path in either(world).files(kind) if path.is_file() and not path.is_symlink()]
    if not files:
        raise NotHereError
    return pick(world, files)


def _rewrite(path: Path, change: Callable[[np.ndarray, np.ndarray, Any], tuple[np.ndarray, np.ndarray]]) -> None:
    old: Any = nib.load(path)
    array, affine = change(np.array(old.dataobj), old.affine.copy(), old.header)
    header = old.header.copy()
    header.set_data_dtype(array.dtype)
    nib.save(nib.Nifti1Image(array, affine, header, dtype=array.dtype), path)


@odd(DISK)
def sheared_images(world: World) -> str:
    """All files of a case, so that they agree with each other."""
    own = either(world)
    amount = pick(own, [1e-4, 0.02, 0.3])
    shear = np.eye(4)
    shear[0, 2] = amount
    for path in own.files():
        _rewrite(path, lambda array, affine, header: (array, affine @ shear))
    return f"all sheared by {amount}"


@odd(DISK)
def sheared_tests(world: World) -> str:
    own = either(world)
    paths = [p for p in own.source.glob("**/*.nii*") if p not in own.files()]
    if not paths:
        raise NotHereError
    shear = np.eye(4)
    shear[0, 2] = 0.2
    for path in paths:
        _rewrite(path, lambda array, affine, header: (array, affine @ shear))
    return "test images sheared"


@odd(DISK)
def odd_array(world: World) -> str:
    path = _file(world)
    is_label = path in (world.files("labels") if isinstance(world, Convert) else [path])
    way: tuple[str, Callable[[np.ndarray], np.ndarray], bool | None] = pick(
        world,
        [
            ("with two volumes", lambda a: np.stack([a, a], -1), None if isinstance(world, Inverse) else True),
            ("with a fourth axis of 1", lambda a: a[..., None], None),
            ("plane", lambda a: a[:, :, 0], True),
            ("as float", lambda a: a.astype(np.float32), None),
            ("as double", lambda a: a.astype(np.float64), None),
            ("as int64", lambda a: a.astype(np.int64), None),
            ("complex", lambda a: a.astype(np.complex64), True),
            ("with NaN", lambda a: np.where(np.arange(a.size).reshape(a.shape) == 5, np.nan, a), True),
            ("with infinity", lambda a: np.where(np.arange(a.size).reshape(a.shape) == 5, np.inf, a), True),
            ("with 77", lambda a: np.where(np.arange(a.size).reshape(a.shape) == 5, 77, a), is_label or None),
            ("with 1.5", lambda a: np.where(np.arange(a.size).reshape(a.shape) == 5, 1.5, a).astype(np.float32),
             is_label or None),
            ("with -1", lambda a: np.where(np.arange(a.size).reshape(a.shape) == 5, -1, a).astype(np.int16),
             is_label or None),
            ("cropped", lambda a: a[:-1], None if isinstance(world, Inverse) else True),
            ("empty", lambda a: np.zeros_like(a), None),
            ("transposed", lambda a: a.transpose(1, 0, 2), None if isinstance(world, Inverse) else True),
            ("of one voxel", lambda a: a[:1, :1, :1], None if isinstance(world, Inverse) else True),
            ("big-endian", lambda a: a.astype(a.dtype.newbyteorder(">")), None),
        ],
    )  # fmt: skip
    said, change, refused = way
    _rewrite(path, lambda array, affine, header: (change(array), affine))
    if refused and len(world.chosen) == 1:
        world.verdict = REFUSED
    return f"{path.name} {said}"


@odd(DISK)
def odd_place(world: World) -> str:
    own = either(world)
    path = _file(own)
    said = pick(
        own, ["spacing", "origin", "direction", "units", "negative pixdim", "no codes", "other sform", "NaN affine"]
    )

    def change(array: np.ndarray, affine: np.ndarray, header: Any) -> tuple[np.ndarray, np.ndarray]:
        if said == "spacing":
            affine[:3, 2] *= 1.5
        elif said == "origin":
            affine[0, 3] += 7
        elif said == "direction":
            affine[:3, 0] *= -1
        elif said == "units":
            header.set_xyzt_units(pick(own, ["meter", "micron"]))
        elif said == "NaN affine":
            affine[0, 3] = math.nan
        return array, affine

    _rewrite(path, change)
    if said in ("negative pixdim", "no codes", "other sform"):
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.name.endswith(".gz") else raw
        header = nib.Nifti1Header(raw[:348])
        if said == "negative pixdim":
            header["pixdim"][2] *= -1
        elif said == "no codes":
            header["qform_code"] = header["sform_code"] = 0
        else:
            header["srow_x"][3] += 9
        raw = header.binaryblock + raw[348:]
        path.write_bytes(gzip.compress(raw) if path.name.endswith(".gz") else raw)
    if own.dataset != "btcv" and said in ("spacing", "origin", "direction", "NaN affine") and len(own.chosen) == 1:
        own.verdict = REFUSED
    return f"{path.name} with another {said}"


@odd(DISK)
def units_everywhere(world: World) -> str:
    own = either(world)
    unit = pick(own, ["meter", "micron", "unknown"])
    for path in own.files():
        _rewrite(path, lambda a, affine, header: (header.set_xyzt_units(unit), (a, affine))[1])
    if unit != "unknown" and len(own.chosen) == 1:
        own.verdict = EITHER
    return f"all in {unit}"


@odd(DISK)
def lost_file(world: World) -> str:
    path = _file(world)
    said = pick(world, ["missing", "a dangling link", "a loop of links", "a folder", "empty", "in capitals", "a pipe"])
    path.unlink()
    if said == "a dangling link":
        path.symlink_to(world.folder / "annex" / path.name)
    elif said == "a loop of links":
        path.symlink_to(path)
    elif said == "a folder":
        path.mkdir()
    elif said == "empty":
        path.touch()
    elif said == "in capitals":
        path.with_name(path.name.upper()).touch()
    elif said == "a pipe":
        os.mkfifo(path)
    if len(world.chosen) == 1 and not (isinstance(world, Inverse) and said in ("missing", "in capitals")):
        world.verdict = REFUSED
    return f"{path.name} is {said}"


@odd(DISK)
def lost_pair(world: World) -> str:
    """An image and its label: links whose files were not fetched."""
    own = either(world)
    if own.dataset == "brats2020":
        raise NotHereError
    image_file = _file(own, "images")
    digits = re.search(r"\d+", image_file.name)
    segmentation = next((p for p in own.files("labels") if digits and digits[0] in p.name), None)
    if segmentation is None:
        raise NotHereError
    for path in (image_file, segmentation):
        path.unlink()
        path.symlink_to(own.folder / "annex" / path.name)
    if len(own.chosen) == 1:
        own.verdict = REFUSED
    return f"{image_file.name} and its label are dangling links"


@odd(DISK, ACCEPTED)
def linked_files(world: World) -> str:
    said = pick(world, ["files", "the folder"])
    if isinstance(world, Inverse):
        folder, files = world.predictions, sorted(world.predictions.glob("*.nii*"))
    else:
        own = either(world)
        folder, files = own.source, own.files()
    store = world.folder / "store"
    if said == "the folder":
        folder.rename(store)
        folder.symlink_to(store, target_is_directory=True)
        return "the folder is a link"
    store.mkdir()
    for path in files:
        path.rename(store / path.name)
        path.symlink_to(store / path.name)
    return "files are links"


@odd(DISK, ACCEPTED)
def stray_files(world: World) -> str:
    folder = _file(world).parent
    name = pick(
        world, [".DS_Store", "Thumbs.db", "notes.txt", "._" + _file(world).name, ".hidden.nii.gz.part", "README"]
    )
    if (folder / name).exists():
        raise NotHereError
    (folder / name).write_text("x")
    return f"{folder.name} holds {name}"


@odd(DISK)
def odd_names(world: World) -> str:
    path = _file(world)
    stem = pick(world, for_files([n for n in NAMES if len(n.encode(errors="replace")) < 200]))
    ending = path.name[path.name.index(".nii") :]
    new = pick(
        world, [f"{stem}{ending}", f"img1{ending}", f"img00001{ending}", f"{path.name}.nii.gz", f"copy of {path.name}"]
    )
    if path.with_name(new).exists():
        raise NotHereError
    path.rename(path.with_name(new))
    world.words.append(stem)
    if isinstance(world, Convert) and world.dataset == "heart":
        world.verdict = EITHER
    return f"{path.name} is called {new[:60]!r}"


@odd(MODEL)
def odd_labels_of_heart(world: World) -> str:
    own = either(world)
    if own.dataset != "heart":
        raise NotHereError
    ways: list[tuple[str, dict[str, Any], bool | None]] = [
        ("one name for two values", {"0": "background", "1": "atrium", "2": "atrium"}, True),
        ("background twice", {"0": "background", "1": "background"}, True),
        ("odd names", {"0": "background", "1": pick(own, NAMES)}, None),
        ("an ignore label", {"0": "background", "1": "ignore"}, None),
        ("values out of order", {"1": "atrium", "0": "background"}, None),
        ("a gap", {"0": "background", "2": "atrium"}, True),
        ("nnU-Net's own way", {"background": 0, "atrium": 1}, True),
        ("names that are numbers", {"0": 0, "1": 1}, True),
        ("an empty name", {"0": "background", "1": ""}, None),
        ("no background", {"0": "air", "1": "atrium"}, None),
        ("two structures", {"0": "background", "1": "atrium", "2": "ventricle"}, None),
        ("another case", {"0": "Background", "1": "left atrium"}, None),
        ("value 01", {"0": "background", "01": "atrium"}, True),
    ]
    said, labels, refused = pick(own, ways)
    own.heart_labels = labels
    own.words += [str(name) for name in labels.values()]
    if refused and len(own.chosen) == 1:
        own.verdict = REFUSED
    return f"Heart's labels: {said}"


@odd(DISK)
def odd_description_of_heart(world: World) -> str:
    own = either(world)
    path = own.source / "dataset.json"
    if own.dataset != "heart" or not path.is_file():
        raise NotHereError
    content = json.loads(path.read_text())
    said, change = pick(
        own,
        [
            ("two modalities", {"modality": {"0": "MRI", "1": "CT"}}), ("modalities a list", {"modality": ["MRI"]}),
            ("training empty", {"training": []}), ("training of texts", {"training": ["a", "b"]}),
            ("numTraining wrong", {"numTraining": 99}), ("a test list", {"test": ["./imagesTs/la_9.nii.gz"]}),
            ("more keys", {"é": [None], "file_ending": ".nrrd", "channel_names": {"0": "x"}}),
            ("an odd modality", {"modality": {"0": pick(own, NAMES)}}), ("modality 1", {"modality": {"1": "MRI"}}),
            ("paths above", {"training": [{"image": "../../x.nii.gz", "label": "y"}]}),
            ("a case twice", {"training": [*content["training"], content["training"][0]]}),
            ("tensorImageSize", {"tensorImageSize": "4D"}), ("name missing", {"name": None}),
        ],
    )  # fmt: skip
    path.write_text(json.dumps(content | change), encoding=pick(own, ["utf-8", "utf-8", "utf-8-sig"]))
    return f"Heart's dataset.json: {said}"


@odd(DISK)
def odd_tests(world: World) -> str:
    """What lies where test images are expected."""
    own = either(world)
    folders = {
        "btcv": "RawData/Testing/img",
        "heart": "imagesTs",
        "amos22": "imagesTs",
        "brats2020": "MICCAI_BraTS2020_ValidationData",
    }
    folder = own.source / folders[own.dataset]
    said = pick(own, ["missing", "a file", "a dangling link", "empty", "holds text", "holds 2D", "holds a label"])
    if folder.is_dir():
        shutil.rmtree(folder)
    if said == "a file":
        folder.write_text("x")
    elif said == "a dangling link":
        folder.symlink_to("nowhere")
    elif said != "missing":
        folder.mkdir()
    name = {
        "btcv": "img0061.nii.gz",
        "heart": "la_9.nii.gz",
        "amos22": "amos_0002.nii.gz",
        "brats2020": "BraTS20_Validation_001",
    }[own.dataset]
    if said == "holds text":
        (folder / name).write_text("x")
    elif said == "holds 2D":
        if own.dataset == "brats2020":
            raise NotHereError
        write(folder / name, image((9, 8, 1), 1)[:, :, 0])
        if len(own.chosen) == 1 and own.dataset != "heart":
            own.verdict = REFUSED
    elif said == "holds a label":
        write(folder / "label0001.nii.gz", label(SHAPE, (1,)))
        if own.dataset == "heart":
            raise NotHereError
    return f"test images: {said}"


@odd(REQUEST)
def odd_source(world: World) -> str:
    own = either(world)
    said = pick(
        own,
        ["relative", "trailing slash", "~", "..", "a space after", "missing", "empty", "a file", "an empty folder",
         "another challenge",
         "one level up", "no source", "twice", "dangling link", "odd name", "root", "null device"],
    )  # fmt: skip
    own.source_text = {
        "relative": os.path.relpath(own.source, own.cwd), "trailing slash": f"{own.source}/", "~": "~/download",
        "..": f"{own.source}/../download", "a space after": f"{own.source} ", "missing": "nowhere", "empty": "",
        "one level up": str(own.folder), "root": "/dev/fd", "null device": "/dev/null",
    }.get(said, own.source_text)  # fmt: skip
    refused = {"a space after", "missing", "a file", "an empty folder", "another challenge", "no source", "twice",
        "dangling link",
               "root", "null device", "empty", "one level up"}  # fmt: skip
    if said == "a file":
        own.source_text = str(next(iter(own.files())))
    elif said == "an empty folder":
        (own.cwd / "nothing").mkdir()
        own.source_text = "nothing"
    elif said == "another challenge":
        own.dataset, other = pick(own, sorted({"btcv", "brats2020", "amos22"} - {own.dataset})), own.dataset
        own.words.append(other)
        if own.dataset != "amos22" and "--mr" in own.flags:
            own.flags.remove("--mr")
    elif said == "no source":
        own.source_text = "-np"
        own.extra.append("1")
    elif said == "twice":
        own.extra.append(own.source_text)
    elif said == "dangling link":
        (own.cwd / "link").symlink_to("nowhere")
        own.source_text = "link"
    elif said == "odd name":
        name = pick(own, for_files([n for n in NAMES if len(n.encode(errors="replace")) < 200]))
        own.source = own.source.rename(own.folder / name)
        own.source_text = str(own.source)
    elif said == "~":
        own.environment["HOME"] = str(own.folder)
    if len(own.chosen) == 1:
        own.verdict = (
            REFUSED if said in refused else ACCEPTED if said in ("relative", "trailing slash", "..") else EITHER
        )
    own.words += ["SOURCE", "folder"]
    return f"the source {said}"


@odd(REQUEST)
def odd_number(world: World) -> str:
    own = either(world)
    value = pick(own, [*NUMBERS, "1", "999", "1000", "017", "500"])
    own.flags += ["-d", value]
    try:
        own.number = int(value)
    except ValueError:
        own.number = -1
    if len(own.chosen) == 1:
        own.verdict = ACCEPTED if value in ("1", "999", "017", "500") else EITHER
        if not 1 <= own.number <= 999:
            own.verdict = REFUSED
    return f"-d {value[:30]!r}"


@odd(REQUEST)
def odd_processes(world: World) -> str:
    value = pick(world, NUMBERS)
    (world.flags if isinstance(world, Convert) else inverse(world).extra).extend(["-np", value])
    return f"-np {value[:30]!r}"


@odd(REQUEST, REFUSED)
def useless_flags(world: World) -> str:
    if isinstance(world, Inverse):
        added = pick(world, [["--link"], ["--dry-run"], ["--mr"], ["-d", "3"], ["extra"], ["--inverse", "a"], ["--x"]])
        world.extra += added
        return f"and {added}"
    own = either(world)
    added = pick(
        own,
        [
            ["--x"],
            ["extra"],
            ["--inverse", "a", "b"],
            ["--inverse"],
            ["-d"],
            *([["--mr"]] if own.dataset != "amos22" else []),
        ],
    )
    own.extra += added
    return f"and {added}"


@odd(REQUEST, REFUSED)
def odd_dataset_word(world: World) -> str:
    name = pick(world, ["BTCV", "", "brats", "brats2021", "amos", "Heart", " btcv", "*", "é", "--", "btcv,heart"])
    if isinstance(world, Inverse):
        world.name = pick(world, [name, "btcv", "heart", "amos22"])
        return f"the challenge {world.name!r}"
    own = either(world)
    own.word = name
    return f"the challenge {name!r}"


@odd(PLACE)
def odd_raw(world: World) -> str:
    own = either(world)
    said = pick(
        own,
        ["not set", "empty", "~", "relative", "trailing slash", "trailing space", "a file", "below a file",
         "a dangling link", "a link",
         "the source", "newline", "device", "name too long", "quoted"],
    )  # fmt: skip
    afile = own.folder / "afile"
    afile.write_text("x")
    if said == "not set":
        del own.environment["nnUNet_raw"]
    else:
        own.environment["nnUNet_raw"] = {
            "empty": "", "~": "~/raw", "relative": "../raw", "trailing slash": f"{own.raw}/",
            "trailing space": f"{own.raw} ",
            "a file": str(afile), "below a file": str(afile / "x"), "a dangling link": str(own.folder / "l"),
            "a link": str(own.folder / "l"),
            "the source": str(own.source), "newline": f"{own.raw}\n", "device": "/dev/null",
            "name too long": str(own.folder / ("x" * 300)),
            "quoted": f'"{own.raw}"',
        }[said]  # fmt: skip
    if said == "a dangling link":
        (own.folder / "l").symlink_to(own.raw)
    elif said == "a link":
        own.raw.mkdir()
        (own.folder / "l").symlink_to(own.raw)
    elif said == "~":
        own.environment["HOME"] = str(own.folder)
        if own.rng.random() < 0.5:  # it may be taken as it is written, but then says so by its place
            own.environment["HOME"] = str(own.folder)
    if said in ("trailing space", "newline", "quoted"):
        own.output = Path(os.path.join(own.cwd, own.environment["nnUNet_raw"]))
    if said == "the source":
        own.output = own.source
    if len(own.chosen) == 1:
        refused = {"not set", "empty", "a file", "below a file", "device", "name too long"}
        own.verdict = (
            REFUSED
            if said in refused and not own.dry
            else ACCEPTED
            if said in ("relative", "trailing slash", "a link")
            else EITHER
        )
    return f"nnUNet_raw {said}"


@odd(PLACE)
def taken(world: World) -> str:
    own = either(world)
    name = {
        "btcv": "BTCV",
        "heart": "Heart",
        "brats2020": "BraTS2020",
        "amos22": f"AMOS2022_postChallenge_task{2 if own.mr else 1}",
    }[own.dataset]
    target = own.raw / f"Dataset{own.number:03d}_{name}"
    said = pick(
        own,
        [
            "exists",
            "is a file",
            "is a dangling link",
            "another of its number",
            "a leftover",
            "in another folder",
            "an odd neighbor",
        ],
    )
    own.raw.mkdir(exist_ok=True)
    if said == "exists":
        (target / "imagesTr").mkdir(parents=True)
        (target / "notes.txt").write_text("the user's")
    elif said == "is a file":
        target.write_text("the user's")
    elif said == "is a dangling link":
        target.symlink_to("nowhere")
    elif said == "another of its number":
        (own.raw / f"Dataset{own.number:03d}_Mine").mkdir()
    elif said == "a leftover":
        (own.raw / f".{target.name}-abcdef").mkdir()
        own.users_files = []
    elif said == "in another folder":
        (own.folder / "results" / f"Dataset{own.number:03d}_Mine").mkdir(parents=True)
        own.environment["nnUNet_results"] = str(own.folder / "results")
    else:
        (own.raw / "Dataset").mkdir()
        (own.raw / "Dataset9_x").mkdir()
        (own.raw / "notes").write_text("x")
        own.users_files = ["Dataset", "Dataset9_x"]
    if len(own.chosen) == 1:
        own.verdict = EITHER if said in ("a leftover", "an odd neighbor") else REFUSED
    return f"the target {said}"


@odd(PLACE)
def odd_inverse_places(world: World) -> str:
    own = inverse(world)
    said = pick(
        own,
        ["output exists", "output is a file", "output is a dangling link", "output below a file", "output inside",
         "output is the input",
         "no predictions", "predictions missing", "predictions a file", "relative", "~", "empty", "nested",
         "odd name", "trailing slash"],
    )  # fmt: skip
    index = own.argv.index("--inverse") + 2
    output = own.output
    assert output is not None
    if said == "output exists":
        output.mkdir()
        (output / "x").write_text("the user's")
    elif said == "output is a file":
        output.write_text("x")
    elif said == "output is a dangling link":
        output.symlink_to("nowhere")
    elif said == "output below a file":
        (own.folder / "afile").write_text("x")
        own.argv[index] = str(own.folder / "afile" / "x")
    elif said == "output inside":
        own.output = own.predictions / "labels"
        own.argv[index] = str(own.output)
    elif said == "output is the input":
        own.argv[index] = str(own.predictions)
    elif said == "no predictions":
        for path in own.predictions.glob("*.nii*"):
            path.unlink() if not path.is_dir() else path.rmdir()
    elif said == "predictions missing":
        own.argv[index - 1] = "nowhere"
    elif said == "predictions a file":
        own.argv[index - 1] = str(own.predictions / "plans.json")
    elif said == "relative":
        own.argv[index] = "../out/labels"
    elif said == "~":
        own.argv[index] = "~/labels"
        own.output = own.home / "labels"
    elif said == "empty":
        own.argv[index] = ""
    elif said == "nested":
        own.output = own.folder / "out" / "a" / "b"
        own.argv[index] = str(own.output)
    elif said == "odd name":
        own.output = (
            own.folder / "out" / pick(own, for_files([n for n in NAMES if len(n.encode(errors="replace")) < 150]))
        )
        own.argv[index] = str(own.output)
    else:
        own.argv[index] += "/"
    if len(own.chosen) == 1:
        fine = ("relative", "nested", "odd name", "trailing slash")
        own.verdict = (
            ACCEPTED
            if said in fine
            else EITHER
            if said in ("output inside", "~", "output is a dangling link")
            else REFUSED
        )
    return said
