"""Which files a report consists of. Imports nothing heavy: it is checked before anything is computed."""

import re

from nnunet_cpr.output_folder import Layout

REPORT = Layout(
    (
        "report.html",
        "report.md",
        "table.tex",
        "cases.csv",
        "summary.csv",
        "trainings.csv",
        "comparisons.csv",
        "costs.csv",
    ),
    re.compile(r"(differences|labels|cases|distribution|curves|constraints|slice)-.*\.(svg|png)"),
)
