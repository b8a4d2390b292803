"""Plans and configuration of a training: what nnU-Net calls a model's folder by, besides its trainer."""

from typing import NamedTuple


class Setup(NamedTuple):
    """One of nnU-Net's plans and one of their configurations."""

    plans: str
    configuration: str

    @property
    def name(self) -> str:
        """As in the names of nnU-Net's folders."""
        return f"{self.plans}__{self.configuration}"
