"""Which files a report consists of. Imports nothing heavy: it is checked before anything is computed."""

import re

from nnunet_cpr.output_folder import Layout

TEST_SET = "test_set_"
"""How the names of tables about the test set begin."""
TABLES = ("table.tex", "cases.csv", "summary.csv", "trainings.csv", "comparisons.csv", "pairs.csv", "datasets.csv")
REPORT = Layout(
    ("report.html", "report.md", *TABLES, *(f"{TEST_SET}{name}" for name in TABLES), "costs.csv"),
    re.compile(
        r"(test-set-)?(differences|labels|cases|distribution|curves|constraints|slice|critical-difference)-.*\.(svg|png)"
    ),
)
