"""Tables as CSV. Names are data there, too: no spreadsheet takes one for a formula."""

from typing import Any

import pandas as pd

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""How cells begin that spreadsheets compute instead of showing them."""
QUOTE = "'"
"""Stands before such names, and before those that begin with it themselves; whoever reads a table takes one away."""


def csv_table(frame: pd.DataFrame, **options: Any) -> str:
    """Return the table with QUOTE before names that could be formulas. Numbers are written as they are.

    Options are those of pandas' `to_csv`.
    """
    names = frame.select_dtypes(exclude="number")
    quoted = frame.assign(**{str(column): _quoted_names(names[column]) for column in names})
    return str(quoted.to_csv(index=False, **options))


def _quoted_names(names: pd.Series) -> pd.Series:
    """Return the names with QUOTE where they need it; tables have few names, many times."""
    changed = {name: quoted for name in names.unique() if (quoted := _quoted(name)) is not name}
    return names.map(lambda name: changed.get(name, name)) if changed else names


def _quoted(name: Any) -> Any:
    return f"{QUOTE}{name}" if isinstance(name, str) and name.startswith((*FORMULAS, QUOTE)) else name
