"""Reserve a backup region on a disk: a person's session at the board's REPL.

    >>> import board
    >>> from lifeboat import partitioning
    >>> partitioning.show(board)
    >>> partitioning.create(board, ("sata0", "sata1"))

The range is a partition of lifeboat's own type where the GPT has one, else the tail of the disk.
What may belong to somebody is refused, never overwritten: there is no force.
"""

from hashlib import sha256
from time import ticks_us

from micropython import const

from . import boot, gpt
from . import region as regions
from .blockdev import INIT, SYNC, Checked, Window, geometry
from .errors import LifeboatError
from .region import SLOT_DATA, TYPE_GUID, UNIT, make_header

_SPARE = const(131072)  # for the journal
_HEAD = const(131072)  # where file systems and tables have their signatures
_PIECE = const(65536)


def region_size(code_size, slots):
    """Return the bytes of a region for code of code_size bytes."""
    return UNIT + slots * (SLOT_DATA + code_size) + _SPARE + 2 * UNIT


def propose(disk, size):
    """Return (start LBA, sectors) of a range of size bytes that nobody seems to use.

    Raises LifeboatError(disk-in-use) with the reason; OSError as the disk does.
    """
    disk.ioctl(INIT, 0)
    count, lba_size = geometry(disk)
    if UNIT % lba_size:
        raise LifeboatError("disk-in-use", "sectors of %d bytes" % lba_size)
    if regions.find(disk):
        raise LifeboatError("disk-in-use", "it has a region")
    sectors = size // lba_size
    partition = gpt.find(disk, lambda kind, first, last: kind == TYPE_GUID)
    if partition:
        start, length = partition
        if start * lba_size % UNIT or length < sectors:
            raise LifeboatError("disk-in-use", "the lifeboat partition is too small or unaligned")
        if length * lba_size % UNIT:
            raise LifeboatError("disk-in-use", "the lifeboat partition is no multiple of 4096")
        sectors = length
    elif partition is not None:
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
    if gpt.mbr_claims(disk, start, end, sector):
        raise LifeboatError("disk-in-use", "a partition reaches into the range")
    table = gpt.mbr(disk, sector)
    if any(kind == gpt.PROTECTIVE for kind, _, _ in table or ()):
        raise LifeboatError("disk-in-use", "its GPT is damaged")
    if not table:
        _check_zero(disk, 0, _HEAD // lba_size, lba_size, "it has data but no partition table")


def _check_zero(disk, start, sectors, lba_size, reason):
    buf = memoryview(bytearray(_PIECE))
    zero = bytes(_PIECE)
    step = _PIECE // lba_size
    for lba in range(start, start + sectors, step):
        piece = buf[: min(step, start + sectors - lba) * lba_size]
        disk.readblocks(lba, piece)
        if piece != zero[: len(piece)]:
            raise LifeboatError("disk-in-use", "%s: LBA %d" % (reason, lba))


def _disks(board):
    return [Checked(disk, "disk%d" % i) for i, disk in enumerate(board.disks())]


def _code_size(board):
    count, size = geometry(board.flash())
    return count * size - board.BLOCK_SIZE


# The disks are started anew, from under a scrubber on a timer, too.
def _start(board):
    boot.attended = True
    board.start()


def show(board, slots=2):
    """Print each disk of the board, and the range that create() would take or why not."""
    _start(board)
    size = region_size(_code_size(board), slots)
    for disk in _disks(board):
        try:
            start, sectors = propose(disk, size)
            text = "LBA %d, %d sectors" % (start, sectors)
        except LifeboatError as error:
            text = "refused: " + error.detail
        except OSError as error:
            text = "fails with error %d" % error.errno
        print(disk.name, "-", text)


def create(board, names, slots=2):
    """Make one set of regions on the disks with these names, and read it back.

    All disks are checked before the first is written. Raises LifeboatError or OSError.
    """
    _start(board)
    size = region_size(_code_size(board), slots)
    disks = [disk for disk in _disks(board) if disk.name in names]
    if len(disks) != len(names):
        raise LifeboatError("disk-in-use", "there is no such disk")
    places = [propose(disk, size) for disk in disks]
    set_id = _identity(places, 0)
    for member, disk in enumerate(disks):
        start, sectors = places[member]
        lba_size = geometry(disk)[1]
        unit = bytearray(UNIT)
        slot_size = (sectors * lba_size - 3 * UNIT - _SPARE) // slots // UNIT * UNIT
        make_header(
            unit, lba_size, set_id, _identity(places, member + 1), start, sectors,
            member, len(disks), slots, slot_size, _SPARE // UNIT,
        )  # fmt: skip
        window = Window(disk, start, sectors)
        for offset in (0, sectors * lba_size - 2 * UNIT, sectors * lba_size - UNIT):
            window.writeblocks(offset // lba_size, unit)
        window.ioctl(SYNC, 0)
        made = regions.find(disk, (start,))
        if not made or made.bad_copies or made.set_id != set_id:
            raise LifeboatError("disk-lies", disk.name)
        print(disk.name, "- region at LBA %d, %d sectors" % places[member])


# 16 bytes that no other set has. Not a secret, so the moment a person pressed a key will do.
def _identity(places, member):
    return sha256(repr((ticks_us(), member, places)).encode()).digest()[:16]
