"""What the damage was: before a repair erases a block, what stood there is noted for people.

Format: format.md section 3, "Evidence". Nothing is decided by it, and no repair waits for a disk
that keeps it: it is written when the repair is over. (A board may want it before: Keeper.first.)
"""

from array import array
from errno import EIO
from struct import pack_into, unpack_from

from micropython import const

from .errors import LifeboatError
from .journal import Log, now, pages  # noqa: F401 - Log for who writes it
from .kernels import arch, crc32
from .records import UNIT

_RV32IMC = const(11)  # see kernels.py

if arch == _RV32IMC:
    from lifeboat.kernels_compare_rv32 import compare
elif arch:
    from lifeboat.kernels_compare import compare
else:
    from lifeboat.kernels_plain import compare

# magic major minor header_size serial region_id build_id sum block block_size time session reason
# ones zeros changed blank first last listed raw_units incompat ro_compat
ENTRY = "<8sBBHI16s32sIIIII12sIIIIIIIIII"
_DIFFERENCE = const("<IBB")
_EXTENT = const("<HHIQ")  # type flags units offset
_MAGIC = b"LBEVIDEN"
_MAJOR = const(1)
_MINOR = const(2)
_HEADER_SIZE = const(224)
_CRC = const(4092)
_LISTED = const(483)
_LAST = const(0xFEFFFFFF)  # serial
_KIND = const(2)
_DIRECTORY = const(268)
_DIRECTORY_END = const(508)
_UNITS = const(1024)  # of a ring, that count

_ENTRIES = const(16)
_ROOM = const(4096)  # bytes of RAM for differences, all notes together
_FIRST = const(16)  # differences that are kept where not all can be
_RESERVE = const(32768)  # of the heap, for what a power-on does behind it
_CHUNK = const(64)
_COUNTED = const(4096)  # bytes that differ: when there are more it is enough to know that

# compare(was, right, counts)   adds to counts: bits that are 1 and should be 0, the other way
#                               round, bytes that differ, those of them that are 0xFF. Buffers are
#                               aligned, of whole words, and of one length, which is not 0.


# A block that a repair has replaced.
class _Note:
    def __init__(self, block, size, build):
        self.block, self.size, self.build = block, size, build
        self.crc = self.first = self.last = 0
        self.counts = array("I", [0, 0, 0, 0])  # ones, zeros, changed, blank
        self.listed = b""  # differences as they are written, so many
        self.count = 0
        self.time = now()
        self.raw = None


class Keeper:
    """Notes what repairs of a CodeFlash replace, and writes it to the members afterwards.

    flash: the CodeFlash; reason: a text of at most 12 characters; aim: the Manifest whose blocks
    are repaired, None: nothing is noted; first: None, or called when a block was noted and
    before it is erased.
    """

    first = None

    def __init__(self, flash, reason, aim=None):
        self.aim = aim
        self._reason = reason.encode()
        self._flash = flash
        self._erase = flash.erase
        self._noted = []
        self._notes = []
        self._room = _ROOM
        self._raw = True  # whether there may be raw data
        flash.erase = self._watch

    # In the place of CodeFlash.erase().
    def _watch(self, block, data=b""):
        if self.aim and data and block not in self._noted and len(self._noted) < _ENTRIES:
            self._noted.append(block)
            try:
                self._look(block, data)
                if self.first:
                    self.first()
            except Exception:  # noqa: BLE001 - then there is no note, but the block is repaired
                pass
        self._erase(block, data)

    def _look(self, block, data):
        flash, size = self._flash, self._flash.block_size
        note = _Note(block, size, self.aim.build)
        note.listed = bytearray(min(_LISTED * 8, self._room))
        was = None if flash.view else memoryview(bytearray(UNIT))
        offset = 0
        while offset < size:
            n = UNIT
            if flash.view:
                if note.counts[2] >= _COUNTED and len(data) == size:
                    n = size - offset  # nothing is counted any more
                was = flash.view(block * size + offset, n)
            else:
                flash.read(block, was, offset)
            right = data[offset : offset + n]
            if len(right) < n:  # a manifest
                right = bytes(right) + b"\xff" * (n - len(right))
            note.crc = crc32(was, note.crc)
            if was != right:
                if note.counts[2] < _COUNTED:
                    _list(note, was, right, offset)
                    compare(was, right, note.counts)
                end = n
                while was[end - UNIT : end] == right[end - UNIT : end]:
                    end -= UNIT
                note.last = offset + _differs(was, right, range(end - 1, -1, -1))
            offset += n
        if note.counts[2] > note.count:
            note.count = min(note.count, _FIRST)
        note.listed = note.listed[: 8 * note.count]
        self._room -= len(note.listed)
        if self._raw and note.counts[2] > note.count:
            self._keep_raw(note)
        self._notes.append(note)

    # All of a block, where the heap has room for it.
    def _keep_raw(self, note):
        self._raw = False
        try:
            raw = memoryview(bytearray(note.size))
            bytearray(_RESERVE)  # there is room for this, too
            self._flash.read(note.block, raw)
            note.raw = raw
        except MemoryError:
            pass

    @property
    def any(self):
        """Whether there is something to write."""
        return bool(self._notes)

    def write(self, members, session, buf):
        """Generator: write what was noted to every own member that is remembered.

        session: the journal's, or 0; buf: memoryview of whole 4096s for what is read and written.
        A command after each yield. What fails on one member is told there.
        """
        notes, self._notes = self._notes, []
        for member in members if notes else ():
            if member.writable and member.region.known:
                try:
                    yield from _write(member, notes, session, self._reason, buf)
                except LifeboatError as error:
                    member.tell(error.code, error.detail)
                except OSError as error:
                    member.io_error(error)


# Note where a piece differs: the first differences one by one.
def _list(note, was, right, offset):
    listed, count = note.listed, note.count
    most = len(listed) // 8
    if not note.counts[2]:
        note.first = offset + _differs(was, right, range(UNIT))
    for at in range(0, UNIT, _CHUNK):
        if count == most:
            break
        if was[at : at + _CHUNK] != right[at : at + _CHUNK]:
            for i in range(at, at + _CHUNK):
                a, b = was[i], right[i]
                if a != b and count < most:
                    pack_into(_DIFFERENCE, listed, 8 * count, offset + i, a, b)
                    count += 1
    note.count = count


# The first of these places in which two pieces differ, which they do.
def _differs(was, right, places):
    for i in places:
        if was[i] != right[i]:
            return i


# The ring of a region as (offset, units), or None. An extent that breaks a rule is not there.
def _ring(region):
    found, taken = [], []
    for at in range(_DIRECTORY, _DIRECTORY_END, 16):
        kind, _, units, offset = unpack_from(_EXTENT, region.header, at)
        end = offset + units * UNIT
        if (
            kind
            and units
            and not offset % UNIT
            and region.slot_at(region.slots) <= offset
            and end <= region.size - 2 * UNIT
        ):
            taken.append((offset, end))
            if kind == _KIND:
                found.append((offset, end))
    if pages(region):
        journal, units = unpack_from("<QI", region.header, 80)
        taken.append((journal, journal + units * UNIT))
    for offset, end in found:
        if sum([start < end and offset < stop for start, stop in taken]) == 1:  # itself
            return offset, min((end - offset) // UNIT, _UNITS)
    return None


# What counts as an entry in a unit: its fields, or None.
def _entry(region, unit, at, units):
    fields = unpack_from(ENTRY, unit)
    if (
        fields[:2] == (_MAGIC, _MAJOR)
        and fields[3] == _HEADER_SIZE
        and 0 < fields[4] <= _LAST
        and fields[5] == region.region_id
        and fields[20] in (0, fields[9] // UNIT)
        and at + 1 + fields[20] <= units
        and not fields[21]
        and crc32(memoryview(unit)[:_CRC]) == unpack_from("<I", unit, _CRC)[0]
    ):
        return fields
    return None


# Read a ring. Generator; returns (serial, place, raw units, what it is about) of all units that
# look like an entry. What can't be read holds none.
def _read(region, start, units, buf):
    found, at, most = [], 0, len(buf) // UNIT
    while at < units:
        count = min(most, units - at)
        try:
            region.read(start + at * UNIT, buf[: count * UNIT])
        except OSError as error:
            if error.errno != EIO:
                raise
            at += count == 1
            most = 1  # one by one from here on
            continue
        for i in range(count):
            if buf[i * UNIT] != _MAGIC[0]:  # most units are raw data, or empty
                continue
            fields = _entry(region, buf[i * UNIT : i * UNIT + UNIT], at + i, units)
            if fields:
                about = fields[8], fields[6], fields[7]
                found.append((fields[4], at + i, fields[20], about))
        at += count
        yield False
    return found


def _write(member, notes, session, reason, buf):
    region = member.region
    ring = _ring(region)
    if not ring:
        return
    start, units = ring
    found = yield from _read(region, start, units, buf)
    found.sort(reverse=True)
    known, covered = set(), []
    serial = after = 0
    for its, at, raw, about in found:
        if any(first < at <= last for first, last in covered):
            continue
        if not known:
            serial, after = its, at + 1 + raw
        known.add(about)
        covered.append((at, at + raw))
    for note in notes:
        if (note.block, note.build, note.crc) in known:
            continue
        raw = note.size // UNIT if note.raw else 0
        if 1 + raw > units:
            raw = 0
        if after + 1 + raw > units:
            after = 0
        if serial == _LAST:  # nothing counts behind it
            return
        serial += 1
        at = start + after * UNIT
        region.check(member.unit.get())
        if raw:
            for i in range(0, note.size, len(buf)):
                region.write(at + UNIT + i, note.raw[i : i + len(buf)])
                yield False
            region.flush()
            yield False
        unit = member.unit.get()
        pack_into("4096s", unit, 0, b"")
        pack_into(
            ENTRY, unit, 0, _MAGIC, _MAJOR, _MINOR, _HEADER_SIZE, serial, region.region_id,
            note.build, note.crc, note.block, note.size, note.time, session, reason,
            *note.counts, note.first, note.last, note.count, raw, 0, 0,
        )  # fmt: skip
        unit[_HEADER_SIZE : _HEADER_SIZE + len(note.listed)] = note.listed
        crc = crc32(memoryview(unit)[:_CRC])
        pack_into("<I", unit, _CRC, crc)
        region.write(at, unit)
        region.flush()
        yield False
        unit[0] ^= 0xFF
        region.read(at, unit)
        if crc32(memoryview(unit)[:_CRC]) != crc:
            raise LifeboatError("disk-lies", "evidence")
        yield False
        after += 1 + raw
