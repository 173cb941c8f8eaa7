"""The journal in the regions: what was found and done (format.md section 5)."""

import time
from errno import EIO
from struct import pack_into, unpack_from

from micropython import const

from .errors import LifeboatError
from .kernels import crc32
from .region import UNIT

# format.md section 5: magic major minor header_size serial region_id entry_count
PAGE = "<8sBBHI16sI"
# number session time uptime phase event code where first count
ENTRY = "<IIIIB11s16s12sII"

POWER_ON = const(0)
OPERATION = const(1)

_MAGIC = b"LBJOURNL"
_BEGIN = b"power-on\0\0\0"
_MAJOR = const(1)
_LIMIT = const(0xFFFFFFF0)  # of a serial
_USED_UP = const(0xFF000000)  # no journal counts so far by itself
_MASK = const(0xFFFFFFFF)
_TICKS = const(0x3FFFFFFF)
_SIZE = const(64)  # of the page's header and of an entry
_MOST = const(62)
_CRC = const(4092)
_ERRORS = const(3)  # pages that can't be read before a journal is given up: each takes its time

# The least time of a clock that was set, and the seconds from 1970 to the other epoch of ports.
_SET = const(1704067200)
_FROM_2000 = const(946684800)


# Seconds since 1970; a port may have no clock at all.
def _now():
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


# Read a page; its serial when it counts, else 0; None when the disk does not give it.
def _read(region, i, page):
    try:
        region.read(region.page_at(i), page)
    except OSError as error:
        if error.errno != EIO:
            raise
        return None
    magic, major, _, _, serial, region_id, count = unpack_from(PAGE, page, 0)
    if (
        magic == _MAGIC
        and major == _MAJOR
        and serial < _LIMIT
        and region_id == region.region_id
        and 0 < count <= _MOST
        and crc32(memoryview(page)[:_CRC]) == unpack_from("<I", page, _CRC)[0]
    ):
        return serial
    return 0


class _Journal:
    """Where the journal of one member goes on; page: a shared scratch of UNIT bytes."""

    def __init__(self, region, page):
        self._region = region
        self._begin()
        self._forged = False
        errors = 0
        for i in range(region.journal_pages):
            serial = _read(region, i, page)
            if serial is None:
                errors += 1
                if errors > _ERRORS:
                    raise OSError(EIO, "journal")
            elif serial > self._serial:
                self._serial, self._at = serial, i
        if self._serial:
            if _read(region, self._at, page) != self._serial:
                raise LifeboatError("disk-lies", "journal")
            self._count = unpack_from("<I", page, 32)[0]
            self._number, self.session = unpack_from("<II", page, _SIZE * self._count)
            if max(self._serial, self._number) >= _USED_UP:
                self._forged = True
                self._begin()

    def _begin(self):
        self._serial = self._at = self._count = self._number = self.session = 0

    def told(self, stories, page):
        """Return whether the last power-on that told more than its verdict told just these.

        page: the newest page, as the constructor left it.
        """
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
            page[:] = bytes(UNIT)
            for i in range(self._region.journal_pages):
                self._region.write(self._region.page_at(i), page)
            self._forged = False
        if self._count and _read(self._region, self._at, page) != self._serial:
            raise LifeboatError("disk-lies", "journal")
        yield True
        while entries:
            at, count = self._at, self._count
            if count + len(entries) > _MOST:
                at = ((at | 1) + 1) % self._region.journal_pages
                count = 0
            elif count:
                at ^= 1
            if not count:
                page[:] = bytes(UNIT)
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
        pack_into(PAGE, page, 0, _MAGIC, _MAJOR, 0, _SIZE, serial, region.region_id, count)
        pack_into("<I", page, _CRC, crc32(memoryview(page)[:_CRC]))
        region.write(region.page_at(at), page)
        yield True
        region.flush()
        yield True
        page[:] = bytes(UNIT)  # a disk that leaves it alone is found out
        if _read(region, at, page) != serial:
            raise LifeboatError("disk-lies", "journal")
        self._serial = serial


def entries(region, page):
    """Return what the journal of a region tells, oldest first, as tuples of ENTRY's fields.

    page: scratch of UNIT bytes. Raises OSError as the disk does.
    """
    found = {}
    for i in range(region.journal_pages):
        if _read(region, i, page):
            for at in range(_SIZE, _SIZE * (unpack_from("<I", page, 32)[0] + 1), _SIZE):
                entry = unpack_from(ENTRY, page, at)
                found[entry[0]] = entry
    return [found[number] for number in sorted(found)]


# The entries of a power-on: event, code, where, first, count.
def _entries(data):
    for first, count in data["bad"]:
        yield "found", "", "flash", first, count
    for code, where, _ in data["reasons"]:
        yield "reason", code, where, 0, 0
    for first, count in data["lost"]:
        yield "lost", "", "flash", first, count
    for first, count, disk in data["repaired"]:
        yield "repaired", "", disk, first, count
    for member in data["members"]:
        if member["state"] == "created":
            yield "created", "", member["disk"], member["generation"], data["blocks"]
        elif member["state"] == "mended":
            yield "mended", "", member["disk"], 0, 0


class Log:
    """The journals of all home members, read once. What fails on one is a reason in the report.

    stories: of a power-on; members that were told just these by the last one are left out.
    """

    def __init__(self, members, report, stories=None):
        self._report = report
        self._journals = []
        self._session = 0
        for member in members:
            if member.home and member.region.journal_pages:
                page = member.unit.get()
                journal = self._attempt(member, _Journal, member.region, page)
                if journal:
                    self._session = max(self._session, journal.session)
                    if stories is None or not journal.told(stories, page):
                        self._journals.append((member, journal))

    def write(self, packed):
        """Write packed entries, a little after each yield; the first one of a session is its
        power-on."""
        if not self._journals:
            return
        data = self._report.data
        session = data["session"] = data.get("session") or self._session + 1 & _MASK or 1
        for entry in packed:
            pack_into("<III", entry, 4, session, _now(), time.ticks_ms() & _TICKS)
        begins = packed[0][17:28] == _BEGIN
        for member, journal in self._journals:
            if begins and member.home:
                cycles = self._attempt(member, member.disk.power_cycles) or 0
                pack_into("<I", packed[0], 56, cycles & _MASK)
            if member.home:
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

    def tell(self, entries):
        """Write (event, code, where, first, count) of what happened in operation, as write()."""
        data = self._report.data
        packed = [] if "session" in data else [_begin(data)]
        return self.write(packed + [_pack(OPERATION, entry) for entry in entries])

    def _attempt(self, member, action, *args):
        try:
            return action(*args)
        except LifeboatError as error:
            self._report.reason(error.code, member.name, error.detail)
        except OSError as error:
            member.io_error(error)


def record(members, report):
    """Tell every member what a power-on found and did.

    One that has nothing to tell, or just what the last one told, writes nothing (I7).
    """
    data = report.data
    entries = list(_entries(data))
    if not entries:
        return
    packed = [_begin(data)] + [_pack(POWER_ON, entry) for entry in entries]
    lasting = not data["repaired"] and not any(
        member["state"] in ("created", "mended") for member in data["members"]
    )
    if lasting:
        packed = packed[:_MOST]  # in one page, so that the next power-on sees all of it
    log = Log(members, report, [_story(p, 0) for p in packed] if lasting else None)
    for _ in log.write(packed):
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
