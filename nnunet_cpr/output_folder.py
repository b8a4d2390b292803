"""A folder of files that belong together, such as a report: replaced as a whole, without touching files of the user's.

The files are made in a hidden folder inside, and moved to their places when all of them are there. `manifest.json` has
the SHA-256 of each: a file that is not as the manifest says is the user's, and is neither written over nor deleted.
While files are being moved, manifest and pages say that the folder is incomplete, so nothing that a kill leaves at that
moment can be taken for whole; the same command then completes it.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nnunet_cpr.exclusive import exclusive
from nnunet_cpr.files import (
    PREFIX,
    TEMPORARY,
    read_json,
    remove_leftovers,
    temporary_path,
    write_json,
)

MANIFEST = "manifest.json"
FIGURES = "figures"
INCOMPLETE = "This report is incomplete: writing it was interrupted. Run the same command again to complete it."
_PAGES = {
    ".md": f"{INCOMPLETE}\n",
    ".html": f'<!doctype html>\n<meta charset="utf-8">\n<title>Incomplete report</title>\n<p>{INCOMPLETE}</p>\n',
}
"""What stands in the place of pages, by their ending, while files are moved."""
Checksums = dict[str, set[str]]
"""What a file may be and is ours, by its path in the folder."""


@dataclass(frozen=True)
class Layout:
    """The files that a kind of folder may have, and a pattern for the names of its figures."""

    files: tuple[str, ...]
    figures: re.Pattern[str]

    def has(self, name: str) -> bool:
        """Whether a file of that path in the folder may be written."""
        folder, _, figure = name.rpartition("/")
        return name in self.files or (folder == FIGURES and self.figures.fullmatch(figure) is not None)


def check_folder(folder: Path, layout: Layout) -> None:
    """Check that the folder can be written without touching a file of the user's.

    Raises:
        ValueError: it holds other files than an earlier call's, or one that was changed since; names it.
    """
    if not folder.is_dir():
        if os.path.lexists(folder):
            raise ValueError(f"{folder} is a file, or a link to nothing; choose another folder")
        return
    ours = _read_manifest(folder)
    if ours is None:
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if others:
            raise ValueError(
                f"{folder} is not empty and holds no earlier report, but {others[0]}; choose another folder, or move "
                "its files away"
            )
        return
    figures = folder / FIGURES
    if os.path.lexists(figures) and (figures.is_symlink() or not figures.is_dir()):
        raise ValueError(f"{figures} is not a folder of an earlier report; move it away, or choose another folder")
    for name in _files(folder):
        if (name in ours or layout.has(name)) and not _is_ours(folder, name, ours):
            raise ValueError(
                f"{folder / name} is not as an earlier report wrote it, and would be written over; move it away, or "
                "choose another folder"
            )


@contextmanager
def replace_folder(folder: Path, layout: Layout) -> Iterator[Path]:
    """Yield an empty folder to write to; when the block ends well, its files take the place of an earlier call's.

    The folder is checked, made and locked first, so that nothing is computed that could not be written. Whatever an
    earlier call wrote and this one does not have is removed. If anything fails, the folder is as it was before.

    Raises:
        ValueError: see :func:`check_folder`; or another process is writing to the folder.
        OSError: it cannot be written.
    """
    check_folder(folder, layout)
    with exclusive(folder) as alone:
        check_folder(folder, layout)
        if alone:
            _remove_leftovers(folder, layout)
        staging = temporary_path(folder / "report")
        try:
            (staging / "new").mkdir(parents=True)
            yield staging / "new"
            _publish(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _remove_leftovers(folder: Path, layout: Layout) -> None:
    """Remove what killed calls have left. The folder is locked, so no other call is at work."""
    for path in folder.glob(f"{PREFIX}-*"):
        if TEMPORARY.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
    ours = _read_manifest(folder) or {}
    remove_leftovers(folder, {MANIFEST, *layout.files})
    remove_leftovers(folder / FIGURES, {name.rpartition("/")[2] for name in ours})


def _publish(staging: Path, folder: Path) -> None:
    """Move the new files to their places, and remove those that only an earlier call had."""
    new, old, marks = staging / "new", staging / "old", staging / "marks"
    ours = _read_manifest(folder) or {}
    sums = {name: _checksum(new / name) for name in _files(new)}
    for name in sums:
        if os.path.lexists(folder / name) and not _is_ours(folder, name, ours):
            raise ValueError(f"{folder / name} is in the way and not of an earlier report; move it away and repeat")
    present = [name for name in _files(folder) if name in ours and _is_ours(folder, name, ours)]
    pages = [name for name in sums if Path(name).suffix in _PAGES]
    for part in (old, marks):
        (part / FIGURES).mkdir(parents=True)
    for name in pages:
        (marks / name).write_text(_PAGES[Path(name).suffix], encoding="utf-8")
        ours.setdefault(name, set()).add(_checksum(marks / name))
    earlier = {name: sorted(known) for name, known in sorted(ours.items())}
    write_json(marks / MANIFEST, {"complete": False, "sha256": sums, "earlier": earlier})
    write_json(new / MANIFEST, {"complete": True, "sha256": sums})
    for name in [*present, *([MANIFEST] if (folder / MANIFEST).is_file() else [])]:
        shutil.copyfile(folder / name, old / name)  # a copy, so that no file is missing at any time
    try:
        os.replace(marks / MANIFEST, folder / MANIFEST)  # first, so that whatever a kill leaves is known as ours
        (folder / FIGURES).mkdir(exist_ok=True)
        for name in pages:
            os.replace(marks / name, folder / name)
        for name in sums:
            if name not in pages:
                os.replace(new / name, folder / name)
        for name in present:
            if name not in sums:
                (folder / name).unlink()
        _remove_empty(folder / FIGURES)
        for name in [*pages, MANIFEST]:
            os.replace(new / name, folder / name)
    except BaseException:
        _restore(folder, old, {*sums, *present})
        raise


def _restore(folder: Path, old: Path, names: set[str]) -> None:
    """Put the earlier files back. Where that fails, the manifest goes on to say that the folder is incomplete."""
    with suppress(OSError):
        for name in [*names, MANIFEST]:
            if name == MANIFEST:
                _remove_empty(folder / FIGURES)
            if (old / name).exists():
                os.replace(old / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it holds something, or there is none
        folder.rmdir()


def _files(folder: Path) -> list[str]:
    """Return what is in a folder and in its figures, by the path in it, without what is hidden and the manifest."""
    paths = [path for pattern in ("*", f"{FIGURES}/*") for path in folder.glob(pattern) if path.name[0] != "."]
    names = {path.relative_to(folder).as_posix() for path in paths}
    return sorted(names - {MANIFEST, FIGURES})


def _is_ours(folder: Path, name: str, ours: Mapping[str, set[str]]) -> bool:
    """Whether the file is as it was written. A link to such content is, too: that is how data managers keep files."""
    try:
        return name in ours and (folder / name).is_file() and _checksum(folder / name) in ours[name]
    except OSError:  # a link to nothing, a folder, or it may not be read
        return False


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_manifest(folder: Path) -> Checksums | None:
    """Return the checksums of the files that are ours; None without a manifest of ours."""
    try:
        content = read_json(folder / MANIFEST)
        ours: Checksums = {str(name): {known} for name, known in content["sha256"].items()}
        for name, known in content.get("earlier", {}).items():
            ours.setdefault(str(name), set()).update(known)
        valid = ours and all(re.fullmatch(r"[0-9a-f]{64}", one) for known in ours.values() for one in known)
        return ours if valid else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
