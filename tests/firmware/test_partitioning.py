"""Reserving a region at the REPL: what is somebody's is refused, and nothing else is written."""

import struct
import zlib
from errno import EIO

import pytest

import lifeboat
from fakes import board as sim
from fakes import gpt as tables
from lifeboat import partitioning, running
from lifeboat import region as regions
from lifeboat.errors import LifeboatError
from sim.disk import RamDisk, dead

SECTORS = 8192
# As the page says: 65536 bytes before the slots; two slots of 69632 bytes and eight blocks, in
# whole 65536s; 32 units of journal, 2 of state, 512 KiB and a block of evidence, 512 KiB of
# parity; two tail units.
SLOT = 131072
AFTER = 65536 + 2 * SLOT
SIZE = AFTER + 32 * 4096 + 2 * 4096 + 524288 + sim.ERASE + 524288 + 8192
TYPE = bytes.fromhex("c2903618 0985 ae4d a160 c2b9cf3b0828".replace(" ", ""))


def find(d, lbas=(), places=()):
    return regions.find(d, lbas, bytearray(4096), places)


@pytest.fixture(autouse=True)
def unattended(monkeypatch):
    monkeypatch.setattr(running, "attended", False)
    monkeypatch.setattr(running, "places", ())


def board(*disks):
    made = sim.SimBoard(sim.image(), members=0)
    made.drives = list(disks)
    return made


def refused(disk):
    """Why a region is refused on a disk; also asserts that nothing was written."""
    before = dict(disk.sectors)
    with pytest.raises(LifeboatError) as caught:
        partitioning.create(board(disk), (disk.name,))
    assert disk.sectors == before and disk.writes == 0
    return caught.value


def mbr(disk, *partitions):
    sector = bytearray(512)
    for i, (kind, start, count) in enumerate(partitions):
        struct.pack_into("<B3xII", sector, 446 + 16 * i + 4, kind, start, count)
    sector[510:] = b"\x55\xaa"
    sim.put(disk, 0, sector)


def gpt(disk, first, last, kind):
    """A primary GPT (UEFI 2.10, 5.3.2) with one partition."""
    entries = bytearray(128 * 128)
    entries[:16], entries[16:32] = kind, b"U" * 16
    struct.pack_into("<QQ", entries, 32, first, last)
    head = bytearray(b"EFI PART" + struct.pack("<IIII", 0x10000, 92, 0, 0))
    head += struct.pack("<QQQQ", 1, disk.count - 1, 34, disk.count - 34) + b"D" * 16
    head += struct.pack("<QIII", 2, 128, 128, zlib.crc32(entries))
    struct.pack_into("<I", head, 16, zlib.crc32(head))
    mbr(disk, (0xEE, 1, disk.count - 1))
    sim.put(disk, 512, bytes(head).ljust(512, b"\0"))
    sim.put(disk, 1024, entries)


@pytest.mark.parametrize("size", [512, 4096])
def test_the_tail_of_blank_disks_becomes_a_set_that_the_next_power_on_uses(size, capsys):
    count = SECTORS * 512 // size
    made = board(RamDisk("a", count, size=size), RamDisk("b", count, size=size))
    partitioning.show(made)
    start = count - SIZE // size
    assert capsys.readouterr().out.splitlines() == [
        "%s - LBA %d, %d sectors" % (name, start, SIZE // size) for name in "ab"
    ]
    partitioning.create(made, ("a", "b"))
    for disk in made.drives:
        assert all(lba >= start for lba in disk.sectors)
    assert lifeboat.power_on(made).verdict == "RUN"
    again = lifeboat.power_on(made)
    assert [m["state"] for m in again.data["members"]] == ["level", "level"]
    sets = {bytes(d.sectors[start][16:32]) for d in made.drives}
    regions = {bytes(d.sectors[start][32:48]) for d in made.drives}
    assert len(sets) == 1 and len(regions) == 2


def test_the_rest_of_the_disk_stays_as_it_is():
    disk = RamDisk("a", SECTORS)
    mbr(disk, (0x83, 64, 512))
    sim.put(disk, 64 * 512, b"user".ljust(512, b"."))
    before = dict(disk.sectors)
    partitioning.create(board(disk), ("a",))
    assert all(disk.sectors[lba] == data for lba, data in before.items())
    assert min(disk.written) == SECTORS - SIZE // 512


def test_a_partition_that_reaches_into_the_range_is_refused():
    disk = RamDisk("a", SECTORS)
    mbr(disk, (0x83, 64, SECTORS - SIZE // 512 - 63))
    assert refused(disk).code == "disk-in-use"


def test_data_in_the_range_is_refused_and_the_place_is_named():
    disk = RamDisk("a", SECTORS)
    sim.put(disk, (SECTORS - 100) * 512, b"x" * 512)
    error = refused(disk)
    assert error.code == "disk-in-use" and "LBA" in error.detail


@pytest.mark.parametrize("place", [0, 2, 255])
def test_a_file_system_without_partition_table_is_refused(place):
    disk = RamDisk("a", SECTORS)
    sim.put(disk, place * 512, b"\xeb".ljust(510, b"f") + b"\x55\xaa")
    assert refused(disk).code == "disk-in-use"


def test_a_disk_that_has_a_region_is_refused():
    disk = RamDisk("a", SECTORS)
    partitioning.create(board(disk), ("a",))
    disk.writes = 0
    assert "region" in refused(disk).detail


def test_a_gpt_without_our_partition_is_refused_and_one_with_it_is_filled():
    disk = RamDisk("a", SECTORS)
    gpt(disk, 2048, 2055, b"\x01" * 16)
    assert refused(disk).code == "disk-in-use"
    disk = RamDisk("a", SECTORS)
    gpt(disk, 1024, 1024 + 4096 - 1, TYPE)
    partitioning.create(board(disk), ("a",))
    assert min(disk.written) == 1024 and max(disk.written) == 1024 + 4096 - 1
    report = lifeboat.power_on(board(disk))
    assert report.data["members"][0]["state"] == "created"


@pytest.mark.parametrize(
    "first, last", [(1025, 5120), (1024, 1024 + SIZE // 512 - 9), (1024, 5118)]
)
def test_a_partition_of_ours_that_does_not_fit_is_refused(first, last):
    disk = RamDisk("a", SECTORS)
    gpt(disk, first, last, TYPE)
    assert refused(disk).code == "disk-in-use"


def test_too_small_a_disk_is_refused():
    assert "small" in refused(RamDisk("a", SIZE // 512 + 100)).detail


def test_a_second_disk_that_is_refused_leaves_the_first_untouched():
    good, full = RamDisk("a", SECTORS), RamDisk("b", SECTORS)
    sim.put(full, (SECTORS - 9) * 512, b"x" * 512)
    with pytest.raises(LifeboatError):
        partitioning.create(board(good, full), ("a", "b"))
    assert good.writes == full.writes == 0


def test_an_unknown_name_is_refused():
    with pytest.raises(LifeboatError):
        partitioning.create(board(RamDisk("a", SECTORS)), ("a", "zz"))


def test_a_disk_that_drops_writes_is_found_out():
    disk = RamDisk("a", SECTORS)
    disk.lose = range(SECTORS)
    with pytest.raises(LifeboatError) as caught:
        partitioning.create(board(disk), ("a",))
    assert caught.value.code == "disk-lies"


def test_show_goes_on_after_a_disk_that_fails(capsys):
    bad, good = RamDisk("bad", SECTORS), RamDisk("good", SECTORS)
    bad.fault = dead
    partitioning.show(board(bad, good))
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "bad - fails with error 5" and out[1].startswith("good - LBA")


# The layout of new regions


def fields(unit):
    names = (
        "magic major minor header_size lba_size set_id region_id start_lba sectors member_index "
        "member_count slot_count slot_size journal_offset journal_units incompat ro_compat serial "
        "product manifest_area slots_offset"
    ).split()
    return dict(zip(names, struct.unpack_from("<8sBBHI16s16sQQHHIQQIIII32sII", unit)))


@pytest.mark.parametrize("size", [512, 4096])
def test_a_header_has_the_fields_of_the_page(size):
    count = SECTORS * 512 // size
    disks = [RamDisk(name, count, size=size) for name in "ab"]
    partitioning.create(board(*disks), ("a", "b"))
    start = count - SIZE // size
    for member, disk in enumerate(disks):
        unit = sim.get(disk, start * size, 4096)
        assert unit == sim.get(disk, disk.count * size - 8192, 4096)
        assert unit == sim.get(disk, disk.count * size - 4096, 4096)
        assert struct.unpack_from("<I", unit, 508) == (zlib.crc32(unit[:508]),)
        found = fields(unit)
        assert not any(unit[144:268]) and not any(unit[512:])
        assert {k: found[k] for k in list(found)[:5]} == {
            "magic": b"LBREGION", "major": 1, "minor": 2, "header_size": 512, "lba_size": size,
        }  # fmt: skip
        assert (found["start_lba"], found["sectors"]) == (start, SIZE // size)
        assert (found["member_index"], found["member_count"], found["slot_count"]) == (
            member,
            2,
            2,
        )
        assert (found["slots_offset"], found["slot_size"]) == (65536, SLOT)
        assert (found["journal_offset"], found["journal_units"]) == (AFTER, 32)
        assert (found["incompat"], found["ro_compat"], found["serial"]) == (0, 0, 0)
        assert found["product"].rstrip(b"\0") == b"sim"
        assert found["manifest_area"] == 65536
        at = AFTER + 32 * 4096
        assert [struct.unpack_from("<HHIQ", unit, 268 + 16 * i) for i in range(4)] == [
            (1, 0, 2, at),
            (2, 0, 128 + 1, at + 2 * 4096),
            (3, 0, 128, at + (2 + 128 + 1) * 4096),
            (0, 0, 0, 0),
        ]
        assert not any(unit[268 + 48 : 508])
        assert at + (2 + 128 + 1 + 128) * 4096 == SIZE - 8192


@pytest.mark.parametrize("slots", [2, 3, 16])
@pytest.mark.parametrize(
    "block, code, slot",
    [
        (4096, 15 * 4096, 131072),  # 4096 + 65536 + 61440 are just that
        (4096, 16 * 4096, 196608),
        (65536, 15 * 65536, 16 * 65536 + 65536),
        # 11396 + 36 * 16383 bytes of manifest, in whole 65536s 655360
        (4096, (64 << 20) - 4096, 655360 + (64 << 20)),
    ],
)
def test_the_size_of_a_region(slots, block, code, slot):
    rest = 65536 + (32 + 2 + 2) * 4096 + (1 << 20) + block
    assert partitioning.region_size(code, slots, block) == slots * slot + rest


def test_a_partition_with_room_to_spare_gets_larger_slots():
    """Each as large as fits, in whole 65536s."""
    disk = RamDisk("a", SECTORS)
    gpt(disk, 1024, 1024 + SIZE // 512 - 1 + 3 * 128, TYPE)
    partitioning.create(board(disk), ("a",))
    found = fields(sim.get(disk, 1024 * 512, 4096))
    assert found["slot_size"] == SLOT + 65536
    assert found["journal_offset"] == 65536 + 2 * found["slot_size"]


def test_the_set_that_was_made_is_handed_out():
    """For who writes it into the memory, once the regions are there."""
    disks = [RamDisk(name, SECTORS) for name in "abc"]
    made = partitioning.create(board(*disks), ("a", "c"))
    assert [disk.name for disk, _ in made] == ["a", "c"]
    assert {region.set_id for _, region in made} == {made[0][1].set_id}
    assert len({region.region_id for _, region in made}) == 2
    assert [region.member for _, region in made] == [0, 1]
    assert all(region.agreed and region.members == 2 for _, region in made)
    assert {region.start for _, region in made} == {SECTORS - SIZE // 512}
    assert running.attended and disks[1].writes == 0


def test_the_head_is_written_last_and_each_copy_is_flushed():
    """A cut leaves what nobody takes for a region that agrees with itself, or the whole one."""
    disk = RamDisk("a", SECTORS)
    done = []
    disk.fault = lambda op, lba, n: done.append((op, lba)) if op in ("write", "flush") else None
    partitioning.create(board(disk), ("a",))
    start = SECTORS - SIZE // 512
    assert done == [
        ("write", SECTORS - 8), ("flush", 0), ("write", SECTORS - 16), ("flush", 0),
        ("write", start), ("flush", 0),
    ]  # fmt: skip


# What is refused


def test_a_disk_with_a_table_that_is_too_large_is_refused(capsys):
    """Format review S2-1: the board would never see the region."""
    disk = RamDisk("a", SECTORS)
    gpt(disk, 2048, 6143, TYPE)
    head = bytearray(sim.get(disk, 512, 512))
    struct.pack_into("<I", head, 80, 8193)
    head[16:20] = bytes(4)
    struct.pack_into("<I", head, 16, zlib.crc32(head[:92]))
    sim.put(disk, 512, head)
    assert refused(disk).code == "gpt-unknown"
    partitioning.show(board(disk))
    assert capsys.readouterr().out == "a - refused: gpt-unknown\n"


@pytest.mark.parametrize("entries", [257, 1024])
def test_a_large_table_is_read(entries):
    disk = RamDisk("a", SECTORS)
    tables.both(disk, [(b"\1" * 16, 600, 700), (TYPE, 1024, 5119)], entries=entries)
    partitioning.create(board(disk), ("a",))
    assert min(disk.written) == 1024 and max(disk.written) == 5119


@pytest.mark.parametrize("change", [(8, 2), (92, 1), (268 + 2, 1)], ids=str)
@pytest.mark.parametrize("copies", [(0, 1, 2), (1,), (2,)], ids=str)
def test_a_region_of_a_newer_version_is_refused(change, copies):
    """Format review S2-3: whoever made it is told, and it is not written over."""
    disk = RamDisk("a", SECTORS)
    partitioning.create(board(disk), ("a",))
    at, value = change
    for copy, offset in enumerate(
        (SECTORS * 512 - SIZE, SECTORS * 512 - 8192, SECTORS * 512 - 4096)
    ):
        unit = bytearray(sim.get(disk, offset, 4096))
        if at == 270:
            unit[268] = 9
        unit[at] = value
        struct.pack_into("<I", unit, 508, zlib.crc32(unit[:508]))
        sim.put(disk, offset, unit if copy in copies else b"x" * 4096)
    disk.writes = 0
    assert refused(disk).code == "region-version"


def test_a_remembered_region_is_not_written_over(monkeypatch):
    disk = RamDisk("a", 3 * SECTORS)
    start = sim.make_region(disk, 1024)
    place = b"S" * 16, b"\1" * 16, start, sim.REGION // 512
    monkeypatch.setattr(running, "places", (place,))
    assert "region" in refused(disk).detail


def test_a_region_that_does_not_come_back_as_written_is_found_out():
    disk = RamDisk("a", SECTORS)
    disk.lose = range(SECTORS - 16, SECTORS - 8)
    with pytest.raises(LifeboatError) as caught:
        partitioning.create(board(disk), ("a",))
    assert caught.value.code == "disk-lies"
    assert find(disk).bad_copies == [SIZE - 8192]


# The memory


def remembered(made):
    """The newest set in a board's memory, by format.md section 6: (set id, [(region id, first LBA,
    member index, name)])."""
    mirror = bytes(made.chip.data[: sim.MIRROR])
    pages = [mirror[at : at + 256] for at in range(256, sim.MIRROR, 256)]
    closing = max(i for i, page in enumerate(pages) if page[:5] == b"LBMR\2")
    set_id, count = struct.unpack_from("<16sH", pages[closing], 12)
    members = [
        struct.unpack_from("<16s16sQQIHH24s", p, 12) for p in pages[closing - count : closing]
    ]
    assert all(member[0] == set_id for member in members)
    return set_id, [(m[1], m[2], m[5], m[7].rstrip(b"\0").decode()) for m in members]


def test_the_memory_is_told_after_the_regions(capsys):
    made = board(RamDisk("a", SECTORS), RamDisk("b", SECTORS))
    created = partitioning.create(made, ("a", "b"))
    set_id = created[0][1].set_id
    start = SECTORS - SIZE // 512
    assert remembered(made) == (
        set_id,
        [(region.region_id, start, i, "ab"[i]) for i, (_, region) in enumerate(created)],
    )
    assert "memory - set " + set_id.hex() in capsys.readouterr().out
    report = lifeboat.power_on(made)
    assert report.verdict == "RUN" and report.data["reasons"] == []


def test_another_set_that_is_remembered_stays_and_adopt_is_named(capsys):
    made = sim.SimBoard(sim.image(), members=1)
    made.drives.append(RamDisk("new", SECTORS))
    before = bytes(made.chip.data)
    ((_, region),) = partitioning.create(made, ("new",))
    assert made.chip.data == before
    out = capsys.readouterr().out
    assert "adopt(board, '%s')" % region.set_id.hex() in out


@pytest.mark.parametrize("kind", ["none", "failing"])
def test_regions_are_made_without_a_memory_too(capsys, kind):
    made = sim.SimBoard(sim.image(), members=0, remembers=None if kind == "none" else "nothing")
    made.drives = [RamDisk("a", SECTORS)]
    if kind == "failing":

        def worn_out(*_):
            raise OSError(EIO)

        made.chip.writeblocks = worn_out
    assert len(partitioning.create(made, ("a",))) == 1
    assert "memory - not told" in capsys.readouterr().out


def test_code_without_room_for_the_memory_leaves_its_place_alone(capsys):
    made = sim.SimBoard(sim.image(total=49), members=0, remembers="flash")
    made.drives = [RamDisk("a", 3 * SECTORS)]
    before = bytes(made.nor.data)
    partitioning.create(made, ("a",))
    assert made.nor.data == before and "memory - not told" in capsys.readouterr().out


def two_sets():
    made = sim.SimBoard(sim.image(), members=2)
    sim.make_region(made.drives[1], set_id=b"X" * 16, member=0, members=1)
    made.remember(made.drives[:1])
    return made


def test_adopt_without_a_set_only_shows(capsys):
    made = two_sets()
    before = bytes(made.chip.data), [dict(disk.sectors) for disk in made.drives]
    assert partitioning.adopt(made) is None
    out = capsys.readouterr().out.splitlines()
    start = made.drives[0].count - sim.REGION // 512
    assert out[0] == "memory: ok - own set: " + "53" * 16
    assert out[1] == "  member 0 - disk0, LBA %d, %d sectors" % (start, sim.REGION // 512)
    assert out[2:4] == [
        "disk0 - set %s, member 0" % ("53" * 16),
        "disk1 - set %s, member 0" % ("58" * 16),
    ]
    assert (bytes(made.chip.data), [dict(disk.sectors) for disk in made.drives]) == before


@pytest.mark.parametrize("name", ["5", "58", "58" * 16])
def test_adopt_makes_a_set_the_own_one(capsys, name):
    made = two_sets()
    if name == "5":
        with pytest.raises(LifeboatError) as caught:
            partitioning.adopt(made, name)
        assert caught.value.code == "set-unclear" and remembered(made)[0] == b"S" * 16
        return
    report = partitioning.adopt(made, name)
    assert report.verdict == "RUN" and report.data["set"] == "58" * 16
    assert [m["state"] for m in report.data["members"]] == ["foreign", "created"]
    assert remembered(made)[0] == b"X" * 16
    out = capsys.readouterr().out
    assert out.index("set %s is forgotten" % ("53" * 16)) < out.index("lifeboat: {")


def test_a_set_that_is_not_here_is_not_adopted():
    made = two_sets()
    before = bytes(made.chip.data)
    with pytest.raises(LifeboatError) as caught:
        partitioning.adopt(made, "59")
    assert caught.value.code == "set-other" and made.chip.data == before


def test_what_stands_in_the_memory_is_shown_without_escapes(capsys):
    made = two_sets()
    region = b"\1" * 16, 1, 2, 512, 0, "\x1b[2Jred"
    made.chip.data[:] = sim.memory(sim.set_records(b"S" * 16, [region]))
    partitioning.adopt(made)
    assert "?[2Jred" in capsys.readouterr().out
