"""Files are written whole or not at all: under a temporary name in the same folder first, then renamed."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes `path` when the block ends well, and is removed when it does not.

    The temporary name keeps the file's ending, because nibabel and matplotlib choose the format by it.
    """
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of `write_whole` in a folder whose processes are gone.

    Call it before this process writes there: a file under this process's own number is then a predecessor's, as in
    containers, where numbers begin anew.
    """
    if os.name != "posix":  # elsewhere os.kill cannot ask
        return
    for path in folder.glob(".*"):
        match = re.match(r"\.(\d{1,9})-", path.name)
        if match and path.is_file() and not _is_another_process(int(match[1])):
            path.unlink(missing_ok=True)


def _is_another_process(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return number != os.getpid()
