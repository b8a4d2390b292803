"""What the nnU-Net trainers share."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "with_cpr":  # only when asked for, as it needs torch and nnU-Net
        from nnunet_cpr.training.factory import with_cpr

        return with_cpr
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
