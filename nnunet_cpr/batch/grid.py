"""The grid of a study: trainers named with `{ws}` stand for one trainer for each value of `ws`."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from nnunet_cpr.batch.study_file import StudyFile

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass
class Grid:
    """The values of each placeholder, as they are written, and which placeholders were used so far."""

    values: dict[str, list[str]]
    keys: dict[str, yaml.Node]
    used: set[str] = field(default_factory=set)
    whole: bool = True
    """False after a mistake in the grid itself; what follows from it is not noted then."""

    def expand(
        self, file: StudyFile, name: str, nodes: list[yaml.ScalarNode]
    ) -> Iterator[tuple[str, list[tuple[str, yaml.Node]]]]:
        """Yield a name and its trainers for every combination of the values that an entry of `trainers` uses.

        An entry that cannot be expanded is noted as a mistake, and nothing is yielded.
        """
        wanted = _placeholders(name)
        mistakes = []
        for node in nodes if self.whole else []:
            there = _placeholders(node.value)
            self.used |= there | wanted
            if unknown := [key for key in [*there, *wanted] if key not in self.values]:
                known = f"the grid has {', '.join(self.values)}" if self.values else "there is no grid"
                mistakes.append((node, f"unknown placeholder {{{unknown[0]}}}; {known}"))
            elif more := sorted(there - wanted):
                mistakes.append((node, f"the name {name} must hold {{{more[0]}}}, as its trainer {node.value} does"))
            elif less := sorted(wanted - there):
                mistakes.append((node, f"{node.value} must hold {{{less[0]}}}, as its name {name} does"))
        for node, text in mistakes:
            file.complain(node, text)
        if mistakes or not self.whole:
            return
        varied = [key for key in self.values if key in wanted]
        for combination in itertools.product(*(self.values[key] for key in varied)):
            chosen = dict(zip(varied, combination, strict=True))
            yield _fill(name, chosen), [(_fill(node.value, chosen), node) for node in nodes]

    def complain_of_unused(self, file: StudyFile) -> None:
        """Note every placeholder that no trainer has."""
        for key, node in self.keys.items():
            if self.whole and key not in self.used:
                file.complain(node, f"no trainer uses the grid's {{{key}}}")


def read_grid(file: StudyFile) -> Grid:
    """Return the grid of a study, empty if there is none."""
    grid = Grid({}, {})
    node = file.nodes.get("grid")
    if node is None:
        return grid
    mistakes = len(file.mistakes)
    if not isinstance(node, yaml.MappingNode) or not node.value:
        file.complain(node, "grid must be a mapping of placeholders to values, such as ws: [1000, 2000]")
    else:
        keys = {key.value: key for key, _ in node.value if isinstance(key, yaml.ScalarNode)}
        for name, values in file.named("grid").items():
            grid.keys[name], grid.values[name] = keys[name], [value.value for value in values]
            if not re.fullmatch(r"\w+", name):
                file.complain(keys[name], f"the placeholder {name} must consist of letters, digits and _")
            if len(set(grid.values[name])) < len(values):
                file.complain(keys[name], f"the grid's {name} has a value twice")
    grid.whole = len(file.mistakes) == mistakes
    return grid


def _placeholders(text: str) -> set[str]:
    return set(_PLACEHOLDER.findall(text))


def _fill(text: str, chosen: dict[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: chosen[found[1]], text)
