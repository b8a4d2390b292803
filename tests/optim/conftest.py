import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fused_backends import WatchedBackend, in_use, skip_where_missing

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `reference`
torch.set_num_threads(1)  # the tensors are small: more threads only wait for each other


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["c", "triton", None], ids=["c", "triton", "torch"])
def backend(request: pytest.FixtureRequest) -> Iterator[WatchedBackend]:
    """A kernel backend, in use and watched; None: torch's own operators."""
    skip_where_missing(request.param)
    with in_use(request.param) as watched:
        yield watched
