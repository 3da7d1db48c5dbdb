"""The page as one HTML file that needs nothing from elsewhere."""

from __future__ import annotations

import re
from html import escape

from roadwork_bench.page.blocks import Block, Plot, Table, Text
from roadwork_bench.page.drawing import svg
from roadwork_bench.page.markdown import INTRODUCTION
from roadwork_bench.page.registry import Page, Section
from roadwork_bench.page.style import STYLE

SAID = {True: '<span class="yes">reached</span>', False: '<span class="no">not reached</span>', None: ""}
GOALS, MISSING, UNREAD = "goals", "not-measured", "not-shown"


def document(page: Page) -> str:
    """The whole file."""
    goals = [(goal, result) for section in page.sections for goal, result in section.goals]
    links = [(section.name, section.title) for section in page.sections]
    parts = [f"<p>{_inline(INTRODUCTION)}</p>"]
    if goals:
        links.insert(0, (GOALS, "What was wanted, and what was found"))
        rows = [
            "".join(
                [
                    f"<td>{_inline(goal.what)}</td><td>{_inline(goal.found)}</td><td>{_inline(goal.wanted)}</td>",
                    f"<td>{SAID[goal.reached]}</td><td>{escape(result.machine)}</td><td><code>{escape(result.file)}</code></td>",
                ]
            )
            for goal, result in goals
        ]
        head = "".join(f"<th>{name}</th>" for name in ("what", "found", "wanted", "", "machine", "file"))
        parts.append(_named(GOALS, "What was wanted, and what was found", _table(head, rows, "words")))
    parts += [_named(section.name, section.title, _section(section)) for section in page.sections]
    if page.missing:
        links.append((MISSING, "Not measured"))
        items = [f"{escape(s.title)}: not measured; run <code>{escape(s.command)}</code>" for s in page.missing]
        parts.append(_named(MISSING, "Not measured", _list(items)))
    if page.unread:
        links.append((UNREAD, "Not shown"))
        items = [f"<code>{escape(file)}</code>: {_inline(why)}" for file, why in page.unread.items()]
        parts.append(_named(UNREAD, "Not shown", _list(items)))
    contents = "".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title in links)
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            "<title>roadwork: benchmarks</title>",
            f"<style>\n{STYLE}</style></head>",
            f"<body><header><h1>Benchmarks</h1></header><nav><ul>{contents}</ul></nav><main>",
            *parts,
            "</main></body></html>\n",
        ]
    )


def without_plots(text: str) -> str:
    """The file less its plots, whose bytes depend on the version of matplotlib."""
    return re.sub(r"<svg .*?</svg>", "<svg></svg>", text, flags=re.DOTALL)


def _section(section: Section) -> str:
    parts = []
    for part in section.parts:
        if len(section.parts) > 1:
            files = ", ".join(f"<code>{escape(result.file)}</code>" for result in part.results)
            parts.append(f"<h3>{files}</h3>")
        parts += [_block(block) for block in part.blocks]
        parts += [f'<p class="source">Measured: {_inline(result.source)}.</p>' for result in part.results]
    return "\n".join(parts)


def _block(block: Block) -> str:
    if isinstance(block, Text):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Plot):
        width = round(96 * block.inches[0])
        caption = f"<figcaption>{_inline(block.title)}</figcaption>"
        return f'<figure style="max-width: {width}px">{caption}{svg(block)}</figure>'
    assert isinstance(block, Table)
    head = "".join(f"<th>{_inline(cell)}</th>" for cell in block.header)
    rows = ["".join(f"<td>{_inline(cell)}</td>" for cell in row) for row in block.rows]
    title = f"<caption>{_inline(block.title)}</caption>" if block.title else ""
    return _table(head, rows, "figures", title)


def _table(head: str, rows: list[str], kind: str, title: str = "") -> str:
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    head = f"{title}<thead><tr>{head}</tr></thead>"
    return f'<div class="wide"><table class="{kind}">{head}<tbody>\n{body}</tbody></table></div>'


def _named(name: str, title: str, content: str) -> str:
    return f'<section id="{name}"><h2>{escape(title)}</h2>\n{content}\n</section>'


def _list(items: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _inline(text: str) -> str:
    """Text with its `code` and **strong** words, as the Markdown has them."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
