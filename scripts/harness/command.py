"""What is around the work of every script: how it uses the terminal, what its mistakes look like, its exit code."""

import os
import time
from collections.abc import Callable

from nnunet_cpr.plotting import ignore_user_settings
from nnunet_cpr.terminal import run_command

PATIENCE = 3.0
"""Seconds that other processes leave the first of their node to report a mistake that all of them have found."""


def run_script_command(program: str, work: Callable[[], None], interrupted: str = "interrupted") -> int:
    """Do the work and return the exit code. A user's mistake leaves as one line on stderr with exit code 2.

    Of several processes on a node, one that fails alone says so, too: its share of the data may hold a broken file.
    """
    ignore_user_settings()

    def checked() -> int:
        try:
            work()
        except UnicodeEncodeError:  # run_command says what is not text
            raise
        except ModuleNotFoundError as error:
            raise ValueError(
                f"the package {error.name} is missing; pip install -e '.[gpt2,deit,lora,rivals]' in the repository has "
                "what the scripts need"
            ) from error
        except (ValueError, OSError) as error:
            where = ""
            if os.environ.get("LOCAL_RANK", "0") != "0":
                where = f"process {os.environ.get('RANK', '')}: "
                time.sleep(PATIENCE)  # where the first process fails, too, torchrun ends this one now
            raise ValueError(f"{where}{' '.join(str(error).split())}") from error
        return 0

    return run_command(program, checked, interrupted)
