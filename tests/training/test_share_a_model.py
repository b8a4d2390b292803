"""The how-to about handing a model to people without nnunet-cpr, as its reader would do it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from training_helpers import make_trainer, run_command

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "share-a-model.md"
WITHOUT_US = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if type(finder).__name__ != "TrainerFinder"]
sys.modules["nnunet_cpr"] = None
from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder
predict_entry_point_modelfolder()
"""


@pytest.mark.slow
@pytest.mark.parametrize("base", ["nnUNetTrainer", "nnUNetTrainerBN"])
def test_people_without_nnunet_cpr_predict_the_same(nnunet, tmp_path, base):
    name = "nnUNetTrainerCPR" + f"_on_{base}" * (base != "nnUNetTrainer") + "_ws1_1epochs_3iters_seed1"
    trainer = make_trainer(nnunet, name)
    trainer.run_training()
    original = Path(trainer.output_folder).parent
    shared = tmp_path / f"{base}__nnUNetPlans__tiny"
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    code = re.sub(r'model = Path\(".*"\)', f"model = Path({str(original)!r})", code)
    code = re.sub(r'shared = Path\(".*"\)', f"shared = Path({str(shared)!r})", code)
    code = re.sub(r'trainer = ".*"', f"trainer = {base!r}", code)
    subprocess.run([sys.executable, "-c", code], check=True)

    (tmp_path / "in").mkdir()
    image = sorted((nnunet.raw / "imagesTr").iterdir())[0]
    shutil.copy(image, tmp_path / "in" / image.name)
    options = ["-i", str(tmp_path / "in"), "-f", "0", "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_tta"]
    run_command("nnUNetv2_predict_from_modelfolder", "-m", str(original), "-o", str(tmp_path / "ours"), *options)
    bare = [sys.executable, "-c", WITHOUT_US]
    refused = subprocess.run([*bare, "-m", original, "-o", tmp_path / "x", *options], capture_output=True, text=True)
    assert f"Could not find requested nnunet trainer {name}" in refused.stderr
    subprocess.run([*bare, "-m", shared, "-o", tmp_path / "theirs", *options], check=True)
    case = image.name.replace("_0000", "")
    ours, theirs = (np.asarray(nibabel.load(tmp_path / who / case).dataobj) for who in ("ours", "theirs"))
    assert np.array_equal(ours, theirs)
