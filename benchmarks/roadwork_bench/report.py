"""`roadwork-bench report`: all results as one HTML page and one Markdown document."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from roadwork_bench.about import CHECKOUT
from roadwork_bench.errors import BenchError
from roadwork_bench.output import saying
from roadwork_bench.page import html, markdown
from roadwork_bench.page.registry import arrange
from roadwork_bench.page.results import read_results

RESULTS = CHECKOUT / "benchmarks" / "results"
PAGE = CHECKOUT / "benchmarks" / "report.html"
DOCUMENT = CHECKOUT / "docs" / "benchmarks.md"
EXAMPLE = "roadwork-bench overhead --out benchmarks/results/overhead.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of result files")
    parser.add_argument("--html", type=Path, default=PAGE, help="the page that is written")
    parser.add_argument("--markdown", type=Path, default=DOCUMENT, help="the document that is written")


def run(arguments: argparse.Namespace, command: str) -> int:
    page_text, document_text, unread = build(arguments.results, arguments.html, arguments.markdown)
    for path, text in ((arguments.html, page_text), (arguments.markdown, document_text)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"{path}: {len(text.encode()) / 1000:.0f} kB")
    for file, why in unread.items():
        saying(f"{file} is not shown: {why}")
    return 1 if unread else 0


def build(results: Path, page_path: Path, document_path: Path) -> tuple[str, str, dict[str, str]]:
    """Text of the page and of the document, and the files that are not shown with the reason.

    The same files give the same text. Raises BenchError where there is nothing to show, or machines are mixed.
    """
    found = read_results(results)
    if not found:
        raise BenchError(f"{results} has no result file (*.json); measure one, such as with: {EXAMPLE}")
    page = arrange(found)
    plots = Path(os.path.relpath(page_path.resolve(), document_path.resolve().parent)).as_posix()
    return html.document(page), markdown.document(page, plots), page.unread
