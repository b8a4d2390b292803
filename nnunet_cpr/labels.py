"""Labels of a dataset.json, nnU-Net's or the Medical Segmentation Decathlon's: names, values and the ignore label.

Names are data: whatever a label is called, it keeps its own row in every table and figure. A name that would read like
another one, or like the foreground mean, gets its value behind it. Imports nothing heavy.
"""

import json
import re
from collections import Counter
from collections.abc import Container, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nnunet_cpr.files import read_json

Label = int | tuple[int, ...]
"""A label's value, or the values of a region."""

FOREGROUND = "foreground mean"
"""What stands in the place of a label for the mean over all of them. No label is called so."""
LARGEST_LABEL = 65535
"""Labels are uint16 in nnU-Net."""
IGNORE = "ignore"
"""nnU-Net's name of the ignore label."""
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Control characters, those that turn the order of letters around, and what UTF-8 or XML cannot hold."""


def printable(name: str) -> str:
    """Return a name on one line, with escapes for characters that a terminal, a page or a figure cannot show."""
    return escaped(" ".join(name.split()))


def escaped(text: str) -> str:
    """Return a text with escapes for control characters, and for what UTF-8 or XML cannot hold."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def check_case_name(case: str, place: Path) -> None:
    """Raise ValueError for the name of a case that no table or figure could show."""
    if _UNPRINTABLE.search(case):
        raise ValueError(f"{place}: the case {case!a} has no UTF-8 name that can be shown; rename its files")


def read_dataset_json(path: Path) -> dict[str, Any]:
    """Return the content of a dataset.json.

    Raises:
        ValueError: it is not valid JSON, holds no keys, or a key twice, of which JSON would keep only the last.
        OSError: it cannot be read.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: there are no keys such as labels")

    def refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if repeated := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
            raise ValueError(f"{path}: {printable(repeated[0])!r} is there twice in the same braces; name it apart")
        return dict(pairs)

    json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=refuse_repeats)
    return content


def foreground_labels(dataset_json: Mapping[str, Any]) -> dict[str, Label]:
    """Return the labels that nnU-Net evaluates by name: without background and ignore label, regions as tuples.

    The names are all different, also when they are printed, and none is that of the foreground mean.

    Raises:
        ValueError: two labels have the same value, or a value is none.
    """
    found: list[tuple[str, Label]] = []
    names: dict[tuple[int, ...], str] = {}
    for name, written in _entries(dataset_json):
        if name == IGNORE and written is None:
            continue
        value = _value(written)
        values = value if isinstance(value, tuple) else (value,)
        if set(values) == {0}:
            continue
        if values in names:
            raise ValueError(
                f"the labels {printable(names[values])!r} and {printable(name)!r} have the same value "
                f"{_shown(value)}; give each value one name"
            )
        names[values] = name
        if name != IGNORE:
            found.append((name, value))
    return _named_apart(found)


def ignore_label(dataset_json: Mapping[str, Any]) -> int | None:
    """Return the value that marks voxels of the references that count for nothing, None without."""
    value = next((value for name, value in _entries(dataset_json) if name == IGNORE), None)
    return None if value is None else _label(value)


def name_of_value(value: int, named: Mapping[str, Label]) -> str:
    """Return what a value that has no name is called beside those that have one."""
    taken = {printable(name) for name in named}
    return str(value) if str(value) not in taken else _marked(str(value), value, taken)


def value_of_name(name: str, named: Mapping[str, Label]) -> Label:
    """Return the value of a label that :func:`foreground_labels` or :func:`name_of_value` has named."""
    return named[name] if name in named else int(name.partition(" ")[0])


def _entries(dataset_json: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return (name, value) of every label."""
    labels = dataset_json["labels"]
    if not isinstance(labels, Mapping):
        raise ValueError("its labels are not a mapping of names to values")
    if "background" not in labels and all(
        str(key).isdecimal() and isinstance(text, str) for key, text in labels.items()
    ):
        return [(name, value) for value, name in labels.items()]  # the Decathlon's way round
    return [(str(name), value) for name, value in labels.items()]


def _value(written: Any) -> Label:
    if not isinstance(written, (list, tuple)):
        return _label(written)
    if not written:
        raise ValueError("a region without values is no label")
    return tuple(map(_label, written))


def _label(value: Any) -> int:
    """Return a label's value. Raises ValueError for what cannot be one."""
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            if float(value) in range(LARGEST_LABEL + 1):
                return int(float(value))
    raise ValueError(f"{value!r:.80} is no label; labels are whole numbers from 0 to {LARGEST_LABEL}")


def _named_apart(labels: list[tuple[str, Label]]) -> dict[str, Label]:
    """Return the labels by name, with the value behind every name that would be empty or ambiguous in print."""
    counts = Counter(printable(name) for name, _ in labels)

    def is_clear(name: str) -> bool:
        shown = printable(name)
        return bool(shown) and counts[shown] == 1 and shown.casefold() != FOREGROUND

    taken = {printable(name) for name, _ in labels if is_clear(name)}
    found: dict[str, Label] = {}
    for name, value in labels:
        clean = printable(name) if _UNPRINTABLE.search(name) else name
        shown = clean if is_clear(name) else _marked(printable(name), value, taken)
        taken.add(shown)
        found[shown] = value
    return found


def _marked(name: str, value: Label, taken: Container[str]) -> str:
    """Return the name with its value behind it, more than once if that is taken, too."""
    mark = f"(label {_shown(value)})"
    marked = f"{name} {mark}".strip()
    while marked in taken:
        marked = f"{marked} {mark}"
    return marked


def _shown(value: Label) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
