"""What is decided for each kind of disk: where a region goes, or why not.

Each row of the table is a disk as other systems leave it, made by their own tools where these
need no more than a file.
"""

import json
import subprocess
import time

import layouts_raw as raw
import pytest
from layouts import (
    GPT_ROOM,
    LINUX,
    MBR_ONE,
    SIZE,
    also_sgdisk,
    blank,
    garbage,
    grown,
    luks,
    mbr_entry,
    mkfs,
    mkfs_in,
    parted,
    put,
    raw_parts,
    run,
    sfdisk,
    sgdisk,
    shrunk,
    then,
    tool,
    zeroed,
)

from lifeboat import journal as firmware_journal
from lifeboat import region as firmware_region
from lifeboat.errors import LifeboatError as FirmwareError
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.disk import disk as disks
from lifeboat_host.disk import signatures
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import region
from lifeboat_host.reserve import disk_map, give_back, recovery_file
from lifeboat_host.reserve import place as reserve

REGION = 4 << 20
SECTORS = SIZE // 512
AUTO, TAIL, GPT = reserve.AUTO, region.TAIL, region.GPT
MIB = 2048  # sectors of 512 bytes
OWN = str(raw.LIFEBOAT)

TAIL_START = SECTORS - REGION // 512
# The last MiB boundary from which 4 MiB end before the backup table's 33 sectors.
GPT_START = SECTORS - 5 * MIB


def own_region(where):
    def make(path):
        with Disk(path, write=True) as disk:
            found = disk_map.look(disk)
            place = reserve.choose(disk, found, where, REGION)
            (header,) = region.new_headers(
                [disk], [(place.first, place.sectors)], slots=2, need=1 << 20
            )
            reserve.carry_out(disk, place, header)

    return make


def hybrid(path):
    GPT_ROOM(path)
    run("sgdisk", "--hybrid", "1", path)


def other_backup(path):
    """The backup copy is that of another table: an edit that was cut short."""
    raw_parts(raw.gpt, [(LINUX, 2048, 4095)])(path)
    put(path, raw.gpt(SIZE, [(LINUX, 2048, 8191)])[3:])


def logical(*lines):
    text = "2048,40960,83\n43008,409600,05\n" + "".join(f"{line}\n" for line in lines)
    return sfdisk("dos", text)


def loop(path):
    """A chain of extended boot records that ends in itself."""
    sfdisk("dos", "2048,40960,05\n")(path)
    put(path, [(2048 * 512 + 510, b"\x55\xaa")])
    put(path, [(2048 * 512 + 466, b"\0" * 4 + b"\x05" + b"\0" * 7 + b"\x01\0\0\0")])


def gpt_4096(path):
    blank(path)
    put(path, raw.gpt(SIZE, [(LINUX, 256, 8191)], lba=4096))


def mbr_in_sectors(lba, *parts):
    """Partitions (first, count, holds ext4) in sectors of lba bytes."""

    def make(path):
        blank(path)
        for index, (first, count, known) in enumerate(parts):
            mbr_entry(index, 0x83, first, count)(path)
            if known:
                mkfs_in(first * lba // 512, 8 << 11, "mkfs.ext4", "-q")(path)

    return make


# To the end of the disk: in sectors of 512 bytes it would end long before.
MBR_4096 = mbr_in_sectors(4096, (256, SIZE // 4096 - 256, True))
# An empty partition 1; the second begins where 1 would in sectors of the other size.
MBR_EMPTY_FIRST = mbr_in_sectors(512, (2048, 14336, False), (16384, 40960, True))


def full_entries(path):
    blank(path)
    put(path, raw.gpt(SIZE, [(LINUX, 2048 + 8 * i, 2048 + 8 * i + 7) for i in range(128)]))


def holes(path):
    """Free are only 3 MiB, 8 MiB and 2 MiB."""
    end = SECTORS - 34
    parts = [(2048, 100 * MIB - 1), (103 * MIB, 200 * MIB - 1), (208 * MIB, end - 2 * MIB)]
    blank(path)
    put(path, raw.gpt(SIZE, [(LINUX, *part) for part in parts]))


def shifted(parts, offset):
    return [(offset + at, data) for at, data in parts]


def place(first, **more):
    """The expected decision: this first LBA; more: attributes of the Place."""
    return {"first": first, **more}


# name: (how the disk is made, where the region is wanted, decision or refusal code)
LAYOUTS = {
    # nothing there
    "blank": (blank, AUTO, place(TAIL_START, table=())),
    "blank, new GPT": (blank, GPT, place(GPT_START)),
    "blank, given LBA": (
        blank, 2048,
        place(
            2048, table=(),
            notes=("boards look there only when board.py has REGION_LBAS name 2048 and 10232",),
        ),
    ),
    "blank, LBA 0": (blank, 0, "region-place"),
    "blank, LBA off the 4 KiB grid": (blank, 2049, "region-place"),
    "blank, LBA near the end": (blank, SECTORS - 8, "region-place"),
    "disk too small": (lambda path: blank(path, 2 << 20), AUTO, "region-place"),
    "disk too small for a GPT": (lambda path: blank(path, 4 << 20), GPT, "region-room"),
    # MBR
    "MBR, no partition": (sfdisk("dos"), AUTO, place(TAIL_START)),
    "MBR, primary": (MBR_ONE, AUTO, place(TAIL_START, table=())),
    "MBR, GPT wanted": (MBR_ONE, GPT, "table-mbr"),
    "MBR, before the first partition": (MBR_ONE, 8, "region-overlap"),
    "MBR, in a partition": (MBR_ONE, 40960, "region-overlap"),
    "MBR, between partitions": (
        sfdisk("dos", "2048,2048,83\n204800,2048,83\n"), 8192, "region-overlap",
    ),
    "MBR, after the last partition": (MBR_ONE, 204800, place(204800, table=())),
    "MBR, extended and logical": (
        logical("45056,40960,83", "88064,40960,83"), AUTO, place(TAIL_START),
    ),
    "MBR, free space of the extended partition": (
        logical("45056,40960,83"), 204800, "region-overlap",
    ),
    "MBR, extended to the end": (
        sfdisk("dos", "2048,40960,83\n43008,,05\n45056,40960,83\n"), AUTO, "region-overlap",
    ),
    "MBR, full": (sfdisk("dos", "2048,,83\n"), AUTO, "region-overlap"),
    "MBR, almost full": (
        sfdisk("dos", f"2048,{TAIL_START - 2048 + 1},83\n"), AUTO, "region-overlap",
    ),
    "MBR, just room": (sfdisk("dos", f"2048,{TAIL_START - 2048},83\n"), AUTO, place(TAIL_START)),
    "MBR, partition beyond the disk": (
        then(MBR_ONE, mbr_entry(1, 0x83, 0x70000000, 2048)), AUTO, "mbr-damaged",
    ),
    "MBR, chain of logical partitions torn": (
        then(logical("45056,40960,83"), zeroed((43008 * 512, 512))), AUTO, "mbr-damaged",
    ),
    "MBR, chain of logical partitions is a loop": (loop, AUTO, "mbr-damaged"),
    # GPT
    "GPT, empty": (sgdisk(), AUTO, place(GPT_START)),
    "GPT, room": (GPT_ROOM, AUTO, place(GPT_START)),
    "GPT, by parted": (
        parted("mklabel", "gpt", "mkpart", "x", "1MiB", "9MiB"), AUTO, place(GPT_START),
    ),
    "GPT, by sfdisk": (sfdisk("gpt", "2048,40960\n"), AUTO, place(GPT_START)),
    "GPT, full": (sgdisk("-n1:0:0"), AUTO, "region-room"),
    "GPT, hole in the middle": (holes, AUTO, place(204 * MIB)),
    "GPT, tail wanted": (GPT_ROOM, TAIL, "region-overlap"),
    "GPT, LBA in a partition": (GPT_ROOM, 4096, "region-overlap"),
    "GPT, LBA in free space": (GPT_ROOM, 300 * MIB, place(300 * MIB, table=())),
    "GPT, LBA in the table": (GPT_ROOM, 8, "region-overlap"),
    "GPT, all entries taken": (full_entries, AUTO, "gpt-full"),
    "GPT, backup damaged": (then(GPT_ROOM, garbage((-512, 100))), AUTO, "gpt-damaged"),
    "GPT, backup entries damaged": (then(GPT_ROOM, garbage((-16000, 9))), AUTO, "gpt-damaged"),
    "GPT, primary damaged": (then(GPT_ROOM, garbage((512 + 30, 9))), AUTO, "gpt-damaged"),
    "GPT, primary entries damaged": (then(GPT_ROOM, garbage((1030, 9))), AUTO, "gpt-damaged"),
    "GPT, only its protective MBR": (raw_parts(raw.protective_mbr), AUTO, "gpt-damaged"),
    "GPT, no protective MBR": (then(GPT_ROOM, zeroed((0, 512))), AUTO, "gpt-damaged"),
    "GPT, under an MBR": (
        then(GPT_ROOM, mbr_entry(0, 0x83, 2048, 4096)), AUTO, "gpt-damaged",
    ),
    "GPT, copies differ": (other_backup, AUTO, "gpt-damaged"),
    "GPT, partitions overlap": (
        raw_parts(raw.gpt, [(LINUX, 2048, 4095), (LINUX, 4000, 8191)]), AUTO, "gpt-damaged",
    ),
    "GPT, partition beyond the disk": (
        raw_parts(raw.gpt, [(LINUX, 2048, 1 << 62)]), AUTO, "gpt-damaged",
    ),
    "GPT, partition ends before it starts": (
        raw_parts(raw.gpt, [(LINUX, 4096, 4095)]), AUTO, "gpt-damaged",
    ),
    "GPT, disk has grown": (then(GPT_ROOM, grown), AUTO, "gpt-damaged"),
    "GPT, damaged, explicit LBA": (
        then(GPT_ROOM, garbage((-512, 100))), 300 * MIB, "gpt-damaged",
    ),
    "GPT, hybrid MBR": (hybrid, AUTO, place(GPT_START)),
    "GPT, hybrid MBR has one more partition": (
        then(hybrid, mbr_entry(3, 0x83, 300 * MIB, 20 * MIB - 40)), AUTO, place(296 * MIB),
    ),
    "GPT, 256 entries of 256 bytes": (
        raw_parts(raw.gpt, [(LINUX, 2048, 4095)], count=256, entry_size=256), AUTO,
        place(GPT_START),
    ),
    # our own
    "own partition, empty": (
        sgdisk("-n1:2048:+6M", f"-t1:{OWN}"), AUTO, place(2048, sectors=12288, table=()),
    ),
    "own partition, empty, not the first": (
        sgdisk("-n1:0:+9M", "-n2:0:+6M", f"-t2:{OWN}"), GPT, place(10 * MIB, sectors=12288),
    ),
    "own partition, too small": (sgdisk("-n1:2048:+1M", f"-t1:{OWN}"), AUTO, "region-small"),
    "own partition, with a file system": (
        then(
            sgdisk("-n1:2048:+6M", f"-t1:{OWN}"), mkfs_in(2048, 12288, "mkfs.ext4", "-q")
        ), AUTO, "region-overlap",
    ),
    "own region at the tail": (then(blank, own_region(AUTO)), AUTO, "region-exists"),
    "own region at the tail, another LBA": (then(blank, own_region(AUTO)), 2048, "region-exists"),
    "own region in a GPT": (then(GPT_ROOM, own_region(AUTO)), AUTO, "region-exists"),
    "own region in a GPT of ours": (then(blank, own_region(GPT)), GPT, "region-exists"),
    # the whole disk is something
    "ext4": (mkfs("mkfs.ext4", "-q"), AUTO, "disk-claimed"),
    "ext4, explicit LBA": (mkfs("mkfs.ext4", "-q"), 300 * MIB, "disk-claimed"),
    "XFS": (mkfs("mkfs.xfs", "-q"), AUTO, "disk-claimed"),
    "Btrfs": (mkfs("mkfs.btrfs", "-q"), AUTO, "disk-claimed"),
    "FAT": (mkfs("mkfs.vfat", "-I"), AUTO, "disk-claimed"),
    "NTFS": (mkfs("mkfs.ntfs", "-q", "-F", "-Q"), AUTO, "disk-claimed"),
    "swap": (mkfs("mkswap"), AUTO, "disk-claimed"),
    "LUKS1": (luks("luks1"), AUTO, "disk-claimed"),
    "LUKS2": (luks("luks2"), AUTO, "disk-claimed"),
    "LVM2": (raw_parts(raw.lvm2), AUTO, "disk-claimed"),
    "md 0.90": (raw_parts(raw.md_0_90), AUTO, "disk-claimed"),
    "md 1.0": (raw_parts(raw.md_1, 0), AUTO, "disk-claimed"),
    "md 1.1": (raw_parts(raw.md_1, 1), AUTO, "disk-claimed"),
    "md 1.2": (raw_parts(raw.md_1, 2), AUTO, "disk-claimed"),
    "DDF": (raw_parts(raw.ddf), AUTO, "disk-claimed"),
    "DDF, only the anchor left": (raw_parts(raw.ddf_anchor), AUTO, "disk-claimed"),
    "Intel Matrix": (raw_parts(raw.intel), AUTO, "disk-claimed"),
    "ZFS": (raw_parts(raw.zfs, (0, 1, 2, 3), 8), AUTO, "disk-claimed"),
    "ZFS, head labels": (raw_parts(raw.zfs, (0, 1), 8), AUTO, "disk-claimed"),
    "ZFS, tail labels": (raw_parts(raw.zfs, (2, 3), 8), AUTO, "disk-claimed"),
    "ZFS, a young pool's last label": (
        raw_parts(raw.zfs, (3,), 1, nvlist=False), AUTO, "disk-claimed",
    ),
    "ZFS, big-endian uberblock": (
        raw_parts(raw.zfs, (0,), 1, nvlist=False, order=">"), AUTO, "disk-claimed",
    ),
    "ZFS, uberblocks gone": (raw_parts(raw.zfs, (2,), 0), AUTO, "disk-claimed"),
    "ZFS, destroyed, explicit LBA": (raw_parts(raw.zfs, (2,), 0), 4096, "disk-claimed"),
    # the table says one thing, a signature another
    "MBR, stale md 0.90 at the tail": (
        then(MBR_ONE, lambda path: put(path, raw.md_0_90(SIZE))), AUTO, "disk-claimed",
    ),
    "MBR, stale md 1.0 at the tail": (
        then(MBR_ONE, lambda path: put(path, raw.md_1(SIZE, 0))), AUTO, "disk-claimed",
    ),
    "MBR, Intel Matrix at the tail": (
        then(MBR_ONE, lambda path: put(path, raw.intel(SIZE))), AUTO, "disk-claimed",
    ),
    "MBR, ZFS at the tail": (
        then(MBR_ONE, lambda path: put(path, raw.zfs(SIZE, (2, 3)))), AUTO, "disk-claimed",
    ),
    "MBR, ZFS in the last partition": (
        then(sfdisk("dos", "2048,,83\n"), lambda path: put(path, raw.zfs(SIZE, (2, 3), 1))),
        8, "region-overlap",
    ),
    "GPT, file system in a partition": (
        then(GPT_ROOM, mkfs_in(2048, 81920, "mkfs.ext4", "-q")), AUTO, place(GPT_START),
    ),
    # other tables
    "Apple partition map": (parted("mklabel", "mac"), AUTO, "table-unknown"),
    "Sun label": (parted("mklabel", "sun"), AUTO, "table-unknown"),
    "SGI label": (parted("mklabel", "dvh"), AUTO, "table-unknown"),
    "BSD label": (parted("mklabel", "bsd"), AUTO, "disk-unknown"),
    "Amiga label": (parted("mklabel", "amiga"), AUTO, "disk-unknown"),
    "PC-98 table": (
        parted("mklabel", "pc98", "mkpart", "primary", "fat16", "2MB", "100%"), AUTO,
        "disk-unknown",
    ),
    "MBR without entries, somebody's data behind": (
        then(sfdisk("dos"), garbage((512, 2_000_000))), AUTO, "disk-unknown",
    ),
    "MBR without entries, one sector behind": (
        then(sfdisk("dos"), garbage((2047 * 512, 1))), AUTO, "disk-unknown",
    ),
    "MBR without entries, a boot loader in it": (
        then(sfdisk("dos"), garbage((0, 400))), AUTO, place(TAIL_START),
    ),
    # what its owner keeps at the end
    **{
        f"GEOM {name}": (raw_parts(raw.geom, name), AUTO, "disk-claimed")
        for name in ("MIRROR", "ELI", "LABEL", "STRIPE", "CONCAT", "RAID3", "MULTIPATH", "JOURNAL")
    },
    "GEOM mirror, MBR": (
        then(MBR_ONE, lambda path: put(path, raw.geom(SIZE, "MIRROR"))), AUTO, "disk-claimed",
    ),
    "GEOM mirror, GPT": (
        then(
            blank, lambda path: put(path, raw.gpt(SIZE - 512, [(LINUX, 2048, 8191)])),
            lambda path: put(path, raw.geom(SIZE, "MIRROR")),
        ), AUTO, "disk-claimed",
    ),
    "DRBD 8, internal metadata": (raw_parts(raw.drbd, 0x83740267), AUTO, "disk-claimed"),
    "DRBD 8.4, internal metadata, MBR": (
        then(MBR_ONE, lambda path: put(path, raw.drbd(SIZE, 0x8374026B))), AUTO, "disk-claimed",
    ),
    "DRBD 9, internal metadata": (raw_parts(raw.drbd, 0x8374026D), AUTO, "disk-claimed"),
    "Apple software RAID": (raw_parts(raw.apple_raid), AUTO, "disk-claimed"),
    "Windows dynamic disk": (
        then(sfdisk("dos", "63,600000,42\n"), lambda path: put(path, raw.ldm(SIZE))), AUTO,
        "disk-claimed",
    ),
    "Windows dynamic disk, only its partition's type left": (
        sfdisk("dos", "63,600000,42\n"), AUTO, "disk-claimed",
    ),
    "Windows dynamic disk, only its database left": (
        then(MBR_ONE, lambda path: put(path, raw.ldm(SIZE)[1:])), AUTO, "disk-claimed",
    ),
    "RAID controller's sectors behind a GPT": (
        then(
            blank, lambda path: put(path, raw.gpt(SIZE - (32 << 20), [(LINUX, 2048, 8191)])),
            garbage((-(31 << 20), 32768), (-512, 512)),
        ), AUTO, "gpt-damaged",
    ),
    "bcache": (raw_parts(raw.bcache), AUTO, "disk-claimed"),
    "VMFS": (raw_parts(raw.vmfs), AUTO, "disk-claimed"),
    "Ceph BlueStore": (raw_parts(raw.bluestore), AUTO, "disk-claimed"),
    "APFS": (raw_parts(raw.apfs), AUTO, "disk-claimed"),
    "Storage Spaces": (
        raw_parts(raw.gpt, [(raw.MSR, 34, 32801), (raw.SPACES, 34816, SECTORS - 34)]), AUTO,
        "region-room",
    ),
    "NAS: three md partitions to the end": (
        sgdisk("-n1:256:+40M", "-t1:fd00", "-n2:0:+40M", "-t2:fd00", "-n3:0:0", "-t3:fd00"), AUTO,
        "region-room",
    ),
    "NAS: md 1.0 at the end of a partition, room before it": (
        then(
            sgdisk("-n1:2048:+20M", "-n2:200M:0", "-t2:fd00"),
            lambda path: put(path, shifted(raw.md_1(SIZE - (200 << 20) - 33 * 512, 0), 200 << 20)),
        ), AUTO, place(196 * MIB),
    ),
    # a region that is not where it was
    "own region at the tail, disk shrank by 8 sectors": (
        then(blank, own_region(AUTO), shrunk(8 * 512)), AUTO, "region-moved",
    ),
    "own region at the tail, disk shrank by 2113 sectors": (
        then(blank, own_region(AUTO), shrunk(2113 * 512)), AUTO, "region-moved",
    ),
    "own region in a GPT, disk shrank": (
        then(GPT_ROOM, own_region(AUTO), shrunk(2113 * 512)), AUTO, "region-moved",
    ),
    "own region at the tail, disk grew": (
        then(blank, own_region(AUTO), grown), AUTO, "region-moved",
    ),
    "own region in a GPT, disk grew": (
        then(GPT_ROOM, own_region(AUTO), grown), AUTO, "gpt-damaged",
    ),
    "own region in a GPT, its partition deleted": (
        then(holes, own_region(AUTO), also_sgdisk("--delete=4")), AUTO, "region-moved",
    ),
    # a boot loader outside of any partition
    "GPT, boot loader in the gap before it": (
        then(sgdisk("-n1:32768:0"), garbage((64 * 512, 9), (16384 * 512, 9))), AUTO,
        place(24576, beside=64, asked=(24576, 32767)),
    ),
    "GPT, boot loader in the gap, room elsewhere": (
        then(sgdisk("-n1:32768:+20M"), garbage((64 * 512, 9))), AUTO,
        place(GPT_START, beside=None, asked=None),
    ),
    # bytes that nobody knows
    "garbage at the head": (then(blank, garbage((4096, 4096))), AUTO, "disk-unknown"),
    "garbage at the head, tail wanted": (
        then(blank, garbage((4096, 4096))), TAIL, place(TAIL_START, used=None),
    ),
    "garbage at the head, GPT wanted": (then(blank, garbage((4096, 9))), GPT, "disk-unknown"),
    "garbage where the backup table would be": (
        then(blank, garbage((-5000, 9))), GPT, "disk-unknown",
    ),
    "garbage in the tail": (
        then(blank, garbage((-8192, 4096))), AUTO,
        place(TAIL_START, used=(SECTORS - 16, SECTORS - 9)),
    ),
    "garbage in the tail, two places": (
        then(MBR_ONE, garbage((-(3 << 20), 512), (-4096, 512))), AUTO,
        place(TAIL_START, used=(SECTORS - 6144, SECTORS - 8)),
    ),
    "garbage in the tail, elsewhere wanted": (
        then(blank, garbage((-8192, 4096))), 2048, place(2048, used=None),
    ),
    "garbage in GPT free space": (
        then(GPT_ROOM, garbage((GPT_START * 512 + 512, 512))), AUTO,
        place(GPT_START, used=(GPT_START + 1, GPT_START + 1)),
    ),
    "garbage in our empty partition": (
        then(sgdisk("-n1:2048:+6M", f"-t1:{OWN}"), garbage((2048 * 512 + 1024, 9))), AUTO,
        place(2048, used=(2050, 2050)),
    ),
}  # fmt: skip


def decide(path, where, lba_size=512):
    """The Place, or the code of the refusal."""
    with Disk(path, lba_size) as disk:
        found = disk_map.look(disk, [where] if isinstance(where, int) else [])
        check_map(found)
        try:
            chosen = reserve.choose(disk, found, where, REGION)
            region.new_headers([disk], [(chosen.first, chosen.sectors)], slots=2, need=1 << 20)
        except LifeboatError as error:
            assert error.hint, "a refusal says what to do next"
            return error.code
    return chosen


def check_map(found):
    """The map covers the disk, and nothing free is also somebody's."""
    at = 0
    for piece in found.pieces:
        assert piece.first <= at
        at = max(at, piece.last + 1)
    assert at == found.sectors
    for piece in found.free:
        assert not found.holding(piece.first, piece.last)


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    return tmp_path_factory.mktemp("layouts"), {}


@pytest.fixture
def layout(tmp_path, originals):
    """A disk of its own for the test; each layout is made once."""
    folder, made = originals

    def copy(name):
        if name not in made:
            path = folder / f"{len(made)}.img"
            LAYOUTS[name][0](path)
            made[name] = path
        run("cp", "--sparse=always", made[name], tmp_path / "disk.img")
        return tmp_path / "disk.img"

    return copy


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_gets_the_expected_decision(layout, name):
    _, where, expected = LAYOUTS[name]
    path = layout(name)
    before = path.stat().st_mtime_ns
    decision = decide(path, where)
    assert path.stat().st_mtime_ns == before, "looking wrote something"
    if isinstance(expected, str):
        assert decision == expected
    else:
        assert not isinstance(decision, str), decision
        assert {key: getattr(decision, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("make", "lba_size", "where", "expected"),
    [
        (blank, 4096, AUTO, TAIL_START // 8),
        (blank, 4096, GPT, GPT_START // 8),
        (gpt_4096, 4096, AUTO, GPT_START // 8),
        (MBR_4096, 512, AUTO, "mbr-damaged"),
        (MBR_4096, 4096, AUTO, "region-overlap"),
        (MBR_EMPTY_FIRST, 512, AUTO, TAIL_START),
        (mbr_in_sectors(512, (2048, 40960, True)), 4096, AUTO, "mbr-damaged"),
        (gpt_4096, 4096, TAIL, "region-overlap"),
        (gpt_4096, 512, AUTO, "gpt-damaged"),
        (GPT_ROOM, 4096, AUTO, "gpt-damaged"),
        (raw_parts(raw.intel, 4096), 4096, AUTO, "disk-claimed"),
    ],
)
def test_sectors_of_4096_bytes(tmp_path, make, lba_size, where, expected):
    path = tmp_path / "disk.img"
    make(path)
    decision = decide(path, where, lba_size)
    assert (decision if isinstance(decision, str) else decision.first) == expected


def test_a_table_of_other_sectors_is_hinted_at(tmp_path):
    path = tmp_path / "disk.img"
    gpt_4096(path)
    with Disk(path) as disk:
        assert "--lba-size 4096" in disk_map.look(disk).refusal.hint


def test_signatures_are_named_in_refusals_and_contents_in_the_map(tmp_path):
    path = tmp_path / "disk.img"
    then(GPT_ROOM, mkfs_in(2048, 81920, "mkfs.ext4", "-q", "-L", "data"))(path)
    with Disk(path) as disk:
        found = disk_map.look(disk)
    assert found.contents == {1: "ext4", 2: ""}
    mkfs("mkfs.xfs", "-q", "-L", "stuff")(path)
    with Disk(path) as disk:
        refusal = disk_map.look(disk).refusal
    assert "xfs 'stuff' (signature at byte 0)" in refusal.message


# --- disks that the host's tools cannot open


class Remote(Disk):
    """A disk as one behind a board is: to be read through its methods alone."""

    local = False


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_disk_that_is_not_local_gets_the_same_decision(layout, name):
    _, where, _ = LAYOUTS[name]
    path = layout(name)
    lbas = [where] if isinstance(where, int) else []
    with Disk(path) as disk, Remote(path) as remote:
        here, there = (disk_map.look(one, lbas) for one in (disk, remote))
    if here.remnant:  # a serial port is too slow to look for one
        assert not there.remnant and "region-moved" != (there.refusal and there.refusal.code)
        return
    assert there.pieces == here.pieces
    codes = [one.refusal and one.refusal.code for one in (here, there)]
    assert codes[0] == codes[1]


# --- the tools


def test_a_missing_tool_is_an_error_and_never_an_empty_disk(tmp_path, monkeypatch):
    path = tmp_path / "disk.img"
    mkfs("mkfs.ext4", "-q")(path)
    monkeypatch.setattr(signatures.shutil, "which", lambda *_, **__: None)
    with Disk(path) as disk, pytest.raises(LifeboatError) as caught:
        disk_map.look(disk)
    assert caught.value.code == "tool-missing"
    assert "util-linux" in caught.value.hint


@pytest.mark.parametrize("script", ["exit 1", "echo '{'", "echo '{\"signatures\": [{}]}'"])
def test_a_tool_that_fails_is_an_error(tmp_path, monkeypatch, script):
    path = tmp_path / "disk.img"
    blank(path)
    (tmp_path / "wipefs").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "wipefs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with Disk(path) as disk, pytest.raises(LifeboatError) as caught:
        disk_map.look(disk)
    assert caught.value.code == "probe"


# --- what is made is right for others, too


def listed(path):
    return json.loads(run("sfdisk", "--json", path))["partitiontable"]


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (blank, GPT),
        (GPT_ROOM, AUTO),
        (holes, AUTO),
        (sgdisk(), AUTO),
        (hybrid, AUTO),
        (parted("mklabel", "gpt", "mkpart", "x", "1MiB", "9MiB"), AUTO),
        (raw_parts(raw.gpt, [(LINUX, 2048, 4095)], count=256, note=b"later"), AUTO),
    ],
)
def test_sgdisk_and_sfdisk_find_no_fault_with_the_table(tmp_path, make, where):
    path = tmp_path / "disk.img"
    make(path)
    before = listed(path) if make is not blank else {"partitions": []}
    own_region(where)(path)
    assert "No problems found" in run("sgdisk", "--verify", path)
    assert "No errors detected" in run("sfdisk", "--verify", path)
    after = listed(path)
    new = after["partitions"].pop()
    assert after.get("partitions") == before.get("partitions", [])
    assert (new["type"], new["name"]) == (OWN.upper(), "lifeboat")
    assert new["size"] == REGION // 512
    if make is not blank:
        assert after["id"] == before["id"]


def test_a_new_gpt_on_4096_byte_sectors_is_read_by_fdisk(tmp_path):
    path = tmp_path / "disk.img"
    blank(path)
    with Disk(path, 4096, write=True) as disk:
        place = reserve.choose(disk, disk_map.look(disk), GPT, REGION)
        (header,) = region.new_headers(
            [disk], [(place.first, place.sectors)], slots=2, need=1 << 20
        )
        reserve.carry_out(disk, place, header)
    text = run("fdisk", "-b", "4096", "-l", "-o", "Start,Sectors,Type-UUID", path)
    assert f"{place.first} {REGION // 4096} {OWN.upper()}" in " ".join(text.split())


def test_an_image_behind_a_loop_device_is_not_written(tmp_path, monkeypatch):
    path, sys_block = tmp_path / "disk.img", tmp_path / "sys"
    blank(path)
    monkeypatch.setattr(disks, "_LOOPS", sys_block)
    for number, backing in enumerate(["gone.img (deleted)", f"{tmp_path}/./disk.img"]):
        folder = sys_block / f"loop{number}" / "loop"
        folder.mkdir(parents=True)
        (folder / "backing_file").write_text(f"{backing}\n")
    with Disk(path), pytest.raises(LifeboatError, match="in use by /dev/loop1") as caught:
        Disk(path, write=True)
    assert caught.value.code == "disk-open"
    (folder / "backing_file").unlink()
    Disk(path, write=True).__exit__()


def test_a_virtual_machines_disk_is_not_written(tmp_path):
    path, ready = tmp_path / "disk.img", tmp_path / "ready"
    blank(path)
    qemu = subprocess.Popen(
        [
            *(tool("qemu-storage-daemon"), "--pidfile", ready),
            *("--blockdev", f"driver=file,node-name=disk,filename={path}"),
            *("--nbd-server", f"addr.type=unix,addr.path={tmp_path}/nbd"),
            *("--export", "type=nbd,id=export,node-name=disk,writable=on"),
        ]
    )
    try:
        while not ready.exists():
            assert qemu.poll() is None
            time.sleep(0.01)
        with Disk(path), pytest.raises(LifeboatError, match="a virtual machine") as caught:
            Disk(path, write=True)
        assert caught.value.code == "disk-open"
    finally:
        qemu.kill()
        qemu.wait()
    with Disk(path, write=True), pytest.raises(LifeboatError, match="in use"):
        Disk(path, write=True)


def test_a_block_device_is_reserved_and_given_back(tmp_path, lifeboat):
    path, undo_file = tmp_path / "disk.img", tmp_path / "undo.json"
    blank(path)
    attach = [tool("losetup"), "--find", "--show", "--sector-size", "4096", str(path)]
    attached = subprocess.run(attach, capture_output=True, text=True, check=False)
    if attached.returncode:
        pytest.skip(f"needs root and loop devices: {attached.stderr.strip()}")
    device = attached.stdout.strip()
    try:
        numbers = ["--size", str(REGION), "--gpt", "--undo", undo_file, "--yes"]
        assert lifeboat("region", "create", device, *numbers)[0] == 0
        assert "No problems found" in run("sgdisk", "--verify", device)
        assert "No errors detected" in run("sfdisk", "--verify", device)
        (part,) = listed(device)["partitions"]
        assert (part["start"], part["size"]) == (GPT_START // 8, REGION // 4096)
        with pytest.raises(LifeboatError, match=f"in use by {device}"):
            Disk(path, write=True)
        assert lifeboat("region", "remove", device, "--undo", undo_file, "--yes")[0] == 0
    finally:
        run("losetup", "--detach", device)
    with Disk(path) as disk:
        assert disk.first_nonzero(0, SIZE) is None


# --- a board finds it, and it can be taken back


class BoardsView:
    """The disk as a MicroPython block device that only reads."""

    def __init__(self, path):
        self.file = open(path, "rb")

    def readblocks(self, block, buf):
        self.file.seek(block * 512)
        buf[:] = self.file.read(len(buf))

    def ioctl(self, op, arg):
        return {4: SIZE // 512, 5: 512}.get(op, 0)


@pytest.mark.parametrize(
    "name", [name for name, row in LAYOUTS.items() if not isinstance(row[2], str)]
)
def test_a_board_finds_every_reservation_and_it_can_be_undone_to_the_byte(tmp_path, layout, name):
    _, where, _ = LAYOUTS[name]
    path, copy, file = layout(name), tmp_path / "before.img", tmp_path / "undo.json"
    run("cp", "--sparse=always", path, copy)
    with Disk(path, write=True) as disk:
        place = reserve.choose(disk, disk_map.look(disk), where, REGION)
        (header,) = region.new_headers(
            [disk], [(place.first, place.sectors)], slots=2, need=1 << 20
        )
        recovery_file.save(recovery_file.take(disk, place, header), file)
        reserve.carry_out(disk, place, header)
        lbas = [where] if isinstance(where, int) else []
        there = firmware_region.find(BoardsView(path), lbas, bytearray(4096), ())
        assert (there.start, there.sectors) == (place.first, place.sectors)
        assert firmware_journal.pages(there) == 32
        saved = recovery_file.load(file)
        found = disk_map.look(disk, [header.start_lba])
        give_back.restore(disk, saved, give_back.assess(disk, found, saved))
    run("cmp", path, copy)


@pytest.mark.parametrize("count", [128, 136, 256, 512, 1024, 4096])
def test_what_the_host_reserves_in_a_large_gpt_the_board_finds(tmp_path, count):
    path = tmp_path / "disk.img"
    sgdisk(f"--resize-table={count}", "-n1:2048:+20M")(path)
    own_region(AUTO)(path)
    with Disk(path) as disk:
        header = region.find(disk).header
    there = firmware_region.find(BoardsView(path), [], bytearray(4096), ())
    assert (there.start, there.sectors) == (header.start_lba, header.sectors)


@pytest.mark.parametrize(
    ("count", "size"),
    [
        (4, 128),
        (20, 128),
        (128, 256),
        (16, 4096),
        (1, 512),
        (8192, 128),
        (100000, 128),
        (300, 4096),
    ],
)
def test_a_gpt_of_any_shape_is_found_by_host_and_board_or_by_neither(tmp_path, count, size):
    """It has the partition of a region already."""
    path = tmp_path / "disk.img"
    start = 40 << 20
    blank(path)
    with Disk(path, write=True) as disk:
        (header,) = region.new_headers(
            [disk], [(start // 512, REGION // 512)], slots=2, need=1 << 20
        )
        region.create(disk, header)
    parts = [(raw.LIFEBOAT, header.start_lba, header.start_lba + header.sectors - 1)]
    put(path, raw.gpt(SIZE, parts, count=count, entry_size=size))
    with Disk(path) as disk:
        try:
            seen = region.find(disk).header.start_lba
        except LifeboatError as error:
            seen = error.code
    try:
        there = firmware_region.find(BoardsView(path), [], bytearray(4096), ())
    except FirmwareError as error:
        assert error.code == "gpt-unknown"
        there = None
    assert (there and there.start) == (seen if isinstance(seen, int) else None)
