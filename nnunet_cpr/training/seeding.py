"""Seeds that depend on where a training is, so that a resumed one draws what the uninterrupted one drew."""

import random
from collections.abc import Sequence

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform


def seed_everything(*entropy: int) -> None:
    """Seed Python's, NumPy's and torch's global generators, each with its own number made of all the given ones."""
    torch.manual_seed(_seed_all_but_torch(entropy))


def seed_cpu(*entropy: int) -> None:
    """Do the same, but leave the generators of GPUs as they are."""
    torch.default_generator.manual_seed(_seed_all_but_torch(entropy))


def _seed_all_but_torch(entropy: Sequence[int]) -> int:
    for_python, for_numpy, for_torch = (int(n) for n in np.random.SeedSequence(entropy).generate_state(3))
    random.seed(for_python)
    np.random.seed(for_numpy)
    return for_torch


def without_benchmarks(transforms: ComposeTransforms) -> ComposeTransforms:
    """Let the blur always use the same algorithm; nnU-Net times two of them, which differ in the last digits."""
    for transform in transforms.transforms:
        inner: BasicTransform = transform.transform if isinstance(transform, RandomTransform) else transform
        if isinstance(inner, GaussianBlurTransform):
            inner.benchmark = False
    return transforms
