"""`nnUNetTrainerSGD` and every `nnUNetTrainerSGD_...`: SGD with weight decay, nnUNetTrainerCPR's baseline."""

from nnunet_cpr.training.trainer import NamedTrainer, trainer_attribute


def __getattr__(name: str) -> type[NamedTrainer]:
    return trainer_attribute("nnUNetTrainerSGD", name)
