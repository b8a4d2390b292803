"""What `nnunet-cpr compare --surface` gains: surface metrics of synthetic cases against a plain loop over MONAI.

The loop calls MONAI's functions for NSD, HD95 and mean surface distance (both ways) on the whole masks of one label
after the other, in one process. Both read the same files; values are compared. `surface_metrics` starts
further processes (in its time) only where they pay, that is not for few small cases. Then once more, from its cache.

    python scripts/benchmark_surface.py [--cases 20] [--size 128] [--labels 5] [--processes 2]
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK
import torch

from nnunet_cpr.evaluation.readers.case_files import CaseFiles
from nnunet_cpr.evaluation.readers.segmentation_files import read_segmentation
from nnunet_cpr.evaluation.surface.cache import CACHE_FILE
from nnunet_cpr.evaluation.surface.compute import surface_metrics
from nnunet_cpr.evaluation.surface.distances import library

SPACING = (0.8, 0.8, 2.0)
TOLERANCE_MM = 1.0


def balls(rng: np.random.Generator, size: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a reference with one ball a label, and a prediction where each is moved and of another size."""
    grid = np.indices((size,) * 3, dtype=np.float32)
    images = np.zeros((2, size, size, size), np.uint8)
    for label in range(1, labels + 1):
        center, radius = rng.uniform(0.2, 0.8, 3) * size, rng.uniform(0.06, 0.15) * size
        for image in images:
            away = sum((axis - middle) ** 2 for axis, middle in zip(grid, center, strict=True))
            image[away < radius**2] = label
            center, radius = center + rng.normal(0, 0.01 * size, 3), radius * rng.uniform(0.9, 1.1)
    return images[0], images[1]


def make_tasks(folder: Path, cases: int, size: int, labels: int) -> list[CaseFiles]:
    """Write synthetic cases."""
    rng = np.random.default_rng(0)
    tasks = []
    for index in range(cases):
        files = []
        for name, array in zip(("labels", "predictions"), balls(rng, size, labels), strict=True):
            image = SimpleITK.GetImageFromArray(array)
            image.SetSpacing(SPACING)
            files.append(folder / name / f"case{index:03}.nii.gz")
            files[-1].parent.mkdir(exist_ok=True)
            SimpleITK.WriteImage(image, str(files[-1]), True)
        values = {str(label): label for label in range(1, labels + 1)}
        tasks.append(CaseFiles("Synthetic", "T", "T", 0, f"case{index:03}", *files, values))
    return tasks


def plain_loop(tasks: list[CaseFiles]) -> list[float]:
    """Return NSD, HD95 and MASD of every case and label, by MONAI's functions on whole masks."""
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    values = []
    for task in tasks:
        reference, spacing = read_segmentation(task.reference)
        prediction, _ = read_segmentation(task.prediction)
        options = {"include_background": True, "spacing": spacing}
        for label in task.labels.values():
            pair = [torch.from_numpy(image == label)[None, None] for image in (prediction, reference)]
            nsd = compute_surface_dice(*pair, class_thresholds=[TOLERANCE_MM], use_subvoxels=True, **options)
            hd95 = compute_hausdorff_distance(*pair, percentile=95, **options)
            there = compute_average_surface_distance(*pair, **options)
            back = compute_average_surface_distance(*reversed(pair), **options)
            values += [nsd.item(), hd95.item(), (there + back).item() / 2]
    return values


def timed(name: str, cases: int, function: Callable[[], list[float]]) -> tuple[float, list[float]]:
    """Run a function, print cases per second; return seconds and what it returned."""
    start = time.perf_counter()
    values = function()
    seconds = time.perf_counter() - start
    print(f"{name:<45} {seconds:7.1f} s {cases / seconds:8.2f} cases/s", flush=True)
    return seconds, values


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--size", type=int, default=128, help="voxels along each axis")
    parser.add_argument("--labels", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)  # MONAI warns of an argument that it passes itself
    torch.set_num_threads(1)
    print(f"{arguments.cases} cases of {arguments.size}^3 voxels, {arguments.labels} labels; {library()}")
    with tempfile.TemporaryDirectory() as folder:
        tasks = make_tasks(Path(folder), arguments.cases, arguments.size, arguments.labels)
        plain_loop(tasks[:1])  # imports
        slow, expected = timed("plain loop, whole masks", len(tasks), lambda: plain_loop(tasks))

        def ours(processes: int) -> list[float]:
            return list(surface_metrics(tasks, TOLERANCE_MM, processes)["value"])

        for processes in dict.fromkeys((1, arguments.processes)):
            (Path(folder) / "predictions" / CACHE_FILE).unlink(missing_ok=True)
            name = f"surface_metrics, up to {processes} process{'es' * (processes > 1)}"
            seconds, values = timed(name, len(tasks), lambda n=processes: ours(n))
            print(
                f"    {slow / seconds:.1f} times the plain loop; largest difference {difference(values, expected):.1e}"
            )
        timed("surface_metrics, cached", len(tasks), lambda: ours(arguments.processes))


def difference(values: list[float], expected: list[float]) -> float:
    """Return the largest difference."""
    return float(np.max(np.abs(np.subtract(values, expected))))


if __name__ == "__main__":
    main()
