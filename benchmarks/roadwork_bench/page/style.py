"""How the page looks, by day and by night."""

STYLE = """\
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c2024; --soft: #5b6470; --line: #d5dae0; --stripe: #f5f7f9;
  --link: #1d5fb8; --yes: #1b7f4b; --no: #b3361e; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e4e8ec; --soft: #9aa5b1; --line: #343b43;
  --stripe: #1b2025; --link: #78aef2; --yes: #5cc48c; --no: #f0826b; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0 auto; max-width: 1120px; padding: 1.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.9rem; margin: 0 0 .5rem; }
h2 { font-size: 1.35rem; margin: 2.75rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { max-width: 48rem; margin: .6rem 0; }
a { color: var(--link); }
nav ul { list-style: none; padding: 0; margin: 1rem 0; columns: 18rem; }
nav li { margin: .15rem 0; break-inside: avoid; }
code { font: .88em/1.45 ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: .9rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .25rem 0; }
th { text-align: right; font-weight: 600; vertical-align: bottom; border-bottom: 2px solid var(--line); }
th, td { padding: .3rem .7rem; }
td { text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
.figures th, .figures td { padding: .3rem .5rem; }
.figures td { white-space: nowrap; }
.figures td:first-child { white-space: normal; min-width: 9rem; }
th:first-child, td:first-child, .words th, .words td { text-align: left; }
.words td:first-child { min-width: 16rem; } .words td:nth-child(-n+4):not(:first-child) { min-width: 6.5rem; }
tbody tr:nth-child(even) { background: var(--stripe); }
.source { color: var(--soft); font-size: .85rem; max-width: none; }
figure { margin: 1.2rem 0; }
figcaption { font-weight: 600; font-size: .9rem; margin-bottom: .3rem; }
figure svg { width: 100%; height: auto; display: block;
  font-family: system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
.yes { color: var(--yes); font-weight: 600; }
.no { color: var(--no); font-weight: 600; }
@media print { nav { display: none; } .wide { overflow: visible; } section { break-inside: avoid; } }
"""
