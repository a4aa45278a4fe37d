"""The frame and look of every report: one HTML file that loads nothing from another host."""

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light; --ink: #1f2933; --quiet: #52606d; --line: #dfe3e8; --accent: #1d4ed8; --warm: #a8480a; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); line-height: 1.5; -webkit-text-size-adjust: 100%;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 3rem 0 1rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p, ul { margin: .5rem 0; max-width: 76ch; }
.quiet, .over { color: var(--quiet); }
.over { margin: 0 0 .25rem; }
.status { font-weight: 600; }
.good { color: #1a7f37; } .bad { color: var(--warm); }
.warning { border-left: 4px solid var(--warm); background: #fdf3ea; padding: .6rem 1rem; }
.warning p { margin: .25rem 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .75rem; margin: 1.5rem 0 0; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: .75rem 1rem; }
.tile dt { color: var(--quiet); font-size: .875rem; }
.tile dd { margin: 0; font-size: 1.6rem; line-height: 1.3; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile small { display: block; color: var(--quiet); font-size: .8125rem; font-weight: 400; }
.grid { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 2.25rem 2.5rem; align-items: start; }
@media (max-width: 760px) { .grid { grid-template-columns: minmax(0, 1fr); } main { padding-top: 1.5rem; } }
figure { margin: 0; min-width: 0; } figure h3 { margin-top: 0; }
svg { display: block; width: 100%; max-width: 760px; height: auto; margin: .75rem 0; }
figure svg { max-width: none; margin: 0; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif !important; }
figcaption { color: var(--quiet); font-size: .9375rem; margin-top: .4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9375rem; }
caption { text-align: left; color: var(--quiet); padding: .25rem 0; }
th, td { text-align: left; vertical-align: top; padding: .35rem 1.1rem .35rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
td.n, th.n { text-align: right; white-space: nowrap; }
.facts { width: 100%; max-width: 48rem; }
.facts th, .facts td { overflow-wrap: anywhere; padding-right: .5rem; }
.facts th { font-weight: 400; color: var(--quiet); } .facts td { text-align: right; padding-right: 0; }
pre, .settings td { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .875rem; }
pre { background: #f5f7f9; border: 1px solid var(--line); border-radius: 8px; padding: 1rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.bar { display: inline-block; height: .7em; border-radius: 2px; background: var(--accent); }
details { margin: 1rem 0; } summary { cursor: pointer; color: var(--accent); padding: .35rem 0; }
blockquote { margin: .5rem 0; padding-left: .9rem; border-left: 3px solid var(--line); max-width: 76ch; }
.note { max-height: 16rem; max-width: 76ch; overflow: auto; border: 1px solid var(--line); border-radius: 8px;
  padding: .6rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.note sup { color: var(--quiet); line-height: 0; } .note span { scroll-margin: 3rem; }
.note :target { background: #ffe98a; text-decoration: underline 2px; text-underline-offset: 3px; }
.note :target::before { content: "➤\\a0"; }
@media (max-width: 640px) { h1 { font-size: 1.6rem; } }
"""


def page(title: str, body: str) -> str:
    """A whole page. `body` is HTML, `title` plain text."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body><main>
{body.strip()}
</main></body>
</html>
"""


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and values, both plain text."""
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return f'<table class="facts">{body}</table>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain text whose columns after the first are numbers."""

    def line(tag: str, cells: Sequence[str]) -> str:
        first, *numbers = (escape(text) for text in cells)
        return f"<{tag}>{first}</{tag}>" + "".join(f'<{tag} class="n">{text}</{tag}>' for text in numbers)

    body = "".join(f"<tr>{line('td', cells)}</tr>" for cells in rows)
    return f'<div class="scroll"><table><tr>{line("th", head)}</tr>{body}</table></div>'


def figure(title: str, svg: str, caption: str) -> str:
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return f"<figure>{heading}{svg}<figcaption>{escape(caption)}</figcaption></figure>\n"
