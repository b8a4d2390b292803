"""Files are written whole or not at all: under a temporary name in the same folder first, then renamed.

Whatever is wrong with a JSON or YAML file arrives as a ValueError of one line that names it.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def user_path(text: str | os.PathLike[str], base: Path | None = None) -> Path:
    """Return the path that a user wrote, on the command line, in a file or in a variable, without its `~`.

    A relative path is meant from `base` where that is given, as in a file that lies there. It is not resolved.

    Raises:
        ValueError: it is empty, holds a null character, or begins with the home folder of an unknown user.
    """
    written = os.fspath(text)
    if not written or "\0" in written:
        raise ValueError(f"{written!r} is not a path")
    try:
        path = Path(written).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{written}: {error}; write the whole path") from None
    return path if base is None else base / path


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


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises ValueError where it is damaged, OSError where it is not there."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not UTF-8, no JSON
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    except RecursionError:
        raise ValueError(f"{path}: not valid JSON: nested too deeply") from None


def read_yaml(path: Path, texts: bool = False) -> Any:
    """Return the content of a YAML file; with `texts`, values as they are written. Raises ValueError if it cannot."""
    import yaml

    try:
        return yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader if texts else yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a date such as 2020-13-45
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ValueError(f"{path} cannot be read: nested too deeply") from None


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
