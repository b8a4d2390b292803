"""Reading a study's YAML file with the line of everything in it, so that every mistake can be shown where it is."""

import codecs
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nnunet_cpr.files import refuse_pipe
from nnunet_cpr.yaml_files import check_depth, line_and_problem


@dataclass
class StudyFile:
    """The keys of a YAML file, each with its value and lines, and the mistakes found so far."""

    path: Path
    nodes: dict[str, yaml.Node] = field(default_factory=dict)
    keys: dict[str, yaml.Node] = field(default_factory=dict)
    mistakes: list[tuple[int, str]] = field(default_factory=list)

    def complain(self, node: yaml.Node | None, text: str) -> None:
        """Note a mistake, in one line, at the line of `node`, or of the whole file."""
        self.mistakes.append((node.start_mark.line + 1 if node else 1, " ".join(text.split())))

    def raise_mistakes(self) -> None:
        """Raise ValueError with a line for each mistake, in the file's order, if there are any."""
        if self.mistakes:
            raise ValueError("\n".join(f"{self.path}:{line}: {text}" for line, text in sorted(set(self.mistakes))))

    def check_keys(self, known: list[str]) -> None:
        """Note every key that is not known."""
        for key, node in self.keys.items():
            if key not in known:
                self.complain(node, f"unknown key {key}; there are {', '.join(known)}")

    def text(self, key: str, default: str) -> str:
        """Return a single value as it is written."""
        node = self.nodes.get(key)
        if node is None:
            return default
        if not _is_value(node):
            self.complain(node, f"{key} must be one value")
            return default
        return str(node.value)

    def choice(self, key: str, options: dict[str, Any], default: Any) -> Any:
        """Return what the value stands for."""
        node, text = self.nodes.get(key), self.text(key, "")
        if node is None or not text:
            return default
        if text not in options:
            self.complain(node, f"{key} is {text}, but must be one of {', '.join(options)}")
        return options.get(text, default)

    def listed(self, key: str, read: Callable[[str], Any]) -> list[tuple[Any, yaml.Node]]:
        """Return the values of a list, or of a single value, with their nodes; `read` raises ValueError for bad ones.

        Values are taken as they are written: YAML would take 027 for an octal number.
        """
        node = self.nodes.get(key)
        if node is None:
            return []
        entries = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[Any, yaml.Node] = {}
        for entry in entries:
            try:
                if not _is_value(entry):
                    raise ValueError(f"{key} must be a list of single values, or one value")
                value = read(entry.value)
                if value in found:
                    raise ValueError(f"{key} has {entry.value} twice")
                found[value] = entry
            except ValueError as error:
                self.complain(entry, str(error))
        if not entries:
            self.complain(node, f"{key} is empty")
        return list(found.items())

    def named(self, key: str) -> dict[str, list[yaml.ScalarNode]]:
        """Return the entries of a mapping NAME: VALUE or NAME: [VALUE, ...], or of a list, VALUES being their names."""
        node = self.nodes[key]
        if isinstance(node, yaml.MappingNode):
            pairs = node.value
        elif isinstance(node, yaml.SequenceNode):
            pairs = [(entry, entry) for entry in node.value]
        else:
            pairs = []
        if not pairs:
            self.complain(node, f"{key} must be a list, or a mapping of names to values, and not empty")
        found = {}
        for name, value in pairs:
            values = value.value if isinstance(value, yaml.SequenceNode) else [value]
            if not values or not all(map(_is_value, [name, *values])):
                self.complain(name, f"{key}: every entry must be VALUE, NAME: VALUE or NAME: [VALUE, ...]")
            elif name.value in found:
                self.complain(name, f"{key} has {name.value} twice")
            else:
                found[name.value] = values
        return found


def read_study_file(path: Path) -> StudyFile:
    """Return the file's keys. Raises ValueError if it is not YAML, or no mapping of keys to values."""
    refuse_pipe(path)
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such file; give the study's YAML file") from error
    line, node = 1, None
    try:
        text = content.decode("utf-8")
        check_depth(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        problem = "" if isinstance(node, yaml.MappingNode) else "there are no keys such as datasets and trainers"
    except UnicodeDecodeError as error:
        line, problem = content.count(b"\n", 0, error.start) + 1, "not UTF-8 text"
    except yaml.reader.ReaderError as error:
        line, problem = content.decode("utf-8").count("\n", 0, error.position) + 1, f"not YAML: {error.reason}"
    except yaml.MarkedYAMLError as error:
        line, problem = line_and_problem(error)
        problem = f"not YAML: {problem}"
    except RecursionError:
        problem = "nested too deeply"
    if problem or node is None:
        raise ValueError(f"{path}:{line}: {problem}")
    file = StudyFile(path)
    for key, value in node.value:
        if not _is_value(key):
            file.complain(key, "a key must be one word")
        elif key.value in file.nodes:
            file.complain(key, f"the key {key.value} is there twice")
        else:
            file.nodes[key.value], file.keys[key.value] = value, key
    return file


def _is_value(node: yaml.Node) -> bool:
    """Whether it is a single value, and neither empty nor null."""
    return isinstance(node, yaml.ScalarNode) and bool(node.value.strip()) and node.tag != "tag:yaml.org,2002:null"
