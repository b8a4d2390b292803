"""`nnUNetTrainerAdamW` and every `nnUNetTrainerAdamW_...`: AdamW, nnUNetTrainerAdamCPR's baseline."""

from nnunet_cpr.training.trainer import NamedTrainer, trainer_attribute


def __getattr__(name: str) -> type[NamedTrainer]:
    return trainer_attribute("nnUNetTrainerAdamW", name)
