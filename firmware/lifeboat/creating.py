"""S3: copy the embedded code from flash into the regions; mend what is damaged there."""

from errno import EIO

from .errors import LifeboatError
from .region import GENERATION_LIMIT, UNIT


# Whether a slot holds every block of its manifest; buf: one block.
def _is_whole(region, slot, manifest, buf):
    for i in range(manifest.block_count):
        region.read(region.block_at(slot, i, len(buf)), buf)
        if not manifest.crc_matches(i, buf):
            return False
    return True


# Whether a committed copy is known to be of no use. A sector that can't be read is as bad as one
# with other content: to write it again may cure it. What could not be this board's code is not
# looked at: a hostile record may claim any size.
def _is_broken(region, slot, manifest, flash, buf):
    if manifest.block_size != len(buf) or manifest.block_count > flash.manifest_block:
        return False
    try:
        return not _is_whole(region, slot, manifest, buf)
    except OSError as error:
        if error.errno != EIO:
            raise
        return True


# The manifest of a committed slot, or None. Raises LifeboatError(manifest-version) when it is of
# a format that we don't know and must not overwrite; OSError as the disk does.
def _committed(region, slot, commit):
    try:
        manifest = region.manifest(slot)
    except LifeboatError as error:
        if error.code == "manifest-version":
            raise
        return None
    return manifest if commit.describes(manifest) else None


# The slots that may be given up, best first: the free ones; else only the oldest, if the newest is
# whole; else only the newest, which then is no loss (I2). Slots that could not be read just now
# may hold a good copy, and may not take another: they come last.
def _victims(member, flash, buf):
    region = member.region
    free = []
    committed = []
    doubtful = list(member.unreadable)
    for slot, commit in enumerate(member.records):
        if slot in member.newer_format or slot in doubtful:
            continue
        try:
            manifest = commit and _committed(region, slot, commit)
        except LifeboatError:
            continue
        except OSError as error:
            if error.errno != EIO:
                raise
            doubtful.append(slot)
            continue
        if manifest:
            committed.append((commit.generation, slot, manifest))
        else:
            free.append(slot)
    if free:
        return free
    committed.sort(key=lambda c: c[0])
    if committed:
        _, newest, manifest = committed[-1]
        if _is_broken(region, newest, manifest, flash, buf):
            return [newest]
    if len(committed) > 1:
        return [committed[0][1]]
    if doubtful:
        return doubtful[:1]
    raise LifeboatError("commit-version", "no slot to spare")


def generation_for(members, manifest):
    """Return the generation of a new copy of manifest, from the newest copies of all members."""
    newest = None
    for member in members:
        if member.home and member.newest:
            if not newest or member.newest.generation > newest.generation:
                newest = member.newest
    if not newest:
        return 1
    if newest.build == manifest.build:
        return newest.generation
    if newest.generation == GENERATION_LIMIT:
        raise LifeboatError("generation-limit")
    return newest.generation + 1


def create(flash, manifest, member, generation, buf):
    """Make a backup copy of the code in flash, which was just found intact, on one member.

    buf: memoryview of scratch, one block. Raises LifeboatError or OSError.

    Write order (format.md section 3): the slot is made free, on the medium, before its first
    other byte changes, and its commit record is written after everything else was flushed and
    read back. So a power cut at any point leaves a free slot or a whole copy, and every other
    slot as it was.
    """
    region = member.region
    if not region.fits(manifest):
        raise LifeboatError("slot-small", "%d bytes" % region.slot_size)
    victims = _victims(member, flash, buf)
    for slot in victims:
        try:
            return _fill(flash, manifest, member, slot, generation, buf)
        except OSError as error:
            if error.errno != EIO or slot == victims[-1]:
                raise
            member.io_error(error)


def _fill(flash, manifest, member, slot, generation, buf):
    region = member.region
    unit = buf[:UNIT]
    member.records[slot] = None
    if slot == member.newest_slot:
        member.newest = None
    region.clear_commit(slot)
    for i in range(manifest.block_count):
        flash.read(i, buf)
        if not manifest.crc_matches(i, buf):
            raise LifeboatError("flash-changed", str(i))
        region.write(region.block_at(slot, i, len(buf)), buf)
    region.write_manifest(slot, manifest, unit)
    region.flush()
    if not (
        region.holds_manifest(slot, manifest, unit) and _is_whole(region, slot, manifest, buf)
    ):
        raise LifeboatError("disk-lies", "slot %d" % slot)
    member.records[slot] = member.newest = region.write_commit(slot, manifest, generation, unit)
    member.newest_slot = slot


def mend(flash, manifest, copy, block, buf):
    """Rewrite one damaged block of a backup copy from the intact code in flash.

    A power cut tears a block that was bad already; nothing else is touched.
    """
    region = copy.member.region
    flash.read(block, buf)
    if not manifest.crc_matches(block, buf):
        raise LifeboatError("flash-changed", str(block))
    at = region.block_at(copy.slot, block, len(buf))
    region.write(at, buf)
    region.flush()
    buf[0] ^= 0xFF  # what the disk does not read must not look right
    region.read(at, buf)
    if not manifest.crc_matches(block, buf):
        raise LifeboatError("disk-lies", "block %d" % block)
