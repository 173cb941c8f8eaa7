"""S3: copy the embedded code from flash into the regions; mend what is damaged there."""

from micropython import const

from .errors import LifeboatError
from .kernels import crc32
from .members import BEHIND, COMMITTED, FREE, copies

_EIO = const(5)

# The highest generation that counts (format.md, "Which copy is newer").
_LAST = const(0xFEFFFFFF)


def write_blocks(manifest, copy, blocks, source, buf):
    """Generator: write blocks of a backup copy and read them back, len(buf) bytes at a time.

    source(block, buf, offset) fills buf with bytes that are right by both sums. Blocks of a
    committed copy were damaged already when a power cut tears them; nothing else is touched (I2).
    Raises LifeboatError, OSError as the copy's disk does.
    """
    region, size = copy.member.region, manifest.block_size
    offsets = range(0, size, len(buf))
    for block in blocks:
        region.check(copy.member.unit.get())  # the disk may have been exchanged
        at = region.block_at(copy.slot, block, size)
        for offset in offsets:
            source(block, buf, offset)
            region.write(at + offset, buf)
            yield False
    region.flush()
    yield False
    for block in blocks:
        at = region.block_at(copy.slot, block, size)
        crc = 0
        for offset in offsets:
            # Invert some bytes first: if the driver reports success but does not fill the buffer,
            # the check must fail.
            for i in range(0, len(buf), 512):
                buf[i] ^= 0xFF
            region.read(at + offset, buf)
            crc = crc32(buf, crc)
            yield False
        if crc != manifest.crc(block):
            raise LifeboatError("disk-lies", "block %d" % block)


# A source of write_blocks(): the code in flash, if it still is what was found intact.
def _intact(flash, manifest):
    def source(block, buf, _):
        flash.read(block, buf)
        if not manifest.right(block, buf):
            raise LifeboatError("flash-changed", str(block))

    return source


def mend_from_flash(flash, manifest, copy, block, buf):
    """Rewrite one damaged block of a backup copy; buf: memoryview of one block."""
    for _ in write_blocks(manifest, copy, (block,), _intact(flash, manifest), buf):
        pass


def victims(member, trust, scratch):
    """Return the slots of a member that may be given up, best first.

    1. free slots. 2. slots with copies that are of no use here, such as of unknown builds. 3. none
    of these, and the newest copy whole: the oldest copy. 4. the newest copy not whole: that one;
    nothing is lost (I2). 5. slots that could not be read: last, they may hold a good copy. Never
    one of a newer format.
    """
    good, by_kind = [], ([], [], [], [])
    for copy in member.copies:
        if copy.commit and copy.commit.read_only:
            continue
        manifest = copy.load(trust)
        if manifest and trust.may_restore(manifest.build, True):
            good.append((trust.rank(copy.commit), copy.slot, manifest))
        else:
            by_kind[copy.kind].append((copy.commit and copy.commit.order, copy.slot))
    free, useless, _, doubtful = by_kind
    if free or useless:
        return [slot for _, slot in free + sorted(useless)]
    if good:
        _, newest, manifest = max(good)
        for block in range(manifest.block_count):
            if not member.copies[newest].read(block, scratch, manifest.right):
                return [newest]
    if len(good) > 1:
        return [min(good)[1]]
    if doubtful:
        return [doubtful[0][1]]
    raise LifeboatError("commit-version")


def generation_for(members, manifest, trust):
    """Return the generation of a new copy of manifest.

    One more than the newest committed copy's, or the same when it is of this very manifest.
    """
    mine = []
    for copy in copies(members):
        if copy.member.own and copy.commit and copy.commit.order:
            mine.append((copy.commit.order, -len(mine), copy))
    for order, _, copy in sorted(mine, reverse=True):
        found = copy.load(trust)
        if found:
            return min(order + (found.raw != manifest.raw), _LAST)
    return 1


def create(flash, manifest, member, generation, trust, scratch):
    """Generator: make a backup copy on one member of the code in flash, just found intact.

    scratch: of one block; it belongs to this until the end. Raises LifeboatError or OSError.

    Write order (format.md section 3): the slot is made free, on the medium, before its first
    other byte changes, and its commit record is written after everything else was flushed and
    read back. So a power cut at any point leaves a free slot or a whole copy, and every other
    slot as it was.
    """
    region, unit = member.region, member.unit.get()
    if not region.fits(*manifest.sizes):
        raise LifeboatError("slot-small", "%d bytes" % region.slot_size)
    slots = victims(member, trust, scratch)
    for slot in slots:
        copy = member.copies[slot]
        try:
            if not member.writable:  # it failed meanwhile: its copies may be good all the same
                raise LifeboatError("disk-failed")
            region.check(unit)
            copy.kind, copy.commit = FREE, None
            region.clear_commit(slot)
            yield False
            region.write_manifest(slot, manifest, unit)
            yield False
            source, blocks = _intact(flash, manifest), range(manifest.block_count)
            yield from write_blocks(manifest, copy, blocks, source, scratch.get())
            if not region.holds_manifest(slot, manifest, unit):
                raise LifeboatError("disk-lies", "slot %d" % slot)
            copy.commit = region.write_commit(slot, manifest, generation, unit)
            copy.kind, copy.bad = COMMITTED, set()
            return
        except OSError as error:
            if error.errno != _EIO or slot == slots[-1]:
                raise
            member.io_error(error)


# What a step of S3 does with a member.
MEND = const(0)
CREATE = const(1)
HEADER = const(2)


def backup_plan(members, bad, broken, clear):
    """Return what is to be done so that every own member has a whole backup of the code in flash.

    Pure: [(action, member, argument)]. bad: [(Copy, block)] of copies of this code, to be
    rewritten; broken: those that could not be; clear: whether it is known which set is one's own.
    MEND: the argument is the (Copy, block); CREATE: the copies that are worth nothing once the new
    one is there; HEADER: None.
    """
    steps = []
    for member in members if clear else ():
        if not member.writable:
            continue
        for item in bad:
            if item[0].member is member:
                steps.append((MEND, member, item))
        if bad:
            continue
        worthless = []
        for copy, _ in broken:
            if copy.member is member:
                worthless.append(copy)
        if worthless or member.backup == BEHIND:
            steps.append((CREATE, member, worthless))
        if member.region.bad_copies:
            steps.append((HEADER, member, None))
    return steps
