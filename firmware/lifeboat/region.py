"""The backup region on a member disk: header, slots, commit records (format.md section 3)."""

from errno import EINVAL, EIO, ENODEV
from struct import pack_into, unpack_from

from micropython import const

from . import gpt
from .blockdev import INIT, SYNC, Checked, UserArea, Window, geometry
from .errors import LifeboatError
from .kernels import crc32
from .manifest import MAX_SIZE, Manifest

# format.md section 3: magic major minor header_size lba_size set_id region_id start_lba sectors
# member_index member_count slot_count slot_size journal_offset journal_units. The CRC at the
# record's end is read by itself: struct takes padding byte by byte.
HEADER = "<8sBBHI16s16sQQHHIQQI"
# magic major minor header_size slot region_id build_id generation manifest_size block_size
# block_count
COMMIT = "<8sBBHI16s32sIIII"

TYPE_GUID = b"\xc2\x90\x36\x18\x09\x85\xae\x4d\xa1\x60\xc2\xb9\xcf\x3b\x08\x28"
GENERATION_LIMIT = const(0xFFFFFFEF)

UNIT = const(4096)
_RECORD = const(512)
_MOST_PAGES = const(1024)  # of a journal: all are read when there is news
_MAJOR = const(1)
_SLOT_MANIFEST = const(4096)
SLOT_DATA = const(69632)


# The part of record checking that header and commit record share.
def _check(buf, kind, magic):
    if bytes(buf[:8]) != magic:
        raise LifeboatError(kind + "-magic")
    if crc32(memoryview(buf)[: _RECORD - 4]) != unpack_from("<I", buf, _RECORD - 4)[0]:
        raise LifeboatError(kind + "-crc")
    if buf[8] != _MAJOR:
        raise LifeboatError(kind + "-version", str(buf[8]))
    if unpack_from("<H", buf, 10)[0] != _RECORD:
        raise LifeboatError(kind + "-field", "header_size")


# Whether this is a whole header of another major version: not for us to mend.
def _is_newer(unit):
    try:
        _check(unit, "region", b"LBREGION")
    except LifeboatError as error:
        return error.code == "region-version"
    return False


def make_header(
    unit, lba_size, set_id, region_id, start, sectors, member, members, slots, slot_size, journal
):
    """Put a region header into unit, a bytearray of UNIT zero bytes.

    journal: the units behind the slots that are to be the journal.
    """
    pack_into(
        HEADER, unit, 0, b"LBREGION", _MAJOR, 1, _RECORD, lba_size, set_id, region_id,
        start, sectors, member, members, slots, slot_size, UNIT + slots * slot_size, journal,
    )  # fmt: skip
    pack_into("<I", unit, _RECORD - 4, crc32(memoryview(unit)[: _RECORD - 4]))


class Commit:
    """The commit record of a slot: which build it holds, and how new it is."""

    def __init__(self, buf, region, slot):
        _check(buf, "commit", b"LBCOMMIT")
        (
            _, _, _, _, where, region_id, self.build, self.generation,
            self.manifest_size, self.block_size, self.block_count,
        ) = unpack_from(COMMIT, buf, 0)  # fmt: skip
        if where != slot or region_id != region.region_id:
            raise LifeboatError("commit-field", "copied from another place")
        if (
            not 0 < self.generation <= GENERATION_LIMIT
            or not 0 < self.manifest_size <= MAX_SIZE
            or not self.block_size
            or self.block_size % 4096
            or not self.block_count
            or SLOT_DATA + self.block_count * self.block_size > region.slot_size
        ):
            raise LifeboatError("commit-field")

    def describes(self, manifest):
        """Return whether this is the record of a copy with this manifest, sizes included."""
        return (
            self.build == manifest.build
            and self.manifest_size == len(manifest.raw)
            and self.block_size == manifest.block_size
            and self.block_count == manifest.block_count
        )


class Region:
    """A backup region whose header keeps every rule of its format.

    Offsets are bytes from the region's start, multiples of 4096; so are buffer lengths.
    I/O raises OSError as the disk does. bad_copies: offsets of header copies that are not
    as they should be, in units that audit() found. journal_pages: 0 without a journal.
    """

    def __init__(self, disk, header):
        _check(header, "region", b"LBREGION")
        (
            _, _, _, _, lba_size, self.set_id, self.region_id, self.start, self.sectors,
            self.member, self.members, self.slots, self.slot_size, self._journal, units,
        ) = unpack_from(HEADER, header, 0)  # fmt: skip
        count, size = geometry(disk)
        if lba_size != size or not self.sectors or self.start + self.sectors > count:
            raise LifeboatError("region-place", "disk")
        self._lba_size = size
        self.size = self.sectors * size
        if (
            not self.start
            or self.start * size % UNIT
            or self.size % UNIT
            or not 2 <= self.slots <= 16
            or self.slot_size % UNIT
            or self.slot_size < SLOT_DATA + UNIT
            or UNIT + self.slots * self.slot_size + 2 * UNIT > self.size
            or not 0 < self.members <= 64
            or self.member >= self.members
        ):
            raise LifeboatError("region-field")
        if (
            self._journal % UNIT
            or units % 2
            or units > _MOST_PAGES
            or self._journal < self.slot_at(self.slots)
            or self._journal + units * UNIT > self.size - 2 * UNIT
        ):
            units = 0
        self.journal_pages = units
        self._disk = Window(disk, self.start, self.sectors)
        self.header = bytes(memoryview(header)[:_RECORD])
        self.copies = 0, self.size - 2 * UNIT, self.size - UNIT
        self.bad_copies = []

    @property
    def writes(self):
        """Write commands sent to the disk."""
        return self._disk.writes

    def read(self, offset, buf):
        """Fill buf from the region."""
        self._disk.readblocks(offset // self._lba_size, buf)

    def write(self, offset, buf):
        """Write buf into the region; it is on the medium only after flush()."""
        self._disk.writeblocks(offset // self._lba_size, buf)

    def flush(self):
        """Wait until all that was written is on the medium."""
        self._disk.ioctl(SYNC, 0)

    def audit(self, unit):
        """Look for header copies that differ from the one in use; unit: scratch of UNIT bytes."""
        self.bad_copies = [offset for offset in self.copies if not self.is_good(offset, unit)]

    def is_good(self, offset, unit):
        """Return whether the header copy at offset is as it should be, or too new to be mended."""
        try:
            self.read(offset, unit)
        except OSError as error:
            if error.errno != EIO:
                raise
            return False
        return self._is_copy(unit) or _is_newer(unit)

    def check(self, unit):
        """Raise OSError(ENODEV) when no header copy is there: another disk may have come."""
        if not any(self.is_good(offset, unit) for offset in self.copies):
            raise OSError(ENODEV, "no region")

    # The rest of the unit is zero when it starts with one and each byte equals the next.
    def _is_copy(self, unit):
        view = memoryview(unit)
        if view[:_RECORD] != self.header or unit[_RECORD]:
            return False
        return view[_RECORD:-1] == view[_RECORD + 1 :]

    def mend_header(self, unit):
        """Rewrite the bad header copies and read them back; unit: scratch of UNIT bytes.

        One copy at a time, flushed: a power cut tears one that was bad already.
        """
        for offset in self.bad_copies:
            unit[:] = bytes(UNIT)
            unit[:_RECORD] = self.header
            self.write(offset, unit)
            self.flush()
            unit[0] ^= 0xFF  # what the disk does not read must not look right
            self.read(offset, unit)
            if not self._is_copy(unit):
                raise LifeboatError("disk-lies", "header")
        self.bad_copies = []

    def slot_at(self, slot):
        """Return the offset of a slot."""
        return UNIT + slot * self.slot_size

    def manifest_at(self, slot):
        """Return the offset of a slot's manifest."""
        return self.slot_at(slot) + _SLOT_MANIFEST

    def block_at(self, slot, block, block_size):
        """Return the offset of a block of code in a slot."""
        return UNIT + slot * self.slot_size + SLOT_DATA + block * block_size

    def page_at(self, page):
        """Return the offset of a page of the journal."""
        return self._journal + page * UNIT

    def fits(self, manifest):
        """Return whether a slot has room for the code that a manifest describes."""
        return SLOT_DATA + manifest.block_count * manifest.block_size <= self.slot_size

    def commit(self, slot, unit):
        """Return the Commit of a slot, or raise LifeboatError; unit: scratch of UNIT bytes."""
        self.read(self.slot_at(slot), unit)
        return Commit(unit, self, slot)

    def manifest(self, slot):
        """Return the Manifest of a slot, or raise LifeboatError."""
        at = self.manifest_at(slot)
        return Manifest.load(lambda offset, buf: self.read(at + offset, buf), MAX_SIZE)

    def holds_manifest(self, slot, manifest, unit):
        """Return whether a slot holds just this manifest; unit: scratch of UNIT bytes."""
        at = self.manifest_at(slot)
        view = memoryview(unit)
        for offset in range(0, len(manifest.raw), UNIT):
            piece = manifest.raw[offset : offset + UNIT]
            self.read(at + offset, unit)
            if view[: len(piece)] != piece:
                return False
        return True

    def write_manifest(self, slot, manifest, unit):
        """Fill the manifest area of a slot; unit: scratch of UNIT bytes."""
        at = self.manifest_at(slot)
        for offset in range(0, MAX_SIZE, UNIT):
            piece = manifest.raw[offset : offset + UNIT]
            unit[:] = bytes(UNIT)
            unit[: len(piece)] = piece
            self.write(at + offset, unit)

    def clear_commit(self, slot):
        """Make a slot free, on the medium."""
        self.write(self.slot_at(slot), bytearray(UNIT))
        self.flush()

    def write_commit(self, slot, manifest, generation, unit):
        """Commit a slot, on the medium, and read the record back; unit: scratch."""
        unit[:] = bytes(UNIT)
        pack_into(
            COMMIT, unit, 0, b"LBCOMMIT", _MAJOR, 0, _RECORD, slot, self.region_id,
            manifest.build, generation, len(manifest.raw), manifest.block_size,
            manifest.block_count,
        )  # fmt: skip
        pack_into("<I", unit, _RECORD - 4, crc32(memoryview(unit)[: _RECORD - 4]))
        self.write(self.slot_at(slot), unit)
        self.flush()
        unit[0] ^= 0xFF  # as in mend_header()
        try:
            commit = self.commit(slot, unit)
        except LifeboatError:
            raise LifeboatError("disk-lies", "commit record") from None
        if commit.build != manifest.build or commit.generation != generation:
            raise LifeboatError("disk-lies", "commit record")
        return commit


# A disk on which a sector that can't be read looks like zeros, so that one such sector does
# not hide a region of which other copies can be read.
class _Patient:
    def __init__(self, disk):
        self.ioctl = disk.ioctl
        self._read = disk.readblocks
        self.failed = False

    def readblocks(self, block, buf):
        try:
            self._read(block, buf)
        except OSError as error:
            if error.errno != EIO:
                raise
            self.failed = True
            buf[:] = bytes(len(buf))


# The region whose header copy stands at lba; raises LifeboatError when there is none.
def _region_at(disk, patient, lba, partition, unit):
    patient.readblocks(lba, unit)
    region = Region(disk, unit)
    if (lba - region.start) * geometry(disk)[1] not in region.copies:
        raise LifeboatError("region-place", "LBA %d" % lba)
    if partition:
        if partition != (region.start, region.sectors):
            raise LifeboatError("region-place", "not its partition")
    else:
        start = region.start
        end = start + region.sectors
        if gpt.mbr_claims(patient, start, end, unit) or (
            partition == () and gpt.find(patient, lambda _, a, z: a < end and z >= start)
        ):
            raise LifeboatError("region-place", "a partition reaches into it")
    region.audit(unit)
    return region


def _per_unit(disk):
    size = geometry(disk)[1]
    if UNIT % size:
        raise OSError(EINVAL)
    return UNIT // size


# The LBAs where a header copy may be, best first, each with the partition it must fill; () when
# it must keep out of all partitions, None when there are none but the MBR's.
def _places(disk, lbas):
    per_unit = _per_unit(disk)
    partition = gpt.find(disk, lambda kind, first, last: kind == TYPE_GUID)
    if partition:
        first, sectors = partition
        end = first + sectors
        for lba in (first, end - per_unit, end - 2 * per_unit):
            yield lba, partition
    # The end of a disk with a GPT belongs to its backup table.
    if partition is None:
        count = geometry(disk)[0]
        end = count - count % per_unit
        for lba in (end - per_unit, end - 2 * per_unit):
            yield lba, None
    for lba in lbas:
        yield lba, ()


def find(disk, lbas=(), unit=None):
    """Return the audited Region of a disk, or None when there is no sign of one.

    lbas: where the board's configuration says that regions may start; unit: scratch of UNIT
    bytes. Order of the places: format.md, "Finding the region". Raises LifeboatError with why
    what looks like a region is none; OSError as the disk does.
    """
    per_unit = _per_unit(disk)
    last = geometry(disk)[0] - per_unit
    unit = unit or bytearray(UNIT)
    patient = _Patient(disk)
    refusal = None
    for lba, partition in _places(patient, lbas):
        if 0 <= lba <= last:
            try:
                return _region_at(disk, patient, lba, partition, unit)
            except LifeboatError as error:
                if error.code != "region-magic":
                    refusal = refusal or error
    if refusal:
        raise refusal
    if patient.failed:
        raise OSError(EIO, "unreadable")
    return None


def user_area(disk, lbas=()):
    """Return a disk as a block device on which its backup region does not exist.

    For the application: vfs.mount(VfsFat(user_area(disk, board.REGION_LBAS)), "/disk"); lbas as
    for find(). Without a region it is all of the disk. Raises LifeboatError when there may be one
    that can't be used: nothing is known then about where it is; OSError as the disk does.
    """
    disk = Checked(disk)
    disk.ioctl(INIT, 0)
    region = find(disk, lbas)
    if region is None:
        count = geometry(disk)[0]
        return UserArea(disk, count, count)
    return UserArea(disk, region.start, region.start + region.sectors)
