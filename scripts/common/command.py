"""What is around the work of every script: how it uses the terminal, what its mistakes look like, its exit code."""

import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from nnunet_cpr.plotting import ignore_user_settings

PATIENCE = 3.0
"""Seconds that other processes leave the first of their node to report a mistake that all of them have found."""


def run_command(work: Callable[[], None], interrupted: str = "interrupted") -> int:
    """Do the work and return the exit code. A user's mistake leaves as one line on stderr with exit code 2.

    Ctrl-C prints the line `interrupted`. Of several processes on a node, one that fails alone says so, too: its share
    of the data may hold a broken file.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a name must not end the work
    ignore_user_settings()
    try:
        work()
    except (ValueError, OSError) as error:
        where = ""
        if os.environ.get("LOCAL_RANK", "0") != "0":
            where = f"process {os.environ.get('RANK', '')}: "
            time.sleep(PATIENCE)  # where the first process fails, too, torchrun ends this one now
        print(f"{Path(sys.argv[0]).name}: error: {where}{' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    return 0
