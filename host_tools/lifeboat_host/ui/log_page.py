"""The journal as a picture: sessions from left to right, one row per block and per disk.

A file of its own without anything from elsewhere: SVG, or HTML with the events as text, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lifeboat_host.model.journal import History, Session
from lifeboat_host.ui.log_chart import (
    MARKS,
    MOST,
    NAMES,
    Chart,
    caption,
    clean,
    heading,
    told,
)

_STYLE = """
:root { color-scheme: light dark; }
svg { font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; background: #ffffff; }
text { fill: #1d2329; }
.small { font-size: 10px; }
.bold { font-weight: 600; }
.muted { fill: #606a75; }
.middle { text-anchor: middle; }
.line { stroke: #dde2e8; }
.operation { fill: #edf2f7; }
.again { fill: #f6b8b1; fill-opacity: .4; }
.hit { fill: transparent; }
.found, .lost { stroke: #c8352b; fill: none; stroke-width: 2; }
.lost { stroke-width: 3; }
.repaired, .mended { fill: #1b7f4b; }
.created { fill: #1f6feb; }
.adopted { fill: #606a75; }
.cross { stroke: #ffffff; stroke-width: 2; fill: none; }
.reason { fill: #c77700; }
.changed { stroke: #7d4cc2; fill: none; stroke-width: 2; }
.source { stroke: #606a75; fill: none; stroke-width: 2; }
.verdict { fill: #c9ced4; }
.RUN { fill: #bfe5cf; }
.RUN_DEGRADED { fill: #ffd98a; }
.RESCUE { fill: #c8352b; }
text.on-RESCUE { fill: #ffffff; }
text.on-verdict, text.on-RUN, text.on-RUN_DEGRADED { fill: #1d2329; }
@media (prefers-color-scheme: dark) {
  svg { background: #14181d; }
  text { fill: #e4e9ef; }
  .muted { fill: #9aa5b1; }
  .line { stroke: #2b323a; }
  .operation { fill: #1f272f; }
  .again { fill: #b0413a; fill-opacity: .35; }
  .found, .lost { stroke: #ff7b6e; }
  .repaired, .mended { fill: #4cc38a; }
  .created { fill: #4c9aff; }
  .adopted { fill: #9aa5b1; }
  .cross { stroke: #14181d; }
  .reason { fill: #f0b429; }
  .changed { stroke: #b794f6; }
  .source { stroke: #9aa5b1; }
  .RUN { fill: #7fcfa3; }
  .RESCUE { fill: #ff7b6e; }
  text.on-RESCUE { fill: #14181d; }
}
"""

_PAGE_STYLE = """
body { font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #1d2329;
  background: #ffffff; max-width: 80rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.3rem; margin: 0 0 .5rem; }
h2 { font-size: 1rem; margin: 1.2rem 0 .2rem; }
ul { margin: 0; padding-left: 1.2rem; }
.scroll { display: flex; overflow-x: auto; margin: 1rem 0; }
.scroll svg { flex: none; display: block; }
.names { position: sticky; left: 0; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; }
.legend span { display: flex; align-items: center; gap: .4rem; }
@media (prefers-color-scheme: dark) {
  body { color: #e4e9ef; background: #14181d; }
}
"""

_LEGEND_CHAR = 7.2  # width of a letter, about


def svg(history: History) -> str:
    """The picture as an SVG file."""
    chart = Chart(history)
    legend, legend_height = _svg_legend(chart.kinds, max(chart.width + NAMES, 340))
    width = max(chart.width + NAMES, 340) + 8
    height = 34 + chart.height + legend_height
    title = caption(8, 22, _title(history), "bold")
    return "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img">',
            f"<title>{clean(_title(history))}</title><style>{_STYLE}</style>{title}",
            f'<g transform="translate(0 34)">{chart.names()}</g>',
            f'<g transform="translate({NAMES} 34)">{chart.plot()}</g>',
            f'<g transform="translate(8 {34 + chart.height})">{legend}</g></svg>\n',
        ]
    )


def html(history: History, lines: Iterable[str]) -> str:
    """The picture as an HTML file with the events as text.

    lines: the summary. The names of the rows stay in view when a narrow window scrolls.
    """
    chart = Chart(history)
    size = f'height="{chart.height}" role="img"'
    legend = "".join(
        f'<span><svg width="16" height="16" viewBox="-8 -8 16 16">{MARKS[kind][0]}</svg>'
        f"{clean(MARKS[kind][1])}</span>"
        for kind in chart.kinds
    )
    return "".join(
        [
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            f"<title>{clean(_title(history))}</title><style>{_STYLE}{_PAGE_STYLE}</style></head>",
            f"<body><h1>{clean(_title(history))}</h1>",
            *(f"<div>{clean(line)}</div>" for line in lines),
            f'<div class="scroll"><svg class="names" width="{NAMES}" {size}>',
            f"{chart.names()}</svg>",
            f'<svg width="{chart.width}" {size}>{chart.plot()}</svg></div>',
            f'<div class="legend">{legend}</div>',
            *(_section(session, history) for session in reversed(history.sessions)),
            "</body></html>\n",
        ]
    )


def _section(session: Session, history: History) -> str:
    items = "".join(f"<li>{clean(told(event, history))}</li>" for event in session.events)
    return f"<h2>{clean(heading(session))}</h2><ul>{items}</ul>"


def _title(history: History) -> str:
    count = len(history.sessions)
    sessions = "1 session" if count == 1 else f"{count} sessions"
    left_out = f", the latest {MOST} shown" if count > MOST else ""
    return f"lifeboat journal of set {history.set_id.hex()[:8]}: {sessions}{left_out}"


def _svg_legend(kinds: Sequence[str], width: float) -> tuple[str, int]:
    """(markup, height); items flow from left to right."""
    parts, x, y = [], 0.0, 24
    for kind in kinds:
        shape, meaning = MARKS[kind]
        step = 24 + len(meaning) * _LEGEND_CHAR + 14
        if x and x + step > width - 16:
            x, y = 0.0, y + 22
        parts.append(f'<g transform="translate({x + 8:g} {y})">{shape}</g>')
        parts.append(caption(x + 22, y + 4, meaning))
        x += step
    return "".join(parts), y + 20
