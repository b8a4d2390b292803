"""The report as HTML, Markdown, LaTeX, CSV and on the terminal."""
