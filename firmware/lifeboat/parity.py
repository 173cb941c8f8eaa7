"""Parity: a second chance for a block that is bad in flash and in every copy.

Format: format.md section 3, "Parity". Only proposes: both sums of the manifest decide.
"""

from errno import EIO
from struct import pack_into, unpack_from

from micropython import const

from .errors import LifeboatError
from .kernels import arch, crc32
from .members import copies
from .records import UNIT

if arch:
    from lifeboat.kernels_xor import xor
else:
    from lifeboat.kernels_plain import xor

# magic major minor header_size slot region_id build_id group_count block_size incompat ro_compat
RECORD = "<8sBBHI16s32sIIII"
_MAGIC = b"LBPARITY"
_MAJOR = const(1)
_MINOR = const(2)
_HEADER_SIZE = const(128)
_CRC = const(4092)
_GROUP = const(16)  # blocks, at most
_GROUPS = const(960)

# What is known of it on a member.
NONE = "none"
LEVEL = "level"
CREATED = "created"


class Parity:
    """The parity of a copy with this manifest.

    room: whether the slot has room for it; sums: the CRC-32 of each parity block as bytes, None
    when there is none; newer: a later version made it, and it is not touched.
    """

    sums = None
    newer = False

    def __init__(self, copy, manifest):
        self._copy = copy
        self._region = region = copy.member.region
        self._manifest = manifest
        self._size = size = manifest.block_size
        self._count = manifest.block_count
        self.groups = (self._count + _GROUP - 1) // _GROUP
        self._at = region.block_at(copy.slot, self._count, size)
        end = self._at + UNIT + self.groups * size
        self.room = self.groups <= _GROUPS and end <= region.slot_at(copy.slot + 1)

    def _block_at(self, group):
        return self._at + UNIT + group * self._size

    def group_of(self, block):
        """Return all blocks of the group that a block is in."""
        return range(block % self.groups, self._count, self.groups)

    def load(self):
        """Read the record; return this. Raises OSError."""
        self.sums = None
        if not self.room:
            return self
        unit = self._copy.member.unit.get()
        self._region.read(self._at, unit)
        fields = unpack_from(RECORD, unit)
        if fields[0] == _MAGIC and crc32(memoryview(unit)[:_CRC]) == _word(unit, _CRC):
            self.newer = fields[1] != _MAJOR or fields[9] != 0 or fields[10] != 0
            if not self.newer and fields[3:9] == self._place():
                end = _HEADER_SIZE + 4 * self.groups
                self.sums = bytes(unit[_HEADER_SIZE:end])
        return self

    def _place(self):
        copy = self._copy
        return (
            _HEADER_SIZE, copy.slot, self._region.region_id, self._manifest.build, self.groups,
            self._size,
        )  # fmt: skip

    def verify(self, buf):
        """Generator: read all parity blocks; returns whether they are what the record says.

        buf: memoryview of whole 4096s that a block is a multiple of. Yields False, a disk's piece
        each time. Raises OSError.
        """
        for group in range(self.groups):
            crc, at = 0, self._block_at(group)
            for offset in range(0, self._size, len(buf)):
                for i in range(0, len(buf), 512):
                    buf[i] ^= 0xFF  # a disk that leaves the buffer alone is found out
                try:
                    self._region.read(at + offset, buf)
                except OSError as error:
                    if error.errno != EIO:
                        raise
                    return False  # writing it may cure it
                crc = crc32(buf, crc)
                yield False
            if crc != _word(self.sums, 4 * group):
                return False
        return True

    def make(self, flash, buf):
        """Generator: make it from the code in flash, just found intact; a piece after each yield.

        buf: as for verify(). Raises LifeboatError(flash-changed), (disk-lies); OSError.
        Order: no record while the blocks change, and one only when they are on the medium: a
        power cut leaves parity that is whole, or none.
        """
        region, manifest = self._region, self._manifest
        unit = self._copy.member.unit.get()
        region.check(unit)
        self.sums = None
        pack_into("4096s", unit, 0, b"")
        region.write(self._at, unit)
        region.flush()
        yield False
        sums = bytearray(4 * self.groups)
        for group in range(self.groups):
            blocks = self.group_of(group)
            crcs = [0] * len(blocks)
            total, at = 0, self._block_at(group)
            for offset in range(0, self._size, len(buf)):
                xor(buf, buf)  # zeros
                for i, block in enumerate(blocks):
                    crcs[i] = _add(flash, block, offset, buf, unit, crcs[i])
                    yield True
                total = crc32(buf, total)
                region.write(at + offset, buf)
                yield False
            for i, block in enumerate(blocks):
                if crcs[i] != manifest.crc(block):
                    raise LifeboatError("flash-changed", str(block))
            pack_into("<I", sums, 4 * group, total)
        region.flush()
        yield False
        self.sums = sums
        if not (yield from self.verify(buf)):
            self.sums = None
            raise LifeboatError("disk-lies", "parity")
        region.check(unit)
        pack_into("4096s", unit, 0, b"")
        pack_into(RECORD, unit, 0, _MAGIC, _MAJOR, _MINOR, *self._place(), 0, 0)
        unit[_HEADER_SIZE : _HEADER_SIZE + len(sums)] = sums
        pack_into("<I", unit, _CRC, crc32(memoryview(unit)[:_CRC]))
        region.write(self._at, unit)
        region.flush()
        pack_into("4096s", unit, 0, b"")
        if self.load().sums != sums:
            raise LifeboatError("disk-lies", "parity")
        yield False

    def rebuild(self, block, scratch, flash, others):
        """Make a block again in scratch; return its memoryview, or None when that can't be.

        others: Copies that may hold what the flash does not. Every read of a disk counts as one
        of a block (I11). What comes out is not yet held against the manifest's sums.
        """
        manifest, sources = self._manifest, []
        for other in self.group_of(block):
            if other == block:
                continue
            source = None
            if not _in_flash(flash, manifest, other):
                source = _holder(others, other, scratch, manifest.crc_matches)
                if not source or scratch.take() is None:
                    return None
            sources.append((other, source))
        buf = scratch.take()
        if buf is None:
            return None
        member, region, size = self._copy.member, self._region, self._size
        if member.attempt(region.read, self._block_at(block % self.groups), buf) is False:
            if not member.readable:
                scratch.drop()
            return None
        for other, source in sources:
            if not source:
                _add(flash, other, 0, buf, member.unit.get())
                continue
            for offset in range(0, size, UNIT):
                unit = member.unit.get()
                if not _piece(source, other, size, offset, unit):
                    return None
                xor(buf[offset : offset + UNIT], unit)
        return buf


# XOR len(buf) bytes of a block of the flash into buf; return the CRC-32 continued with them, None
# where none is wanted.
def _add(flash, block, offset, buf, unit, crc=None):
    size = len(buf) if flash.view else UNIT
    for at in range(0, len(buf), size):
        piece = unit
        if flash.view:
            piece = flash.view(block * flash.block_size + offset, size)
        else:
            flash.read(block, unit, offset + at)
        xor(buf[at : at + size], piece)
        if crc is not None:
            crc = crc32(piece, crc)
    return crc


def _word(buf, at):
    return unpack_from("<I", buf, at)[0]


def _in_flash(flash, manifest, block):
    try:
        return flash.crc(block) == manifest.crc(block)
    except OSError as error:
        if error.errno != EIO:
            raise
        return False


def _holder(others, block, scratch, good):
    for copy in others:
        if copy.read(block, scratch, good):
            return copy
    return None


def _piece(copy, block, size, offset, unit):
    region = copy.member.region
    at = region.block_at(copy.slot, block, size) + offset
    return copy.member.readable and copy.member.attempt(region.read, at, unit) is not False


class Rebuilt:
    """What a Plan takes for a further copy, the last in the line: blocks made from parity.

    It is its own member, too, since a Plan wants one: of no set, and always there. power_on: whose
    flash, members and trust it uses. blocks: which were made. It has a quarter of the reads that
    all others have, of its own, so that it takes none from them (I11).
    """

    readable, writable, own, commit = True, False, False, None
    _found = None
    _spent = 0

    def __init__(self, power_on):
        self._on = power_on
        limit = power_on.scratch.left
        self._left = limit and limit // 4
        self.copies = (self,)
        self.bad = set()
        self.blocks = []
        self.member = self

    def claims(self, manifest):
        """Return False: it does not hold a copy."""
        return False

    holds = claims

    # (Copy, its Manifest) of all that may have parity of the build that is wanted.
    def _holders(self):
        if self._found is None:
            self._found = []
            for copy in copies(self._on.members):
                if copy.commit:
                    manifest = self._on.found.manifest or copy.load(self._on.trust)
                    if manifest and copy.claims(manifest):
                        self._found.append((copy, manifest))
        return self._found

    def again(self):
        """Let all that was made be made once more."""
        if self._left is not None:
            self._left += self._spent
            self._spent = 0

    def read(self, block, scratch, good):
        """Make a block; return whether good(block, data) holds."""
        others, scratch.left = scratch.left, self._left
        spent = scratch.spent
        try:
            done = self._make(block, scratch, good)
            if done and self._left is not None:
                self._spent += self._left - scratch.left
        finally:
            self._left, scratch.left, scratch.spent = scratch.left, others, spent
        return done

    def _make(self, block, scratch, good):
        for copy, manifest in self._holders():
            parity = Parity(copy, manifest)
            if (
                block >= manifest.block_count
                or not copy.member.readable
                or not copy.member.attempt(parity.load)
                or not parity.sums
            ):
                continue
            others = [c for c in copies(self._on.members) if c.claims(manifest)]
            buf = parity.rebuild(block, scratch, self._on.flash, others)
            if buf and good(block, buf):
                self.member = copy.member
                if block not in self.blocks:
                    self.blocks.append(block)
                return True
        return False
