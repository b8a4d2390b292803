"""`python -m nnunet_cpr.training.launch ...`: `nnUNetv2_train ...` that can be stopped on several GPUs as on one.

With `-num_gpus` above 1 nnU-Net trains in child processes, and nothing of ours runs in their parent: a signal sent to
it alone kills it, and its exit code says nothing. Here the parent passes stop signals on and takes its children's code.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from torch.multiprocessing.spawn import ProcessExitedException

from nnunet_cpr.training.stopping import RESUME_ME, SIGNALS, Stopped


@contextmanager
def children_stop_first() -> Iterator[None]:
    """Pass stop signals on to the child processes. Raises Stopped if one of them exits because it was stopped."""
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    previous = {number: handler for number, handler in previous.items() if handler not in (signal.SIG_IGN, None)}

    def pass_on(number: int, frame: FrameType | None) -> None:
        children = multiprocessing.active_children()
        for child in children:
            if child.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(child.pid, number)
        if not children:
            signal.signal(number, previous[number])
            signal.raise_signal(number)

    for number in previous:
        signal.signal(number, pass_on)
    try:
        yield
    except ProcessExitedException as error:
        if error.exit_code == RESUME_ME:
            raise Stopped from None
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    from nnunetv2.run.run_training import run_training_entry

    with children_stop_first():
        run_training_entry()
