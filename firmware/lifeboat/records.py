"""A backup region on a member disk: header, slots, commit records (format.md section 3)."""

from struct import pack_into, unpack_from

from micropython import const

from .blockdev import SYNC, Window, geometry
from .errors import LifeboatError
from .kernels import crc32
from .manifest import text

# The same everywhere.
_EPERM = const(1)
_EIO = const(5)
_ENODEV = const(19)

# format.md section 3: magic major minor header_size lba_size set_id region_id start_lba sectors
# member_index member_count slot_count slot_size journal_offset journal_units incompat ro_compat
# header_serial product manifest_area slots_offset. The CRC at the record's end is read by itself:
# struct takes padding byte by byte.
HEADER = "<8sBBHI16s16sQQHHIQQIIII32sII"
_HEADER_INCOMPAT = const(15)  # which field
# magic major minor header_size slot region_id build_id generation manifest_size block_size
# block_count incompat ro_compat security_counter
_COMMIT = const("<8sBBHI16s32sIIIIIII")
_COMMIT_INCOMPAT = const(11)

_GENERATION_LIMIT = const(0xFFFFFFEF)
_FORGED = const(0xFF)  # the highest byte: no counter gets so far by itself

UNIT = const(4096)
_FILLED = const("4096s")  # with this pack_into() puts zeros behind what it is given
_AREA = const(65536)  # room for the manifest where the header does not say
_MAX_AREA = const(1048576)
_RECORD = const(512)
_MAJOR = const(1)
_MINOR = const(2)
_DIRECTORY = const(268)
_CRC = const(508)


# The fields of a record, when it is whole and of a format that this version knows.
def _fields(buf, kind, magic, layout, incompat):
    if bytes(buf[:8]) != magic:
        raise LifeboatError(kind + "-magic")
    if crc32(memoryview(buf)[:_CRC]) != unpack_from("<I", buf, _CRC)[0]:
        raise LifeboatError(kind + "-crc")
    fields = unpack_from(layout, buf)
    if fields[1] != _MAJOR or fields[incompat]:
        raise LifeboatError(kind + "-version")
    return fields


def seal(record):
    """Make record, which holds the fields of one, a whole one."""
    pack_into("<I", record, _CRC, crc32(memoryview(record)[:_CRC]))


class Region:
    """A backup region whose header keeps every rule of its format.

    Offsets are bytes from the region's start, multiples of 4096; so are buffer lengths.
    I/O raises OSError as the disk does. disk: the Window on it; entry: what the memory keeps of
    it, as Memory.members but the name; key: the first four of these; size: in bytes;
    area: room for a manifest in a slot; serial: of two header copies the higher one counts;
    copies: their offsets; bad_copies: those that are not as they should be, in units that audit()
    found; agreed: the head copy and a tail copy are this header. read_only, claimed: it may be
    read only, since a newer version made it, or a partition reaches into it. known: it is where
    the memory says; place: "known", "gpt", "tail" or "lba", how region.find() came to it.
    """

    agreed = known = claimed = False
    place = None

    def __init__(self, disk, header):
        count, sector = geometry(disk)
        fields = _fields(header, "region", b"LBREGION", HEADER, _HEADER_INCOMPAT)
        for at in range(_DIRECTORY, _CRC, 16):
            kind, flags = unpack_from("<HH", header, at)
            if kind and flags & 1:
                raise LifeboatError("region-version")
        (
            _, _, _, header_size, lba_size, self.set_id, self.region_id, start, sectors,
            self.member, self.members, slots, self.slot_size, _, _, _,
            self.read_only, self.serial, product, area, first_slot,
        ) = fields  # fmt: skip
        self.end = end = start + sectors
        if lba_size != sector or not sectors or end > count:
            raise LifeboatError("region-place", "disk")
        self.key = fields[5:9]
        self.entry = fields[5:9] + (sector,) + fields[9:11]
        self.start = start
        self.sectors = sectors
        self.slots = slots
        self.area = area = area or _AREA
        self._slots = first_slot = first_slot or UNIT
        self.size = size = sectors * sector
        if (
            header_size != _RECORD
            or not start
            or (start * sector | size | self.slot_size | area | first_slot) % UNIT
            or not 2 <= slots <= 16
            or area > _MAX_AREA
            or self.slot_size < area + 2 * UNIT
            or self.slot_at(slots) + 2 * UNIT > size
            or not self.member < self.members <= 64
        ):
            raise LifeboatError("region-field")
        if any(product):
            text(product, "region-field")
        self.header = bytes(header[:_RECORD])
        self.copies = 0, size - 2 * UNIT, size - UNIT
        self.bad_copies = []
        self._whole = disk
        self.disk = Window(disk, start, sectors)

    def slot_at(self, slot):
        """Return the offset of a slot."""
        return self._slots + slot * self.slot_size

    def manifest_at(self, slot):
        """Return the offset of a slot's manifest."""
        return self.slot_at(slot) + UNIT

    def block_at(self, slot, block, block_size):
        """Return the offset of a block of code in a slot."""
        return self.manifest_at(slot) + self.area + block * block_size

    def fits(self, size, block_size, block_count):
        """Return whether a slot has room for code with a manifest of these Manifest.sizes."""
        return size <= self.area and self.block_at(0, block_count, block_size) <= self.slot_at(1)

    def read(self, offset, buf):
        """Fill buf from the region."""
        self.disk.readblocks(offset // self.disk.size, buf)

    def write(self, offset, buf):
        """Write buf into the region; it is on the medium only after flush()."""
        if self.read_only or self.claimed:
            raise OSError(_EPERM, "region")
        self.disk.writeblocks(offset // self.disk.size, buf)

    def flush(self):
        """Wait until all that was written is on the medium."""
        self.disk.ioctl(SYNC, 0)

    def audit(self, at, unit):
        """Read the header copies; return the Region of the one that counts.

        That has the highest serial; of equal ones it is the first. at: which one this was just
        read from; unit: scratch of UNIT bytes.
        """
        copies, best = [], None
        for offset in self.copies:
            copy = self if offset == at else self._copy(offset, unit)
            copies.append((offset, copy))
            if copy and (not best or copy.serial > best.serial):
                best = copy
        good, best.bad_copies = [], []
        for offset, copy in copies:
            if copy and copy.header == best.header:
                good.append(offset)
            elif copy is not False:
                best.bad_copies.append(offset)
        best.agreed = 0 in good and len(good) > 1
        best.known, best.place = self.known, self.place
        return best

    # The Region of the header copy at offset; None when it is bad, False when it is of a newer
    # format and not for us to mend.
    def _copy(self, offset, unit):
        try:
            self.read(offset, unit)
            if unit[:_RECORD] == self.header:
                return self
            copy = Region(self._whole, unit)
        except LifeboatError as error:
            return False if error.code == "region-version" else None
        except OSError as error:
            if error.errno != _EIO:
                raise
            return None
        # It must be of the same place, in a remembered region also of the same set.
        first = 0 if self.known else 2
        return copy if copy.key[first:] == self.key[first:] else None

    def is_good(self, offset, unit):
        """Return whether the header copy at offset is as it should be, or too new to be mended."""
        return self._copy(offset, unit) in (self, False)

    def check(self, unit):
        """Raise OSError(ENODEV) when no header copy is there: another disk may have come."""
        for offset in self.copies:
            if self.is_good(offset, unit):
                return
        raise OSError(_ENODEV, "region")

    # Write a record on the medium and read it back; unit: scratch of UNIT bytes.
    def _write_record(self, offset, record, unit):
        pack_into(_FILLED, unit, 0, record)
        self.write(offset, unit)
        self.flush()
        # Invert a byte first: if the driver reports success but does not fill the buffer, the
        # check must fail.
        unit[0] ^= 0xFF
        self.read(offset, unit)
        if unit[:_RECORD] != record:
            raise LifeboatError("disk-lies", "record")

    def mend_header(self, unit):
        """Rewrite the bad header copies and read them back; unit: scratch of UNIT bytes.

        One copy at a time, flushed: a power cut tears one that was bad already.
        """
        for offset in self.bad_copies:
            self._write_record(offset, self.header, unit)
        self.bad_copies = []

    def looks_made(self, unit):
        """Return whether no slot holds what is somebody else's; unit: scratch of UNIT bytes.

        The first unit of each is zero or a record; a torn one counts as such.
        """
        for slot in range(self.slots):
            self.read(self.slot_at(slot), unit)
            if any(unit) and (
                bytes(unit[:8]) not in (b"LBCOMMIT", b"LBCANDID") or any(unit[_RECORD:])
            ):
                return False
        return True

    def commit(self, slot, unit, magic=b"LBCOMMIT"):
        """Return the Commit of a slot, or raise LifeboatError; unit: scratch of UNIT bytes.

        magic: of a candidate's record it is another, and nothing else.
        """
        self.read(self.slot_at(slot), unit)
        return Commit(unit, self, slot, magic)

    def holds_manifest(self, slot, manifest, unit):
        """Return whether a slot holds just this manifest; unit: scratch of UNIT bytes."""
        at = self.manifest_at(slot)
        for offset in range(0, len(manifest.raw), UNIT):
            piece = manifest.raw[offset : offset + UNIT]
            self.read(at + offset, unit)
            if unit[: len(piece)] != piece:
                return False
        return True

    def write_manifest(self, slot, manifest, unit):
        """Fill the manifest area of a slot; unit: scratch of UNIT bytes."""
        at = self.manifest_at(slot)
        for offset in range(0, self.area, UNIT):
            piece = manifest.raw[offset : offset + UNIT]
            pack_into(_FILLED, unit, 0, b"")
            unit[: len(piece)] = piece
            self.write(at + offset, unit)

    def clear_commit(self, slot):
        """Make a slot free, on the medium."""
        self.write(self.slot_at(slot), bytearray(UNIT))
        self.flush()

    def write_commit(self, slot, manifest, generation, unit, magic=b"LBCOMMIT"):
        """Commit a slot, on the medium, and read the record back; unit: scratch."""
        record = bytearray(_RECORD)
        pack_into(
            _COMMIT, record, 0, magic, _MAJOR, _MINOR, _RECORD, slot, self.region_id,
            manifest.build, generation, *manifest.sizes, 0, 0, manifest.security_counter,
        )  # fmt: skip
        seal(record)
        self._write_record(self.slot_at(slot), record, unit)
        return Commit(record, self, slot, magic)


class Commit:
    """The commit record of a slot: which build it holds, and how new it is.

    sizes: those of its manifest; order: the generation, or 0 for one that nothing but a forgery
    has; read_only: the slot is neither given up nor mended.
    """

    def __init__(self, buf, region, slot, magic=b"LBCOMMIT"):
        fields = _fields(buf, "commit", magic, _COMMIT, _COMMIT_INCOMPAT)
        self.build, generation = fields[6:8]
        self.sizes = sizes = fields[8:11]
        if (
            fields[3:6] != (_RECORD, slot, region.region_id)
            or not 0 < generation <= _GENERATION_LIMIT
            or not all(sizes)
            or sizes[1] % 4096
            or not region.fits(*sizes)
        ):
            raise LifeboatError("commit-field")
        self.generation = generation
        self.order = generation if generation >> 24 < _FORGED else 0
        self.read_only = fields[12]

    def describes(self, manifest):
        """Return whether this is the record of a copy with this manifest, sizes included."""
        return self.build == manifest.build and self.sizes == manifest.sizes
