"""The page as Markdown: tables without plots."""

from __future__ import annotations

from roadwork_bench.page.blocks import Block, Plot, Table, Text
from roadwork_bench.page.registry import Page, Section

GENERATED = "<!-- Written by `roadwork-bench report` out of benchmarks/results: do not edit. -->"
INTRODUCTION = (
    "Every figure here is read from a result file by `roadwork-bench report`, with the command that measured it and "
    "the machine it was measured on. Figures of different machines are never in one comparison. Intervals hold 95%, "
    "but those of medians over fewer than six pairs or rounds are their range, which holds the median with 94% for "
    "five, 88% for four, 75% for three, 50% for two, and says nothing for one. McNemar's test counts images, of which "
    'many show the same drive: intervals by drive are the wider and more honest ones, and "not worse" says that this '
    "sample shows no loss, not that there is none."
)
SAID = {True: "reached", False: "**not reached**", None: ""}


def document(page: Page, plots: str) -> str:
    """`plots`: where the page with the plots is, for a reader of this document."""
    lines = [GENERATED, "# Benchmarks", "", INTRODUCTION, f"Plots: [{plots}]({plots}).", ""]
    goals = [(goal, result) for section in page.sections for goal, result in section.goals]
    if goals:
        lines += ["## What was wanted, and what was found", ""]
        cells = [
            [goal.what, goal.found, goal.wanted, SAID[goal.reached], r.machine, f"`{r.file}`"] for goal, r in goals
        ]
        lines += table(Table(["what", "found", "wanted", "", "machine", "file"], cells))
    for section in page.sections:
        lines += _section(section)
    if page.missing:
        lines += ["## Not measured", ""]
        lines += [f"- {section.title}: not measured; run `{section.command}`" for section in page.missing] + [""]
    if page.unread:
        lines += ["## Not shown", "", *(f"- `{file}`: {why}" for file, why in page.unread.items()), ""]
    return "\n".join(lines).rstrip() + "\n"


def table(block: Table) -> list[str]:
    """A table with its title, and a blank line behind it."""
    right = ["---", *["---:"] * (len(block.header) - 1)]
    rows = [block.header, right, *block.rows]
    title = [f"**{block.title}**", ""] if block.title else []
    return [*title, *("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows), ""]


def _section(section: Section) -> list[str]:
    lines = [f"## {section.title}", ""]
    for part in section.parts:
        if len(section.parts) > 1:
            lines += [f"### {', '.join(f'`{result.file}`' for result in part.results)}", ""]
        for block in part.blocks:
            lines += _block(block)
        lines += [f"Measured: {result.source}.  " for result in part.results] + [""]
    return lines


def _block(block: Block) -> list[str]:
    if isinstance(block, Text):
        return [block.text, ""]
    if isinstance(block, Plot):
        return []
    return table(block)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
