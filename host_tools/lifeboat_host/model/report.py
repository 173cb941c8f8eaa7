"""The report line of a power-on (docs/format.md, section 4): find it, explain it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.json_shape import Maybe, fits

PREFIX = "lifeboat: "

# Shapes: see fits().
BLOCKS = range(1 << 20)
REASONS = [[str, str, str]]
TRIAL = {
    "state": str,
    "build": str,
    "version": str,
    "old": str,
    "old_version": str,
    "starts": range(256),
    "limit": range(256),
    "why": str,
}
REPORT = {
    "trial": Maybe(TRIAL),
    "verdict": str,
    "reasons": REASONS,
    "build": (None, str),
    "bad": [[BLOCKS, BLOCKS]],
    "repaired": [[BLOCKS, BLOCKS, str]],
    "lost": [[BLOCKS, BLOCKS]],
    "members": [
        {
            "disk": (None, str),
            "state": str,
            "generation": (None, range(1 << 32)),
            "parity": Maybe(str),
        }
    ],
    "ms": {},
}


def parse_line(line: str) -> dict[str, Any] | None:
    """The report in a line of console output, or None when it is another line."""
    line = line.strip()
    if not line.startswith(PREFIX + "{"):
        return None
    try:
        report = json.loads(line[len(PREFIX) :])
    except (ValueError, RecursionError):
        return None
    return report if fits(report, REPORT) else None


def last_report(lines: Iterable[str]) -> dict[str, Any]:
    """The last report in a console log. Raises LifeboatError report-none."""
    reports = [report for report in map(parse_line, lines) if report]
    if not reports:
        raise LifeboatError(
            "report-none",
            f"no line that starts with {PREFIX!r} and a report",
            "give the console's output from power-on on",
        )
    return reports[-1]


def blocks(ranges: Iterable[Iterable[Any]]) -> list[int]:
    """The block numbers in ranges of the report."""
    return [block for first, count, *_ in ranges for block in range(first, first + count)]
