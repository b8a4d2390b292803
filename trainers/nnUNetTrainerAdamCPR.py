"""`nnUNetTrainerAdamCPR` and every `nnUNetTrainerAdamCPR_...`: Adam with Constrained Parameter Regularization."""

from nnunet_cpr.training.trainer import NamedTrainer, trainer_attribute


def __getattr__(name: str) -> type[NamedTrainer]:
    return trainer_attribute("nnUNetTrainerAdamCPR", name)
