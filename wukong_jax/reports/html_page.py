"""Builds the HTML frame of report pages, which open offline and follow the reader's light or dark mode."""

import html

from wukong_jax.reports.theme import DARK, LIGHT, Theme


def build_page(title: str, body: str, style: str) -> str:
    """Builds a complete HTML page.

    Args:
      title: title in plain text.
      body: body in HTML.
      style: additional CSS of this kind of page.
    """
    page = _PAGE.replace("{title}", html.escape(title)).replace("{style}", _COLOURS + _STYLE + style)
    return page.replace("{body}", body)


def _list_colours(theme: Theme) -> str:
    return f"--card: {theme.background}; --ink: {theme.ink}; --muted: {theme.muted};"


_COLOURS = f""":root {{ color-scheme: light dark; --page: #f6f8fa; {_list_colours(LIGHT)}
  --line: #d8dee4; --accent: {LIGHT.train}; --notice: #fff4dc; }}
@media (prefers-color-scheme: dark) {{ :root {{ --page: #0d1117; {_list_colours(DARK)}
  --line: {DARK.grid}; --accent: {DARK.train}; --notice: #3a2d10; }} }}
"""
_STYLE = """* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { margin: 0; font-size: 1.9rem; overflow-wrap: anywhere; }
.lead { margin: .3rem 0 0; color: var(--muted); }
.notice { margin: .8rem 0 0; padding: .6rem .9rem; border-radius: .4rem; background: var(--notice); }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; background: var(--card); border: 1px solid var(--line); }
th, td { text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom; }
tbody tr:last-child > * { border-bottom: 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 0; padding: 1rem; background: var(--card); border: 1px solid var(--line); }
figcaption { margin-top: .6rem; color: var(--muted); font-size: .9rem; }
summary { cursor: pointer; color: var(--accent); }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body><main>
{body}
</main></body>
</html>
"""
