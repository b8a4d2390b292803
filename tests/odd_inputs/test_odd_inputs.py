"""Whatever is odd about an input of any command: the right numbers, or one line that says what is wrong; nothing left.

INPUTS says how many inputs of each command are tried (default: 10, and 25 by the slow test), SEED which.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("try_odd_inputs.py")


def run(default: int) -> None:
    """Try inputs in a process of its own, which can be forked: pytest's has threads and captures."""
    inputs = os.environ.get("INPUTS", str(default))
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--inputs", inputs], capture_output=True, text=True, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_a_few_odd_inputs():
    run(10)


@pytest.mark.slow
def test_many_odd_inputs():
    run(25)
