"""YAML files as users write them: a key that is there twice is a mistake, and aliases cannot multiply a file's size."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_cpr.files import refuse_pipe

LARGEST = 100_000
"""Values that a file may hold when all its aliases are written out."""
DEEPEST = 100
"""Levels of nesting. Python's own limit depends on who called, and other libraries change it."""


def read_yaml(path: Path, texts: bool = False) -> Any:
    """Return the content of a YAML file; with `texts`, values as they are written.

    Raises:
        ValueError: it cannot be read, has a key twice, or its aliases hold each other too often; in one line.
    """
    import yaml

    refuse_pipe(path)
    try:
        text = path.read_text(encoding="utf-8")
        check_depth(text)
        loader = (yaml.BaseLoader if texts else yaml.SafeLoader)(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            check_size(node)
            _check_keys(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RepeatedKey as error:
        raise ValueError(f"{path}: {error}") from None
    except yaml.MarkedYAMLError as error:
        line, problem = line_and_problem(error)
        raise ValueError(f"{path}:{line}: it cannot be read as YAML: {problem}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a date such as 2020-13-45
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ValueError(f"{path} cannot be read: nested too deeply") from None


class RepeatedKey(ValueError):
    """A mapping has a key twice."""


def line_and_problem(error: Any) -> tuple[int, str]:
    """Return the line of a `yaml.MarkedYAMLError` and what it says, with advice where its own words help nobody."""
    mark = error.problem_mark or error.context_mark
    problem = str(error.problem or error.context)
    if problem.endswith("but got '{'"):  # within [] and {}, braces are YAML's own
        problem += "; put names with a {placeholder} into quotes"
    elif "<block end>" in problem:
        problem += "; check the indentation of this line and of those above"
    return (mark.line if mark else 0) + 1, problem


def check_depth(text: str) -> None:
    """Raise RecursionError for YAML that is nested more than DEEPEST levels deep, YAMLError where it is no YAML."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):  # which does not recurse, as composing does
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise RecursionError(f"nested more than {DEEPEST} levels deep")


def check_size(root: Any) -> None:
    """Raise ValueError for a YAML node that holds more than LARGEST values with its aliases written out, or itself."""
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = LARGEST  # until it is known: a node that holds itself has no end
            sizes[id(node)] = 1 + sum(map(size, _children(node)))
        return sizes[id(node)]

    if size(root) > LARGEST:
        raise ValueError(f"with its aliases (*name) written out it holds more than {LARGEST} values; shorten it")


def _check_keys(root: Any) -> None:
    import yaml

    seen, waiting = set(), [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        waiting += _children(node)
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else []:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise RepeatedKey(f"the key {key.value} is there twice, in line {lines[key.value]} and in line {line}")
            lines[key.value] = line


def _children(node: Any) -> Iterator[Any]:
    """Return the nodes in a YAML mapping or sequence."""
    for entry in node.value if isinstance(node.value, list) else []:
        yield from entry if isinstance(entry, tuple) else (entry,)
