"""Regions are found where format.md section 3 puts them, from whatever is left of the header."""

import itertools
import struct
import zlib
from errno import EIO, EPERM, ETIMEDOUT

import pytest

from fakes import board as sim
from fakes import gpt as tables
from fakes.disk import RamDisk, dead, gone, hung
from lifeboat import region as regions
from lifeboat.errors import LifeboatError
from lifeboat.manifest import Manifest
from lifeboat.region import Commit, Region

sectors = pytest.mark.parametrize("size", [512, 4096])
COPIES = 0, sim.REGION - 8192, sim.REGION - 4096


def disk(size=512, extra=None):
    return RamDisk(
        "d", sim.REGION // size + (4096 * 100 // size if extra is None else extra), size=size
    )


def header(d, start, **fields):
    """Return a region header with bent fields and a right CRC."""
    raw = bytearray(sim.header(d, start, **fields.pop("make", {})))
    for name, value in fields.items():
        offset, form = {
            "magic": (0, "8s"), "major": (8, "B"), "minor": (9, "B"), "header_size": (10, "<H"),
            "lba_size": (12, "<I"), "start_lba": (48, "<Q"), "sectors": (56, "<Q"),
            "member_index": (64, "<H"), "member_count": (66, "<H"), "slot_count": (68, "<I"),
            "slot_size": (72, "<Q"), "reserved": (80, "B"),
        }[name]  # fmt: skip
        struct.pack_into(form, raw, offset, value)
    struct.pack_into("<I", raw, 508, zlib.crc32(raw[:508]))
    return raw


def refusal(d, raw):
    with pytest.raises(LifeboatError) as caught:
        Region(d, raw)
    return caught.value.code


def refusal_to_find(d, lbas=()):
    with pytest.raises(LifeboatError) as caught:
        regions.find(d, lbas)
    return caught.value.code


@sectors
def test_every_field_is_read(size):
    d = disk(size)
    start = d.count - sim.REGION // size
    r = Region(d, header(d, start, minor=9, reserved=7, member_index=3, member_count=64))
    assert (r.start, r.sectors, r.size) == (start, sim.REGION // size, sim.REGION)
    assert (r.member, r.members, r.slots, r.slot_size) == (3, 64, 2, sim.SLOT)
    assert (r.set_id, r.region_id, r.copies) == (b"S" * 16, b"\1" * 16, COPIES)
    assert r.slot_at(1) == 4096 + sim.SLOT
    assert r.block_at(1, 3, 4096) == 4096 + sim.SLOT + 69632 + 3 * 4096


@pytest.mark.parametrize(
    "code, fields",
    [
        ("region-magic", {"magic": b"LBREGIOM"}),
        ("region-version", {"major": 2}),
        ("region-version", {"major": 0}),
        ("region-field", {"header_size": 511}),
        ("region-place", {"lba_size": 4096}),
        ("region-place", {"lba_size": 0}),
        ("region-place", {"sectors": 0}),
        ("region-place", {"sectors": 1 << 63}),
        ("region-place", {"start_lba": 112}),
        ("region-place", {"start_lba": (1 << 64) - 8}),
        ("region-field", {"start_lba": 4}),
        ("region-field", {"start_lba": 0}),
        ("region-field", {"sectors": sim.REGION // 512 + 1}),
        ("region-field", {"sectors": sim.REGION // 512 - 8}),
        ("region-field", {"slot_count": 0}),
        ("region-field", {"slot_count": 1}),
        ("region-field", {"slot_count": 3}),
        ("region-field", {"slot_count": 17}),
        ("region-field", {"slot_count": 0xFFFFFFFF}),
        ("region-field", {"slot_size": 0}),
        ("region-field", {"slot_size": 69632}),
        ("region-field", {"slot_size": sim.SLOT + 512}),
        ("region-field", {"slot_size": (1 << 64) - 4096}),
        ("region-field", {"member_count": 0}),
        ("region-field", {"member_count": 65}),
        ("region-field", {"member_index": 1}),
    ],
)
def test_a_broken_rule_is_named(code, fields):
    d = disk(extra=104)
    assert refusal(d, header(d, 8, **fields)) == code


def test_every_flipped_bit_of_a_header_is_noticed():
    d = disk()
    good = sim.header(d, 8)
    Region(d, good)
    for at in range(512):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        assert refusal(d, bad) in ("region-magic", "region-crc")


@sectors
def test_sixteen_slots_are_the_most(size):
    total = sim.region_size(73728, 17)
    start = 4096 // size
    d = RamDisk("d", start + total // size, size=size)
    make = {"slot": 73728, "size": total}
    assert Region(d, header(d, start, make=dict(make, slots=16))).slots == 16
    assert refusal(d, header(d, start, make=dict(make, slots=17))) == "region-field"


# Where it is found


@sectors
@pytest.mark.parametrize("odd", [0, 1, 7])
def test_it_is_found_at_the_end_of_the_disk(size, odd):
    d = disk(size)
    d.count += odd if size == 512 else 0  # sectors after the last whole unit
    start = sim.make_region(d, 64)
    assert regions.find(d) is None
    d.sectors.clear()
    start = (d.count * size // 4096 * 4096 - sim.REGION) // size
    sim.make_region(d, start)
    assert regions.find(d).start == start


@sectors
def test_it_is_found_at_a_configured_place(size):
    d = disk(size)
    start = sim.make_region(d, 32768 // size)
    assert regions.find(d) is None
    found = regions.find(d, (0, 4096 // size, start, 1 << 60))
    assert found.start == start


@pytest.mark.parametrize(
    ("first", "last", "refused"),
    [
        (64, 1023, False),
        (64, 1024, True),
        (1100, 1101, True),
        (1024 + sim.REGION // 512, 3000, False),
    ],
    ids=str,
)
def test_a_configured_place_under_a_partition_is_somebody_elses_now(first, last, refused):
    d = RamDisk("disk", 4096)
    sim.make_region(d, 1024)
    tables.both(d, [(tables.LINUX, 2, 3), (tables.LINUX, first, last)])
    if refused:
        assert refusal_to_find(d, (1024,)) == "region-place"
    else:
        assert regions.find(d, (1024,)).start == 1024


@sectors
def test_it_is_found_as_a_partition(size):
    d = disk(size)
    start = 65536 // size
    tables.both(d, [(tables.LIFEBOAT, start, start + sim.REGION // size - 1)])
    sim.make_region(d, start)
    assert regions.find(d).start == start


@pytest.mark.parametrize("first, last", [(-8, 0), (8, 0), (0, -8), (0, 8), (-1, 0)])
def test_a_region_that_is_not_exactly_the_partition_is_not_taken(first, last):
    d = disk()
    start = 128
    end = start + sim.REGION // 512 - 1
    tables.both(d, [(tables.LIFEBOAT, start + first, end + last)])
    sim.make_region(d, start)
    assert refusal_to_find(d) == "region-place"


def test_the_end_of_a_disk_with_a_gpt_is_not_for_regions():
    """There is the backup table: headers there are left over from before the GPT was made."""
    d = disk()
    sim.make_region(d)
    tables.table(d, [(tables.LIFEBOAT, 40, 47)])
    assert regions.find(d) is None


def test_a_region_that_a_partition_has_been_laid_over_is_not_used():
    d = disk()
    start = sim.make_region(d)
    sector = bytearray(512)
    sector[510:] = b"\x55\xaa"
    struct.pack_into("<B3xII", sector, 446 + 4, 0x83, 64, start - 64)
    sim.put(d, 0, sector)
    assert regions.find(d).start == start
    struct.pack_into("<B3xII", sector, 446 + 4, 0x83, 64, start - 63)
    sim.put(d, 0, sector)
    assert refusal_to_find(d) == "region-place"


def test_a_region_of_a_newer_format_is_named():
    d = disk()
    start = d.count - sim.REGION // 512
    for place in (start, d.count - 16, d.count - 8):
        sim.put(d, place * 512, header(d, start, major=2))
    assert refusal_to_find(d) == "region-version"


def test_a_header_copy_of_a_newer_format_is_not_mended():
    d = disk()
    start = sim.make_region(d)
    sim.put(d, start * 512, header(d, start, major=2))
    assert regions.find(d).bad_copies == []


def test_a_header_copied_elsewhere_is_not_valid():
    d = disk()
    unit = sim.header(d, 64)
    for lba in (d.count - 8, d.count - 16):
        sim.put(d, lba * 512, unit)
    assert refusal_to_find(d, (72,)) == "region-place"


@sectors
@pytest.mark.parametrize("place", ["partition", "end", "configured"])
@pytest.mark.parametrize("damaged", list(itertools.product((False, True), repeat=3)), ids=str)
def test_any_copy_is_enough_where_its_place_is_known(size, place, damaged):
    d = disk(size)
    start = {"end": None}.get(place, 65536 // size)
    start = sim.make_region(d, start)
    if place == "partition":
        tables.both(d, [(tables.LIFEBOAT, start, start + sim.REGION // size - 1)])
    for bad, offset in zip(damaged, COPIES):
        if bad:
            sim.put(d, start * size + offset, b"x" * size)
    known = {"partition": (0, 1, 2), "end": (1, 2), "configured": (0,)}[place]
    found = regions.find(d, (start,) if place == "configured" else ())
    if all(damaged[i] for i in known):
        assert found is None
        return
    assert found.start == start
    assert found.bad_copies == [offset for bad, offset in zip(damaged, COPIES) if bad]
    # Mended by what is left, and nothing else is touched.
    before = dict(d.sectors)
    found.mend_header(bytearray(4096))
    unit = sim.header(d, start)
    assert all(sim.get(d, start * size + offset, 4096) == unit for offset in COPIES)
    changed = {lba for lba in d.sectors if d.sectors[lba] != before.get(lba)}
    per_unit = 4096 // size
    assert changed <= {
        start + offset // size + i
        for bad, offset in zip(damaged, COPIES)
        if bad
        for i in range(per_unit)
    }
    assert regions.find(d, (start,)).bad_copies == []


def test_garbage_after_the_record_is_a_bad_copy():
    d = disk()
    start = sim.make_region(d)
    sim.put(d, start * 512 + 512, b"x" * 512)
    assert regions.find(d).bad_copies == [0]


# Disks that fail


@pytest.mark.parametrize("bad", COPIES)
def test_one_unreadable_copy_does_not_hide_a_region(bad):
    d = disk()
    start = sim.make_region(d)
    lba = start + bad // 512
    d.fault = lambda op, at, n: EIO if op == "read" and at <= lba < at + n else None
    assert regions.find(d).bad_copies == [bad]


def test_unreadable_partition_tables_do_not_hide_a_region():
    d = disk()
    start = sim.make_region(d)
    d.fault = lambda op, at, n: EIO if op == "read" and at < start else None
    assert regions.find(d).start == start


@pytest.mark.parametrize("fault, most", [(dead, 8), (hung, 0), (gone, 0)])
def test_a_failing_disk_is_asked_a_bounded_number_of_times(fault, most):
    d = disk()
    sim.make_region(d)
    asked = []

    def counted(op, at, n):
        asked.append(op)
        return fault(op, at, n)

    d.fault = counted
    with pytest.raises(OSError):
        regions.find(d)
    assert len(asked) <= 1 + most


@pytest.mark.parametrize("count", range(1, 20))
def test_a_tiny_disk_has_no_region(count):
    try:
        assert regions.find(RamDisk("d", count)) is None
    except OSError:
        assert count == 1


# Commit records


def commit(d, slot=0, **fields):
    raw = bytearray(512)
    struct.pack_into(
        "<8sBBHI16s32sIIII", raw, 0, b"LBCOMMIT", 1, 0, 512, slot, b"\1" * 16, b"B" * 32,
        7, 400, 4096, 6,
    )  # fmt: skip
    for name, value in fields.items():
        offset, form = {
            "magic": (0, "8s"), "major": (8, "B"), "header_size": (10, "<H"), "slot": (12, "<I"),
            "region_id": (16, "16s"), "generation": (64, "<I"), "manifest_size": (68, "<I"),
            "block_size": (72, "<I"), "block_count": (76, "<I"),
        }[name]  # fmt: skip
        struct.pack_into(form, raw, offset, value)
    struct.pack_into("<I", raw, 508, zlib.crc32(raw[:508]))
    return raw


@pytest.fixture
def region():
    d = disk()
    return regions.Region(d, sim.header(d, 8))


def test_a_commit_record_is_read(region):
    c = Commit(commit(region), region, 0)
    assert (c.build, c.generation, c.manifest_size) == (b"B" * 32, 7, 400)
    assert (c.block_size, c.block_count) == (4096, 6)
    assert Commit(commit(region, generation=0xFFFFFFEF, block_count=8), region, 0).block_count == 8


@pytest.mark.parametrize(
    "code, fields",
    [
        ("commit-magic", {"magic": bytes(8)}),
        ("commit-version", {"major": 2}),
        ("commit-field", {"header_size": 0}),
        ("commit-field", {"slot": 1}),
        ("commit-field", {"region_id": b"\2" * 16}),
        ("commit-field", {"generation": 0}),
        ("commit-field", {"generation": 0xFFFFFFF0}),
        ("commit-field", {"manifest_size": 0}),
        ("commit-field", {"manifest_size": 65537}),
        ("commit-field", {"block_size": 0}),
        ("commit-field", {"block_size": 6144}),
        ("commit-field", {"block_size": 0xFFFFF000}),
        ("commit-field", {"block_count": 0}),
        ("commit-field", {"block_count": 9}),
        ("commit-field", {"block_count": 0xFFFFFFFF}),
    ],
)
def test_a_broken_rule_of_a_commit_record_is_named(region, code, fields):
    with pytest.raises(LifeboatError) as caught:
        Commit(commit(region, **fields), region, 0)
    assert caught.value.code == code


def test_a_damaged_record_is_not_taken_for_one_of_a_newer_format(region):
    raw = commit(region)
    raw[8] ^= 2
    with pytest.raises(LifeboatError) as caught:
        Commit(raw, region, 0)
    assert caught.value.code == "commit-crc"


def test_a_record_describes_the_manifest_with_all_its_sizes(region):
    m = Manifest(sim.manifest(sim.noise(1, 6 * 4096)))
    right = {"manifest_size": len(m.raw), "block_size": 4096, "block_count": 6}
    for name in (None, *right):
        c = Commit(commit(region, **right), region, 0)
        c.build = m.build
        if name:
            setattr(c, name, right[name] + 1)
        assert c.describes(m) == (name is None)
    assert not Commit(commit(region, **right), region, 0).describes(m)


# Writing


def test_a_record_is_written_as_specified_flushed_and_read_back(region):
    d = region._disk._dev._dev
    m = Manifest(sim.manifest(sim.noise(1, 6 * 4096)))
    region.write_commit(1, m, 5, bytearray(4096))
    want = commit(d, slot=1, generation=5, manifest_size=len(m.raw))
    want[32:64] = m.build
    struct.pack_into("<I", want, 508, zlib.crc32(want[:508]))
    assert sim.get(d, 4096 + region.slot_at(1), 4096) == bytes(want) + bytes(4096 - 512)
    assert d.cache == []


@pytest.mark.parametrize("what", ["commit", "header"])
def test_a_disk_that_forgets_a_record_is_told(region, what):
    d = region._disk._dev._dev
    d.lose = range(d.count)
    m = Manifest(sim.manifest(sim.noise(1, 6 * 4096)))
    region.bad_copies = [0]
    with pytest.raises(LifeboatError) as caught:
        if what == "commit":
            region.write_commit(0, m, 5, bytearray(4096))
        else:
            region.mend_header(bytearray(4096))
    assert caught.value.code == "disk-lies"


def test_the_manifest_area_is_zeros_after_the_manifest(region):
    d = region._disk._dev._dev
    at = 4096 + region.slot_at(0)
    sim.put(d, at, b"x" * (4096 + 65536 + 4096))
    m = Manifest(sim.manifest(sim.noise(1, 6 * 4096)))
    region.write_manifest(0, m, bytearray(4096))
    region.flush()
    assert sim.get(d, at + 4096, 65536) == bytes(m.raw) + bytes(65536 - len(m.raw))
    assert sim.get(d, at, 4096) == sim.get(d, at + 69632, 4096) == b"x" * 4096
    assert region.holds_manifest(0, m, bytearray(4096))
    assert bytes(region.manifest(0).raw) == bytes(m.raw)


@pytest.mark.parametrize("offset", [-4096, sim.REGION, 1 << 50])
def test_nothing_is_written_or_read_outside_the_region(region, offset):
    d = region._disk._dev._dev
    for access in (region.write, region.read):
        with pytest.raises(OSError) as caught:
            access(offset, bytearray(4096))
        assert caught.value.args[0] == EPERM
    assert d.writes == d.reads == 0


def test_an_audit_of_a_disk_that_stops_answering_is_not_an_audit(region):
    region._disk._dev._dev.fault = lambda op, at, n: ETIMEDOUT
    with pytest.raises(OSError):
        region.audit(bytearray(4096))
