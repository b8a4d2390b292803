"""What `nnunet-cpr compare --surface` gains: surface metrics of synthetic cases against a plain loop over a library.

The loop reads the same files and calls, for one label after the other and in one process, the functions for NSD, HD95
and mean surface distance (both ways) of MONAI on whole masks or, with `--opponent surface-distance`, those of
DeepMind's package, which cuts out what is not empty. Each runs in a process of its own. Its memory is measured whole,
its time from when it has imported its libraries. Values are compared: NSD is the same everywhere; HD95 and mean
distance are MONAI's, while DeepMind's weigh surfaces by their area. `surface_metrics` starts further processes only
where they pay, that is not for few small cases. Then once more, from its cache.

    python scripts/benchmark_surface.py [--cases 20] [--size 128 128 128] [--labels 5] [--processes 2]
    python scripts/benchmark_surface.py --cases 1 --size 512 512 1000 --labels 15 --opponent surface-distance
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import torch
from benchmarks.processes import measured

from nnunet_cpr.evaluation.readers.case_files import CaseFiles
from nnunet_cpr.evaluation.readers.segmentation_files import read_segmentation
from nnunet_cpr.evaluation.surface.cache import CACHE_FILE
from nnunet_cpr.evaluation.surface.compute import surface_metrics
from nnunet_cpr.evaluation.surface.distances import library
from nnunet_cpr.labels import Label

SPACING = (0.8, 0.8, 2.0)
TOLERANCE_MM = 1.0
METRICS = ("NSD", "HD95", "mean surface distance")
Case = tuple[np.ndarray, np.ndarray, list[float]]
"""The masks of a label in reference and prediction, and the spacing."""


def balls(rng: np.random.Generator, size: tuple[int, ...], labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a reference with one ball a label, and a prediction where each is moved and of another size."""
    axes, shortest = np.ogrid[tuple(slice(length) for length in size)], min(size)
    images = np.zeros((2, *size), np.uint8)
    for label in range(1, labels + 1):
        center, radius = rng.uniform(0.2, 0.8, 3) * size, rng.uniform(0.06, 0.15) * shortest
        for image in images:
            # One slice at a time: distances in all of a large volume would take gigabytes.
            for index in range(size[0]):
                around = (axes[1][0] - center[1]) ** 2 + (axes[2][0] - center[2]) ** 2
                image[index][around + (index - center[0]) ** 2 < radius**2] = label
            center, radius = center + rng.normal(0, 0.01 * shortest, 3), radius * rng.uniform(0.9, 1.1)
    return images[0], images[1]


def find_tasks(folder: Path, cases: int, labels: int) -> list[CaseFiles]:
    """Return what is to be measured, whose files :func:`write_cases` writes."""
    values: dict[str, Label] = {str(label): label for label in range(1, labels + 1)}
    names = [f"case{index:03}" for index in range(cases)]
    truths, predictions = ([folder / part / f"{name}.nii.gz" for name in names] for part in ("labels", "predictions"))
    files = zip(names, truths, predictions, strict=True)
    return [CaseFiles("Synthetic", "T", "T", 0, name, truth, found, values) for name, truth, found in files]


def write_cases(tasks: list[CaseFiles], size: tuple[int, ...]) -> None:
    """Write synthetic cases."""
    rng = np.random.default_rng(0)
    for task in tasks:
        for file, array in zip((task.reference, task.prediction), balls(rng, size, len(task.labels)), strict=True):
            image = SimpleITK.GetImageFromArray(array)
            image.SetSpacing(SPACING)
            file.parent.mkdir(exist_ok=True)
            SimpleITK.WriteImage(image, str(file), True)


def masks(tasks: list[CaseFiles]) -> Iterator[Case]:
    """Yield both masks of every case and label."""
    for task in tasks:
        reference, spacing = read_segmentation(task.reference)
        prediction, _ = read_segmentation(task.prediction)
        assert spacing is not None  # NIfTI has one
        for label in task.labels.values():
            yield reference == label, prediction == label, spacing


def save(
    function: Callable[[list[CaseFiles]], list[float]], package: str, tasks: list[CaseFiles], result: Path
) -> None:
    """Save the seconds that a function takes, and NSD, HD95 and mean surface distance of every case and label."""
    import_module(package)  # which takes seconds
    warnings.filterwarnings("ignore", category=FutureWarning)  # MONAI warns of an argument that it passes itself
    torch.set_num_threads(1)
    start = time.perf_counter()
    values = function(tasks)
    np.save(result, [time.perf_counter() - start, *values])


def monai_loop(tasks: list[CaseFiles]) -> list[float]:
    """Use MONAI's functions on whole masks."""
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    values = []
    for reference, prediction, spacing in masks(tasks):
        options: dict[str, Any] = {"include_background": True, "spacing": spacing}
        found, truth = (torch.from_numpy(mask)[None, None] for mask in (prediction, reference))
        nsd = compute_surface_dice(found, truth, class_thresholds=[TOLERANCE_MM], use_subvoxels=True, **options)
        hd95 = compute_hausdorff_distance(found, truth, percentile=95, **options)
        there = compute_average_surface_distance(found, truth, **options)
        back = compute_average_surface_distance(truth, found, **options)
        values += [nsd.item(), hd95.item(), (there + back).item() / 2]
    return values


def deepmind_loop(tasks: list[CaseFiles]) -> list[float]:
    """Use DeepMind's surface-distance."""
    import surface_distance as library

    values = []
    for reference, prediction, spacing in masks(tasks):
        distances = library.compute_surface_distances(reference, prediction, spacing)
        nsd = library.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM)
        hd95 = library.compute_robust_hausdorff(distances, 95)
        values += [nsd, hd95, np.mean(library.compute_average_surface_distance(distances))]
    return values


def ours(tasks: list[CaseFiles], processes: int) -> list[float]:
    """Use `surface_metrics`."""
    return list(surface_metrics(tasks, TOLERANCE_MM, processes)["value"])


OPPONENTS = {"monai": (monai_loop, "monai.metrics"), "surface-distance": (deepmind_loop, "surface_distance")}
"""What calls them, and the package that it needs."""


def run(
    name: str, function: Callable[[list[CaseFiles]], list[float]], package: str, tasks: list[CaseFiles], result: Path
) -> tuple[float, np.ndarray]:
    """Run a function in a process of its own, print what it cost; return seconds and a row a case and label."""
    gib = measured(save, function, package, tasks, result).gib
    seconds, *values = np.load(result)
    print(f"{name:<45} {seconds:7.1f} s  {gib:6.2f} GiB", flush=True)
    return seconds, np.reshape(values, (-1, len(METRICS)))


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--size", type=int, nargs=3, default=(128, 128, 128), help="voxels along each axis")
    parser.add_argument("--labels", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--opponent", choices=OPPONENTS, default="monai")
    args = parser.parse_args()
    size = " x ".join(map(str, args.size))
    print(f"{args.cases} cases of {size} voxels, {args.labels} labels; {library()}")
    with tempfile.TemporaryDirectory() as folder:
        tasks, result = find_tasks(Path(folder), args.cases, args.labels), Path(folder, "values.npy")
        measured(write_cases, tasks, tuple(reversed(args.size)))  # SimpleITK's arrays are z, y, x
        plain, expected = run(f"plain loop over {args.opponent}", *OPPONENTS[args.opponent], tasks, result)
        for processes in dict.fromkeys((1, args.processes)):
            (Path(folder) / "predictions" / CACHE_FILE).unlink(missing_ok=True)
            name = f"surface_metrics, up to {processes} process{'es' * (processes > 1)}"
            seconds, values = run(name, partial(ours, processes=processes), "monai.metrics", tasks, result)
            off = np.abs(values - expected).max(axis=0)
            differences = ", ".join(f"{name} {value:.1e}" for name, value in zip(METRICS, off, strict=True))
            print(f"    {plain / seconds:.1f} times the plain loop; largest differences: {differences}")
        run("surface_metrics, cached", partial(ours, processes=args.processes), "monai.metrics", tasks, result)


if __name__ == "__main__":
    main()
