"""NSD, HD95 and MASD of two masks, with MONAI.

MONAI, because it is released several times a year, brings all three, takes the spacing, and is what many papers use.
DeepMind's surface-distance, where NSD comes from, has had one release (0.1); a test compares the two. Definitions:

- NSD (normalized surface Dice, 0 to 1): the share of both surfaces that lies within the tolerance of the other one, by
  area. The surface and its area elements are DeepMind's (`use_subvoxels`); without, MONAI counts border voxels, however
  large their faces are, which is not comparable with published values and wrong for anisotropic spacing.
- HD95 (mm): 95th percentile of the distances from the border voxels of one to the other's, the larger of both ways.
- MASD (mm, mean average surface distance): mean distance between border voxels, the mean of both ways (as Metrics
  Reloaded defines it; MONAI's `symmetric` averages over all voxels, which weighs the larger surface more).

A border voxel is in the mask and has a face in common with a voxel outside it; outside the image is outside the mask.
An image of one slice is taken as plane. Where both masks are empty all three are NaN; where one is, NSD is 0 and the
distances are NaN. Lengths are in mm; of planes in formats without spacing (.png), in pixels.

torch and MONAI are imported where they are used, because the command line imports this module.
"""

import math
import warnings
from importlib import metadata

import numpy as np
import numpy.typing as npt

METRICS = ("NSD", "HD95", "MASD")
ROUNDING = 1e-5
"""Relative. Spacing is float32 in a NIfTI header; a distance of exactly the tolerance is within it all the same."""

SLAB_VOXELS = 4_000_000
"""So many voxels are given to MONAI at a time."""

Mask = npt.NDArray[np.bool_]


def library() -> str:
    """Return name and version of the library that computes the metrics.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return f"MONAI {metadata.version('monai')}"
    except metadata.PackageNotFoundError:
        raise ValueError("surface metrics need MONAI: pip install 'nnunet-cpr[surface]'") from None


def surface_distances(reference: Mask, prediction: Mask, spacing: list[float], tolerance_mm: float) -> dict[str, float]:
    """Return NSD, HD95 and MASD (mm) of two masks, plane or in space, with their spacing in mm."""
    if not reference.any() or not prediction.any():
        one_empty = reference.any() or prediction.any()
        return {"NSD": 0.0 if one_empty else math.nan, "HD95": math.nan, "MASD": math.nan}
    from monai.metrics.utils import get_mask_edges, get_surface_distance

    box = bounding_box(reference | prediction)
    # Outside the box both masks are empty.
    reference, prediction = np.ascontiguousarray(reference[box]), np.ascontiguousarray(prediction[box])
    with warnings.catch_warnings():
        # MONAI 1.6 warns of an argument that it passes itself.
        warnings.filterwarnings("ignore", category=FutureWarning)

        def both_ways(one: Mask, other: Mask) -> list[npt.NDArray[np.float64]]:
            pairs = ((one, other), (other, one))
            return [np.asarray(get_surface_distance(*pair, spacing=spacing), dtype=np.float64) for pair in pairs]

        edges, areas = _surface_elements((prediction, reference), spacing)
        limit = tolerance_mm * (1 + ROUNDING)
        within = sum(area[distances <= limit].sum() for area, distances in zip(areas, both_ways(*edges), strict=True))
        # MONAI's functions for HD95 and mean distance would each do this again.
        distances = both_ways(*get_mask_edges(prediction, reference, crop=False))
    return {
        "NSD": float(within / sum(area.sum() for area in areas)),
        "HD95": max(float(np.percentile(way, 95)) for way in distances),
        "MASD": float(np.mean([way.mean() for way in distances])),
    }


def _surface_elements(
    masks: tuple[Mask, Mask], spacing: list[float]
) -> tuple[list[Mask], list[npt.NDArray[np.float64]]]:
    """Return where the surfaces of both masks are, and the areas (in a plane: lengths) of their elements, in mm.

    Elements lie between voxels, so there is one more of them along each axis. This is done slab by slab, because MONAI
    needs about 150 bytes for each voxel.
    """
    import torch
    from monai.metrics.utils import get_mask_edges

    padded = [np.pad(mask, 1) for mask in masks]
    size, *plane = padded[0].shape
    thickness = max(1, SLAB_VOXELS // math.prod(plane))
    edges: list[list[Mask]] = [[], []]
    areas: list[list[npt.NDArray[np.float64]]] = [[], []]
    for start in range(0, size - 1, thickness):
        slab = slice(start, start + thickness + 1)  # an element needs the voxels on both of its sides
        found = get_mask_edges(*(torch.from_numpy(mask[slab]) for mask in padded), crop=False, spacing=spacing)
        for side in range(2):
            where, area = np.asarray(found[side], dtype=bool), np.asarray(found[2 + side], dtype=np.float64)
            edges[side].append(where)
            areas[side].append(area[where])
    return [np.concatenate(parts) for parts in edges], [np.concatenate(parts) for parts in areas]


def bounding_box(mask: Mask) -> tuple[slice, ...]:
    """Return the smallest box that holds a mask, an empty one if that is empty."""
    box = []
    for axis in range(mask.ndim):
        occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else slice(0, 0))
    return tuple(box)
