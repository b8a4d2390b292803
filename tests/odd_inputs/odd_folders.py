"""What may be odd in folders of segmentations: images, names, layouts."""

import gzip
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from odd_comparisons import AFFINE, Folders, Segmentation, folders_only
from odd_texts import NAMES, for_files
from odd_worlds import ACCEPTED, DISK, EITHER, MODEL, REFUSED, REQUEST, NotHereError, World, odd, pick


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
    kind = pick(
        own, ["int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "float32", "float64", ">i2", ">f4"]
    )
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
    new = pick(
        own,
        for_files([n for n in NAMES if len(n.encode(errors="replace")) < 200] + ["..x", "x.nii.gz", "-f", ".hidden"]),
    )
    if own.rng.random() < 0.5:
        own.reference_place = new
    else:
        own.places[pick(own, own.places)] = new
    return f"a folder called {new!r}"


@odd(MODEL)
def odd_label_names(world: World) -> str:
    own = folders_only(world)
    name, value = (
        pick(own, [*NAMES, "", "ignore", "background", "Ignore", "2", "3"]),
        pick(own, [1, 1, own.top, own.top + 3]),
    )
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
            ("values as texts", {"labels": {"background": "0", **{f"label {v}": str(v) for v in range(1,
             own.top + 1)}}}),
            ("values as floats", {"labels": {"background": 0.0, **{f"label {v}": float(v) for v in range(1,
             own.top + 1)}}}),
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
         ("a folder", ACCEPTED), (f"._{case}{ending}", ACCEPTED), (f".{case}{ending}", ACCEPTED),
          (f"{case}{ending}.tmp", ACCEPTED),
         (f"{case} (1){ending}", EITHER), ("a folder.nii.gz", EITHER), (f"{case}.nii.gz.part", ACCEPTED), ("a pipe",
          ACCEPTED)],
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
    place, _ = pick(own, own.all_files())
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


@odd(REQUEST)
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
        return f"--intersect without {place}/{case}"
    if len(own.chosen) == 1:
        own.verdict = ACCEPTED
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
