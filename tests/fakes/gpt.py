"""GUID partition tables by hand, from UEFI 2.10 section 5.3."""

import struct
from binascii import crc32

from fakes import board as sim

# 183690C2-8509-4DAE-A160-C2B9CF3B0828 and a Linux file system's, in the mixed order of a GUID
LIFEBOAT = b"\xc2\x90\x36\x18\x09\x85\xae\x4d\xa1\x60\xc2\xb9\xcf\x3b\x08\x28"
LINUX = b"\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4"


def table(disk, partitions, lba=1, entries_lba=None, entries=128, entry_size=128, header_size=92):
    """Write one table; partitions: list of (type GUID, first LBA, last LBA)."""
    out = b""
    for i, (kind, first, last) in enumerate(partitions):
        entry = kind + bytes([i + 1] * 16) + struct.pack("<QQQ", first, last, 0)
        out += entry + bytes(entry_size - len(entry))
    out += bytes(entries * entry_size - len(out))
    if entries_lba is None:
        entries_lba = 2 if lba == 1 else lba - (len(out) + disk.size - 1) // disk.size
    other = disk.count - 1 if lba == 1 else 1
    head = b"EFI PART" + struct.pack("<IIII", 0x10000, header_size, 0, 0)
    head += struct.pack("<QQQQ", lba, other, 34, disk.count - 34) + b"D" * 16
    head += struct.pack("<QIII", entries_lba, entries, entry_size, crc32(out))
    head += bytes(header_size - len(head))
    head = head[:16] + struct.pack("<I", crc32(head)) + head[20:]
    sim.put(disk, lba * disk.size, head + bytes(disk.size - len(head)))
    sim.put(disk, entries_lba * disk.size, out + bytes(-len(out) % disk.size))


def both(disk, partitions, **kwargs):
    """Write the primary and the backup table."""
    table(disk, partitions, **kwargs)
    table(disk, partitions, lba=disk.count - 1, **kwargs)
