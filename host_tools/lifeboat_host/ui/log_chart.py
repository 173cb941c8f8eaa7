"""The rows and marks of the journal's timeline, as pieces of SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from lifeboat_host.model import journal
from lifeboat_host.model.journal import Event, History, Session

# Kind of mark -> (what it looks like around 0,0; what it means), in the order of the legend.
MARKS = {
    "found": ('<circle class="found" r="6"/>', "damaged"),
    "repaired": ('<circle class="repaired" r="3.2"/>', "repaired"),
    "lost": ('<path class="lost" d="M-5-5 5 5M-5 5 5-5"/>', "lost: no good copy"),
    "source": ('<path class="source" d="M0 6V-5M-4-1 0-5 4-1"/>', "good copy came from here"),
    "created": (
        '<rect class="created" x="-6.5" y="-6.5" width="13" height="13" rx="2"/>'
        '<path class="cross" d="M-4 0H4M0-4V4"/>',
        "new backup copy",
    ),
    "mended": ('<path class="mended" d="M0-6.5 6.5 0 0 6.5-6.5 0Z"/>', "backup copy mended"),
    "reason": ('<path class="reason" d="M0-6.5 7 6H-7Z"/>', "needs a look: see the reason"),
    "changed": (
        '<rect class="changed" x="-5" y="-5" width="10" height="10"/>',
        "changed under the running application",
    ),
    "adopted": (
        '<circle class="adopted" r="6.5"/><path class="cross" d="M-3.5 0-1 3 3.5-3"/>',
        "the controller's own from now on",
    ),
    "trial": ('<path class="changed" d="M-6-6H6L0 6Z"/>', "a new build is tried, or stays"),
    "taken-back": ('<path class="lost" d="M-6 6H6L0-6Z"/>', "a new build is gone again"),
    "other": ('<text class="muted middle" y="4">?</text>', "of a later version"),
    "operation": (
        '<rect class="operation" x="-7" y="-7" width="14" height="14"/>',
        "in operation; else at power-on",
    ),
}

_EVENTS = frozenset(MARKS) - {"source", "other", "operation"}
_VERDICTS = {"RUN": "RUN", "RUN_DEGRADED": "DEGRADED", "RESCUE": "RESCUE"}

NAMES = 116  # width of the column of names
_ROW = 24
_WIDE, _NARROW = 76, 38  # of a session
_WIDE_MOST = 24  # sessions that are drawn wide
MOST = 500  # sessions in a picture: the latest ones
_BLOCK_ROWS = 16  # neighbours share one when there are more
_NAMED_ROWS = 32  # disks and the like


def heading(session: Session) -> str:
    """What is known of the session as a whole."""
    parts = [f"session {session.number}", journal.when(session.time), session.verdict]
    return ", ".join(part for part in parts if part)


def told(event: Event, history: History) -> str:
    """What the event says and asks for, when in its session it was, and who tells of it."""
    phase = "in operation" if event.entry.in_operation else "at power-on"
    parts = [phase, journal.moment(event.entry), history.only(event)]
    moment = ", ".join(part for part in parts if part)
    return f"{journal.explain(event.entry)} ({moment})"


def clean(text: str) -> str:
    """Names come from disks and file systems: only what a text of XML may hold."""
    return escape("".join(char if char.isprintable() else "\ufffd" for char in text))


def caption(x: float, y: float, text: str, style: str = "", title: str = "") -> str:
    """A text of the picture; title: shows under the mouse."""
    inner = f"<title>{clean(title)}</title>" if title else ""
    return f'<text x="{x:g}" y="{y:g}" class="{style}">{inner}{clean(text)}</text>'


# --- rows ----------------------------------------------------------------------------------


@dataclass
class _Row:
    """again: how often its block was repaired, when more than once."""

    name: str
    again: int = 0
    # (index of the session, phase) -> [(kind of mark, event)]
    cells: dict[tuple[int, int], list[tuple[str, Event]]] = field(default_factory=dict)

    def mark(self, session: int, kind: str, event: Event) -> None:
        phase = int(event.entry.in_operation)
        self.cells.setdefault((session, phase), []).append((kind, event))


_OF_BLOCKS = ("found", "repaired", "lost", "changed")


def _is_of_blocks(event: Event) -> bool:
    entry = event.entry
    of_flash = entry.event not in ("found", "lost") or entry.where == "flash"
    return entry.event in _OF_BLOCKS and of_flash and entry.count > 0


def _block_rows(sessions: Sequence[Session], history: History) -> dict[int, _Row]:
    """Block -> its row. Neighbours share one when there are too many blocks."""
    events = (event for session in sessions for event in session.events if _is_of_blocks(event))
    blocks = sorted({block for event in events for block in event.blocks})
    share = -(-len(blocks) // _BLOCK_ROWS) or 1
    repairs = history.repairs
    rows = {}
    for at in range(0, len(blocks), share):
        part = blocks[at : at + share]
        name = f"block {part[0]}" if len(part) == 1 else f"blocks {part[0]}-{part[-1]}"
        again = max(len(repairs.get(block, ())) for block in part)
        row = _Row(name, again if again > 1 else 0)
        rows.update(dict.fromkeys(part, row))
    return rows


def _rows(sessions: Sequence[Session], history: History) -> list[_Row]:
    """The rows below the verdicts, with every event in at least one of them."""
    blocks = _block_rows(sessions, history)
    flash, other = _Row("flash"), _Row("other")
    named: dict[str, _Row] = {}

    def row_of(name: str) -> _Row:
        if name == "flash":
            return flash
        if not name or (name not in named and len(named) == _NAMED_ROWS):
            return other
        return named.setdefault(name, _Row(name))

    for index, session in enumerate(sessions):
        for event in session.events:
            entry = event.entry
            if entry.event == "power-on":
                continue
            kind = entry.event if entry.event in _EVENTS else "other"
            if _is_of_blocks(event):
                for row in {id(blocks[block]): blocks[block] for block in event.blocks}.values():
                    row.mark(index, kind, event)
                if kind == "repaired":
                    row_of(entry.where).mark(index, "source", event)
            else:
                # What is not one word is no name of a disk: `member 2 of 2`.
                is_disk = entry.where and " " not in entry.where
                row_of(entry.where if is_disk else entry.code).mark(index, kind, event)
    rows = list({id(row): row for row in blocks.values()}.values())
    if flash.cells or not rows:
        rows.insert(0, flash)
    rows += [named[name] for name in sorted(named)]
    return rows + [other] if other.cells else rows


# --- drawing -------------------------------------------------------------------------------


class Chart:
    """Names and plot of one history; sizes in pixels."""

    _HEAD = 56  # number, date and time of each session

    def __init__(self, history: History) -> None:
        self._history = history
        self._sessions = history.sessions[-MOST:]
        self._column = _WIDE if len(self._sessions) <= _WIDE_MOST else _NARROW
        self._rows = _rows(self._sessions, history)
        self.width = max(self._column * len(self._sessions), self._column)
        self.height = self._HEAD + _ROW * (3 + len(self._rows)) + 4

    @property
    def kinds(self) -> list[str]:
        """Marks that occur, in the order of the legend."""
        there = {k for row in self._rows for cell in row.cells.values() for k, _ in cell}
        if any(map(self._in_operation, range(len(self._sessions)))):
            there.add("operation")
        return [kind for kind in MARKS if kind in there]

    def _top(self, row: int) -> int:
        """The upper edge of a row; rows -3 to -1 are power cycles, version and verdict."""
        return self._HEAD + _ROW * (row + 3)

    def _bands(self, width: int) -> Iterator[str]:
        for index, row in enumerate(self._rows):
            if row.again:
                yield (
                    f'<rect class="again" x="0" y="{self._top(index)}" '
                    f'width="{width}" height="{_ROW}"/>'
                )

    def _grid(self, width: int) -> Iterator[str]:
        for index in range(-3, len(self._rows) + 1):
            y = self._top(index)
            yield f'<path class="line" d="M0 {y}H{width}"/>'

    def names(self) -> str:
        """The column of names."""
        parts = [*self._bands(NAMES), *self._grid(NAMES)]
        parts.append(caption(8, 16, "session", "muted"))
        cycles = "power cycles since the session before; healthy ones leave no trace"
        parts.append(caption(8, self._top(-3) + 16, "power cycles", "muted", cycles))
        parts.append(caption(8, self._top(-2) + 16, "version", "muted"))
        parts.append(caption(8, self._top(-1) + 16, "verdict", "muted"))
        for index, item in enumerate(self._rows):
            y = self._top(index) + 16
            title = item.name
            if item.again:
                title = f"{item.name}: damaged again and again, repaired {item.again} times"
                parts.append(
                    f'<text x="{NAMES - 6}" y="{y}" text-anchor="end" class="bold">'
                    f"<title>{clean(title)}</title>{item.again}\u00d7</text>"
                )
            parts.append(caption(8, y, item.name, "", title))
        return "".join(parts)

    def plot(self) -> str:
        """What stands to the right of the names."""
        parts = [self._operation(index) for index in range(len(self._sessions))]
        parts += [*self._bands(self.width), *self._grid(self.width)]
        version = ""
        for index, session in enumerate(self._sessions):
            parts += self._session(index, session, session.version != version)
            version = session.version or version
        for number, row in enumerate(self._rows):
            for (index, phase), marks in row.cells.items():
                parts.append(self._cell(self._x(index, phase), self._top(number), marks))
        return "".join(parts)

    def _in_operation(self, index: int) -> bool:
        return any(event.entry.in_operation for event in self._sessions[index].events)

    def _x(self, index: int, phase: int) -> float:
        """The middle of what a session told; power-on to the left of operation."""
        share = (0.28, 0.72)[phase] if self._in_operation(index) else 0.5
        return self._column * (index + share)

    def _operation(self, index: int) -> str:
        if not self._in_operation(index):
            return ""
        x, top = self._column * (index + 0.5), self._top(0)
        height = _ROW * len(self._rows)
        return (
            f'<rect class="operation" x="{x:g}" y="{top}" width="{self._column / 2:g}" '
            f'height="{height}"><title>in operation</title></rect>'
        )

    def _session(self, index: int, session: Session, new_version: bool) -> Iterator[str]:
        x = self._column * (index + 0.5)
        title, time = heading(session), journal.when(session.time)
        wide = self._column == _WIDE
        yield caption(x, 16, str(session.number), "bold middle", title)
        if time:
            yield caption(x, 31, time[:10] if wide else time[5:10], "small muted middle", title)
            yield caption(x, 44, time[11:16], "small muted middle", title)
        cycles = self._history.cycles_before(session)
        if cycles:
            least, most = cycles
            span = str(least) if least == most else f"{least} to {most}"
            since = f"{span} power cycles since the session before; healthy ones leave no trace"
            yield caption(x, self._top(-3) + 16, f"+{most}", "small middle", since)
        if new_version:
            yield caption(x, self._top(-2) + 16, session.version, "small middle", session.version)
        yield self._verdict(index, session, wide)

    def _verdict(self, index: int, session: Session, wide: bool) -> str:
        style = session.verdict if session.verdict in _VERDICTS else "verdict"
        told = [journal.tell(session.begin)] if session.begin else ["its beginning was lost"]
        x, y = self._column * index + 2, self._top(-1) + 3
        title = "\n".join([heading(session), *told])
        word = _VERDICTS.get(session.verdict, "?")
        label = word if wide else word[:3]
        return (
            f'<g><title>{clean(title)}</title><rect class="{style}" x="{x}" y="{y}" '
            f'width="{self._column - 4}" height="{_ROW - 6}" rx="3"/>'
            f"{caption(x + self._column / 2 - 2, y + 13, label, f'small middle on-{style}')}</g>"
        )

    def _cell(self, x: float, top: int, marks: Sequence[tuple[str, Event]]) -> str:
        kinds = list(dict.fromkeys(kind for kind, _ in marks))
        # A repair sits in the ring of its damage.
        places = [kind for kind in kinds if not (kind == "repaired" and "found" in kinds)]
        step = min(15.0, self._column * 0.44 / len(places))
        parts = []
        for kind in kinds:
            place = places.index("found" if kind not in places else kind)
            at = x + step * (place - (len(places) - 1) / 2)
            parts.append(
                f'<g transform="translate({at:g} {top + _ROW // 2})">{MARKS[kind][0]}</g>'
            )
        title = "\n".join(told(event, self._history) for _, event in marks)
        half = min(self._column / 2, 8 + step * len(places) / 2)
        parts.append(
            f'<rect class="hit" x="{x - half:g}" y="{top}" width="{2 * half:g}" height="{_ROW}"/>'
        )
        return f"<g><title>{clean(title)}</title>{''.join(parts)}</g>"
