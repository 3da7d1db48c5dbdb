"""One HTML page and one Markdown document out of result files. A kind of result is a file in `kinds`."""
