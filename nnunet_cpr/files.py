"""Files are written whole or not at all: under a temporary name in the same folder first, then renamed.

Whatever is wrong with a JSON file arrives as a ValueError of one line that names it.
"""

import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NNUNET_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer")
PREFIX = ".nnunet-cpr"
"""How the names of all our temporary files and folders begin."""
TEMPORARY = re.compile(re.escape(PREFIX) + r"-\d+-[0-9a-f]{12}(-.*)?", re.DOTALL)
_KEPT_OF_A_NAME = 40
"""Characters of a file's name that its temporary name ends with: names have 255 bytes at most."""


def user_path(text: str | os.PathLike[str], base: Path | None = None) -> Path:
    """Return the path that a user wrote, on the command line, in a file or in a variable, without its `~`.

    A relative path is meant from `base` where that is given, as in a file that lies there. It is not resolved.

    Raises:
        ValueError: it is empty, holds a null character, or begins with the home folder of an unknown user.
    """
    written = os.fspath(text)
    if not written:
        raise ValueError("one of the paths is empty; is a variable in the command not set?")
    if "\0" in written:
        raise ValueError(f"{written!r} is not a path")
    expanded = os.path.expanduser(written)  # not Path's, which takes ./~ for the home folder, too
    if expanded.startswith("~"):
        home = Path(written).parts[0]
        raise ValueError(f"{written}: the home folder {home} is not known here; write the whole path")
    return Path(expanded) if base is None else base / expanded


def make_nnunet_folders_absolute(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make the paths in nnU-Net's variables absolute, and replace a `~` in them by the home folder.

    nnU-Net's commands that we start must see the folders that we see. A batch starts them in another folder, and they
    take `~` for a folder of that name: a shell replaces it, an .env file or a container does not.

    Raises:
        ValueError: a variable begins with the home folder of an unknown user, or has a line break.
    """
    for name in NNUNET_FOLDERS:
        separator = os.pathsep if name == "nnUNet_extTrainer" else "\0"
        value = environment.get(name, "")
        if "\n" in value or "\r" in value:  # errors that name a file in it would have several lines
            raise ValueError(f"{name} is {value!r}, which holds a line break; correct the variable")
        parts = value.split(separator)
        if any(part.strip() and not os.path.isabs(part) for part in parts):
            try:
                here = Path.cwd()
                environment[name] = separator.join(str(user_path(p, here)) if p.strip() else p for p in parts)
            except ValueError as error:
                raise ValueError(f"{name} is {error}") from None


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes `path` when the block ends well, and is removed when it does not.

    The temporary name cannot be foreseen, and its file is new, so nothing is written through a link that somebody put
    there. A link called `path` is replaced by the file; what it points to stays as it is. A device or a pipe, such as
    /dev/null, gets the whole content and stays what it is. The temporary name keeps the file's ending, because nibabel
    and matplotlib choose the format by it.

    Raises:
        OSError: the file cannot be written; it names `path`.
    """
    if _is_special(path):
        with _written_through(path) as temporary:
            yield temporary
        return
    try:
        temporary, descriptor = _new_file(path)
    except OSError as error:
        raise name_file(error, path) from error
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise
        raise name_file(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)


def _is_special(path: Path) -> bool:
    """Whether there is a device, pipe or socket; all below /dev count, as /dev/stdout may lead to a file."""
    return path.parent == Path("/dev") or (path.exists() and not path.is_file() and not path.is_dir())


@contextmanager
def _written_through(path: Path) -> Iterator[Path]:
    """Yield a temporary path whose content is then copied to `path`. Raises OSError, which names `path`."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / path.name
        yield temporary
        try:
            with temporary.open("rb") as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
        except OSError as error:
            raise name_file(error, path) from error


def name_file(error: OSError, path: Path) -> OSError:
    """Return the error with the name of the file that it is about: a full disk, for one, does not say which."""
    if error.errno is None:
        return OSError(f"{path}: {error}")
    return OSError(error.errno, error.strerror, str(path))


def temporary_path(path: Path) -> Path:
    """Return a name beside `path` that nobody can foresee and that :func:`remove_leftovers` knows as ours."""
    name = f"{PREFIX}-{os.getpid()}-{secrets.token_hex(6)}"
    return path.with_name(f"{name}-{path.name[-_KEPT_OF_A_NAME:]}")


def _new_file(path: Path) -> tuple[Path, int | None]:
    """Create a temporary file for `path` and lock it, so that everybody sees that it is in use."""
    while True:
        temporary = temporary_path(path)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if fcntl is None:  # Windows, which does not rename a file that is open
            os.close(descriptor)
            return temporary, None
        if lock(descriptor, wait=True) is None or temporary.exists():  # else it was taken for a leftover just now
            return temporary, descriptor
        os.close(descriptor)


def lock(descriptor: int, wait: bool = False) -> bool | None:
    """Lock an open file until it is closed; False if somebody else has locked it, None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all. What is not text in a file's name is written as `\\udcff`."""
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def refuse_pipe(path: Path) -> None:
    """Raise ValueError for a named pipe in the place of a file: reading it would wait without an end."""
    if path.is_fifo():
        raise ValueError(f"{path} is a pipe, not a file")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises ValueError where it is damaged, OSError where it is not there."""
    refuse_pipe(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not UTF-8, no JSON
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    except RecursionError:
        raise ValueError(f"{path}: not valid JSON: nested too deeply") from None


def remove_leftovers(folder: Path, names: Collection[str] = ()) -> None:
    """Remove the temporary files of :func:`write_whole` in a folder whose processes are gone.

    Ours are those whose names only we make and that nobody has locked. The first release candidate wrote `names` as
    `.PROCESS-NAME`, which are removed if that process is gone. Files that only look similar stay.
    """
    if fcntl is None:
        return
    try:
        found = list(folder.glob(".*"))
    except OSError:  # it may not be read
        return
    for path in found:
        if TEMPORARY.fullmatch(path.name):
            remove_unlocked(path)
        elif path.is_file() and not path.is_symlink() and _is_old_leftover(path.name, names):
            with suppress(OSError):
                path.unlink()


def _is_old_leftover(name: str, of: Collection[str]) -> bool:
    match = re.fullmatch(r"\.(\d{1,9})-(.+)", name, re.DOTALL)
    return bool(match and match[2] in of and not _is_another_process(int(match[1])))


def remove_unlocked(path: Path) -> None:
    """Remove a file that no process holds. On a file system without locks it stays: nobody can know."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # a folder, a link, of another user, or gone
        return
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and lock(descriptor):
            with suppress(OSError):
                path.unlink()
    finally:
        os.close(descriptor)


def _is_another_process(number: int) -> bool:
    """Whether it lives and is not this one. In a container numbers begin anew, so ours is a predecessor's, too."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return number != os.getpid()
