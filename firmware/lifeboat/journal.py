"""The journal in the regions: what was found and done (format.md section 5)."""

import time
from errno import EIO
from struct import pack_into, unpack_from

from micropython import const

from .errors import LifeboatError
from .kernels import crc32
from .region import UNIT

# magic major minor header_size serial region_id entry_count incompat ro_compat
PAGE = "<8sBBHI16sIII"
# number session time uptime phase event code where first count
ENTRY = "<IIIIB11s16s12sII"

POWER_ON = const(0)
OPERATION = const(1)
_SECONDS = const(2)  # added to the phase when the uptime counts seconds

# What is news whenever it happens; anything else may be a lasting condition, told once.
_ACTS = ("repaired", "created", "mended", "changed", "adopted")

_MAGIC = b"LBJOURNL"
_BEGIN = b"power-on\0\0\0"
_MAJOR = const(1)
_MINOR = const(2)
_LIMIT = const(0xFFFFFFF0)  # of a serial
_USED_UP = const(0xFF000000)  # no journal counts so far by itself
_MASK = const(0xFFFFFFFF)
_TICKS = const(0x3FFFFFFF)
_SIZE = const(64)  # of the page's header and of an entry
_MOST = const(62)
_FILLED = const("4096s")  # with this pack_into() puts zeros behind what it is given
_CRC = const(4092)
_MOST_PAGES = const(1024)  # all are read when there is news
_ERRORS = const(3)  # pages that can't be read before a journal is given up: each takes its time

# The least time of a clock that was set, and the seconds from 1970 to the other epoch of ports.
_SET = const(1704067200)
_FROM_2000 = const(946684800)


def now():
    """Return the seconds since 1970, 0 when that is not known: a port may have no clock at all."""
    if not hasattr(time, "gmtime"):
        return 0
    now = int(time.time())
    if time.gmtime(0)[0] == 2000:
        now += _FROM_2000
    return now if now >= _SET else 0


# Names and versions are untrusted; a cut must not leave half a character.
def _text(text, size):
    return bytes(ord(c) if " " <= c < "\x7f" else 63 for c in text[:size])


# What an entry tells, whenever it is told; the disk's count of power cycles is no news.
def _story(page, at):
    end = 56 if page[at + 17 : at + 28] == _BEGIN else _SIZE
    return bytes(page[at + 16 : at + end])


def pages(region):
    """Return how many pages the journal of a region has; 0: it has none."""
    at, count = unpack_from("<QI", region.header, 80)
    first, end = region.slot_at(region.slots), region.size - 2 * UNIT
    wrong = at % UNIT or count % 2 or count > _MOST_PAGES
    return 0 if wrong or at < first or at + count * UNIT > end else count


def _page_at(region, page):
    return unpack_from("<Q", region.header, 80)[0] + page * UNIT


# Read a page; its serial when it counts, else 0; None when the disk does not give it. to_write:
# raise LifeboatError(journal-version) when nothing may be added to its journal.
def _read(region, i, page, to_write=True):
    try:
        region.read(_page_at(region, i), page)
    except OSError as error:
        if error.errno != EIO:
            raise
        return None
    magic, major, _, size, serial, whose, count, incompat, ro_compat = unpack_from(PAGE, page)
    if magic != _MAGIC or crc32(memoryview(page)[:_CRC]) != unpack_from("<I", page, _CRC)[0]:
        return 0
    newer = major != _MAJOR or incompat
    if to_write and (newer or ro_compat):
        raise LifeboatError("journal-version")
    if (
        newer
        or size != _SIZE
        or serial >= _LIMIT
        or whose != region.region_id
        or not 0 < count <= _MOST
    ):
        return 0
    return serial


class _Journal:
    """Where the journal of one member goes on; page: a shared scratch of UNIT bytes.

    stories: what is to be told unless the latest power-on told just that, None: whatever it told.
    told: whether it did.
    """

    def __init__(self, region, page, stories):
        self._region = region
        self._errors, self._forged, self.told = 0, False, False
        self._begin()
        # A few pages say whether a lasting condition was told. Bad ones may lead the search
        # astray: then it is told where that looks next. Who has news to tell must know all pages.
        if stories is None:
            for i in range(pages(region)):
                self._look(i, page)
        else:
            self._search(page)
        self._load(page)
        self.told = stories is not None and self._holds(stories, page)

    # Of the pages that were looked at the newest one is where the journal goes on.
    def _look(self, i, page):
        serial = _read(self._region, i, page)
        if serial is None:
            self._errors += 1
            if self._errors > _ERRORS:
                raise OSError(EIO, "journal")
            return 0
        if serial > self._serial:
            self._serial, self._at = serial, i
        return serial

    # The serials of the pairs rise from the first one on and fall once: look for the last one
    # before that.
    def _search(self, page):
        low, high = 0, pages(self._region) // 2
        first = mid = 0
        while True:
            newest = max(self._look(2 * mid, page), self._look(2 * mid + 1, page))
            if not mid:
                first = newest
            elif newest > first:
                low = mid
            else:
                high = mid
            mid = (low + high) // 2
            if mid == low:
                break
        # Where it goes on from here: what was written there is found again.
        after = ((self._at | 1) + 1) % pages(self._region)
        serial = self._serial
        if self._look(after, page) > serial:
            self._look(after + 1, page)

    # Read the newest page again.
    def _load(self, page):
        if self._serial:
            if _read(self._region, self._at, page) != self._serial:
                raise LifeboatError("disk-lies", "journal")
            self._count = unpack_from("<I", page, 32)[0]
            self._number, self.session = unpack_from("<II", page, _SIZE * self._count)
            if max(self._serial, self._number) >= _USED_UP:
                self._forged = True
                self._begin()

    def _begin(self):
        self._serial = self._at = self._count = self._number = self.session = 0

    # Whether the latest power-on with findings wrote exactly these entries, but for number,
    # session and time. page: the newest one; a lasting condition is in one page.
    def _holds(self, stories, page):
        last, session = [], 0
        for at in range(_SIZE * self._count, 0, -_SIZE):
            if page[at + 16] == POWER_ON:
                told_in = unpack_from("<I", page, at + 4)[0]
                if told_in != session and len(last) > 1:
                    break
                if told_in != session:
                    last, session = [], told_in
                last.insert(0, _story(page, at))
        return last == stories

    def append(self, entries, page):
        """Write packed entries, a command after each yield; raises OSError, and
        LifeboatError(disk-lies).

        The other page of the pair is written, so a power cut costs no entry that was told before.
        """
        if self._forged:  # newer pages would not count, or be told as the oldest
            pack_into(_FILLED, page, 0, b"")
            for i in range(pages(self._region)):
                self._region.write(_page_at(self._region, i), page)
            self._forged = False
        if self._count and _read(self._region, self._at, page) != self._serial:
            raise LifeboatError("disk-lies", "journal")
        yield True
        while entries:
            at, count = self._at, self._count
            if count + len(entries) > _MOST:
                at = ((at | 1) + 1) % pages(self._region)
                count = 0
            elif count:
                at ^= 1
            if not count:
                pack_into(_FILLED, page, 0, b"")
            some = entries[: _MOST - count]
            number = self._number
            for entry in some:
                number += 1
                count += 1
                page[_SIZE * count : _SIZE * count + _SIZE] = entry
                pack_into("<I", page, _SIZE * count, number & _MASK)
            yield from self._write(at, count, page)
            self._at, self._count, self._number = at, count, number
            entries = entries[len(some) :]

    # Nothing here changes before the page is known to be on the medium.
    def _write(self, at, count, page):
        region, serial = self._region, self._serial + 1
        pack_into(
            PAGE, page, 0, _MAGIC, _MAJOR, _MINOR, _SIZE, serial, region.region_id, count, 0, 0
        )
        pack_into("<I", page, _CRC, crc32(memoryview(page)[:_CRC]))
        region.write(_page_at(region, at), page)
        yield True
        region.flush()
        yield True
        pack_into(_FILLED, page, 0, b"")  # a disk that leaves it alone is found out
        if _read(region, at, page) != serial:
            raise LifeboatError("disk-lies", "journal")
        self._serial = serial


def entries(region, page):
    """Return what the journal of a region tells, oldest first, as tuples of ENTRY's fields.

    page: scratch of UNIT bytes. Raises OSError as the disk does.
    """
    found, serials = {}, {}
    for i in range(pages(region)):
        serial = _read(region, i, page, False)
        if serial:
            for at in range(_SIZE, _SIZE * (unpack_from("<I", page, 32)[0] + 1), _SIZE):
                entry = unpack_from(ENTRY, page, at)
                if serial >= serials.get(entry[0], 0):
                    found[entry[0]], serials[entry[0]] = entry, serial
    return [found[number] for number in sorted(found)]


class Log:
    """The journals of all members that may be written, read once.

    findings: where it is told what fails on one, a Report or what has one as its report. stories:
    of a power-on; members that were told just these by the last one are left out.
    """

    def __init__(self, members, findings, stories=None):
        self._findings = findings
        self._data = getattr(findings, "report", findings).data
        self._journals = []
        self._session = 0
        for member in members:
            if member.writable and not member.region.read_only and pages(member.region):
                page = member.unit.get()
                journal = self._attempt(member, _Journal, member.region, page, stories)
                if journal:
                    self._session = max(self._session, journal.session)
                    if not journal.told:
                        self._journals.append((member, journal))

    def write(self, packed, uptime_s=None):
        """Write packed entries, a little after each yield; a session's first is its power-on.

        uptime_s: seconds since power-on, where milliseconds may not have kept count of them.
        """
        if not self._journals:
            return
        session = self._data["session"] = self.session()
        uptime, phase = time.ticks_ms() & _TICKS, 0
        if uptime_s and uptime_s * 1000 > _TICKS:
            uptime, phase = uptime_s & _MASK, _SECONDS
        for entry in packed:
            pack_into("<III", entry, 4, session, now(), uptime)
            entry[16] |= phase
        begins = packed[0][17:28] == _BEGIN
        for member, journal in self._journals:
            if begins and member.writable:
                cycles = self._attempt(member, member.disk.power_cycles) or 0
                pack_into("<I", packed[0], 56, cycles & _MASK)
            if member.writable:
                work = self._append(member, journal, packed)
                while self._attempt(member, next, work):
                    yield

    # A disk may have been replaced since its journal was read.
    @staticmethod
    def _append(member, journal, packed):
        page = member.unit.get()
        member.region.check(page)
        yield True
        yield from journal.append(packed, page)
        yield False

    def session(self):
        """Return the number of this session: one more than that of the last one."""
        return self._data.get("session") or self._session + 1 & _MASK or 1

    def tell(self, entries, uptime_s=None):
        """Write (event, code, where, first, count) of what happened in operation, as write()."""
        packed = [] if "session" in self._data else [_begin(self._data)]
        return self.write(packed + [_pack(OPERATION, entry) for entry in entries], uptime_s)

    def _attempt(self, member, action, *args):
        try:
            return action(*args)
        except LifeboatError as error:
            self._findings.reason(error.code, member.name, error.detail)
        except OSError as error:
            member.io_error(error)


def record(members, report):
    """Tell every member what a power-on found and did: the report's events, in their order.

    One that has nothing to tell, or just what the last one told, writes nothing (I7).
    """
    events = list(report.events)
    if not events:
        return
    packed = [_begin(report.data)] + [_pack(POWER_ON, entry) for entry in events]
    stories = None
    if not any(event in _ACTS or code in _ACTS for event, code, _, _, _ in events):
        packed = packed[:_MOST]  # in one page, so that the next power-on sees all of it
        stories = [_story(p, 0) for p in packed]
    for _ in Log(members, report, stories).write(packed):
        pass


def _begin(data):
    return _pack(POWER_ON, ("power-on", data["verdict"], data["version"] or "", 0, 0))


def _pack(phase, entry):
    event, code, where, first, count = entry
    packed = bytearray(_SIZE)
    pack_into(
        ENTRY, packed, 0, 0, 0, 0, 0, phase,
        _text(event, 11), _text(code, 16), _text(where, 12), first, count,
    )  # fmt: skip
    return packed
