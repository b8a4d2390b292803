"""A 3D configuration small enough for a laptop, derived from the 3d_fullres that nnU-Net has planned."""

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

from nnunet_cpr.files import write_json

CONFIGURATION = "3d_small"
FEATURES = [16, 32, 64, 128]
BATCH_SIZE = 4
MAX_PATCH_VOXELS = 96 * 1024


def small_configuration(full: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration that inherits from 3d_fullres, with a smaller network, batch and, if need be, patch.

    The network keeps nnU-Net's first four stages at half of their usual width. A patch of more than
    `MAX_PATCH_VOXELS` voxels is halved along its longest axis until it fits, and stays divisible by the strides.
    """
    architecture = deepcopy(full["architecture"])
    kwargs = architecture["arch_kwargs"]
    stages = min(kwargs["n_stages"], len(FEATURES))
    kwargs["n_stages"] = stages
    kwargs["features_per_stage"] = FEATURES[:stages]
    for key in ("kernel_sizes", "strides", "n_conv_per_stage"):
        kwargs[key] = kwargs[key][:stages]
    kwargs["n_conv_per_stage_decoder"] = kwargs["n_conv_per_stage_decoder"][: stages - 1]
    divisors = [math.prod(axis) for axis in zip(*kwargs["strides"], strict=True)]
    return {
        "inherits_from": "3d_fullres",
        "batch_size": BATCH_SIZE,
        "patch_size": _small_patch(full["patch_size"], divisors),
        "architecture": architecture,
    }


def _small_patch(patch: list[int], divisors: list[int]) -> list[int]:
    patch = list(patch)
    while math.prod(patch) > MAX_PATCH_VOXELS:
        axis = max(range(len(patch)), key=lambda i: patch[i] / divisors[i])
        if patch[axis] <= divisors[axis]:
            break
        patch[axis] = math.ceil(patch[axis] / 2 / divisors[axis]) * divisors[axis]
    return patch


def add_small_configuration(plans_file: Path, plans: dict[str, Any]) -> None:
    """Write `plans` with the small configuration added to `plans_file`."""
    configurations = plans["configurations"]
    if "3d_fullres" not in configurations:
        raise ValueError(f"nnU-Net planned no 3D configuration for {plans['dataset_name']}; it needs 3D images")
    small = small_configuration(configurations["3d_fullres"])
    write_json(plans_file, plans | {"configurations": configurations | {CONFIGURATION: small}})
