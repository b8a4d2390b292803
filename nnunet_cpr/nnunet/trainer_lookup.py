"""The trainers that nnU-Net gets from us, by their names."""

from typing import TYPE_CHECKING

from nnunet_cpr.nnunet.trainer_sources import defining_file
from nnunet_cpr.training.settings import family_of

if TYPE_CHECKING:
    from nnunet_cpr.training.trainer import NamedTrainer


def trainer_attribute(name: str) -> "type[NamedTrainer]":
    """Return our trainer of that name, as `__getattr__` of a module in which nnU-Net looks for it.

    A trainer of the user's own keeps its name, even if it is also one of ours.

    Raises:
        AttributeError: it is not one of our trainers, or a file of nnU-Net's or of the user's defines it.
    """
    if family_of(name) is None:
        raise AttributeError(name)
    from nnunet_cpr.training.factory import explain_once, trainer_class

    file = defining_file(name)
    try:
        trainer = trainer_class(name)
    except ValueError as error:
        if file is None:
            explain_once(f"nnunet-cpr has no such trainer. {error}")
        raise AttributeError(str(error)) from None
    if file is not None:
        explain_once(f"{name} is taken from {file}; nnunet-cpr has a trainer of that name, too, and leaves it to you.")
        raise AttributeError(name)
    return trainer
