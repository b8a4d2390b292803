"""Files spoilt in random ways, the same ones for the same seed, and whether a command takes them well.

INPUTS says how many spoilt versions of each file the tests try (default: what each of them says), SEED which.
"""

import gzip
import json
import math
import os
import random
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

SEED = int(os.environ.get("SEED", 0))
DEEP = "[" * 100_000
VALUES: list[Any] = [None, True, False, 0, -1, 1.5, 7, 1e308, math.inf, -math.inf, math.nan, 10**30, 10**400, "",
          "text", "1e999", "\0", "é" * 3, "../..", [], {}, [[]], [None], {"a": None}, {"0": [1]}]  # fmt: skip
CELLS = ["", "nan", "inf", "-inf", "1e400", "-1", "0", "1.5", "text", "9" * 40, "9" * 5000, '"', "\0", "1,2,3", "1e999"]
CONTENTS = {
    "empty": b"",
    "one byte": b"\0",
    "spaces": b"  \n\n ",
    "not UTF-8": b"\xff\xfe\xfa" * 20,
    "a page": b"<!DOCTYPE html><html><body>404</body></html>",
    "a PNG": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(40),
    "a zip": b"PK\x03\x04" + bytes(60),
    "a pickle": b"\x80\x02}q\x00.",
    "a gzip": gzip.compress(b"text", mtime=0),
    "a number": b"7",
    "a text": b'"text"',
    "null": b"null",
    "a list": b"[1, 2]",
    "a mapping": b'{"a": 1}',
    "deep lists": DEEP.encode(),
    "deep mappings": b'{"a":' * 50_000,
}


def inputs(default: int) -> int:
    """How many spoilt versions of a file to try."""
    return int(os.environ.get("INPUTS", default))


def spoil(path: Path, generator: random.Random) -> str:
    """Spoil a file and say how. It may be missing or a folder afterwards."""
    content = path.read_bytes()
    ways: list[Callable[[bytes, random.Random], tuple[str, bytes]]] = [_truncated, _flipped, _overwritten, _another]
    name = path.name.lower()
    if name.endswith(".json"):
        ways += [_json] * 6
    elif name.endswith((".yaml", ".yml")):
        ways += [_yaml] * 6
    elif name.endswith((".csv", ".txt")):
        ways += [_cell, _cell, _cell, _lines]
    elif name.endswith(".nii"):
        ways += [_header] * 3
    elif name.endswith(".gz"):
        ways += [_inside_gzip] * 4
    if generator.random() < 0.06:
        path.unlink()
        kind = generator.choice(["missing", "a folder", "a link to nowhere"])
        if kind == "a folder":
            path.mkdir()
        elif kind == "a link to nowhere":
            path.symlink_to(path.with_name("nowhere"))
        return kind
    said, new = generator.choice(ways)(content, generator)
    path.write_bytes(new)
    return said


def _truncated(content: bytes, generator: random.Random) -> tuple[str, bytes]:
    length = generator.randrange(len(content) or 1)
    return f"truncated to {length} of {len(content)} bytes", content[:length]


def _flipped(content: bytes, generator: random.Random) -> tuple[str, bytes]:
    spoilt = bytearray(content)
    places = [generator.randrange(8 * len(spoilt)) for _ in range(generator.choice([1, 1, 2, 5, 30]))] if spoilt else []
    for place in places:
        spoilt[place // 8] ^= 1 << place % 8
    return f"bits {places} flipped", bytes(spoilt)


def _overwritten(content: bytes, generator: random.Random) -> tuple[str, bytes]:
    start, length = generator.randrange(len(content) or 1), generator.choice([1, 4, 16, 200])
    new = generator.choice([bytes(length), b"\xff" * length, generator.randbytes(length)])[: len(content) - start]
    return f"{length} bytes at {start} overwritten", content[:start] + new + content[start + len(new) :]


def _another(content: bytes, generator: random.Random) -> tuple[str, bytes]:
    kind = generator.choice([*CONTENTS, "noise", "twice", "with a byte order mark"])
    whole = {
        "noise": generator.randbytes(200),
        "twice": 2 * content,
        "with a byte order mark": b"\xef\xbb\xbf" + content,
    }
    return f"replaced: {kind}", (CONTENTS | whole)[kind]


def _json(content: bytes, generator: random.Random) -> tuple[str, bytes]:
    said, tree = _changed_tree(json.loads(content), generator)
    return said, json.dumps(tree).replace('"DEEP"', DEEP + "]" * len(DEEP)).encode()


def _yaml(content: bytes, generator: random.Random) -> tuple[str, bytes]:
    said, tree = _changed_tree(yaml.safe_load(content), generator)
    odd = generator.choice(
        ["2020-13-45", "&a [*a]", "!!python/name:os.system", "0o9", "0x", "1:99", "!!int text", ".inf"]
    )
    text = yaml.safe_dump(tree).replace("DEEP", DEEP + "]" * len(DEEP)).replace("ODD", odd)
    return said.replace("ODD", odd), text.encode()


def _changed_tree(tree: object, generator: random.Random) -> tuple[str, object]:
    """Replace or remove one value anywhere in a tree of mappings and lists."""
    places: list[tuple[Any, Any]] = []
    """A mapping or list, and a key or place in it."""
    _walk(tree, places)
    if not places:
        return "a list around it", [tree]
    holder, key = generator.choice(places)
    if generator.random() < 0.2:
        del holder[key]
        return f"without {key!r}", tree
    value = generator.choice([*VALUES, "DEEP", "ODD", "MANY"])
    holder[key] = [holder[key]] * 300 if value == "MANY" else value
    return f"{key!r} is {value!s:.40}", tree


def _walk(tree: object, places: list[tuple[Any, Any]]) -> None:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        places.append((tree, key))
        _walk(value, places)


def _cell(content: bytes, generator: random.Random) -> tuple[str, bytes]:
    """Replace one word of a line, words being separated by commas or spaces."""
    lines = content.decode().split("\n")
    number = generator.randrange(len(lines))
    separator = "," if "," in lines[number] else " "
    words = lines[number].split(separator)
    place, cell = generator.randrange(len(words)), generator.choice(CELLS)
    words[place] = cell
    lines[number] = separator.join(words)
    return f"line {number + 1}, word {place + 1} is {cell:.20}", "\n".join(lines).encode()


def _lines(content: bytes, generator: random.Random) -> tuple[str, bytes]:
    lines = content.decode().split("\n")
    first, second = generator.randrange(len(lines)), generator.randrange(len(lines))
    how = generator.choice(["dropped", "swapped", "doubled"])
    if how == "dropped":
        del lines[first]
    elif how == "doubled":
        lines.insert(first, lines[first])
    else:
        lines[first], lines[second] = lines[second], lines[first]
    return f"line {first + 1} {how}", "\n".join(lines).encode()


def _header(content: bytes, generator: random.Random) -> tuple[str, bytes]:
    """Overwrite a number in a NIfTI header: 348 bytes of two- and four-byte fields."""
    place, length = 2 * generator.randrange(174), generator.choice([2, 4])
    new = generator.choice(
        [bytes(length), b"\xff" * length, b"\x00\x7f"[-length:] * (length // 2), generator.randbytes(length)]
    )
    return f"header at {place}: {new.hex()}", content[:place] + new + content[place + length :]


def _inside_gzip(content: bytes, generator: random.Random) -> tuple[str, bytes]:
    way = generator.choice([_header, _header, _header, _flipped, _truncated])
    said, new = way(gzip.decompress(content), generator)
    return f"uncompressed: {said}", gzip.compress(new, compresslevel=1, mtime=0)


def contents(folder: Path, *without: Path) -> dict[str, bytes | None]:
    """What is in a folder, but for the folders `without`: all files with their bytes, links and folders."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if not any(path == one or one in path.parents for one in without)
    }


class Fuzz:
    """Spoils one file after another and collects what commands took badly.

    Args:
        good: a folder whose files commands take well.
        place: where copies of it may be made.
    """

    def __init__(self, good: Path, place: Path) -> None:
        self.good, self.place = good, place
        self.tried, self.refused = 0, 0
        self.problems: list[str] = []

    def spoil(self, name: str, count: int, check: Callable[[Path], str | None]) -> None:
        """Try `count` spoilt versions of the file `name`.

        `check` gets the folder, runs the command and returns its single line of complaint, or None for all is well. It
        raises AssertionError for what a command must not do.
        """
        for number in range(count):
            generator = random.Random(f"{SEED} {name} {number}")
            folder = self.place / "world"
            shutil.copytree(self.good, folder, symlinks=True)
            said = spoil(folder / name, generator)
            self.tried += 1
            try:
                self.refused += check(folder) is not None
            except (Exception, SystemExit) as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                what = f"{type(error).__name__}: {' '.join(str(error).split()):.300}"
                self.problems.append(f"{name} {number} ({said}): {what} [{Path(where.filename).name}:{where.lineno}]")
            finally:
                shutil.rmtree(folder)

    def end(self) -> None:
        """Say how many were tried, and fail if there were problems."""
        print(f"{self.tried} damaged files tried, {self.refused} refused, {len(self.problems)} taken badly")
        assert not self.problems, f"{len(self.problems)} of {self.tried}:\n" + "\n".join(self.problems)


def one_line(capsys: pytest.CaptureFixture[str], code: int, several: bool = False) -> str | None:
    """Return the line on stderr of a command that ended with exit code 2, None for 0; nothing else is allowed."""
    lines = capsys.readouterr().err.splitlines()
    assert code in (0, 2), f"exit code {code}"
    assert not any("Traceback" in line for line in lines)
    if code == 0:
        return None
    assert lines and (several or len(lines) == 1), f"{len(lines)} lines: {lines[:3]}"
    assert all(0 < len(line) < 2000 for line in lines), f"a line of {max(map(len, lines))} characters"
    return lines[0]
