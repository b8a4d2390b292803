"""Images in which a model finds other data than it was trained on: rotated and noisy."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from harness.images import Sample

LEAST_TURN, MOST_TURN = 30, 60
"""Degrees, against the clock."""
NOISE = 40
"""Standard deviation of what is added, of gray values from 0 to 255."""


def shifted(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Return images with their labels, each rotated and with noise, the same ones for the same seed."""
    draws = np.random.default_rng(seed)
    return [(_shift(image, draws), label) for image, label in samples]


def _shift(image: Image.Image, draws: np.random.Generator) -> Image.Image:
    turned = image.rotate(draws.uniform(LEAST_TURN, MOST_TURN), Image.Resampling.BILINEAR)
    noisy = np.asarray(turned) + draws.normal(0, NOISE, (*turned.size[::-1], 1))
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))
