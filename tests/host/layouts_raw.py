"""On-disk metadata by its documented layout: RAID, LVM2 and ZFS, and partition tables by hand.

The real tools need block devices, or a kernel module, for these. Each function gives a list of
(byte offset, bytes) for a disk of `size` bytes. Shares no code with what is tested.
"""

import struct
import uuid
import zlib

SECTOR = 512
UUID = bytes(range(1, 17))


# --- Linux md (kernel: include/uapi/linux/raid/md_p.h)


def md_0_90(size):
    """The last whole 64 KiB of the device, that is, the block before it or the last one."""
    words = [0] * 1024
    words[0:5] = 0xA92B4EFC, 0, 90, 0, 0  # magic, major, minor, patch, gvalid_words
    words[5:12] = 0x11111111, 1600000000, 1, size // 1024 - 64, 2, 2, 0  # uuid0 .. md_minor
    words[13:16] = 0x22222222, 0x33333333, 0x44444444
    words[32:38] = 1600000000, 1, 2, 2, 0, 0
    total = sum(words)
    words[38] = (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF
    return [(size // 65536 * 65536 - 65536, struct.pack("<1024I", *words))]


def md_1(size, minor):
    """1.0: 8 to 12 KiB before the end; 1.1: at the start; 1.2: 4 KiB after the start."""
    at = {0: (size // SECTOR - 16) // 8 * 8 * SECTOR, 1: 0, 2: 4096}[minor]
    block = bytearray(256 + 2 * 2)
    struct.pack_into("<IIII16s32s", block, 0, 0xA92B4EFC, 1, 0, 0, UUID, b"host:0")
    struct.pack_into("<QIIQII", block, 64, 1600000000, 1, 0, 1000, 0, 2)
    struct.pack_into("<QQQQ", block, 128, 2048, size // SECTOR - 4096, at // SECTOR, 0)
    struct.pack_into("<QQQII", block, 192, 1600000000, 1, 0, 0, 2)
    total = sum(struct.unpack("<65I", block))
    struct.pack_into("<I", block, 216, (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF)
    return [(at, bytes(block))]


# --- SNIA DDF 2.0: an anchor in the last sector, the header it points to


def ddf_header(kind, primary, secondary):
    header = bytearray(b"\xff" * 512)
    struct.pack_into(">II", header, 0, 0xDE11DE11, 0xFFFFFFFF)
    header[8:40] = b"LIFEBOAT-TEST-DISK-00001" + b"02.00.00"
    struct.pack_into(">II", header, 40, 1, 1600000000)
    header[48:52] = b"\0\xff\0\0"
    struct.pack_into(">QQB", header, 96, primary, secondary, kind)
    struct.pack_into(">I", header, 4, zlib.crc32(header))
    return bytes(header)


def ddf(size):
    primary = size // SECTOR - 65536
    anchor = size - SECTOR
    return [
        (anchor, ddf_header(0, primary, 0xFFFFFFFFFFFFFFFF)),
        (primary * SECTOR, ddf_header(1, primary, 0xFFFFFFFFFFFFFFFF)),
    ]


def ddf_anchor(size):
    """What is left when the rest of the metadata was overwritten."""
    return ddf(size)[:1]


# --- Intel Matrix (mdadm: super-intel.c): the sector before the last one


def intel(size, sector=SECTOR):
    signature = b"Intel Raid ISM Cfg Sig. 1.3.00\0\0"
    return [(size - 2 * sector, signature.ljust(sector, b"\0"))]


# --- LVM2 (lvm2: lib/format_text/layout.h): a label in one of the first four sectors


def lvm2(size, sector=1):
    label = bytearray(512)
    label[0:8] = b"LABELONE"
    struct.pack_into("<QII8s", label, 8, sector, 0, 32, b"LVM2 001")
    struct.pack_into("<32sQ", label, 32, b"0123456789abcdefghijklmnopqrstuv", size)
    crc = zlib.crc32(label[20:], 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    struct.pack_into("<I", label, 16, crc)
    return [(sector * SECTOR, bytes(label))]


# --- ZFS (ZFS On-Disk Specification, chapter 1)

ZFS_LABEL = 262144


def _xdr_text(text):
    data = text.encode()
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


def zfs_list():
    """The name-value list of a label, in XDR."""
    out = b"\x01\x01\0\0" + struct.pack(">II", 0, 1)
    for name, value in (("version", 5000), ("name", "tank"), ("state", 0), ("pool_guid", 4711)):
        if isinstance(value, str):
            body = _xdr_text(name) + struct.pack(">II", 9, 1) + _xdr_text(value)
        else:
            body = _xdr_text(name) + struct.pack(">IIQ", 8, 1, value)
        out += struct.pack(">II", len(body) + 8, 64) + body
    return out + bytes(8)


def zfs(size, labels, uberblocks=1, nvlist=True, order="<"):
    """labels: which of the four; the first two are at the start, the others at the end."""
    end = size // ZFS_LABEL * ZFS_LABEL
    places = (0, ZFS_LABEL, end - 2 * ZFS_LABEL, end - ZFS_LABEL)
    out = []
    for at in (places[label] for label in labels):
        if nvlist:
            out.append((at + 16384, zfs_list()))
        for index in range(uberblocks):
            block = struct.pack(order + "QQQQQ", 0x00BAB10C, 5000, 4 + index, 4711, 1600000000)
            out.append((at + 131072 + 1024 * index, block))
    return out


# --- partition tables (UEFI 2.10 section 5)

LINUX = uuid.UUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4")
LIFEBOAT = uuid.UUID("183690C2-8509-4DAE-A160-C2B9CF3B0828")


def protective_mbr(size, lba=SECTOR):
    sector = bytearray(512)
    length = min(size // lba - 1, 0xFFFFFFFF)
    struct.pack_into("<B3sB3sII", sector, 446, 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, length)
    sector[510:] = b"\x55\xaa"
    return [(0, bytes(sector))]


def gpt(size, partitions, lba=SECTOR, count=128, entry_size=128, header_size=92, note=b""):
    """partitions: (type, first, last). note: bytes in the header sectors that UEFI reserves."""
    sectors = size // lba
    entries = bytearray(count * entry_size)
    for index, (kind, first, last) in enumerate(partitions):
        own = uuid.UUID(int=index + 1).bytes_le
        name = f"p{index + 1}".encode("utf-16-le")
        at = index * entry_size
        struct.pack_into("<16s16sQQQ72s", entries, at, kind.bytes_le, own, first, last, 0, name)
    length = -(-len(entries) // lba)
    out = protective_mbr(size, lba)
    for own, other, at in ((1, sectors - 1, 2), (sectors - 1, 1, sectors - 1 - length)):
        header = bytearray(lba)
        struct.pack_into("<8sIIII", header, 0, b"EFI PART", 0x10000, header_size, 0, 0)
        struct.pack_into("<QQQQ", header, 24, own, other, 2 + length, sectors - 2 - length)
        header[56:72] = UUID
        struct.pack_into("<QIII", header, 72, at, count, entry_size, zlib.crc32(entries))
        header[92 : 92 + len(note)] = note
        struct.pack_into("<I", header, 16, zlib.crc32(header[:header_size]))
        out += [(own * lba, bytes(header)), (at * lba, bytes(entries))]
    return out


# Metadata at the end of disks, and others that no tool of Debian's makes.

MSR = uuid.UUID("E3C9E316-0B5C-4DB8-817D-F92DF00215AE")  # Microsoft reserved
SPACES = uuid.UUID("E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D")  # Storage Spaces


def geom(size, name):
    """FreeBSD sys/geom: 16 bytes of magic, a version, a name, ... in the last sector."""
    data = (
        f"GEOM::{name}".encode().ljust(16, b"\0") + struct.pack("<I", 4) + b"gm0".ljust(16, b"\0")
    )
    return [(size - SECTOR, (data + bytes(range(64))).ljust(SECTOR, b"\0"))]


def drbd(size, magic):
    """drbd meta_data_on_disk: size, four UUIDs, a device's UUID, a reserved word, flags, magic."""
    data = struct.pack(">Q4QQQII", size // SECTOR - 256, 1, 2, 3, 4, 5, 0, 0, magic)
    return [(size - size % 4096 - 4096, data.ljust(4096, b"\0"))]


def apple_raid(size):
    return [(size - size % 4096 - 4096, b"AppleRAIDHeader".ljust(16, b"\0") + bytes(range(200)))]


def ldm(size):
    """Linux fs/partitions/ldm: PRIVHEAD in sector 6 and the last one, the database before that."""
    start = size - (1 << 20)
    head = b"PRIVHEAD".ljust(SECTOR, b"\0")
    toc = b"TOCBLOCK".ljust(SECTOR, b"\0")
    return [
        (6 * SECTOR, head), (start + SECTOR, toc), (start + 2 * SECTOR, toc),
        (start + 17 * SECTOR, b"VMDB".ljust(SECTOR, b"\0")), (start + 1856 * SECTOR, head),
    ]  # fmt: skip


def bcache(size):
    """A backing device's superblock at sector 8: csum, offset, version, magic, UUID, ..."""
    magic = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
    body = struct.pack("<QQ", 8, 1) + magic + UUID + bytes(16 + 32) + struct.pack("<QQQ", 0, 0, 0)
    body += bytes(64) + struct.pack("<QHHHHIHH", 0, 8, 1, 0, 1, 0, 0, 0)
    return [(4096, struct.pack("<Q", crc64(body)) + body)]


def crc64(data):
    """bcache's: ECMA-182, all ones at first and inverted at the end, not reflected."""
    value = (1 << 64) - 1
    for byte in data:
        value ^= byte << 56
        for _ in range(8):
            value = value << 1 ^ (0x42F0E1EBA9EA3693 if value >> 63 else 0)
            value &= (1 << 64) - 1
    return value ^ (1 << 64) - 1


def vmfs(size):
    return [
        (1 << 20, b"\x0d\xd0\x01\xc0" + bytes(500)),
        (2 << 20, b"\x5e\xf1\xab\x2f" + bytes(500)),
    ]


def bluestore(size):
    return [(0, b"bluestore block device\n" + str(uuid.UUID(int=7)).encode() + b"\n")]


def apfs(size):
    """A container's superblock: checksum, oid, xid, type 1, ...; magic at byte 32."""
    return [(0, struct.pack("<QQQHHHH4sI", 0, 1, 1, 1, 0x8000, 0, 0, b"NXSB", 4096) + bytes(900))]
