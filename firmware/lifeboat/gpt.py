"""Find one partition in a GUID partition table. UEFI 2.10 sections 5.3.2 and 5.3.3."""

from struct import unpack_from

from micropython import const

from .blockdev import geometry
from .kernels import crc32

_ENTRIES = const(1024)  # more than any tool makes; bounds the work on a hostile table


def find(disk, type_guid):
    """Return (first LBA, sectors) of the first partition of a type, or None.

    type_guid: the 16 bytes as they stand on disk. Raises OSError as the disk does.
    """
    count, size = geometry(disk)
    buf = bytearray(size)
    for lba in (1, count - 1):
        disk.readblocks(lba, buf)
        found = _table(disk, lba, buf, count, type_guid)
        if found is not None:
            return found or None
    return None


# None: no valid table at lba; (): a valid one without such a partition. The header is in buf,
# which is used again for the entries.
def _table(disk, lba, buf, count, type_guid):
    size = len(buf)
    header_size, header_crc = unpack_from("<II", buf, 12)
    if bytes(buf[:8]) != b"EFI PART" or not 92 <= header_size <= size:
        return None
    my_lba = unpack_from("<Q", buf, 24)[0]
    entries_lba, entries, entry_size, entries_crc = unpack_from("<QIII", buf, 72)
    buf[16:20] = b"\0\0\0\0"
    if crc32(memoryview(buf)[:header_size]) != header_crc or my_lba != lba:
        return None
    if entry_size not in (128, 256, 512) or not 0 < entries <= _ENTRIES:
        return None
    length = entries * entry_size
    if entries_lba + (length + size - 1) // size > count:
        return None
    found = ()
    crc = 0
    view = memoryview(buf)
    for at in range(0, length, size):
        disk.readblocks(entries_lba + at // size, buf)
        crc = crc32(view[: min(size, length - at)], crc)
        for entry in range(0, min(size, length - at), entry_size):
            if not found and view[entry : entry + 16] == type_guid:
                first, last = unpack_from("<QQ", buf, entry + 32)
                if 0 < first <= last < count:
                    found = first, last - first + 1
    return found if crc == entries_crc else None
