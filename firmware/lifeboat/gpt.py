"""Partition tables: GPT (UEFI 2.10 sections 5.3.2 and 5.3.3), and a look at the MBR."""

from struct import unpack_from

from micropython import const

from .blockdev import geometry
from .kernels import crc32

PROTECTIVE = const(0xEE)
_ENTRIES = const(256)  # more than any tool makes; bounds the work on a hostile table
_UNUSED = bytes(16)


def find(disk, match):
    """Look for a partition for which match(type, first LBA, last LBA) holds.

    type: the type GUID, 16 bytes as they stand on disk. Returns (first LBA, sectors) of the
    first one; () when the disk has a valid table without such a partition; None when it has no
    valid table. Raises OSError as the disk does.
    """
    count, size = geometry(disk)
    buf = bytearray(size)
    for lba in (1, count - 1):
        disk.readblocks(lba, buf)
        found = _table(disk, lba, buf, count, match)
        if found is not None:
            return found
    return None


# find() for the table at lba, whose header is in buf; buf is used again for the entries.
def _table(disk, lba, buf, count, match):
    size = len(buf)
    view = memoryview(buf)
    header_size, header_crc = unpack_from("<II", buf, 12)
    if bytes(buf[:8]) != b"EFI PART" or not 92 <= header_size <= size:
        return None
    my_lba = unpack_from("<Q", buf, 24)[0]
    entries_lba, entries, entry_size, entries_crc = unpack_from("<QIII", buf, 72)
    buf[16:20] = b"\0\0\0\0"
    if crc32(view[:header_size]) != header_crc or my_lba != lba:
        return None
    if entry_size not in (128, 256, 512) or not 0 < entries <= _ENTRIES:
        return None
    length = entries * entry_size
    if entries_lba + (length + size - 1) // size > count:
        return None
    found = ()
    crc = 0
    for at in range(0, length, size):
        disk.readblocks(entries_lba + at // size, buf)
        used = min(size, length - at)
        crc = crc32(view[:used], crc)
        for entry in range(0, used, entry_size):
            first, last = unpack_from("<QQ", buf, entry + 32)
            if not found and 0 < first <= last < count:
                kind = bytes(view[entry : entry + 16])
                if kind != _UNUSED and match(kind, first, last):
                    found = first, last - first + 1
    return found if crc == entries_crc else None


def mbr(disk, buf):
    """Return [(type, first LBA, sectors)] of the MBR's partitions, None when there is no MBR.

    buf: scratch of at least a sector. A file system's boot sector has the MBR's signature, too,
    but something else in its place than the two values that the active flag can have.
    """
    sector = memoryview(buf)[: geometry(disk)[1]]
    disk.readblocks(0, sector)
    if bytes(sector[510:512]) != b"\x55\xaa":
        return None
    found = []
    for entry in range(446, 510, 16):
        if sector[entry] & 0x7F:
            return None
        if sector[entry + 4]:
            found.append((sector[entry + 4],) + unpack_from("<II", sector, entry + 8))
    return found


def mbr_claims(disk, start, end, buf):
    """Return whether a partition of the MBR, if there is one, reaches into LBAs [start, end)."""
    for kind, first, length in mbr(disk, buf) or ():
        if kind != PROTECTIVE and first < end and first + length > start:
            return True
    return False
