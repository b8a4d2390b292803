"""matplotlib without the user's settings: figures look the same on every machine and never need a display."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def ignore_user_settings() -> None:
    """Have matplotlib ignore the user's backend and style file, in this process and in those that it starts.

    For commands, before matplotlib is imported: a backend that a notebook exports to its children, or a damaged style
    file, makes the import itself fail.
    """
    os.environ["MPLBACKEND"] = "agg"
    os.environ["MATPLOTLIBRC"] = os.devnull
    os.environ.pop("SOURCE_DATE_EPOCH", None)  # a date for figures, and an error where it is not a number
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # else it says so where its cache cannot be written


@contextmanager
def default_style(changes: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Make and save figures in matplotlib's default style, with `changes` to it; afterwards the caller's is back.

    Also a decorator: `@default_style()`. A figure takes some settings when it is made and others when it is saved, so
    both belong inside.
    """
    import matplotlib

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **(changes or {})}):
        yield
