import dataclasses
import json
import math
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from nnunet_cpr import parallel
from nnunet_cpr.evaluation.readers.case_files import CaseFiles
from nnunet_cpr.evaluation.results import CASE_COLUMNS
from nnunet_cpr.evaluation.surface import cache as surface_cache
from nnunet_cpr.evaluation.surface import compute as surface
from nnunet_cpr.evaluation.surface.cache import CACHE_FILE
from nnunet_cpr.evaluation.surface.compute import surface_metrics
from nnunet_cpr.evaluation.surface.distances import ROUNDING, library, surface_distances

pytest.importorskip("monai")
pytest.importorskip("nnunetv2")

SPACING = (2.5, 0.8, 0.7)  # z, y, x as in arrays
LABELS = {"one": 1, "two": 2}
MEASURE = surface._measure


def voxels(*indices, shape=(9, 10, 11)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for index in indices:
        mask[index] = True
    return mask


def blobs(seed: int, shape=(24, 26, 28), difference: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Two ragged masks that resemble each other, several parts each, touching the border."""
    rng = np.random.default_rng(seed)
    first, second = (ndimage.gaussian_filter(rng.normal(size=shape), 2.5) for _ in range(2))
    return first > 0.02, first + difference * second > 0.02


def distances(reference, prediction, tolerance=1.0, spacing=SPACING) -> dict[str, float]:
    return surface_distances(reference, prediction, list(spacing), tolerance)


# Hand-computed


@pytest.mark.parametrize(
    ("other", "apart"),
    [
        ((4, 4, 5), 0.7),  # along x
        ((4, 6, 4), 1.6),  # along y, two voxels
        ((5, 4, 4), 2.5),  # along z
        ((4, 7, 8), math.hypot(2.4, 2.8)),
        ((8, 9, 10), math.sqrt(10.0**2 + 4.0**2 + 4.2**2)),  # in the corner of the image
    ],
)
def test_one_voxel_each_at_a_known_distance(other, apart):
    for pair in ((voxels((4, 4, 4)), voxels(other)), (voxels(other), voxels((4, 4, 4)))):
        found = distances(*pair)
        assert found["HD95"] == pytest.approx(apart, rel=1e-6)
        assert found["MASD"] == pytest.approx(apart, rel=1e-6)


@pytest.mark.parametrize(
    ("shift", "tolerance", "nsd"),
    [
        # A voxel's surface is eight equal corners. Shifted by one voxel, four of them are the other's corners, too,
        # and four are one voxel away.
        (1, 0.69, 0.5),
        (1, 0.7, 1.0),  # exactly the tolerance is within it
        # Shifted by three voxels, four corners are two voxels away and four are three.
        (3, 1.39, 0.0),
        (3, 1.4, 0.5),
        (3, 2.09, 0.5),
        (3, 2.1, 1.0),
    ],
)
def test_nsd_of_one_voxel_each(shift, tolerance, nsd):
    found = distances(voxels((4, 4, 4)), voxels((4, 4, 4 + shift)), tolerance)
    assert found["NSD"] == pytest.approx(nsd, abs=1e-6)


def test_the_tolerance_is_not_missed_by_the_rounding_of_a_header():
    spacing = (1.0, 1.0, 1.0000001)
    assert distances(voxels((4, 4, 4)), voxels((4, 4, 5)), 1.0, spacing)["NSD"] == 1.0
    assert distances(voxels((4, 4, 4)), voxels((4, 4, 5)), 1.0, (1.0, 1.0, 1.001))["NSD"] == pytest.approx(0.5)


def test_hd95_is_the_larger_way_and_masd_the_mean_of_both_ways():
    # Prediction: the reference's voxel and three more, 2, 4 and 6 voxels of 0.7 mm away along x.
    reference = voxels((4, 4, 2))
    prediction = voxels((4, 4, 2), (4, 4, 4), (4, 4, 6), (4, 4, 8))
    found = distances(reference, prediction)
    # To the prediction 0; from it 0, 1.4, 2.8, 4.2: the 95th percentile lies at 2.85 of 3 steps, the mean is 2.1.
    assert found["HD95"] == pytest.approx(2.8 + 0.85 * 1.4, rel=1e-6)
    assert found["MASD"] == pytest.approx((0 + 2.1) / 2, rel=1e-6)


@pytest.mark.parametrize("mask", [voxels((4, 4, 4)), voxels((0, 0, 0)), np.ones((5, 6, 7), bool), blobs(0)[0]])
def test_identical_masks(mask):
    assert distances(mask, mask.copy(), 0.0) == {"NSD": 1.0, "HD95": 0.0, "MASD": 0.0}


def test_empty_masks():
    none, some = voxels(), voxels((4, 4, 4))
    assert all(math.isnan(value) for value in distances(none, none).values())
    for pair in ((none, some), (some, none)):
        found = distances(*pair)
        assert found["NSD"] == 0.0 and math.isnan(found["HD95"]) and math.isnan(found["MASD"])


def test_a_mask_that_touches_the_border_has_a_surface_there():
    # A slab at the image's edge and one slice less of it: as anywhere else in the image.
    def slab(first: int) -> np.ndarray:
        mask = np.zeros((12, 10, 11), bool)
        mask[first : first + 4, 2:8, 2:8] = True
        return mask

    at_border = distances(slab(0), slab(1))
    inside = distances(slab(4), slab(5))
    assert at_border == pytest.approx(inside, rel=1e-6)
    assert at_border["HD95"] == pytest.approx(2.5)


# Cross-checks


def border(mask: np.ndarray) -> np.ndarray:
    """Voxels with a face in common with a voxel outside the mask, found by looking at each neighbor."""
    padded = np.pad(mask, 1)
    inner = np.ones_like(mask)
    for axis in range(mask.ndim):
        for step in (-1, 1):
            shifted = np.roll(padded, step, axis)
            inner &= shifted[(slice(1, -1),) * mask.ndim]
    return mask & ~inner


def plain_distances(reference, prediction, spacing) -> tuple[float, float]:
    """HD95 and MASD by the distance transform of the whole image."""
    borders = border(reference), border(prediction)
    ways = [ndimage.distance_transform_edt(~borders[b], sampling=spacing)[borders[a]] for a, b in ((0, 1), (1, 0))]
    return max(np.percentile(way, 95) for way in ways), sum(way.mean() for way in ways) / 2


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spacing", [SPACING, (1.0, 1.0, 1.0)])
def test_hd95_and_masd_of_blobs_by_distance_transform(seed, spacing):
    reference, prediction = blobs(seed)
    found = distances(reference, prediction, spacing=spacing)
    hd95, masd = plain_distances(reference, prediction, spacing)
    assert found["HD95"] == pytest.approx(hd95, rel=1e-6)
    assert found["MASD"] == pytest.approx(masd, rel=1e-6)


@pytest.mark.parametrize("spacing", [SPACING, (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.0])
def test_nsd_of_blobs_by_deepminds_surface_distance(spacing, tolerance):
    deepmind = pytest.importorskip("surface_distance")
    for seed in range(3):
        reference, prediction = blobs(seed)
        expected = deepmind.compute_surface_dice_at_tolerance(
            deepmind.compute_surface_distances(reference, prediction, spacing), tolerance * (1 + ROUNDING)
        )
        assert distances(reference, prediction, tolerance, spacing)["NSD"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("slab_voxels", [1, 700, 4_000_000])  # one plane at a time, a few, all
@pytest.mark.parametrize("seed", range(3))
def test_monais_functions_on_the_whole_masks_give_the_same(seed, slab_voxels, monkeypatch):
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    monkeypatch.setattr("nnunet_cpr.evaluation.surface.distances.SLAB_VOXELS", slab_voxels)
    reference, prediction = blobs(seed)
    pair = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    options = {"include_background": True, "spacing": list(SPACING)}
    found = distances(reference, prediction)
    nsd = compute_surface_dice(*pair, class_thresholds=[1.0], use_subvoxels=True, **options)
    hd95 = compute_hausdorff_distance(*pair, percentile=95, **options)
    masd = compute_average_surface_distance(*pair, **options) + compute_average_surface_distance(*pair[::-1], **options)
    assert found["NSD"] == pytest.approx(nsd.item(), abs=1e-6)
    assert found["HD95"] == pytest.approx(hd95.item(), rel=1e-6)
    assert found["MASD"] == pytest.approx(masd.item() / 2, rel=1e-6)


# Files


def write(path: Path, array: np.ndarray, spacing=SPACING) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array.astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    SimpleITK.WriteImage(image, str(path), True)
    return path


def make_case(folder: Path, case: str, seed: int, trainer: str = "A") -> CaseFiles:
    (ref1, pred1), (ref2, pred2) = blobs(seed), blobs(seed + 100)
    reference = write(folder / "labels" / f"{case}.nii.gz", np.where(ref2, 2, ref1))
    prediction = write(folder / trainer / f"{case}.nii.gz", np.where(pred2, 2, pred1))
    return CaseFiles("D", trainer, trainer, 0, case, reference, prediction, LABELS)


@pytest.fixture
def tasks(tmp_path) -> list[CaseFiles]:
    return [make_case(tmp_path, f"case{index}", index) for index in range(4)]


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """The cases that are computed and not taken from the cache."""
    names = []
    measure = surface._measure

    def spy(task, tolerance_mm):
        names.append(task.case)
        return measure(task, tolerance_mm)

    monkeypatch.setattr(surface, "_measure", spy)
    return names


def test_rows_of_a_case(tasks):
    found = surface_metrics(tasks[:1], 1.0, 1)
    assert list(found.columns) == CASE_COLUMNS
    assert list(zip(found["label"], found["metric"], strict=True)) == [
        (label, metric) for label in LABELS for metric in ("NSD", "HD95", "MASD")
    ]
    assert (found[["dataset", "trainer", "run", "fold", "case"]] == ["D", "A", "A", 0, "case0"]).all(axis=None)
    reference, prediction = blobs(100)  # label 2 lies over label 1
    values = found[found["label"] == "two"].set_index("metric")["value"]
    assert values.to_dict() == pytest.approx(distances(reference, prediction), rel=1e-6)


def test_regions_are_unions_of_labels(tasks):
    task = dataclasses.replace(tasks[0], labels={"both": (1, 2), "two": (2,)})
    found = surface_metrics([task], 1.0, 1).set_index(["label", "metric"])["value"]
    (ref1, pred1), (ref2, pred2) = blobs(0), blobs(100)
    assert found["both"].to_dict() == pytest.approx(distances(ref1 | ref2, pred1 | pred2), rel=1e-6)
    assert found["two"].to_dict() == pytest.approx(distances(ref2, pred2), rel=1e-6)


def test_several_processes_give_the_same(tasks, tmp_path, monkeypatch):
    alone = surface_metrics(tasks, 1.0, 1)
    (tmp_path / "A" / CACHE_FILE).unlink()
    monkeypatch.setattr(parallel, "START_SECONDS", -1.0)
    assert surface_metrics(tasks, 1.0, 2).equals(alone)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_is_taken_as_plane(tmp_path, axis):
    reference, prediction = np.zeros((12, 13), bool), np.zeros((12, 13), bool)
    reference[2:9, 2:9] = True  # as planes only the outline counts, in space every pixel would
    prediction[2:9, 2:10] = True
    files = [
        write(tmp_path / name / "x.nrrd", np.expand_dims(mask, axis))
        for name, mask in (("labels", reference), ("A", prediction))
    ]
    task = CaseFiles("D", "A", "A", 0, "x", *files, {"one": 1})
    found = surface_metrics([task], 1.0, 1).set_index("metric")["value"]
    plane = [length for index, length in enumerate(SPACING) if index != axis]
    assert found.to_dict() == pytest.approx(distances(reference, prediction, spacing=plane), rel=1e-6)
    hd95, masd = plain_distances(reference, prediction, plane)
    assert (found["HD95"], found["MASD"]) == pytest.approx((hd95, masd), rel=1e-6)


def test_empty_images(tmp_path):
    files = [write(tmp_path / name / "x.nii.gz", np.zeros((3, 4, 5))) for name in ("labels", "A")]
    found = surface_metrics([CaseFiles("D", "A", "A", 0, "x", *files, LABELS)], 1.0, 1)
    assert len(found) == 6 and found["value"].isna().all()


def test_no_tasks():
    assert list(surface_metrics([], 1.0, 2).columns) == CASE_COLUMNS


def test_a_bad_file_is_named(tasks):
    prediction = tasks[2].prediction
    prediction.write_bytes(prediction.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"A/case2\.nii\.gz cannot be read"):
        surface_metrics(tasks, 1.0, 1)
    write(prediction, np.zeros((24, 26, 28)), spacing=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"A/case2\.nii\.gz has the spacing"):
        surface_metrics(tasks, 1.0, 1)
    prediction.unlink()
    with pytest.raises(ValueError, match=r"A/case2\.nii\.gz cannot be read"):
        surface_metrics(tasks, 1.0, 1)


# Cache


def test_the_second_call_computes_nothing(tasks, measured, tmp_path):
    empty = write(tmp_path / "A" / "empty.nii.gz", np.zeros((24, 26, 28)))  # NaN goes through the cache, too
    tasks.append(dataclasses.replace(tasks[0], case="empty", prediction=empty))
    tasks.append(make_case(tmp_path, "case0", 50, trainer="B"))  # another folder, a case of the same name
    first = surface_metrics(tasks, 1.0, 1)
    assert len(measured) == 6
    assert surface_metrics(tasks, 1.0, 1).equals(first)
    assert len(measured) == 6
    assert first["value"].isna().sum() == 4
    for trainer in ("A", "B"):
        json.loads((tmp_path / trainer / CACHE_FILE).read_text(), parse_constant=pytest.fail)  # no NaN in JSON


@pytest.mark.parametrize("which", ["reference", "prediction"])
def test_a_changed_file_is_computed_again(tasks, measured, which):
    first = surface_metrics(tasks, 1.0, 1)
    write(getattr(tasks[1], which), np.where(blobs(70)[0], 1, 2))
    second = surface_metrics(tasks, 1.0, 1)
    assert measured[4:] == ["case1"]
    other = first["case"] != "case1"
    assert second[other].equals(first[other])
    assert not second[~other].equals(first[~other])


def test_content_counts_and_not_size_and_time(tmp_path, measured):
    """Archives with fixed times and rsync -t give other files the same time; .nii of one shape have one size."""

    def save(name: str, first: int) -> Path:
        mask = np.zeros((9, 10, 11), np.uint8)
        mask[2:6, 2:7, first : first + 4] = 1
        path = tmp_path / name / "x.nii"
        path.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(mask, np.diag([1.0, 1, 2, 1])), path)
        os.utime(path, ns=(10**18, 10**18))
        return path

    task = CaseFiles("D", "A", "A", 0, "x", save("labels", 3), save("A", 3), {"one": 1})
    before = task.prediction.stat()
    assert surface_metrics([task], 1.0, 1)["value"].tolist() == [1.0, 0.0, 0.0]
    os.utime(task.prediction, ns=(1, 1))
    surface_metrics([task], 1.0, 1)
    assert measured == ["x"]
    after = save("A", 4).stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert surface_metrics([task], 1.0, 1)["value"][1] == 2.0  # HD95
    assert measured == ["x", "x"]


def test_a_file_that_tasks_share_is_hashed_once(tasks, monkeypatch):
    linked = dataclasses.replace(tasks[0], reference=tasks[0].reference.with_name("link.nii.gz"))
    linked.reference.symlink_to(tasks[0].reference)
    hashed = []
    sha256 = surface_cache.hashlib.sha256
    monkeypatch.setattr(surface_cache.hashlib, "sha256", lambda *_: hashed.append(1) or sha256(*_))
    hashes = surface_cache.Hashes()
    assert len({hashes.of(task.reference) for task in (tasks[0], linked, tasks[0])}) == 1
    assert len(hashed) == 1


def test_other_tolerance_labels_or_library_are_computed_again(tasks, measured, monkeypatch):
    first = surface_metrics(tasks[:1], 1.0, 1)
    second = surface_metrics(tasks[:1], 3.0, 1)
    assert len(measured) == 2
    assert (second["value"] > first["value"])[second["metric"] == "NSD"].all()
    relabeled = dataclasses.replace(tasks[0], labels={"one": 2, "two": 1})
    swapped = surface_metrics([relabeled], 3.0, 1)
    assert len(measured) == 3
    assert list(swapped["value"][:3]) == list(second["value"][3:])
    monkeypatch.setattr(surface_cache, "library", lambda: "MONAI 9")
    surface_metrics([relabeled], 3.0, 1)
    assert len(measured) == 4


def test_a_killed_run_goes_on_where_it_was(tasks, measured, monkeypatch):
    spy = surface._measure

    def killed(task, tolerance_mm):
        if task.case == "case2":
            raise KeyboardInterrupt
        return spy(task, tolerance_mm)

    with monkeypatch.context() as patch:
        patch.setattr(surface, "_measure", killed)
        with pytest.raises(KeyboardInterrupt):
            surface_metrics(tasks, 1.0, 1)
    assert measured == ["case0", "case1"]
    assert len(surface_metrics(tasks, 1.0, 1)) == 4 * 6
    assert measured == ["case0", "case1", "case2", "case3"]


def test_what_a_killed_run_was_writing_is_removed(tasks):
    """Beside the predictions, and nothing else there, by the next run, even if it has nothing to compute."""
    surface_metrics(tasks, 1.0, 1)
    folder = tasks[0].prediction.parent
    before = set(folder.iterdir())
    leftover = folder / f".nnunet-cpr-123-0123456789ab-{CACHE_FILE}"
    leftover.write_text("{")
    (folder / ".notes").write_text("the user's")
    surface_metrics(tasks, 1.0, 1)
    assert set(folder.iterdir()) == before | {folder / ".notes"}


@pytest.mark.parametrize(("cases", "seconds"), [(2, 1e9), (10**9, 0.0)])
def test_results_are_saved_before_the_end(tasks, monkeypatch, cases, seconds):
    """What a kill that runs no cleanup would leave."""
    monkeypatch.setattr(surface_cache, "SAVE_CASES", cases)
    monkeypatch.setattr(surface_cache, "SAVE_SECONDS", seconds)
    cache = tasks[0].prediction.parent / CACHE_FILE
    seen = []
    measure = surface._measure

    def look(task, tolerance_mm):
        seen.append(sorted(json.loads(cache.read_text())) if cache.exists() else [])
        return measure(task, tolerance_mm)

    monkeypatch.setattr(surface, "_measure", look)
    surface_metrics(tasks, 1.0, 1)
    every_second = [[], [], ["case0", "case1"], ["case0", "case1"]]
    every_one = [[], ["case0"], ["case0", "case1"], ["case0", "case1", "case2"]]
    assert seen == (every_second if cases == 2 else every_one)


def test_cases_that_are_not_asked_for_stay_in_the_cache(tasks, measured):
    surface_metrics(tasks[:2], 1.0, 1)
    surface_metrics(tasks[2:], 1.0, 1)
    surface_metrics(tasks, 1.0, 1)
    assert len(measured) == 4


@pytest.mark.parametrize(
    "content",
    ["", '{"case0": {"inputs"', "[]", '{"case0": 1}', '{"case0": {"inputs": {}}}', "\ud800", "null", "values"],
)
def test_a_damaged_cache_is_ignored(tasks, measured, content):
    cache = tasks[0].prediction.parent / CACHE_FILE
    first = surface_metrics(tasks[:1], 1.0, 1)
    if content == "values":
        damaged = json.loads(cache.read_text())
        damaged["case0"]["values"]["two"]["MASD"] = "far"
        cache.write_text(json.dumps(damaged))
    else:
        cache.write_bytes(content.encode("utf-8", "surrogatepass"))
    assert surface_metrics(tasks[:1], 1.0, 1).equals(first)
    assert surface_metrics(tasks[:1], 1.0, 1).equals(first)
    assert measured == ["case0", "case0"]


IMPOSSIBLE = [("NSD", 1.5), ("NSD", -0.1), ("NSD", None), ("HD95", -1), ("HD95", None), ("MASD", 1e999), ("MASD", "1"),
              ("MASD", True), ("MASD", [1])]  # fmt: skip


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize(("metric", "value"), [*IMPOSSIBLE, ("HD95", 1.25)])
def test_values_that_were_changed_are_not_believed(tasks, measured, metric, value, sealed):
    cache = tasks[0].prediction.parent / CACHE_FILE
    first = surface_metrics(tasks[:1], 1.0, 1)
    content = json.loads(cache.read_text())
    entry = content["case0"]
    entry["values"]["two"][metric] = value
    if sealed:
        entry["sha256"] = surface_cache._seal(entry["inputs"], entry["values"])
    cache.write_text(json.dumps(content))
    again = surface_metrics(tasks[:1], 1.0, 1)
    if sealed and value == 1.25:  # as if it had been computed
        assert measured == ["case0"]
    else:
        assert again.equals(first) and measured == ["case0", "case0"]


def test_an_entry_of_another_definition_or_with_more_labels_is_not_believed(tasks, measured, monkeypatch):
    first = surface_metrics(tasks[:1], 1.0, 1)
    monkeypatch.setattr(surface_cache, "DEFINITION", surface_cache.DEFINITION + 1)
    assert surface_metrics(tasks[:1], 1.0, 1).equals(first)
    cache = tasks[0].prediction.parent / CACHE_FILE
    content = json.loads(cache.read_text())
    entry = content["case0"]
    entry["values"]["three"] = entry["values"]["one"]
    entry["sha256"] = surface_cache._seal(entry["inputs"], entry["values"])
    cache.write_text(json.dumps(content))
    assert surface_metrics(tasks[:1], 1.0, 1).equals(first)
    assert len(measured) == 3


def test_an_error_in_another_process_is_the_same_and_loses_nothing(tasks, measured, monkeypatch):
    monkeypatch.setattr(parallel, "START_SECONDS", -1.0)
    content = tasks[3].prediction.read_bytes()
    tasks[3].prediction.write_bytes(content[:-500])
    with monkeypatch.context() as patch:
        patch.setattr(surface, "_measure", MEASURE)  # a spy cannot be sent to another process
        with pytest.raises(ValueError, match=r"A/case3\.nii\.gz cannot be read"):
            surface_metrics(tasks, 1.0, 2)
    tasks[3].prediction.write_bytes(content)
    surface_metrics(tasks, 1.0, 1)
    assert measured == ["case3"]


def test_a_folder_that_cannot_be_written_is_said_once(tasks, tmp_path, measured, monkeypatch):
    monkeypatch.setattr(surface_cache, "SAVE_CASES", 1)
    tasks.append(make_case(tmp_path, "case9", 9, trainer="B"))
    for trainer in ("A", "B"):
        (tmp_path / trainer / CACHE_FILE).mkdir()  # root may write into any folder, but not this
    with pytest.warns(UserWarning, match=r"surface metrics are not kept: .*A/nnunet_cpr_surface_metrics\.json") as said:
        assert len(surface_metrics(tasks, 1.0, 1)) == 5 * 6
    assert len(said) == 1


# Library


def test_the_library_is_named():
    assert library() == f"MONAI {metadata.version('monai')}"


def test_without_monai_the_extra_is_named(monkeypatch, tasks):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(ValueError, match=r"pip install 'nnunet-cpr\[surface\]'"):
        surface_metrics(tasks, 1.0, 1)


def test_importing_the_modules_imports_no_torch():
    code = (
        "import sys, nnunet_cpr.evaluation.surface.compute; "
        "print({'torch', 'monai', 'nnunetv2', 'SimpleITK'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
