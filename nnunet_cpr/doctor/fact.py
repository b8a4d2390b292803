"""One fact about the installation or the machine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """A line of the doctor's report."""

    name: str
    value: str
    advice: str = ""
    """What to do about it; empty where all is well."""
    needed: bool = True
    """Whether training needs it; advice about anything else is no fault."""

    @property
    def state(self) -> str:
        """ "ok", "note" (something optional is missing) or "FAULT"."""
        if not self.advice:
            return "ok"
        return "FAULT" if self.needed else "note"
