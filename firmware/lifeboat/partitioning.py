"""Reserve a backup region on a disk: a person's session at the board's REPL.

    >>> import board
    >>> from lifeboat import partitioning
    >>> partitioning.show(board)
    >>> partitioning.create(board, ("sata0", "sata1"))
    >>> partitioning.adopt(board)

The range is a partition of lifeboat's own type where the GPT has one, else the tail of the disk.
What may belong to somebody is refused, never overwritten: there is no force.
"""

from binascii import hexlify, unhexlify
from hashlib import sha256
from struct import pack_into
from time import ticks_us

from micropython import const

from . import boot, running
from . import region as regions
from .blockdev import INIT, SYNC, Checked, Window, geometry
from .codeflash import CodeFlash
from .errors import LifeboatError
from .manifest import limit
from .members import survey
from .records import HEADER, UNIT, seal
from .region import TYPE_GUID
from .report import Report
from .trust import Trust

# format.md section 3; of an entry of the directory: type flags units offset
EXTENT = "<HHIQ"
_MAJOR = const(1)
_MINOR = const(2)
_RECORD = const(512)
_DIRECTORY = const(268)
_AREA = const(65536)  # for the manifest in a slot, at least
_PROTECTIVE = const(0xEE)  # the MBR's partition that stands for a GPT

_JOURNAL = const(32)  # units
_STATE = const(2)  # units, for the state of a trial
_SPARE = const(524288)  # for evidence, with a block of code more, and for parity
_ALIGN = const(65536)  # of slots: no large page of an SD card or SSD holds parts of two
_HEAD = const(131072)  # where file systems and tables have their signatures
_PIECE = const(65536)


# Rounded up to whole pieces of some size.
def _whole(number, size):
    return (number + size - 1) // size * size


# Room for the manifest in a slot, and the least size of one.
def _slot(code_size, block_size):
    area = max(_AREA, _whole(limit(code_size // block_size), _ALIGN))
    return area, _whole(UNIT + area + code_size, _ALIGN)


# The bytes of a region that are not slots: what is before them, journal, extents, tail copies.
def _beside(block_size):
    return _ALIGN + (_JOURNAL + _STATE + 2) * UNIT + 2 * _SPARE + _whole(block_size, UNIT)


def region_size(code_size, slots, block_size):
    """Return the bytes of a region for code of code_size bytes in blocks of block_size."""
    return slots * _slot(code_size, block_size)[1] + _beside(block_size)


def make_header(
    unit, lba_size, set_id, region_id, start, sectors, member, members, slots, slot_size, journal,
    slots_offset=UNIT, area=_AREA, product="", extents=(),
):  # fmt: skip
    """Put a region header into unit, a bytearray of UNIT zero bytes.

    journal: the units behind the slots that are to be the journal; extents: (type, units) of
    what is to follow it.
    """
    end = slots_offset + slots * slot_size
    pack_into(
        HEADER, unit, 0, b"LBREGION", _MAJOR, _MINOR, _RECORD, lba_size, set_id, region_id,
        start, sectors, member, members, slots, slot_size, end, journal, 0, 0, 0,
        product.encode(), area, slots_offset,
    )  # fmt: skip
    end += journal * UNIT
    at = _DIRECTORY
    for kind, units in extents:
        pack_into(EXTENT, unit, at, kind, 0, units, end)
        end += units * UNIT
        at += 16
    seal(unit)


def propose(disk, size):
    """Return (start LBA, sectors) of a range of size bytes that nobody seems to use.

    Raises LifeboatError with the reason: disk-in-use, gpt-unknown, or what find() raises of a
    region that can't be used, one of a newer version too; OSError as the disk does.
    """
    disk.ioctl(INIT, 0)
    count, lba_size = geometry(disk)
    if UNIT % lba_size:
        raise LifeboatError("disk-in-use", "sectors of %d bytes" % lba_size)
    unit = bytearray(UNIT)
    if regions.find(disk, (), unit, running.places):
        raise LifeboatError("disk-in-use", "it has a region")
    sectors = size // lba_size
    state, found, _, _ = regions.partitions(
        disk, lambda kind, first, last: kind == TYPE_GUID, unit
    )
    if found:
        start, length = found[0]
        if start * lba_size % UNIT or length < sectors:
            raise LifeboatError("disk-in-use", "the lifeboat partition is too small or unaligned")
        if length * lba_size % UNIT:
            raise LifeboatError("disk-in-use", "the lifeboat partition is no multiple of 4096")
        sectors = length
    elif state:
        raise LifeboatError("disk-in-use", "it has a GPT without a lifeboat partition")
    else:
        per_unit = UNIT // lba_size
        start = (count // per_unit - sectors // per_unit) * per_unit
        if start * lba_size < _HEAD:
            raise LifeboatError("disk-in-use", "it is too small")
        _check_head(disk, start, start + sectors, lba_size)
    _check_zero(disk, start, sectors, lba_size, "the range is not empty")
    return start, sectors


# Without a GPT the disk's head must be blank, or a partition table whose partitions stay out of
# the range: a file system that fills the whole disk has its signature there.
def _check_head(disk, start, end, lba_size):
    sector = bytearray(lba_size)
    disk.readblocks(0, sector)
    if regions.reaches(sector, start, end):
        raise LifeboatError("disk-in-use", "a partition reaches into the range")
    if any(sector[at] == _PROTECTIVE for at in range(450, 510, 16)):
        raise LifeboatError("disk-in-use", "its GPT is damaged")
    if not regions.reaches(sector, 0, 1 << 64):
        _check_zero(disk, 0, _HEAD // lba_size, lba_size, "it has data but no partition table")


def _check_zero(disk, start, sectors, lba_size, reason):
    buf = memoryview(bytearray(_PIECE))
    zero = bytes(_PIECE)
    lba, end = start, start + sectors
    while lba < end:  # range() takes no LBA from 2**31 on where an int has 32 bits
        piece = buf[: (end - lba) * lba_size]
        disk.readblocks(lba, piece)
        if piece != zero[: len(piece)]:
            raise LifeboatError("disk-in-use", "%s: LBA %d" % (reason, lba))
        lba += _PIECE // lba_size


def _disks(board):
    return [Checked(disk, "disk%d" % i) for i, disk in enumerate(board.disks())]


# The most code that the board's flash holds.
def _code_size(board):
    count, size = geometry(board.flash())
    return count * size - board.BLOCK_SIZE


def _size(board, slots):
    return region_size(_code_size(board), slots, board.BLOCK_SIZE)


# The disks are started anew, from under a scrubber on a timer, too.
def _start(board):
    running.attended = True
    board.start()


def show(board, slots=2):
    """Print each disk of the board, and the range that create() would take or why not."""
    _start(board)
    size = _size(board, slots)
    for disk in _disks(board):
        try:
            start, sectors = propose(disk, size)
            text = "LBA %d, %d sectors" % (start, sectors)
        except LifeboatError as error:
            text = "refused: " + (error.detail or error.code)
        except OSError as error:
            text = "fails with error %s" % error.args[-1]
        print(disk.name, "-", text)


def create(board, names, slots=2):
    """Make one set of regions on the disks with these names, and read it back.

    All disks are checked before the first is written. The memory is told after that, unless it
    knows another set. Returns the set as [(disk, Region)], in the order of its members. Raises
    LifeboatError or OSError.
    """
    _start(board)
    size = _size(board, slots)
    disks = [disk for disk in _disks(board) if disk.name in names]
    if len(disks) != len(names):
        raise LifeboatError("disk-in-use", "there is no such disk")
    places = [propose(disk, size) for disk in disks]
    set_id = _identity(places, 0)
    made = []
    for member, disk in enumerate(disks):
        made.append((disk, _make(board, disk, set_id, places, member, slots)))
        print(disk.name, "- region at LBA %d, %d sectors" % places[member])
    _remember(board, set_id, made)
    return made


# The memory, and whether it may be written: an image that leaves no room for it has none.
def _memory(board):
    flash = CodeFlash(board.flash(), board.BLOCK_SIZE)
    trust = Trust(board, flash).recall()
    there = trust.memory.state != "none"
    try:
        return trust, there and trust.declares_memory(flash.manifest(trust)[0])
    except LifeboatError:
        return trust, there and not trust.mirrors


# The regions are there: what goes wrong with the memory is told, and adopt() makes up for it.
def _remember(board, set_id, made):
    told = hexlify(set_id).decode()
    try:
        trust, writable = _memory(board)
        memory = trust.memory
        if not writable:
            print("memory - not told: there is none, or no code yet that leaves room for it")
        elif memory.set_id:
            print("memory - another set is remembered: adopt(board, '%s') forgets it" % told)
        else:
            memory.remember_set([region.entry + (disk.name.encode(),) for disk, region in made])
            running.places = memory.places
            print("memory - set", told)
    except (LifeboatError, OSError) as error:
        print("memory - not told: %r; adopt(board, '%s') tries again" % (error, told))


def adopt(board, set_id=None):
    """Print what the controller remembers and which sets are here; with a set, make that its own.

    set_id: 32 hex digits, or as many of the first ones as name one set. Then what a power-on does
    is done, and failed repairs are tried again; returns its Report, None without a set. Raises
    LifeboatError or OSError.
    """
    _start(board)
    memory = _memory(board)[0].memory
    running.places = memory.places
    own = memory.set_id and hexlify(memory.set_id).decode()
    print("memory:", memory.state, "- own set:", own)
    for _, _, start, sectors, _, index, _, name in memory.members:
        print("  member %d - %s, LBA %d, %d sectors" % (index, _plain(name), start, sectors))
    sets = []
    for member in survey(list(board.disks()), board.REGION_LBAS, Report()):
        if member.readable:
            region = member.region
            told = hexlify(region.set_id).decode()
            sets.append(told)
            print("%s - set %s, member %d" % (member.name, told, region.member))
    if not set_id:
        print("to make a set the own one: adopt(board, 'its first digits')")
        return None
    chosen = [told for told in sets if told.startswith(set_id.lower())]
    if not chosen or chosen.count(chosen[0]) != len(chosen):
        raise LifeboatError("set-unclear" if chosen else "set-other", set_id)
    if own and own != chosen[0]:
        print("set %s is forgotten, and only read from now on" % own)
    print("set %s is written from now on; what a power-on does follows" % chosen[0])
    return boot.power_on(board, adopt=unhexlify(chosen[0]))


# What stands in the memory is shown, not believed.
def _plain(text):
    return "".join(chr(c) if 32 <= c < 127 else "?" for c in text.rstrip(b"\0"))


# Write the headers of one member, and return the Region that is found then.
def _make(board, disk, set_id, places, member, slots):
    start, sectors = places[member]
    lba_size = geometry(disk)[1]
    block_size = board.BLOCK_SIZE
    size = sectors * lba_size
    area = _slot(_code_size(board), block_size)[0]
    unit = bytearray(UNIT)
    make_header(
        unit, lba_size, set_id, _identity(places, member + 1), start, sectors, member, len(places),
        slots, (size - _beside(block_size)) // slots // _ALIGN * _ALIGN, _JOURNAL, _ALIGN, area,
        board.PRODUCT,
        ((1, _STATE), (2, (_SPARE + block_size + UNIT - 1) // UNIT), (3, _SPARE // UNIT)),
    )  # fmt: skip
    window = Window(disk, start, sectors)
    for offset in (size - UNIT, size - 2 * UNIT, 0):
        window.writeblocks(offset // lba_size, unit)
        window.ioctl(SYNC, 0)
    region = regions.find(disk, (start,), bytearray(UNIT), ())
    if not region or region.bad_copies or region.header != unit[:_RECORD]:
        raise LifeboatError("disk-lies", disk.name)
    return region


# 16 bytes that no other set has. Not a secret, so the moment a person pressed a key will do.
def _identity(places, member):
    return sha256(repr((ticks_us(), member, places)).encode()).digest()[:16]
