"""Why a job failed, in one line: left by the job, or found in the log of a tool, and shown by `nnunet-cpr batch`."""

import re
import shutil
from pathlib import Path

from nnunet_cpr.files import write_text

LONGEST = 300
_NAMED = re.compile(r"\s*(?:\w+\.)*\w*(?:Error|Exception)\b")
"""The last line of a traceback, and the first of Snakemake's messages."""
_TAIL_BYTES = 1 << 16


def one_line(text: str) -> str:
    """Return a text as one line that fits on a terminal."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def reason_in(log: Path, begin: int = 0) -> str:
    """Return what a log says went wrong: the last error in what was written after `begin`, else its last line."""
    try:
        with log.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(begin, size - _TAIL_BYTES))
            lines = [line for line in stream.read().decode("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        return ""
    for number in range(len(lines) - 1, -1, -1):
        if _NAMED.match(lines[number]):
            # Snakemake's messages go on below a first line that says only where.
            more = lines[number + 1 : number + 3] if lines[number].rstrip().endswith(":") else []
            return one_line(" ".join([lines[number], *more]))
    return one_line(lines[-1]) if lines else ""


def note_failure(output: Path, job: str, reason: str) -> None:
    """Leave a line that says why a job failed."""
    path = _note(output, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, one_line(reason))


def forget_failure(output: Path, job: str) -> None:
    """Forget why the job failed: it is tried again."""
    _note(output, job).unlink(missing_ok=True)


def failures(output: Path) -> dict[str, str]:
    """Return why jobs failed, by their names."""
    folder = _folder(output)
    found = {}
    for path in sorted(folder.rglob("*.txt")):
        try:
            found[str(path.relative_to(folder).with_suffix(""))] = path.read_text(encoding="utf-8")
        except OSError:  # forgotten meanwhile
            continue
    return found


def forget_failures(output: Path) -> None:
    """Forget the failures of an earlier call."""
    shutil.rmtree(_folder(output), ignore_errors=True)


def _folder(output: Path) -> Path:
    return output / ".snakemake" / "failures"  # no user keeps anything there


def _note(output: Path, job: str) -> Path:
    return _folder(output) / f"{job}.txt"
