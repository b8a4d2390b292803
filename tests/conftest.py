"""Its presence puts this folder on the path, so that the tests of all folders find its modules."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
import torch
from hippocampus import HIPPOCAMPUS, stand_in

# Without a GPU the GPU kernels run in Triton's interpreter, which must be asked for before anything imports Triton.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def signals_arrive() -> Iterator[None]:
    """A shell ignores SIGINT in what it runs in the background, and nohup SIGHUP; children would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGHUP, before[1])


@pytest.fixture(scope="session")
def hippocampus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the Decathlon's Task04_Hippocampus, or of its stand-in with eight cases."""
    return HIPPOCAMPUS if HIPPOCAMPUS.is_dir() else stand_in(tmp_path_factory.mktemp("stand_in"))


@pytest.fixture(autouse=True)
def users_style(request: pytest.FixtureRequest) -> Iterator[None]:
    """Somebody's matplotlibrc, which our figures must put aside: it asks for a LaTeX that is not there.

    Only where nnU-Net draws none of its own figures, which take the user's style.
    """
    ours = request.path.parent.name in ("evaluation", "scripts")
    with matplotlib.rc_context({"text.usetex": ours}):
        yield
