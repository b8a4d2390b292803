"""What compare_runs.py consists of: runs read, grouped into settings, summarised, drawn. Imports no torch."""
