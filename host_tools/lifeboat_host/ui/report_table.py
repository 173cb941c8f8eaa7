"""The report of a power-on, for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Table
from rich.text import Text

VERDICTS = {
    "RUN": ("green", "the code is intact and has its backup"),
    "RUN_DEGRADED": ("yellow", "the code is intact, but has no good backup"),
    "RESCUE": ("bold red", "there is no verified code to run"),
}


def spans(ranges: Iterable[Iterable[Any]]) -> str:
    """Ranges of the report, such as [[3, 2, "sata0"], [9, 1]]: `blocks 3-4 (sata0), 9`.

    The word tells numbers of blocks from counts: block 0 is one, too.
    """
    parts, blocks = [], 0
    for first, count, *disk in ranges:
        blocks += count
        span = str(first) if count == 1 else f"{first}-{first + count - 1}"
        parts.append(f"{span} ({disk[0]})" if disk else span)
    if not parts:
        return "none"
    return f"block{'s' if blocks > 1 else ''} {', '.join(parts)}"


def table(report: dict[str, Any]) -> Table:
    """The report as a table for people."""
    style, meaning = VERDICTS.get(report["verdict"], ("", "not known to this tool"))
    grid = Table.grid(padding=(0, 2))
    grid.add_row("verdict", Text.assemble((report["verdict"], style), f"  {meaning}"))
    for code, where, detail in report.get("reasons", ()):
        grid.add_row("reason", " ".join(str(part) for part in (code, where, detail) if part))
    product, version, build = (report.get(key) for key in ("product", "version", "build"))
    grid.add_row("code", f"{product} {version}, build {build}" if build else "none")
    grid.add_row("trust", str(report.get("trust")))
    if "memory" in report:
        own = f", own set {report['set']}" if report.get("set") else ""
        grid.add_row("memory", f"{report['memory']}{own}")
    grid.add_row("inspected", f"{report.get('blocks')} blocks; manifest {report.get('manifest')}")
    for key, what in (("bad", "damaged"), ("repaired", "repaired"), ("lost", "lost")):
        grid.add_row(what, spans(report.get(key, ())))
    for key, what in (("erases", "block"), ("disk_writes", "command")):
        count = report.get(key)
        plural = "" if count == 1 else "s"
        grid.add_row(key.replace("_", " "), f"{count} {what}{plural}" if count else "none")
    for member in report.get("members", ()):
        generation = f", generation {member['generation']}" if member.get("generation") else ""
        parity = f", parity: {member['parity']}" if member.get("parity") else ""
        grid.add_row(f"disk {member['disk']}", f"{member['state']}{generation}{parity}")
    times = (f"{name} {value}" for name, value in report.get("ms", {}).items())
    grid.add_row("time (ms)", ", ".join(times))
    return grid
