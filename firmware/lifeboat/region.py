"""Find the backup region of a disk: by the memory, its partition tables, or its end.

GPT: UEFI 2.10 sections 5.3.2 and 5.3.3; of the MBR a look only. Buffers called unit are scratch
of UNIT bytes. Errors of the disk are raised as OSError.
"""

from struct import unpack_from

from micropython import const

from .blockdev import geometry
from .errors import LifeboatError
from .kernels import crc32
from .records import UNIT, Region

TYPE_GUID = b"\xc2\x90\x36\x18\x09\x85\xae\x4d\xa1\x60\xc2\xb9\xcf\x3b\x08\x28"

# The same everywhere.
_EIO = const(5)
_EINVAL = const(22)

# The state of a GPT: not there, or not valid; valid and read; valid, but too large to be read.
_NONE = const(0)
_VALID = const(1)
_UNKNOWN = const(2)

GPT_MAGIC = b"EFI PART"
_ENTRIES = const(1048576)  # bytes that are read: 8192 of them
_PARTITIONS = const(16)  # that are looked at: bounds the work on a hostile disk


def partitions(disk, match, unit):
    """Look in a disk's GPT for partitions for which match(type, first LBA, last LBA) holds.

    type: the type GUID, 16 bytes as they stand on disk. Reads at most two tables, 1 MiB of
    entries each. Returns what table() does of the one that counts.
    """
    for lba in (1, geometry(disk)[0] - 1):
        result = table(disk, lba, match, unit)
        if result[0]:
            break
    return result


def table(disk, lba, match, unit):
    """Do as partitions() for the one table whose header is at lba.

    Returns (state, [(first LBA, sectors), ...], first LBA of the entries, their sectors), with the
    first 16 matches in the order of the table. state: 0 where there is no valid one, 2 where it
    is too large to be read, else 1.
    """
    count, size = geometry(disk)
    view = memoryview(unit)
    disk.readblocks(lba, view[:size])
    (
        magic, header_size, header_crc, own_lba, start, entries, entry_size, entries_crc
    ) = unpack_from("<8s4xII4xQ40xQIII", unit)  # fmt: skip
    unit[16:20] = bytes(4)
    left = entries * entry_size
    sectors = (left + size - 1) // size
    found, none = [], (_NONE, [], 0, 0)
    if (
        magic != GPT_MAGIC
        or not 92 <= header_size <= size
        or own_lba != lba
        or not 128 <= entry_size <= UNIT
        or entry_size & entry_size - 1
        or crc32(view[:header_size]) != header_crc
    ):
        return none
    if left > _ENTRIES:
        return _UNKNOWN, found, start, sectors
    if start + sectors > count:
        return none
    crc = 0
    unused = bytes(16)
    at = start
    while left > 0:
        piece = view[: left + -left % size]
        disk.readblocks(at, piece)
        piece = piece[:left]
        crc = crc32(piece, crc)
        for entry in range(0, len(piece), entry_size):
            kind = bytes(view[entry : entry + 16])
            if kind != unused and len(found) < _PARTITIONS:
                first, last = unpack_from("<QQ", unit, entry + 32)
                if first <= last and match(kind, first, last):
                    found.append((first, last - first + 1))
        left -= len(piece)
        at += UNIT // size
    if crc != entries_crc:
        return none
    return _VALID, found, start, sectors


def reaches(sector, start, end):
    """Return whether a partition of an MBR reaches into LBAs [start, end), where sector is one.

    A file system's boot sector has the MBR's signature, too, but something else in its place
    than the two values that the active flag can have.
    """
    found = False
    if sector[510] == 0x55 and sector[511] == 0xAA:
        for entry in range(446, 510, 16):
            if sector[entry] & 0x7F:
                return False
            first, length = unpack_from("<II", sector, entry + 8)
            if sector[entry + 4] not in (0, 0xEE) and length:  # free, or stands for a GPT
                found = found or first < end and first + length > start
    return found


class Patient:
    """A disk on which a sector that can't be read looks like zeros.

    So one such sector does not hide a region of which other copies can be read.
    """

    def __init__(self, disk):
        self.disk = disk
        self.ioctl = disk.ioctl
        self.failed = False

    def readblocks(self, block, buf):
        try:
            self.disk.readblocks(block, buf)
        except OSError as error:
            if error.errno != _EIO:
                raise
            self.failed = True
            buf[:] = bytes(len(buf))


def _is_ours(kind, first, last):
    return kind == TYPE_GUID


# The search for the region of one disk; refusal: why the first suspect was none; gpt: the state of
# the disk's GPT, _VALID for all that is known at first.
class _Search(Patient):
    gpt = _VALID
    refusal = None

    def __init__(self, disk, unit):
        Patient.__init__(self, disk)
        self.unit = unit
        self.count, self.size = geometry(disk)
        if UNIT % self.size:
            raise OSError(_EINVAL)

    # Where a header copy may be, how one came there, and what the region must begin and end with
    # then, None: anywhere. Where the memory says heads of all first: on a healthy disk nothing
    # else need be read.
    def suspects(self, lbas, places):
        unit = UNIT // self.size
        for back in (0, 2, 1):
            for start, sectors in {place[2:] for place in places}:
                lba = start + sectors - back * unit if back else start
                yield lba, "known", None, None
        self.gpt, found, _, _ = partitions(self, _is_ours, self.unit)
        if self.gpt == _UNKNOWN:
            raise LifeboatError("gpt-unknown")
        for start, sectors in found:
            end = start + sectors
            for lba in (start, end - 2 * unit, end - unit):
                yield lba, "gpt", start, end
        # The end of a disk with a GPT belongs to its backup table.
        if self.gpt == _NONE:
            end = self.count - self.count % unit
            for lba in (end - 2 * unit, end - unit):
                yield lba, "tail", None, end
        for lba in lbas:
            yield lba, "lba", None, None

    # The Region of one of these suspects, or None.
    def region(self, lba, place, start, end, places):
        if not 0 <= lba <= self.count - UNIT // self.size:
            return None
        self.readblocks(lba, self.unit)
        try:
            region = Region(self.disk, self.unit)
            at = (lba - region.start) * self.size
            if (
                at not in region.copies
                or start not in (None, region.start)
                or end not in (None, region.end)
            ):
                raise LifeboatError("region-place", "LBA %d" % lba)
            region.place = place
            if place == "known":
                if region.key not in places:
                    return None
                region.known = True
            elif place != "gpt" and self.claimed(region):
                raise LifeboatError("region-place", "a partition")
            region = region.audit(at, self.unit)
            region.claimed = region.known and self.claimed(region)
            return region
        except LifeboatError as error:
            if error.code != "region-magic":
                self.refusal = self.refusal or error

    # Whether a partition reaches into a region, other than one of our type that is just that.
    def claimed(self, region):
        start, end = region.start, region.end

        def foreign(kind, first, last):
            claims = first < end and last >= start
            return claims and (kind, first, last + 1) != (TYPE_GUID, start, end)

        sector = memoryview(self.unit)[: self.size]
        self.readblocks(0, sector)
        if reaches(sector, start, end):
            return True
        if self.gpt == _NONE:
            return False
        state, found, first, sectors = partitions(self, foreign, self.unit)
        # On a raw disk that was partitioned since, the tables reach into the region, too.
        return state == _VALID and (
            bool(found)
            or start < 2
            or first < end
            and first + sectors > start
            or self.count - 1 - sectors < end
        )


def find(disk, lbas, unit, places):
    """Return the audited Region of a disk, or None when there is no sign of one.

    lbas: where the board's configuration says that regions may start; places: what the memory
    knows, tuples as Region.key. Order of the places: format.md, "Finding the region". Raises
    LifeboatError with why what looks like a region is none; OSError as the disk does.
    """
    search = _Search(disk, unit)
    for suspect in search.suspects(lbas, places):
        region = search.region(*suspect, places)
        if region:
            return region
    if search.refusal:
        raise search.refusal
    if search.failed:
        raise OSError(_EIO, _EIO)  # CPython: an errno alone is no errno
