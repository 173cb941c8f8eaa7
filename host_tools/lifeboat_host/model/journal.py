"""The journal in the regions (docs/format.md, section 5): read it, and what follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.types import Progress
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import reasons
from lifeboat_host.model.formats import MANIFEST_LIMIT, UNIT, Entry, Page, RegionHeader, parse_page

VERSION = "journal-version"  # the code of a page that is of a newer format

_PIECE = 32  # pages read in one go: much faster over a serial line
# No image has more blocks: a longer range in an entry is nonsense, and must not cost memory.
_BLOCKS_MAX = MANIFEST_LIMIT // 36


@dataclass(frozen=True)
class Journal:
    """One member's journal; entries in the order of their numbers.

    units: pages that the ring has; used: how many hold entries; damaged: (page, code) of those
    that should, but do not count: a page that a power cut tore is among these, and `newer` are
    those of a format that this tool does not know.
    read_only: a page of a newer format keeps this version's boards from adding to it.
    """

    disk: str
    header: RegionHeader
    units: int
    used: int
    damaged: tuple[tuple[int, str], ...]
    entries: tuple[Entry, ...]
    read_only: bool = False

    @property
    def newer(self) -> list[int]:
        """Numbers of the pages of a newer format."""
        return [page for page, code in self.damaged if code == VERSION]


def read(disk: Disk, header: RegionHeader, progress: Progress | None = None) -> Journal:
    """The journal of the region on that disk, whatever state it is in.

    Raises LifeboatError journal-none when the region has none, or none of its pages counts
    (journal-version: and one is of a newer format);
    what the way to a connected board raises.
    """
    if header.journal is None:
        raise LifeboatError(
            "journal-none",
            f"{disk.path}: the region has no journal (it was made by an older lifeboat)",
            "read another member; a region that is made anew has a journal",
        )
    start, units = header.journal
    pages: list[Page] = []
    damaged = []
    for number, data in _pages(disk, start, units, progress):
        if data is not None and not any(data):
            continue  # never written
        try:
            if data is None:
                raise LifeboatError("disk-read", "")
            pages.append(parse_page(data, header))
        except LifeboatError as error:
            damaged.append((number, error.code))
    if damaged and not pages:
        codes = sorted({code for _, code in damaged})
        hint = "read another member; the board begins a new journal with its next finding"
        if VERSION in codes:
            hint = "use a lifeboat release that knows this format; do not overwrite it"
        raise LifeboatError(
            VERSION if VERSION in codes else "journal-none",
            f"{disk.path}: no page of the journal can be read ({', '.join(codes)})",
            hint,
        )
    pages.sort(key=lambda page: page.serial)
    entries = {entry.number: entry for page in pages for entry in page.entries}
    ordered = tuple(entries[number] for number in sorted(entries))
    read_only = any(page.read_only for page in pages) or VERSION in dict(damaged).values()
    return Journal(str(disk.path), header, units, len(pages), tuple(damaged), ordered, read_only)


def _pages(
    disk: Disk, start: int, units: int, progress: Progress | None
) -> Iterator[tuple[int, bytes | None]]:
    """(number, content) of every page; None when the disk does not give it."""
    for first in range(0, units, _PIECE):
        count = min(_PIECE, units - first)
        yield from enumerate(_read_units(disk, start + first * UNIT, count), first)
        if progress:
            progress(first + count, units)


def _read_units(disk: Disk, offset: int, count: int) -> list[bytes | None]:
    try:
        data = disk.read(offset, count * UNIT)
        return [data[at : at + UNIT] for at in range(0, len(data), UNIT)]
    except LifeboatError as error:
        if error.code != "disk-read":
            raise  # the way to the disk is broken, not the disk
        if count == 1:
            return [None]
        return [
            page for unit in range(count) for page in _read_units(disk, offset + unit * UNIT, 1)
        ]


# --- what several members tell -------------------------------------------------------------


@dataclass
class Event:
    """An entry, and the disks that have it."""

    entry: Entry
    disks: list[str]

    @property
    def blocks(self) -> range:
        """Blocks that the entry is about, as far as they can be real ones."""
        return range(self.entry.first, self.entry.first + min(self.entry.count, _BLOCKS_MAX))


@dataclass
class Session:
    """A power-on that had something to tell. cycles: disk -> its own count of power cycles."""

    number: int
    events: list[Event] = field(default_factory=list)
    cycles: dict[str, int] = field(default_factory=dict)

    @property
    def begin(self) -> Entry | None:
        """Its power-on entry; None when that was lost."""
        found = (event.entry for event in self.events if event.entry.event == "power-on")
        return next(found, None)

    @property
    def disks(self) -> list[str]:
        """The disks that tell of it."""
        return list(dict.fromkeys(disk for event in self.events for disk in event.disks))

    @property
    def time(self) -> int:
        """Seconds since 1970; 0: not known."""
        return next((event.entry.time for event in self.events if event.entry.time), 0)

    @property
    def verdict(self) -> str:
        """Empty: not known."""
        return self.begin.code if self.begin else ""

    @property
    def version(self) -> str:
        """Of the code; empty: not known."""
        return self.begin.where if self.begin else ""

    @property
    def lost(self) -> bool:
        """Whether blocks of the flash had no good copy."""
        entries = [event.entry for event in self.events if event.entry.where == "flash"]
        return any(entry.event == "lost" or entry.code == "block-lost" for entry in entries)

    @property
    def damaged(self) -> list[int]:
        """Blocks of the flash that were lost, or found damaged in operation, and not repaired
        since. What is found at power-on is in its verdict."""
        left: set[int] = set()
        for event in self.events:
            entry = event.entry
            if entry.event == "repaired":
                left.difference_update(event.blocks)
            elif entry.where == "flash" and (
                entry.event == "lost" or (entry.event == "found" and entry.in_operation)
            ):
                left.update(event.blocks)
        return sorted(left)

    @property
    def good(self) -> bool:
        """Whether the code was whole, to the end, and had its backup."""
        return self.verdict == "RUN" and not self.damaged


@dataclass
class History:
    """What the members of one set tell together, oldest session first."""

    journals: list[Journal]
    sessions: list[Session]

    @property
    def set_id(self) -> bytes:
        return self.journals[0].header.set_id

    @property
    def last_good(self) -> Session | None:
        return next((session for session in reversed(self.sessions) if session.good), None)

    @property
    def repairs(self) -> dict[int, list[int]]:
        """Block of the flash -> the session of each of its repairs."""
        found: dict[int, list[int]] = {}
        for session in self.sessions:
            for event in session.events:
                for block in event.blocks if event.entry.event == "repaired" else ():
                    found.setdefault(block, []).append(session.number)
        return dict(sorted(found.items()))

    @property
    def repeated(self) -> dict[int, list[int]]:
        """Those of `repairs` that rotted again after a repair."""
        return {block: numbers for block, numbers in self.repairs.items() if len(numbers) > 1}

    def only(self, event: Event) -> str:
        """Which members tell of it, for people; empty when all do."""
        everyone = len(event.disks) == len(self.journals)
        return "" if everyone else f"only {', '.join(event.disks)}"

    def cycles_before(self, session: Session) -> tuple[int, int] | None:
        """Least and most power cycles that a disk counted since the session before.

        None when no disk counted in both. Disks differ when one was away or used elsewhere.
        """
        index = self.sessions.index(session)
        return _cycles(self.sessions[index - 1], session) if index else None

    @property
    def cycles(self) -> tuple[int, int] | None:
        """Least and most power cycles that a disk counted from the first to the last session."""
        return _cycles(self.sessions[0], self.sessions[-1]) if len(self.sessions) > 1 else None


def _cycles(one: Session, two: Session) -> tuple[int, int] | None:
    counts = [
        two.cycles[disk] - one.cycles[disk]
        for disk in two.cycles
        if one.cycles.get(disk, two.cycles[disk] + 1) <= two.cycles[disk]
    ]
    return (min(counts), max(counts)) if counts else None


def by_set(journals: Iterable[Journal]) -> list[History]:
    """One History for each set of members."""
    sets: dict[bytes, list[Journal]] = {}
    for journal in journals:
        sets.setdefault(journal.header.set_id, []).append(journal)
    return [merge(members) for members in sets.values()]


def merge(journals: Sequence[Journal]) -> History:
    """The History of the members of one set: what several of them tell appears once.

    Members that were apart may have given one number to different sessions, which stay apart.
    """
    sessions: list[Session] = []
    numbered: dict[int, list[int]] = {}  # session number -> places in `sessions`
    orders: list[list[int]] = []  # each journal's own, of places in `sessions`
    for journal in journals:
        order: dict[int, None] = {}
        for entries in _split(journal.entries):
            number = entries[0].session
            places = numbered.setdefault(number, [])
            same = (place for place in places if _is_same(sessions[place], entries))
            place = next(same, len(sessions))
            if place == len(sessions):
                sessions.append(Session(number))
                places.append(place)
            _add(sessions[place], journal.disk, entries)
            order[place] = None
        orders.append(list(order))
    return History(list(journals), [sessions[place] for place in _in_order(sessions, orders)])


def _in_order(sessions: Sequence[Session], orders: Sequence[Sequence[int]]) -> list[int]:
    """The places of all sessions, in the order that each journal has them in.

    That is the order of their entries. Session numbers may be forged, and wrap: they only say
    how sessions of members that were apart stand to each other.
    """
    journals_with = Counter(place for order in orders for place in order)
    at = [0] * len(orders)
    done: dict[int, None] = {}
    while len(done) < len(sessions):
        for index, order in enumerate(orders):
            while at[index] < len(order) and order[at[index]] in done:
                at[index] += 1
        heads = Counter(
            order[at[index]] for index, order in enumerate(orders) if at[index] < len(order)
        )
        # One that another journal has further behind comes after what stands before it there.
        ready = [place for place, count in heads.items() if count == journals_with[place]]
        chosen = min(
            ready or heads, key=lambda place: (sessions[place].number, sessions[place].time)
        )
        done[chosen] = None
    return list(done)


def _split(entries: Iterable[Entry]) -> list[list[Entry]]:
    """The entries of each session; a number that was given twice makes two of them."""
    parts: list[list[Entry]] = []
    for entry in entries:
        if not parts or entry.session != parts[-1][0].session or entry.event == "power-on":
            parts.append([])
        parts[-1].append(entry)
    return parts


def _stamp(entry: Entry) -> tuple[int, int]:
    # All entries that the board wrote in one go, to all members, have the same.
    return entry.time, entry.milliseconds


def _is_same(session: Session, entries: Sequence[Entry]) -> bool:
    stamps = {_stamp(event.entry) for event in session.events}
    return any(_stamp(entry) in stamps for entry in entries)


def _story(entry: Entry) -> tuple[object, ...]:
    """What tells one event of a session from another, on whatever disk it stands."""
    first = 0 if entry.event == "power-on" else entry.first
    what = (entry.event, entry.code, entry.where, first, entry.count)
    return (*_stamp(entry), entry.phase, *what)


def _add(session: Session, disk: str, entries: Iterable[Entry]) -> None:
    """Add a disk's entries in their order, each behind the one it follows on the disk."""
    stories = [_story(event.entry) for event in session.events]
    at = 0
    for entry in entries:
        if entry.event == "power-on" and entry.first:
            session.cycles[disk] = entry.first
        try:
            at = stories.index(_story(entry), at)
            session.events[at].disks.append(disk)
        except ValueError:
            stories.insert(at, _story(entry))
            session.events.insert(at, Event(entry, [disk]))
        at += 1


# --- in plain words ------------------------------------------------------------------------


def when(seconds: int) -> str:
    """A time of the journal for people; empty when the board had no clock."""
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def moment(entry: Entry) -> str:
    """When in its session the entry was written, for people.

    In operation the clock tells more: the time since power-on begins anew every 12 days.
    """
    if entry.in_operation and entry.time:
        return when(entry.time)
    seconds = entry.milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.3f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds % 60)} s"


def _blocks(entry: Entry) -> str:
    if entry.count == 1:
        return f"block {entry.first}"
    return f"blocks {entry.first} to {entry.first + entry.count - 1}"


_TRIALS = {
    "trying": "is tried",
    "back": "is on its way back",
    "confirmed": "was confirmed and stays",
}


def explain(entry: Entry) -> str:
    """What the entry says and what it asks a person to do."""
    advice = reasons.advice(entry)
    return f"{tell(entry)}: {advice}" if advice else tell(entry)


def tell(entry: Entry) -> str:
    """What the entry says, for people; an event of a later version as it stands there."""
    where, code = entry.where, entry.code
    if entry.event == "power-on":
        version = f"with version {where}" if where else "without verified code"
        return f"power-on {version}: {code}"
    what = "" if where == "flash" else " of its backup copy"
    if entry.event == "found":
        return f"{where}: {_blocks(entry)}{what} damaged"
    if entry.event == "repaired":
        return f"flash: {_blocks(entry)} repaired from {where}"
    if entry.event == "lost":
        return f"{where}: {_blocks(entry)}{what} lost"
    if entry.event == "created":
        return f"{where}: new backup copy, generation {entry.first}, {entry.count} blocks"
    if entry.event == "mended":
        what = f"{_blocks(entry)} of its backup copy" if entry.count else "header copies"
        return f"{where}: {what} rewritten"
    if entry.event == "reason":
        return f"{where}: {code}" if where else code
    if entry.event == "changed":
        return f"segment {where}: {_blocks(entry)} changed by a repair in operation ({code})"
    if entry.event == "adopted":
        more = f", the first of {entry.first} members," if entry.first > 1 else ""
        return f"{where}{more} belongs to the controller's own set from now on"
    if entry.event == "trial" and code in _TRIALS:
        return f"version {where} {_TRIALS[code]} (start {entry.first}, {entry.count} blocks)"
    if entry.event == "taken-back":
        blocks = f"{entry.count} blocks"
        return f"version {where} did not stay ({code}): the one before it is back, {blocks}"
    parts = [entry.event, code, where, str(entry.first), str(entry.count)]
    return " ".join(part for part in parts if part)
