"""What compare_runs.py consists of: runs read, grouped into settings, summarized, drawn. Imports no torch."""
