"""Modules that programs of others import by the names they had before."""

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "scripts"


def test_plain_folders():
    from nnunet_cpr.evaluation import folders
    from nnunet_cpr.evaluation.readers import prediction_folders

    assert folders is prediction_folders


def test_what_the_scripts_share():
    program = "from common.images import read_image; print(read_image.__name__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=SCRIPTS, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "read_image"
