"""The plain loop that shows AdamCPR."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_loop.py"


def test_both_networks_learn_and_the_bounds_hold():
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True)
    accuracies = re.findall(r"accuracy (0\.\d+)", done.stdout)
    assert len(accuracies) == 2 and all(float(one) > 0.9 for one in accuracies)
    bounds = re.findall(r"R ([\d.]+), bound ([\d.]+), lambda [\d.e-]+$", done.stdout, re.MULTILINE)
    assert len(bounds) == 3
    assert all(float(reg) < 1.02 * float(bound) for reg, bound in bounds)
    assert len(SCRIPT.read_text().splitlines()) <= 60
