"""Regions are found where format.md section 3 puts them, from whatever is left of the header."""

import itertools
import struct
import zlib
from errno import EIO, EPERM, ETIMEDOUT

import pytest

from fakes import board as sim
from fakes import gpt as tables
from lifeboat import journal
from lifeboat import region as regions
from lifeboat.errors import LifeboatError
from lifeboat.manifest import Manifest, load
from lifeboat.records import Commit
from lifeboat.region import Region
from sim.disk import RamDisk, dead, gone, hung

sectors = pytest.mark.parametrize("size", [512, 4096])
COPIES = 0, sim.REGION - 8192, sim.REGION - 4096


def find(d, lbas=(), places=()):
    return regions.find(d, lbas, bytearray(4096), places)


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
            "slot_size": (72, "<Q"), "journal_offset": (80, "<Q"), "journal_units": (88, "<I"),
            "incompat": (92, "<I"), "ro_compat": (96, "<I"), "serial": (100, "<I"),
            "product": (104, "32s"), "area": (136, "<I"), "slots_offset": (140, "<I"),
            "reserved": (144, "124s"), "entry": (268, "16s"), "last_entry": (492, "16s"),
            "set_id": (16, "16s"), "region_id": (32, "16s"),
        }[name]  # fmt: skip
        struct.pack_into(form, raw, offset, value)
    struct.pack_into("<I", raw, 508, zlib.crc32(raw[:508]))
    return raw


def refusal(d, raw):
    with pytest.raises(LifeboatError) as caught:
        Region(d, raw)
    return caught.value.code


def refusal_to_find(d, lbas=(), places=()):
    with pytest.raises(LifeboatError) as caught:
        find(d, lbas, places)
    return caught.value.code


def put_copies(d, start, size=sim.REGION, **fields):
    """Write the three copies of one header."""
    unit = header(d, start, **fields)
    for offset in (0, size - 8192, size - 4096):
        sim.put(d, start * d.size + offset, unit)


def key(start, size=512, set_id=b"S" * 16, region_id=b"\1" * 16):
    """What the memory knows of a region that sim.make_region() made."""
    return set_id, region_id, start, sim.REGION // size


@sectors
def test_every_field_is_read(size):
    d = disk(size)
    start = d.count - sim.REGION // size
    raw = header(
        d, start, minor=9, reserved=b"r" * 124, member_index=3, member_count=64, serial=7,
        product="Schränke".encode(),
    )  # fmt: skip
    r = Region(d, raw)
    assert (r.start, r.sectors, r.size) == (start, sim.REGION // size, sim.REGION)
    assert (r.member, r.members, r.slots, r.slot_size) == (3, 64, 2, sim.SLOT)
    assert (r.set_id, r.region_id, r.copies) == (b"S" * 16, b"\1" * 16, COPIES)
    assert (r.serial, r.read_only, r.area) == (7, False, 65536)
    assert (r.end, r.key) == (d.count, key(start, size))
    # As format 1.1 has them: what 1.2 says otherwise is 0 here.
    assert r.slot_at(1) == 4096 + sim.SLOT
    assert r.manifest_at(1) == 4096 + sim.SLOT + 4096
    assert r.block_at(1, 3, 4096) == 4096 + sim.SLOT + 69632 + 3 * 4096


def test_slots_and_manifest_area_are_where_the_header_says():
    """Slots from 65536 on, 131072 bytes each, 8192 for the manifest in them."""
    make = {"slot": 131072, "size": 65536 + 2 * 131072 + 2 * 4096 + 8192}
    d = RamDisk("d", 1000)
    fields = {"slots_offset": 65536, "area": 8192, "journal_offset": 65536 + 2 * 131072}
    r = Region(d, header(d, 8, make=make, journal_units=2, **fields))
    assert [r.slot_at(k) for k in (0, 1)] == [65536, 196608]
    assert r.manifest_at(1) == 196608 + 4096
    assert r.block_at(1, 2, 4096) == 196608 + 4096 + 8192 + 2 * 4096
    assert journal.pages(r) == 2
    # 119 blocks of 4096 bytes are 131072 - 12288 bytes.
    m = Manifest(sim.manifest(sim.noise(1, 29 * 4096)))
    assert r.fits(*m.sizes)
    m = Manifest(sim.manifest(sim.noise(1, 30 * 4096)))
    assert not r.fits(*m.sizes)
    late = header(d, 8, make=make, **dict(fields, slots_offset=65536 + 8192 + 4096))
    assert refusal(d, late) == "region-field"
    early = Region(
        d, header(d, 8, make=make, journal_units=2, **dict(fields, journal_offset=4096))
    )
    assert journal.pages(early) == 0


def test_a_manifest_that_is_larger_than_its_area_does_not_fit():
    d = disk()
    r = Region(d, header(d, 8, area=4096))
    assert r.block_at(0, 0, 4096) == 4096 + 8192
    m = Manifest(sim.manifest(sim.noise(1, 6 * 4096)))
    assert r.fits(*m.sizes)
    assert r.fits(4096, 4096, 6) and not r.fits(4097, 4096, 6)


@pytest.mark.parametrize("minor", [0, 1, 2, 77])
@pytest.mark.parametrize("bit", [0, 31])
def test_the_words_that_forbid(minor, bit):
    d = disk()
    assert refusal(d, header(d, 8, minor=minor, incompat=1 << bit)) == "region-version"
    r = Region(d, header(d, 8, minor=minor, ro_compat=1 << bit))
    assert r.read_only
    with pytest.raises(OSError) as caught:
        r.write(0, bytearray(4096))
    assert caught.value.errno == EPERM and d.writes == 0


@pytest.mark.parametrize("where", ["entry", "last_entry"])
def test_the_directory_may_forbid_too(where):
    def entry(kind, flags):
        return struct.pack("<HHIQ", kind, flags, 2, 1 << 20)

    d = disk()
    for kind in (1, 3, 0xFFFF):
        assert refusal(d, header(d, 8, **{where: entry(kind, 1)})) == "region-version"
        Region(d, header(d, 8, **{where: entry(kind, 0xFFFE)}))
    Region(d, header(d, 8, **{where: entry(0, 1)}))  # a free entry


@pytest.mark.parametrize(
    "code, fields",
    [
        ("region-magic", {"magic": b"LBREGIOM"}),
        ("region-version", {"major": 2}),
        ("region-version", {"major": 0}),
        ("region-field", {"header_size": 511}),
        ("region-version", {"header_size": 511, "incompat": 1}),  # what forbids comes first
        ("region-version", {"header_size": 511, "entry": b"\1\0\1\0"}),
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
        ("region-field", {"area": 4095}),
        ("region-field", {"area": 98304}),
        ("region-field", {"area": 1052672}),
        ("region-field", {"area": 0xFFFFF000}),
        ("region-field", {"slots_offset": 4095}),
        ("region-field", {"slots_offset": 512}),
        ("region-field", {"slots_offset": 8192}),
        ("region-field", {"slots_offset": 0xFFFFF000}),
        ("region-field", {"product": b"a\0b"}),
        ("region-field", {"product": b"a\x1b"}),
        ("region-field", {"product": b"\xff"}),
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
    assert find(d) is None
    d.sectors.clear()
    start = (d.count * size // 4096 * 4096 - sim.REGION) // size
    sim.make_region(d, start)
    assert find(d).start == start


@sectors
def test_it_is_found_at_a_configured_place(size):
    d = disk(size)
    start = sim.make_region(d, 32768 // size)
    assert find(d) is None
    found = find(d, (0, 4096 // size, start, 1 << 60))
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
        assert find(d, (1024,)).start == 1024


@sectors
def test_it_is_found_as_a_partition(size):
    d = disk(size)
    start = 65536 // size
    tables.both(d, [(tables.LIFEBOAT, start, start + sim.REGION // size - 1)])
    sim.make_region(d, start)
    assert find(d).start == start


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
    assert find(d) is None


def test_a_region_that_a_partition_has_been_laid_over_is_not_used():
    d = disk()
    start = sim.make_region(d)
    sector = bytearray(512)
    sector[510:] = b"\x55\xaa"
    struct.pack_into("<B3xII", sector, 446 + 4, 0x83, 64, start - 64)
    sim.put(d, 0, sector)
    assert find(d).start == start
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
    assert find(d).bad_copies == []


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
    found = find(d, (start,) if place == "configured" else ())
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
    assert find(d, (start,)).bad_copies == []


def test_what_follows_a_record_in_its_unit_does_not_count():
    """A reader looks at the record only (format review S3-9)."""
    d = disk()
    start = sim.make_region(d)
    sim.put(d, start * 512 + 512, b"x" * 512)
    found = find(d)
    assert found.bad_copies == [] and found.is_good(0, bytearray(4096))


# Which copy counts


def three(d, start, *serials):
    """Write header copies with these serials and a set id by the serial; None: a damaged one."""
    for serial, offset in zip(serials, COPIES):
        unit = header(d, start, serial=serial or 0, set_id=b"%016d" % (serial or 0))
        if serial is None:
            unit[20] ^= 1
        sim.put(d, start * d.size + offset, unit)


@sectors
@pytest.mark.parametrize("place", ["partition", "end", "configured"])
@pytest.mark.parametrize(
    "serials, counts, bad, agreed",
    [
        ((5, 5, 5), 5, (), True),
        ((5, 5, 6), 6, (0, 1), False),  # a change of the header, cut after its first write
        ((5, 6, 6), 6, (0,), False),
        ((6, 6, 5), 6, (2,), True),
        ((6, 5, 6), 6, (1,), True),
        ((6, 5, 5), 6, (1, 2), False),
        ((0xFFFFFFFF, 0, 0), 0xFFFFFFFF, (1, 2), False),
        ((1, 2, 3), 3, (0, 1), False),
        ((None, 5, 5), 5, (0,), False),
        ((5, None, 5), 5, (1,), True),
        ((5, 5, None), 5, (2,), True),
    ],
)  # fmt: skip
def test_the_copy_with_the_highest_serial_counts(size, place, serials, counts, bad, agreed):
    d = disk(size)
    start = {"end": d.count - sim.REGION // size}.get(place, 65536 // size)
    if place == "partition":
        tables.both(d, [(tables.LIFEBOAT, start, start + sim.REGION // size - 1)])
    three(d, start, *serials)
    last = start + COPIES[2] // size
    found = find(d, (start, last) if place == "configured" else ())
    assert (found.serial, found.set_id) == (counts, b"%016d" % counts)
    assert found.bad_copies == [COPIES[i] for i in bad]
    assert found.agreed == agreed
    assert found.place == {"partition": "gpt", "end": "tail", "configured": "lba"}[place]
    assert (found.known, found.claimed) == (False, False)


@pytest.mark.parametrize("place", ["partition", "end"])
def test_of_equal_serials_the_head_counts_then_the_first_tail(place):
    d = disk()
    start = d.count - sim.REGION // 512 if place == "end" else 128
    if place == "partition":
        tables.both(d, [(tables.LIFEBOAT, start, start + sim.REGION // 512 - 1)])
    sets = [b"%016d" % i for i in range(3)]
    for set_id, offset in zip(sets, COPIES):
        sim.put(d, start * 512 + offset, header(d, start, set_id=set_id))
    found = find(d)
    assert (found.set_id, found.bad_copies) == (sets[0], list(COPIES[1:]))
    sim.put(d, start * 512, b"x" * 512)
    found = find(d)
    assert (found.set_id, found.bad_copies) == (sets[1], [COPIES[0], COPIES[2]])
    assert not found.agreed


def test_a_copy_of_another_range_is_none_of_this_region():
    """The second tail belongs to a smaller region that ends in the same place."""
    d = RamDisk("d", 2 * sim.REGION // 512)
    start = d.count - sim.REGION // 512
    put_copies(d, start, serial=1)
    raw = header(d, start + 8, serial=9)
    struct.pack_into("<Q", raw, 56, sim.REGION // 512 - 8)
    struct.pack_into("<Q", raw, 72, sim.SLOT - 4096)
    struct.pack_into("<I", raw, 508, zlib.crc32(raw[:508]))
    sim.put(d, (d.count - 8) * 512, raw)
    found = find(d)
    assert (found.start, found.serial, found.bad_copies) == (start, 1, [COPIES[2]])


def test_a_tail_copy_does_not_end_a_region_before_the_disk_does():
    """The disk is one unit longer: its last unit but one is the second tail, the last is free."""
    d = disk()
    start = d.count - sim.REGION // 512 - 8
    sim.make_region(d, start)
    sim.put(d, (d.count - 8) * 512, bytes(4096))
    assert refusal_to_find(d) == "region-place"
    assert find(d, (start,)).start == start


# Partition tables


def test_all_partitions_of_our_type_are_looked_at():
    d = disk()
    start, sectors_ = 256, sim.REGION // 512
    parts = [(tables.LIFEBOAT, 40, 79), (tables.LIFEBOAT, start, start + sectors_ - 1)]
    tables.both(d, parts)
    sim.make_region(d, start)
    assert find(d).start == start
    sim.put(d, 40 * 512, header(d, start))  # not where it belongs: the next one counts
    assert find(d).start == start


def test_a_disk_full_of_our_partitions_costs_a_bounded_number_of_reads():
    d = RamDisk("d", 8192)
    tables.table(d, [(tables.LIFEBOAT, 3000 + i, 3100 + i) for i in range(200)], entries=4096)
    assert find(d) is None
    assert d.reads <= 1 + 128 + 16 * 3


def big_table(d, lba, parts):
    """A valid header of a table with one entry too many to be read."""
    tables.table(d, parts, lba=lba)
    head = bytearray(sim.get(d, lba * d.size, d.size))
    struct.pack_into("<I", head, 80, 8193)
    head[16:20] = bytes(4)
    struct.pack_into("<I", head, 16, zlib.crc32(head[:92]))
    sim.put(d, lba * d.size, head)


@pytest.mark.parametrize("place", ["partition", "end", "configured"])
def test_nothing_is_used_on_a_disk_whose_table_is_unknown(place):
    """Format review S1-1: a partition may be laid over what looks like a region."""
    d = RamDisk("d", 8192)
    start = {"end": d.count - sim.REGION // 512}.get(place, 4096)
    sim.make_region(d, start)
    big_table(d, 1, [(tables.LIFEBOAT, start, start + sim.REGION // 512 - 1)])
    assert refusal_to_find(d, (start,)) == "gpt-unknown"
    known = find(d, (), (key(start),))
    assert (known.start, known.known, known.claimed) == (start, True, False)


@pytest.mark.parametrize("entries", [257, 512, 4096])
def test_a_large_table_protects_its_partitions(entries):
    """Format review S1-1, as it was found."""
    d = RamDisk("d", 8192)
    start = 2048
    sim.make_region(d, start)
    tables.both(d, [(tables.LINUX, start - 8, start + 4000)], entries=entries)
    assert refusal_to_find(d, (start,)) == "region-place"


# A remembered region


@sectors
@pytest.mark.parametrize("damaged", list(itertools.product((False, True), repeat=3)), ids=str)
@pytest.mark.parametrize("table", [False, True], ids=["raw", "gpt"])
def test_a_remembered_region_is_found_by_any_copy(size, table, damaged):
    d = disk(size)
    start = 65536 // size
    if table:
        first = 40 if size == 512 else 6
        tables.both(d, [(tables.LINUX, first, first + 1)])
    sim.make_region(d, start)
    for bad, offset in zip(damaged, COPIES):
        if bad:
            sim.put(d, start * size + offset, b"x" * size)
    found = find(d, (), (key(3 * 4096 // size, size), key(start, size)))
    if all(damaged):
        assert found is None
        return
    assert (found.start, found.known, found.claimed) == (start, True, False)
    assert (found.place, found.size) == ("known", sim.REGION)
    assert found.bad_copies == [o for bad, o in zip(damaged, COPIES) if bad]
    assert found.agreed == (not damaged[0] and not (damaged[1] and damaged[2]))


@pytest.mark.parametrize(
    "other",
    [
        {"set_id": b"T" * 16}, {"region_id": b"\2" * 16}, {"start": 136},
        {"sectors": sim.REGION // 512 - 8}, {"sectors": 1 << 62}, {"start": 1 << 62},
        {"start": 0}, {"sectors": 0},
    ],
    ids=str,
)  # fmt: skip
def test_a_region_that_is_not_quite_the_remembered_one_is_not_it(other):
    d = disk()
    sim.make_region(d, 128)
    names = "set_id", "region_id", "start", "sectors"
    place = tuple(other.get(name, value) for name, value in zip(names, key(128)))
    assert find(d, (), (place,)) is None
    found = find(d, (128,), (place,))
    assert (found.start, found.known, found.place) == (128, False, "lba")


def test_where_the_memory_knows_no_region_the_tables_are_asked():
    d = disk()
    start = sim.make_region(d)
    found = find(d, (), (key(start, set_id=b"T" * 16),))
    assert (found.start, found.known, found.place) == (start, False, "tail")


def test_the_remembered_region_wins_over_what_the_tables_say():
    d = RamDisk("d", 3 * sim.REGION // 512)
    sim.make_region(d, 128)
    sim.make_region(d, set_id=b"N" * 16)  # a forger's, at the disk's end
    found = find(d, (), (key(128),))
    assert (found.start, found.set_id, found.known) == (128, b"S" * 16, True)


def test_a_foreign_copy_in_the_remembered_place_does_not_count():
    """Whatever serial it claims: the ids are the memory's."""
    d = disk()
    sim.make_region(d, 128)
    forged = header(d, 128, set_id=b"X" * 16, serial=0xFFFFFFFF)
    sim.put(d, 128 * 512 + COPIES[2], forged)
    found = find(d, (), (key(128),))
    assert (found.set_id, found.serial, found.bad_copies) == (b"S" * 16, 0, [COPIES[2]])
    sim.put(d, 128 * 512, forged)
    found = find(d, (), (key(128),))
    assert (found.set_id, found.bad_copies) == (b"S" * 16, [COPIES[0], COPIES[2]])


@sectors
@pytest.mark.parametrize(
    "first, last, claimed",
    # The region begins at 65536 bytes; in bytes before and behind its beginning and its end.
    [(-8192, -4096, False), (-4096, 0, True), (None, None, True), (0, 4096, True),
     ("end", 4096, False)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("kind", [tables.LINUX, tables.LIFEBOAT], ids=["linux", "lifeboat"])
def test_a_partition_that_reaches_into_a_remembered_region_claims_it(
    size, kind, first, last, claimed
):
    d = disk(size)
    start = 65536 // size
    end = start + sim.REGION // size
    if first is None:
        part = start, end - 1
        claimed = kind == tables.LINUX  # of our type and exactly the region: it is the region's
    elif first == "end":
        part = end, end + last // size - 1
    else:
        part = start + first // size, start + last // size - 1 + (1 if last == 0 else 0)
    tables.both(d, [(kind, *part)])
    sim.make_region(d, start)
    found = find(d, (), (key(start, size),))
    assert (found.start, found.known, found.claimed) == (start, True, claimed)
    writes = d.writes
    if claimed:
        with pytest.raises(OSError) as caught:
            found.write(0, bytearray(4096))
        assert caught.value.errno == EPERM and d.writes == writes
    else:
        found.write(0, bytearray(4096))


def test_a_partition_of_the_mbr_claims_a_remembered_region():
    d = disk()
    start = sim.make_region(d, 256)
    sector = bytearray(512)
    sector[510:] = b"\x55\xaa"
    for first, length, claimed in ((64, 192, False), (64, 193, True), (0, 4000, True)):
        struct.pack_into("<B3xII", sector, 446 + 4, 0x83, first, length)
        sim.put(d, 0, sector)
        assert find(d, (), (key(start),)).claimed == claimed


@pytest.mark.parametrize("table", [False, True], ids=["raw", "gpt"])
def test_a_healthy_remembered_region_costs_few_reads_and_none_twice(table):
    d = disk()
    start = sim.make_region(d, 128)
    if table:
        tables.both(d, [(tables.LINUX, 40, 47)])
    seen = []
    read = d.readblocks

    def readblocks(lba, buf):
        seen.append((lba, len(buf)))
        read(lba, buf)

    d.readblocks = readblocks
    found = find(d, (), (key(start),))
    assert found.known and not found.claimed
    want = [(128 + offset // 512, 4096) for offset in COPIES] + [(0, 512), (1, 512)]
    want += [(2 + 8 * i, 4096) for i in range(4)] if table else [(d.count - 1, 512)]
    assert sorted(seen) == sorted(want)


def test_heads_are_looked_for_first():
    """With all members of a set attached a healthy disk costs one read for each other size."""
    d = disk()
    start = sim.make_region(d, 128)
    others = [(b"S" * 16, bytes([9]) * 16, 8 * i, sim.REGION // 512) for i in range(2, 9)]
    assert find(d, (), (*others, key(start))).start == start
    assert d.reads <= 7 + 3 + 1 + 2


def test_members_of_one_size_are_looked_for_once():
    d = disk()
    start = sim.make_region(d, 128)
    places = [key(start, set_id=b"S" * 16, region_id=bytes([i]) * 16) for i in range(16)]
    assert find(d, (), tuple(places)).region_id == b"\1" * 16
    assert d.reads == 3 + 1 + 2
    assert find(RamDisk("e", d.count), (), tuple(places)) is None


def test_a_newer_header_in_the_remembered_place_is_named():
    d = disk()
    put_copies(d, 128, major=2)
    assert refusal_to_find(d, (), (key(128),)) == "region-version"


def test_a_copy_with_a_word_that_forbids_is_not_mended():
    d = disk()
    start = sim.make_region(d)
    sim.put(d, start * 512 + COPIES[1], header(d, start, incompat=4, serial=9))
    found = find(d)
    assert (found.serial, found.bad_copies, found.agreed) == (0, [], True)
    assert found.is_good(COPIES[1], bytearray(4096))


# Slots as they were made


@pytest.mark.parametrize(
    "first, rest, made",
    [
        (bytes(8), bytes(504), True), (bytes(8), bytes(503) + b"x", False),
        (b"LBCOMMIT", b"x" * 504, True),
        (b"LBCANDID", bytes(504), True), (b"LBCOMMIX", bytes(504), False),
        (b"\0\0\0\0\0\0\0\1", bytes(504), False), (bytes(8), bytes(504) + b"x", False),
        (b"LBCOMMIT", bytes(3584 + 503) + b"x", False), (b"LBCANDID", bytes(504) + b"x", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("slot", [0, 1])
def test_slots_look_made_when_they_hold_nothing_of_somebody_else(slot, first, rest, made):
    d = disk()
    r = Region(d, header(d, 8))
    sim.put(d, 4096 + r.slot_at(slot), (first + rest).ljust(4096, b"\0"))
    assert r.looks_made(bytearray(4096)) == made


def test_slots_that_can_not_be_read_are_an_error():
    d = disk()
    r = Region(d, header(d, 8))
    d.fault = dead
    with pytest.raises(OSError):
        r.looks_made(bytearray(4096))


# Disks that fail


@pytest.mark.parametrize("bad", COPIES)
def test_one_unreadable_copy_does_not_hide_a_region(bad):
    d = disk()
    start = sim.make_region(d)
    lba = start + bad // 512
    d.fault = lambda op, at, n: EIO if op == "read" and at <= lba < at + n else None
    assert find(d).bad_copies == [bad]


def test_unreadable_partition_tables_do_not_hide_a_region():
    d = disk()
    start = sim.make_region(d)
    d.fault = lambda op, at, n: EIO if op == "read" and at < start else None
    assert find(d).start == start


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
        find(d)
    assert len(asked) <= 1 + most


@pytest.mark.parametrize("count", range(1, 20))
def test_a_tiny_disk_has_no_region(count):
    try:
        assert find(RamDisk("d", count)) is None
    except OSError:
        assert count == 1


# Commit records


def commit(d, slot=0, **fields):
    raw = bytearray(512)
    struct.pack_into(
        "<8sBBHI16s32sIIII", raw, 0, b"LBCOMMIT", 1, 2, 512, slot, b"\1" * 16, b"B" * 32,
        7, 400, 4096, 6,
    )  # fmt: skip
    for name, value in fields.items():
        offset, form = {
            "magic": (0, "8s"), "major": (8, "B"), "header_size": (10, "<H"), "slot": (12, "<I"),
            "region_id": (16, "16s"), "generation": (64, "<I"), "manifest_size": (68, "<I"),
            "block_size": (72, "<I"), "block_count": (76, "<I"), "incompat": (80, "<I"),
            "ro_compat": (84, "<I"), "counter": (88, "<I"), "minor": (9, "B"),
            "reserved": (92, "416s"),
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
    assert (c.build, c.generation, c.sizes) == (b"B" * 32, 7, (400, 4096, 6))
    assert not c.read_only
    assert Commit(commit(region, generation=0xFFFFFFEF, block_count=8), region, 0).sizes[2] == 8
    raw = commit(region, minor=9, counter=5, reserved=b"r" * 416)
    assert Commit(raw, region, 0).generation == 7
    assert Commit(commit(region, ro_compat=1 << 31), region, 0).read_only


@pytest.mark.parametrize(
    "generation, order",
    [(1, 1), (0xFEFFFFFF, 0xFEFFFFFF), (0xFF000000, 0), (0xFFFFFFEF, 0)],
)
def test_a_generation_that_only_a_forger_writes_is_older_than_all(generation, order):
    d = disk()
    r = Region(d, header(d, 8))
    c = Commit(commit(d, generation=generation), r, 0)
    assert (c.generation, c.order) == (generation, order)


@pytest.mark.parametrize(
    "code, fields",
    [
        ("commit-magic", {"magic": bytes(8)}),
        ("commit-version", {"major": 2}),
        ("commit-version", {"incompat": 1}),
        ("commit-version", {"incompat": 1 << 31, "minor": 0}),
        ("commit-magic", {"magic": b"LBCANDID"}),
        ("commit-magic", {"magic": b"LBCANDID", "major": 2}),
        ("commit-field", {"header_size": 0}),
        ("commit-version", {"header_size": 0, "incompat": 1}),
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
        c.sizes = tuple(size + (other == name) for other, size in right.items())
        assert c.describes(m) == (name is None)
    assert not Commit(commit(region, **right), region, 0).describes(m)


# Writing


def test_a_record_is_written_as_specified_flushed_and_read_back(region):
    d = region.disk._dev._dev
    m = Manifest(sim.manifest(sim.noise(1, 6 * 4096)))
    m.security_counter = 9
    region.write_commit(1, m, 5, bytearray(4096))
    want = commit(d, slot=1, generation=5, manifest_size=len(m.raw), counter=9)
    want[32:64] = m.build
    struct.pack_into("<I", want, 508, zlib.crc32(want[:508]))
    assert sim.get(d, 4096 + region.slot_at(1), 4096) == bytes(want) + bytes(4096 - 512)
    assert d.cache == []


@pytest.mark.parametrize("what", ["commit", "header"])
def test_a_disk_that_forgets_a_record_is_told(region, what):
    d = region.disk._dev._dev
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
    d = region.disk._dev._dev
    at = 4096 + region.slot_at(0)
    sim.put(d, at, b"x" * (4096 + 65536 + 4096))
    m = Manifest(sim.manifest(sim.noise(1, 6 * 4096)))
    region.write_manifest(0, m, bytearray(4096))
    region.flush()
    assert sim.get(d, at + 4096, 65536) == bytes(m.raw) + bytes(65536 - len(m.raw))
    assert sim.get(d, at, 4096) == sim.get(d, at + 69632, 4096) == b"x" * 4096
    assert region.holds_manifest(0, m, bytearray(4096))
    at = region.manifest_at(0)
    head = memoryview(bytearray(4096))
    found = load(lambda start, view: region.read(at + start, view[start:]), 65536, head)
    assert found.raw == m.raw


@pytest.mark.parametrize("offset", [-4096, sim.REGION, 1 << 50])
def test_nothing_is_written_or_read_outside_the_region(region, offset):
    d = region.disk._dev._dev
    for access in (region.write, region.read):
        with pytest.raises(OSError) as caught:
            access(offset, bytearray(4096))
        assert caught.value.args[0] == EPERM
    assert d.writes == d.reads == 0


def test_another_audit_looks_at_all_copies_again():
    d = disk()
    start = sim.make_region(d)
    found = find(d)
    for offset in COPIES:
        before = sim.get(d, start * 512 + offset, 512)
        sim.put(d, start * 512 + offset, b"x" * 512)
        assert found.audit(None, bytearray(4096)) is found
        assert (found.bad_copies, found.agreed) == ([offset], offset != 0)
        sim.put(d, start * 512 + offset, before)
    found.audit(None, bytearray(4096))
    assert found.bad_copies == []


def test_an_audit_of_a_disk_that_stops_answering_is_not_an_audit(region):
    region.disk._dev._dev.fault = lambda op, at, n: ETIMEDOUT
    with pytest.raises(OSError):
        region.audit(None, bytearray(4096))
