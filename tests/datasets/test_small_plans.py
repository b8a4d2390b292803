import json
import math

import pytest

from nnunet_cpr.datasets.small_plans import (
    CONFIGURATION,
    MAX_PATCH_VOXELS,
    add_small_configuration,
    small_configuration,
)


def full(patch, stages, strides=None) -> dict:
    kwargs = {
        "n_stages": stages,
        "features_per_stage": [min(320, 32 * 2**i) for i in range(stages)],
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": strides or [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    return {"patch_size": patch, "batch_size": 9, "architecture": {"network_class_name": "U", "arch_kwargs": kwargs}}


def test_hippocampus_keeps_its_patch_and_gets_half_the_features():
    small = small_configuration(full([40, 56, 40], 4))
    assert small["inherits_from"] == "3d_fullres"
    assert (small["patch_size"], small["batch_size"]) == ([40, 56, 40], 4)
    assert small["architecture"]["arch_kwargs"]["features_per_stage"] == [16, 32, 64, 128]


@pytest.mark.parametrize(
    ("patch", "stages", "strides"),
    [
        ([128, 128, 128], 6, None),
        ([112, 112, 112], 5, None),
        ([48, 192, 192], 6, [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]]),
        ([80, 192, 160], 6, None),
        ([20, 320, 256], 7, [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2], [1, 2, 2]]),
        ([32, 32, 32], 3, None),
    ],
)
def test_large_patches_shrink_and_stay_divisible(patch, stages, strides):
    source = full(patch, stages, strides)
    before = json.dumps(source)
    small = small_configuration(source)
    kwargs = small["architecture"]["arch_kwargs"]
    assert math.prod(small["patch_size"]) <= MAX_PATCH_VOXELS
    assert all(new <= old for new, old in zip(small["patch_size"], patch, strict=True))
    for axis, size in enumerate(small["patch_size"]):
        assert size % math.prod(stride[axis] for stride in kwargs["strides"]) == 0
    assert kwargs["n_stages"] == len(kwargs["strides"]) == len(kwargs["features_per_stage"]) == min(stages, 4)
    assert len(kwargs["n_conv_per_stage_decoder"]) == kwargs["n_stages"] - 1
    assert json.dumps(source) == before


def test_nnunet_understands_the_configuration(tmp_path):
    handler = pytest.importorskip("nnunetv2.utilities.plans_handling.plans_handler")
    plans = {"dataset_name": "D", "plans_name": "P", "configurations": {"3d_fullres": full([40, 56, 40], 4)}}
    plans["configurations"]["3d_fullres"] |= {"spacing": [1, 1, 1], "data_identifier": "P_3d_fullres"}
    add_small_configuration(tmp_path / "plans.json", plans)
    read = handler.PlansManager(str(tmp_path / "plans.json")).get_configuration(CONFIGURATION)
    assert (read.batch_size, read.patch_size, read.data_identifier) == (4, [40, 56, 40], "P_3d_fullres")


def test_two_dimensional_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match="planned no 3D configuration for D; it needs 3D images"):
        add_small_configuration(tmp_path / "plans.json", {"dataset_name": "D", "configurations": {"2d": {}}})
    assert not list(tmp_path.iterdir())
