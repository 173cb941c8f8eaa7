"""What boards and their journals tell, as OpenMetrics for a monitoring system.

The names are stable, docs/operations.md lists them; labels hold codes of the reports, not texts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest

from lifeboat_host.base import files
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.model.journal import History, Session
from lifeboat_host.ui.report_table import VERDICTS

_RANGES = 16  # parts of the flash whose repairs are counted apart


class _All:
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def text(metrics: Iterable[Metric]) -> bytes:
    """The metrics as OpenMetrics 1.0 has them; older Prometheus and its exporters read it, too."""
    return bytes(generate_latest(_All(metrics)))  # type: ignore[no-untyped-call]


def write(target: str, metrics: Iterable[Metric]) -> None:
    """To a file, which is the old or the new one at any time; `-`: to standard output.

    Raises LifeboatError metrics-write.
    """
    content = text(metrics)
    if target == "-":
        sys.stdout.write(content.decode())
        return
    try:
        files.replace(Path(target), content)
    except OSError as error:
        raise LifeboatError(
            "metrics-write", f"{target}: {error.strerror}", "name a file in a folder of yours"
        ) from None


def _gauge(name: str, what: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"lifeboat_{name}", what, labels=labels)


def _counter(name: str, what: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"lifeboat_{name}", what, labels=labels)


def _size(ranges: Iterable[Any]) -> int:
    return sum(int(one[1]) for one in ranges)


def of_status(status: dict[str, Any]) -> Iterator[Metric]:
    """What `lifeboat status --json` says."""
    board = status["product"]
    up = _gauge("up", "1: the board answered.", "board")
    up.add_metric([board], 1)
    yield up
    level = _gauge("backup_level", "1: the disk holds the code in flash.", "board", "disk")
    states = _gauge("member_state", "1: the state of a disk.", "board", "disk", "state")
    copies = _gauge("backup_generation", "Generation of the newest copy.", "board", "disk")
    for member in status["members"]:
        disk, state = member["disk"], member["state"]
        level.add_metric([board, disk], state in ("level", "created", "mended"))
        states.add_metric([board, disk, state], 1)
        newest = [copy["generation"] for copy in member["copies"]]
        if newest:
            copies.add_metric([board, disk], max(newest))
    yield from (level, states, copies)
    bad = _gauge("code_intact", "1: all blocks of the code in flash are right.", "board")
    bad.add_metric([board], not status["code"]["bad"] and "error" not in status["code"])
    yield bad
    if status.get("scrub"):
        yield from _of_scrub(board, status["scrub"])
    if status["report"]:
        yield from _of_report(board, status["report"])


def _of_scrub(board: str, scrub: dict[str, Any]) -> Iterator[Metric]:
    passes = _counter("scrub_passes", "Full passes of the scrubber since a cold start.", "board")
    passes.add_metric([board], scrub["passes"])
    yield passes
    age = _gauge("scrub_age_seconds", "Since the scrubber's last full pass ended.", "board")
    if scrub["age_ms"] is not None:
        age.add_metric([board], scrub["age_ms"] / 1000)
    yield age
    bound = _gauge("scrub_bound_seconds", "Within which the scrubber finds damage.", "board")
    if scrub["bound_s"] is not None:
        bound.add_metric([board], scrub["bound_s"])
    yield bound


def _of_report(board: str, report: dict[str, Any]) -> Iterator[Metric]:
    verdict = _gauge("verdict", "1: how the last power-on ended.", "board", "verdict")
    for name in VERDICTS:
        verdict.add_metric([board, name], report["verdict"] == name)
    yield verdict
    what = "Blocks of the last power-on, by what became of them."
    blocks = _gauge("blocks", what, "board", "state")
    for state in ("bad", "repaired", "lost"):
        name = {"bad": "damaged"}.get(state, state)
        blocks.add_metric([board, name], _size(report[state]))
    blocks.add_metric([board, "inspected"], report.get("blocks") or 0)
    yield blocks
    reason = _gauge("reason", "1: a reason of the last power-on, by its code.", "board", "code")
    for code in sorted({str(one[0]) for one in report["reasons"]}):
        reason.add_metric([board, code], 1)
    yield reason
    for key, what in (
        ("erases", "Flash blocks erased at the last power-on."),
        ("disk_writes", "Write commands to disks at the last power-on."),
    ):
        count = _gauge(f"power_on_{key}", what, "board")
        count.add_metric([board], report.get(key) or 0)
        yield count
    seconds = _gauge("power_on_seconds", "How long the last power-on took.", "board", "phase")
    for phase, ms in report["ms"].items():
        if isinstance(ms, (int, float)):
            seconds.add_metric([board, phase], ms / 1000)
    yield seconds


def of_histories(histories: Iterable[History]) -> Iterator[Metric]:
    """What `lifeboat log` tells, for each set of disks."""
    sessions = _counter("sessions", "Power-ons that had something to tell.", "set")
    repairs = _counter("repairs", "Blocks repaired, by range of blocks.", "set", "blocks")
    again = _gauge("blocks_repaired_again", "Blocks that rotted again after a repair.", "set")
    damaged = _gauge("blocks_damaged", "Damaged blocks that nothing has repaired yet.", "set")
    lost = _gauge("blocks_lost", "1: blocks were lost, no copy has them.", "set")
    verdict = _gauge("last_verdict", "1: how the last told session began.", "set", "verdict")
    cycles = _counter("power_cycles", "Power cycles between first and last session.", "set")
    last = _gauge("last_session_timestamp_seconds", "Time of the last told session.", "set")
    good = _gauge("last_good_timestamp_seconds", "Time of the last good session.", "set")
    what = "Time when the newest backup copy was made."
    made = _gauge("backup_created_timestamp_seconds", what, "set", "disk")
    since = _gauge("backup_age_sessions", "Told sessions since then.", "set", "disk")
    pages = _gauge("journal_pages_damaged", "Journal pages that can't be read.", "set", "disk")
    for history in histories:
        name = history.set_id.hex()
        sessions.add_metric([name], history.sessions[-1].number if history.sessions else 0)
        _add_repairs(repairs, name, history)
        again.add_metric([name], len(history.repeated))
        if history.cycles:
            cycles.add_metric([name], history.cycles[1])
        for member in history.journals:
            pages.add_metric([name, member.disk], len(member.damaged))
        for disk, backup in _backups(history).items():
            since.add_metric([name, disk], history.sessions[-1].number - backup.number)
            if backup.time:
                made.add_metric([name, disk], backup.time)
        end = history.sessions[-1] if history.sessions else None
        damaged.add_metric([name], len(end.damaged) if end else 0)
        lost.add_metric([name], bool(end and end.lost))
        if end:
            for one in VERDICTS:
                verdict.add_metric([name, one], end.verdict == one)
        for family, session in ((last, end), (good, history.last_good)):
            if session and session.time:
                family.add_metric([name], session.time)
    yield from (sessions, repairs, again, damaged, lost, verdict, cycles, last, good, pages)
    yield from (made, since)


def _backups(history: History) -> dict[str, Session]:
    """disk -> the last session that told of a new backup copy there."""
    return {
        event.entry.where: session
        for session in history.sessions
        for event in session.events
        if event.entry.event == "created"
    }


def _add_repairs(family: CounterMetricFamily, name: str, history: History) -> None:
    """Ranges of a power of two blocks, so that they stay the same as more blocks rot."""
    most = max(history.repairs, default=0)
    size = 1
    while size * _RANGES <= most:
        size *= 2
    counts: dict[int, int] = {}
    for block, numbers in history.repairs.items():
        counts[block // size] = counts.get(block // size, 0) + len(numbers)
    for part in sorted(counts) or [0]:
        span = f"{part * size}-{(part + 1) * size - 1}"
        family.add_metric([name, span], counts.get(part, 0))
