"""Our trainers for nnUNet_extTrainer, for where Python does not read `nnunet_cpr.pth`.

Python reads such files in site-packages only, not in a folder of PYTHONPATH or of `pip install --target`.
"""

from typing import Any

from nnunet_cpr.nnunet.trainer_lookup import trainer_attribute


def __getattr__(name: str) -> Any:
    return trainer_attribute(name)
