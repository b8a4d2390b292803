"""matplotlib without the user's settings: figures look the same on every machine and never need a display.

Names may be in scripts that matplotlib's own font lacks. Then an installed font that has them is used; characters that
no font has are shown as Python's escapes, instead of boxes.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

FALLBACK_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Source Han Sans", "WenQuanYi Zen Hei",
    "IPAGothic", "NanumGothic", "Yu Gothic", "Meiryo", "Microsoft YaHei", "SimHei", "Malgun Gothic", "Hiragino Sans",
    "PingFang SC", "PingFang HK", "Apple SD Gothic Neo", "Arial Unicode MS", "Noto Sans Thai", "Noto Sans Devanagari",
)  # fmt: skip
"""Fonts of Linux, Windows and macOS for scripts that DejaVu Sans lacks: Chinese, Japanese, Korean, Thai, Devanagari."""


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

    style: dict[Any, Any] = {**matplotlib.rcParamsDefault, "font.family": [*fonts(), "sans-serif"], **(changes or {})}
    with matplotlib.rc_context(style):
        yield


@cache
def fonts() -> list[str]:
    """Return matplotlib's own font, and after it those of FALLBACK_FONTS that are installed."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in FALLBACK_FONTS if name in installed)]


def drawable(text: str) -> str:
    """Return the text with escapes for the characters that none of the fonts has."""
    if text.isascii():
        return text
    return "".join(
        one if one.isspace() or any(ord(one) in _characters(font) for font in fonts()) else ascii(one)[1:-1]
        for one in text
    )


@cache
def _characters(font: str) -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(font)).get_charmap())
