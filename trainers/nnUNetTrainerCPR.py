"""`nnUNetTrainerCPR` and every `nnUNetTrainerCPR_...`: nnU-Net's SGD with Constrained Parameter Regularization."""

from nnunet_cpr.training.trainer import NamedTrainer, trainer_attribute


def __getattr__(name: str) -> type[NamedTrainer]:
    return trainer_attribute("nnUNetTrainerCPR", name)
