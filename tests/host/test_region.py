"""region.py, disks.py and gpt.py on disk image files."""

import struct
import uuid
import zlib
from dataclasses import replace

import handmade
import pytest

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.disk import gpt
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import region

TYPE = uuid.UUID("183690C2-8509-4DAE-A160-C2B9CF3B0828")
OTHER = uuid.UUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4")
SIZE = 3 << 20
HEAD = 4096  # where handmade.disk() has its region
END = HEAD + handmade.SECTORS * 512


def write_gpt(data, partitions, lba=512, break_primary=False, count=128, size=128):
    """Both tables of the GPT, by UEFI 2.10 section 5.3; partitions: (type, first, last)."""
    sectors = len(data) // lba
    entries = bytearray(count * size)
    for index, (kind, first, last) in enumerate(partitions):
        struct.pack_into("<16s16sQQ", entries, index * size, kind.bytes_le, b"u" * 16, first, last)
    table_sectors = len(entries) // lba
    for own, other, at in ((1, sectors - 1, 2), (sectors - 1, 1, sectors - 1 - table_sectors)):
        header = bytearray(92)
        first_usable = 2 + table_sectors
        struct.pack_into("<8sIIII", header, 0, b"EFI PART", 0x10000, 92, 0, 0)
        last_usable = sectors - 2 - table_sectors
        struct.pack_into("<QQQQ", header, 24, own, other, first_usable, last_usable)
        struct.pack_into("<QIII", header, 72, at, count, size, zlib.crc32(entries))
        struct.pack_into("<I", header, 16, zlib.crc32(header))
        data[own * lba : own * lba + 92] = header
        data[at * lba : at * lba + len(entries)] = entries
    if break_primary:
        data[lba + 60] ^= 1


@pytest.fixture
def disk_file(tmp_path):
    def make(content=bytes(SIZE), name="disk.img"):
        path = make.last = tmp_path / name
        path.write_bytes(content)
        return path

    return make


def find(path, lbas=(), lba_size=512):
    with Disk(path, lba_size) as disk:
        return region.find(disk, lbas)


def code(function, *args, **kwargs):
    with pytest.raises(LifeboatError) as caught:
        function(*args, **kwargs)
    return caught.value.code


# --- finding


def test_a_region_at_a_known_lba_is_found(disk_file):
    path = disk_file(handmade.disk(SIZE))
    found = find(path, [8])
    assert found.how == "LBA 8"
    assert [copy.state for copy in found.copies] == ["ok"] * 3
    assert code(find, path) == "region-none"
    assert code(find, path, [16]) == "region-none"


def test_a_region_at_a_known_lba_is_found_by_its_last_unit_too(disk_file):
    data = handmade.disk(SIZE)
    data[HEAD + 40] ^= 1
    found = find(disk_file(data), [8, END // 512 - 8])
    assert (found.how, found.header.start_lba) == (f"LBA {END // 512 - 8}", 8)
    assert [copy.state for copy in found.copies] == ["region-crc", "ok", "ok"]


def test_a_region_at_a_known_lba_is_not_used_under_a_partition_of_a_gpt(disk_file):
    start = 64
    data = handmade.disk(SIZE, start)
    write_gpt(data, [(OTHER, 34, 41)])
    assert find(disk_file(data), [start]).how == "LBA 64"
    write_gpt(data, [(OTHER, start + 8, start + 8)])
    assert code(find, disk_file(data), [start]) == "region-none"


@pytest.mark.parametrize("damaged", [0, 1, 2, (0, 1), (0, 2)])
def test_a_region_at_the_tail_is_found_by_one_tail_copy(disk_file, damaged):
    data = handmade.disk(END)
    copies = (HEAD, END - 8192, END - 4096)
    for index in damaged if isinstance(damaged, tuple) else (damaged,):
        data[copies[index] + 40] ^= 1
    found = find(disk_file(data))
    assert found.how == "tail"
    states = ["ok" if data[at + 40] == handmade.region()[40] else "region-crc" for at in copies]
    assert [copy.state for copy in found.copies] == states


def test_a_region_at_the_tail_without_tail_copies_is_not_found(disk_file):
    data = handmade.disk(END)
    data[END - 8192 :] = bytes(8192)
    assert code(find, disk_file(data)) == "region-none"


@pytest.mark.parametrize("broken", [False, True])
def test_a_region_in_a_gpt_partition_is_found_by_either_table(disk_file, broken):
    start = 64
    data = handmade.disk(SIZE, start)
    write_gpt(data, [(OTHER, 34, 41), (TYPE, start, start + handmade.SECTORS - 1)], 512, broken)
    path = disk_file(data)
    assert find(path).how == "partition 2"
    with Disk(path) as disk:
        table = gpt.read_table(disk)
    assert table.kind == ("gpt backup" if broken else "gpt")
    assert [(p.first, p.last) for p in table.partitions] == [(34, 41), (64, 63 + handmade.SECTORS)]
    data[start * 512] ^= 1  # the tail copies make up for the head
    assert [copy.state for copy in find(disk_file(data)).copies] == ["region-magic", "ok", "ok"]


def test_a_region_must_be_exactly_its_partition(disk_file):
    data = handmade.disk(SIZE, 64)
    write_gpt(data, [(TYPE, 64, 64 + handmade.SECTORS + 7)])
    assert code(find, disk_file(data)) == "region-none"


def test_a_region_of_other_sectors_is_not_found(disk_file):
    assert code(find, disk_file(handmade.disk(END)), lba_size=4096) == "region-none"


def test_damaged_headers_are_named_when_nothing_is_found(disk_file):
    data = handmade.disk(END)
    data[END - 8192 : END - 4096] = handmade.region(start_lba=16)
    data[END - 4096 + 100] ^= 1
    with pytest.raises(LifeboatError, match=r"past the disk.*CRC-32"):
        find(disk_file(data))


@pytest.mark.parametrize(
    "patch", [[(8, b"\2")], [(92, b"\1")], [(268, struct.pack("<HHIQ", 1, 1, 1, 4096))]]
)
def test_a_region_of_a_newer_format_is_not_called_none(disk_file, patch):
    data = handmade.disk(END)
    for at in (HEAD, END - 8192, END - 4096):
        data[at : at + 4096] = handmade.region(patch=patch)
    with pytest.raises(LifeboatError) as caught:
        find(disk_file(data))
    assert caught.value.code == "region-version"
    assert "create" not in caught.value.hint
    data[END - 4096 :] = handmade.region()  # what this version can use counts
    assert [copy.state for copy in find(disk_file(data)).copies] == [
        "region-version",
        "region-version",
        "ok",
    ]


# Serials of (head, first tail, second tail), and which of them counts; None: that copy is damaged.
ORDERS = [
    ((0, 0, 0), 0),
    ((1, 2, 2), 1),
    ((1, 1, 2), 2),
    ((3, 2, 1), 0),
    ((2, 2, 1), 0),
    ((None, 1, 1), 1),
    ((None, 1, 2), 2),
    ((1, None, 1), 0),
    ((1, None, 2), 2),
    ((0xFFFFFFFF, 0, 1), 0),
]


def of_serials(size, serials, start_lba=8):
    """A disk with a region whose copies differ: each has its own place as its product."""
    data = handmade.disk(size, start_lba)
    start = start_lba * 512
    end = start + handmade.SECTORS * 512
    for place, (at, serial) in enumerate(zip((start, end - 8192, end - 4096), serials)):
        header = handmade.region(start_lba, serial=serial or 0, product=b"place %d" % place)
        data[at : at + 4096] = header
        if serial is None:
            data[at + 16] ^= 1
    return data


@pytest.mark.parametrize("where", ["tail", "partition", "lba"])
@pytest.mark.parametrize(("serials", "counts"), ORDERS)
def test_the_copy_with_the_highest_serial_counts_and_of_equal_ones_the_first(
    disk_file, where, serials, counts
):
    start = 8 if where == "tail" else 64
    data = of_serials(END if where == "tail" else SIZE, serials, start)
    last = start + handmade.SECTORS - 1
    if where == "partition":
        write_gpt(data, [(TYPE, start, last)])
    lbas = [start, last - 7] if where == "lba" else []
    found = find(disk_file(data), lbas)
    assert found.header.product == f"place {counts}"
    states = [
        "ok" if place == counts else "region-crc" if serial is None else "differs"
        for place, serial in enumerate(serials)
    ]
    assert [copy.state for copy in found.copies] == states


@pytest.mark.parametrize(
    ("damaged", "agreed"),
    [((), True), ((0,), False), ((1,), True), ((2,), True), ((1, 2), False), ((0, 1), False)],
)
def test_a_header_is_agreed_when_its_head_and_a_tail_copy_are_whole(disk_file, damaged, agreed):
    data = handmade.disk(SIZE, 64)
    end = 64 * 512 + handmade.SECTORS * 512
    for index in damaged:
        data[(64 * 512, end - 8192, end - 4096)[index] + 40] ^= 1
    assert find(disk_file(data), [64, end // 512 - 8, end // 512 - 16]).agreed is agreed


@pytest.mark.parametrize(
    ("odd", "agreed"), [((), True), ((0,), False), ((1,), True), ((2,), True), ((1, 2), False)]
)
def test_copies_agree_when_all_their_bytes_are_equal_reserved_ones_too(disk_file, odd, agreed):
    data = handmade.disk(SIZE, 64)
    end = 64 * 512 + handmade.SECTORS * 512
    for index, at in enumerate((64 * 512, end - 8192, end - 4096)):
        reserved = b"odd" if index in odd else b"even"
        data[at : at + 4096] = handmade.region(64, patch=[(150, reserved)])
    found = find(disk_file(data), [64])
    head = found.header.copies[0] // 512
    assert (head, found.agreed) == (64, agreed)
    same = [(index in odd) == (0 in odd) for index in range(3)]
    assert [copy.state == "ok" for copy in found.copies] == same


@pytest.mark.parametrize("serials", [(0, 0), (0, 9), (9, 0)])
def test_of_two_tail_copies_of_different_ranges_the_first_one_leads_to_the_region(
    disk_file, serials
):
    data = handmade.disk(END)
    one = handmade.region(16, handmade.SECTORS - 8, serial=serials[0])
    two = handmade.region(8, handmade.SECTORS, serial=serials[1])
    data[HEAD : HEAD + 4096] = two
    data[END - 8192 : END - 4096] = one
    data[END - 4096 :] = two
    found = find(disk_file(data))
    assert (found.header.start_lba, found.how, found.agreed) == (16, "tail", False)
    assert [copy.state for copy in found.copies] == ["region-magic", "ok", "differs"]
    data[END - 8192 + 20] ^= 1
    assert find(disk_file(data)).header.start_lba == 8


@pytest.mark.parametrize(("before", "found"), [(15, True), (16, False)])
def test_the_first_16_partitions_of_lifeboats_type_are_looked_at(disk_file, before, found):
    data = handmade.disk(SIZE, 64)
    others = [(OTHER, 40, 40)] * 20  # these do not count
    partition = (TYPE, 64, 63 + handmade.SECTORS)
    write_gpt(data, [(TYPE, 41, 40), *others, *[(TYPE, 40, 47)] * before, partition])
    if found:
        assert find(disk_file(data)).how == f"partition {before + 22}"
    else:
        assert code(find, disk_file(data)) == "region-none"


def test_the_first_tail_copy_alone_says_nothing_about_where_the_region_ends(disk_file):
    # The disk is one unit longer than the region: its last two units begin with a tail copy.
    data = handmade.disk(END + 4096)
    assert code(find, disk_file(data)) == "region-none"
    data = handmade.disk(END + 512)  # half a unit is no unit
    assert find(disk_file(data)).how == "tail"


def test_of_several_partitions_the_first_with_a_valid_header_counts(disk_file):
    start = 64
    partition = (TYPE, start, start + handmade.SECTORS - 1)
    data = handmade.disk(SIZE, start)
    write_gpt(data, [(TYPE, 40, 55), (OTHER, 56, 63), partition])
    assert find(disk_file(data)).how == "partition 3"
    second = start + handmade.SECTORS
    data[second * 512 : second * 512 + 4096] = handmade.region(second)
    write_gpt(data, [(TYPE, second, second + handmade.SECTORS - 1), partition])
    assert find(disk_file(data)).how == "partition 1"


@pytest.mark.parametrize(
    ("count", "size"), [(4, 128), (512, 128), (2048, 512), (128, 1024), (8, 4096), (8192, 128)]
)
def test_tables_of_up_to_1_mib_are_read(disk_file, count, size):
    start = 2 * 8192 // 4 + 8  # behind the largest table
    data = handmade.disk(4 << 20, start)
    write_gpt(data, [(TYPE, start, start + handmade.SECTORS - 1)], count=count, size=size)
    assert find(disk_file(data)).how == "partition 1"
    write_gpt(data, [(OTHER, start + 8, start + 9)], count=count, size=size)
    assert code(find, disk_file(data), [start]) == "region-none"


@pytest.mark.parametrize(("count", "size"), [(8193, 128), (1 << 31, 128), (300, 4096)])
def test_on_a_disk_with_a_larger_table_nothing_is_used(disk_file, count, size):
    data = handmade.disk(SIZE, 64)
    write_gpt(data, [(OTHER, 40, 41)])
    for lba in (1, SIZE // 512 - 1):  # only the header says how large the table is
        header = data[lba * 512 : lba * 512 + 92]
        struct.pack_into("<II", header, 80, count, size)
        header[16:20] = bytes(4)
        struct.pack_into("<I", header, 16, zlib.crc32(header))
        data[lba * 512 : lba * 512 + 92] = header
    path = disk_file(data)
    assert code(find, path, [64]) == "table-unknown"
    with Disk(path) as disk:
        assert gpt.read(disk, gpt.read_mbr(disk)).problem


@pytest.mark.parametrize("size", [0, 64, 127, 136, 384, 8192])
def test_a_table_with_entries_of_another_size_is_no_gpt(disk_file, size):
    data = handmade.disk(END)
    sector = bytearray(512)
    struct.pack_into("<8sIIII", sector, 0, b"EFI PART", 0x10000, 92, 0, 0)
    struct.pack_into("<QQQQ", sector, 24, 1, 99, 34, 99)
    struct.pack_into("<QIII", sector, 72, 2, 1, size, zlib.crc32(bytes(size)))
    struct.pack_into("<I", sector, 16, zlib.crc32(sector[:92]))
    data[512:1024] = sector
    assert find(disk_file(data)).how == "tail"


@pytest.mark.parametrize(
    ("kind", "first", "count", "found"),
    [
        (0x83, 0, 64, True),  # from LBA 0 on, before the region
        (0x83, 0, 65, False),
        (0x83, 0, SIZE // 512, False),
        (0x83, 0, 0xFFFFFFFF, False),
        (0x83, 64 + handmade.SECTORS, 0xFFFFFFFF, True),
        (0x83, 63 + handmade.SECTORS, 0xFFFFFFFF, False),
        (0x05, 70, 1, False),
        (0x00, 70, 1, True),
        (0xEE, 1, 0xFFFFFFFF, True),
        (0x83, 70, 0, True),
    ],
)
def test_partitions_of_an_mbr_count_as_they_stand_there(disk_file, kind, first, count, found):
    data = handmade.disk(SIZE, 64)
    data[510:512] = b"\x55\xaa"
    data[446:462] = struct.pack("<B3sB3sII", 0, b"", kind, b"", first, count)
    if found:
        assert find(disk_file(data), [64]).how == "LBA 64"
    else:
        assert code(find, disk_file(data), [64]) == "region-none"


def test_an_mbr_of_a_disk_with_4096_byte_sectors_ends_at_byte_512(disk_file):
    (header,) = create([disk_file()], lba_size=4096)
    data = bytearray(disk_file.last.read_bytes())
    data[510:512] = b"\x55\xaa"
    data[446:462] = struct.pack("<B3sB3sII", 0, b"", 0x83, b"", header.start_lba, 1)
    assert code(find, disk_file(data), lba_size=4096) == "region-none"


@pytest.mark.parametrize("content", [b"\0", b"\xff", b"\x55\xaa", bytes(range(256))])
def test_garbage_disks_have_no_region_and_no_surprise(disk_file, content):
    path = disk_file((content * SIZE)[:SIZE])
    assert code(find, path, [0, 8, 1 << 40]) == "region-none"


# --- slots


def test_slots_are_read_and_the_newest_is_known(disk_file):
    one, two = handmade.BLOCKS, [b"\x55" * 4096] * 3
    data = handmade.disk(END, slots=[(0, 5, one, {}), (1, 4, two, {"version": b"0.9"})])
    with Disk(disk_file(data)) as disk:
        slots = region.read_slots(disk, region.find(disk).header)
        assert [slot.commit.generation for slot in slots] == [5, 4]
        assert [slot.manifest.version for slot in slots] == ["1.2", "0.9"]
        assert region.newest(slots).index == 0
        assert [check.bad for check in region.verify(disk, slots)] == [[], []]


@pytest.mark.parametrize(
    ("offset", "expected"),
    [(0, "commit-magic"), (8, "commit-crc"), (64, "commit-crc"), (4096 + 50, "manifest-crc")],
)
def test_a_slot_with_a_damaged_record_or_manifest_is_free(disk_file, offset, expected):
    data = handmade.disk(END, slots=[(0, 1, handmade.BLOCKS, {})])
    data[HEAD + 4096 + offset] ^= 0x80
    with Disk(disk_file(data)) as disk:
        slots = region.read_slots(disk, region.find(disk).header)
        assert [slot.why for slot in slots] == [expected, "commit-magic"]
        assert region.newest(slots) is None
        assert region.verify(disk, slots) == []


def test_a_record_of_another_manifest_does_not_commit_its_slot(disk_file):
    data = handmade.disk(END, slots=[(0, 1, handmade.BLOCKS, {})])
    other = handmade.commit(handmade.manifest(version=b"2"))
    data[HEAD + 4096 : HEAD + 8192] = other
    with Disk(disk_file(data)) as disk:
        slots = region.read_slots(disk, region.find(disk).header)
    assert slots[0].why == "commit-mismatch"


def test_a_candidate_is_a_free_slot_and_is_named(disk_file):
    data = handmade.disk(END, slots=[(0, 1, handmade.BLOCKS, {}), (1, 2, handmade.BLOCKS, {})])
    record = handmade.commit(handmade.manifest(), 1, 2, magic=b"LBCANDID")
    at = HEAD + 4096 + handmade.SLOT_SIZE
    data[at : at + 4096] = record
    with Disk(disk_file(data)) as disk:
        slots = region.read_slots(disk, region.find(disk).header)
    assert [slot.why for slot in slots] == ["", "commit-candidate"]
    assert slots[1].candidate.version == "1.2"
    assert region.newest(slots).index == 0
    data[at + 4096 + 40] ^= 1
    with Disk(disk_file(data)) as disk:
        slots = region.read_slots(disk, region.find(disk).header)
    assert (slots[1].why, slots[1].candidate) == ("manifest-crc", None)


@pytest.mark.parametrize("patch", [[(8, b"\2")], [(80, b"\1")]])
def test_a_slot_of_a_newer_format_is_told(disk_file, patch):
    data = handmade.disk(END, slots=[(0, 1, handmade.BLOCKS, {})])
    at = HEAD + 4096
    data[at : at + 4096] = handmade.commit(handmade.manifest(), patch=patch)
    with Disk(disk_file(data)) as disk:
        slots = region.read_slots(disk, region.find(disk).header)
    assert [(slot.why, slot.newer) for slot in slots] == [
        ("commit-version", True),
        ("commit-magic", False),
    ]


@pytest.mark.parametrize("where", ["commit", "manifest"])
def test_a_copy_that_may_only_be_read_is_told(disk_file, where):
    raw = handmade.manifest(patch=[(100, b"\1")] if where == "manifest" else ())
    data = handmade.disk(END, slots=[(0, 1, handmade.BLOCKS, {})])
    at = HEAD + 4096
    patch = [(84, b"\1")] if where == "commit" else ()
    data[at : at + 4096] = handmade.commit(raw, patch=patch)
    data[at + 4096 : at + 4096 + len(raw)] = raw
    with Disk(disk_file(data)) as disk:
        slots = region.read_slots(disk, region.find(disk).header)
    assert [slot.read_only for slot in slots] == [True, False]


def test_a_forged_generation_does_not_make_the_newest_copy(disk_file):
    one, two = handmade.BLOCKS, [b"\x55" * 4096] * 3
    data = handmade.disk(END, slots=[(0, 5, one, {}), (1, 0xFFFFFFEF, two, {})])
    with Disk(disk_file(data)) as disk:
        assert region.newest(region.read_slots(disk, region.find(disk).header)).index == 0


def test_slots_of_another_layout_are_read(disk_file):
    blocks, raw = handmade.BLOCKS, handmade.manifest()
    header = {"slots_offset": 8192, "area": 4096, "slot_size": 8192 + 3 * 4096}
    sectors = (8192 + 2 * header["slot_size"] + 8192) // 512
    end = HEAD + sectors * 512
    data = bytearray(end)
    for at in (HEAD, end - 8192, end - 4096):
        data[at : at + 4096] = handmade.region(sectors=sectors, **header)
    slot = HEAD + 8192 + header["slot_size"]
    data[slot : slot + 4096] = handmade.commit(raw, 1)
    data[slot + 4096 : slot + 4096 + len(raw)] = raw
    data[slot + 8192 : slot + 8192 + 3 * 4096] = b"".join(blocks)
    with Disk(disk_file(data)) as disk:
        slots = region.read_slots(disk, region.find(disk).header)
        checks = region.verify(disk, slots)
    assert [(check.slot.index, check.bad) for check in checks] == [(1, [])]
    assert checks[0].slot.block(2) == slot + 8192 + 8192


def test_damaged_blocks_of_a_copy_are_listed(disk_file):
    data = handmade.disk(END, slots=[(1, 1, handmade.BLOCKS, {})])
    slot = HEAD + 4096 + handmade.SLOT_SIZE
    data[slot + 69632 + 2 * 4096 + 4095] ^= 1
    with Disk(disk_file(data)) as disk:
        checks = region.verify(disk, region.read_slots(disk, region.find(disk).header))
        at = region.block_offset(slot, checks[0].manifest, 2)
    assert [(check.slot.index, check.bad) for check in checks] == [(1, [2])]
    assert at == slot + 69632 + 2 * 4096


# --- creating


def create(paths, where=region.TAIL, lba_size=512, **keywords):
    disks = [Disk(path, lba_size, write=True) for path in paths]
    headers = region.new_set(disks, where, **keywords)
    for disk, header in zip(disks, headers):
        region.create(disk, header)
        disk.__exit__()
    return headers


@pytest.mark.parametrize("lba_size", [512, 4096])
def test_a_new_set_is_found_again_on_each_member(disk_file, lba_size):
    paths = [disk_file(name=name) for name in ("a", "b", "c")]
    headers = create(paths, lba_size=lba_size, slots=3, need=200000)
    assert len({header.region_id for header in headers}) == 3
    assert {header.set_id for header in headers} == {headers[0].set_id}
    assert [header.member_index for header in headers] == [0, 1, 2]
    for path, header in zip(paths, headers):
        found = find(path, lba_size=lba_size)
        assert found.header == header
        assert found.headers_ok
        assert header.slot_size >= 200000
        assert header.end == SIZE


def test_the_written_bytes_are_the_documented_ones(disk_file):
    path = disk_file(b"\xa5" * SIZE)
    (header,) = create(
        [path], 8, slots=2, need=handmade.SLOT_SIZE, block_size=4096, product="prod"
    )
    data = path.read_bytes()
    slots_end = 65536 + 2 * 131072  # handmade.SLOT_SIZE, rounded up
    behind = slots_end + 32 * 4096
    # State; evidence: 512 KiB and a block; parity: 512 KiB.
    extents, size = [], behind
    for kind, units in ((1, 2), (2, 129), (3, 128)):
        extents.append((kind, 0, units, size))
        size += units * 4096
    expected = handmade.region(
        sectors=(size + 8192) // 512,
        count=1,
        slot_size=131072,
        region_id=header.region_id,
        journal=(slots_end, 32),
        product=b"prod",
        slots_offset=65536,
        extents=extents,
        patch=[(16, header.set_id)],
    )
    end = HEAD + size + 8192
    for at in (HEAD, end - 8192, end - 4096):
        assert data[at : at + 4096] == expected
    zeros = [HEAD + 65536, HEAD + 65536 + 131072]
    zeros += [HEAD + slots_end + index * 4096 for index in range(32)]
    zeros += [HEAD + at + index * 4096 for _, _, _, at in extents for index in (0, 1)]
    written = {at for at in range(0, SIZE, 4096) if data[at : at + 4096] != b"\xa5" * 4096}
    assert written == {*zeros, HEAD, end - 8192, end - 4096}
    assert all(not any(data[at : at + 4096]) for at in zeros)


def test_a_region_beyond_lba_2_to_the_32_on_a_sparse_disk(tmp_path):
    path = tmp_path / "huge.img"
    with open(path, "wb") as file:
        file.truncate(4 << 40)
    (header,) = create([path])
    assert header.start_lba > 1 << 32
    assert find(path).header == header
    assert path.stat().st_blocks * 512 < 1 << 20  # still sparse
    with Disk(path) as disk:
        assert disk.first_nonzero(0, header.start) is None
        assert disk.first_nonzero(0, disk.size) == header.start


def test_the_size_for_a_board_holds_its_largest_image():
    slot = region.slot_size_for(32 << 20, 256 << 10)
    assert slot == 69632 + 127 * 262144
    rounded = slot + 65536 - slot % 65536
    behind = (32 + 2 + 2) * 4096 + (1 << 20) + (256 << 10)
    assert region.size_for(slot, 2, 256 << 10) == 65536 + 2 * rounded + behind


@pytest.mark.parametrize(
    ("flash", "block", "area"),
    [(64 << 10, 4096, 65536), (6 << 20, 4096, 131072), (64 << 20, 4096, 655360)],
)
def test_the_manifest_of_a_large_flash_has_room_in_a_slot(disk_file, flash, block, area):
    # 36 bytes for each block, 64 segments, 8192 bytes of extensions and signature.
    assert 128 + 64 * 48 + 36 * (flash // block - 1) + 8192 + 4 <= area
    assert region.manifest_area_for(flash, block) == area
    assert region.slot_size_for(flash, block) == 4096 + area + flash - block


def test_a_larger_manifest_area_stands_in_the_header(disk_file):
    (header,) = create([disk_file()], need=4096 + 131072 + 65536, manifest_area=131072)
    assert (header.manifest_area, header.manifest_room) == (131072, 131072)
    assert find(disk_file.last).header == header
    (header,) = create([disk_file(name="b")], manifest_area=65536)
    assert header.manifest_area == 0


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"where": 9}, "region-place"),
        ({"where": SIZE // 512}, "region-place"),
        ({"where": region.GPT}, "region-place"),
        ({"where": region.TAIL, "size": 2 * SIZE}, "region-place"),
        ({"where": region.TAIL, "size": 150000}, "region-small"),
        ({"where": region.TAIL, "size": SIZE, "slots": 17}, "region-field"),
        ({"where": region.TAIL, "size": SIZE, "slots": 1}, "region-field"),
        ({"where": region.TAIL, "slots": 0}, "region-field"),
    ],
)
def test_places_and_sizes_that_cannot_be_are_refused(disk_file, keywords, expected):
    with Disk(disk_file()) as disk:
        assert code(region.new_set, [disk], **keywords) == expected


def test_a_new_member_joins_a_set_and_replaces_the_missing_one(disk_file):
    old, _ = create([disk_file(name="a"), disk_file(name="b")], need=100000)
    with Disk(disk_file(name="new"), write=True) as disk:
        header = region.joining(old, disk, region.TAIL, None)
        region.create(disk, header)
    assert (header.set_id, header.member_index, header.member_count) == (old.set_id, 1, 2)
    assert (header.slot_count, header.slot_size) == (old.slot_count, old.slot_size)
    assert header.region_id != old.region_id
    with Disk(disk_file(name="other")) as disk:
        for index in (0, 2, -1):
            assert code(region.joining, old, disk, region.TAIL, index) == "region-member"


@pytest.mark.parametrize("journal", [(0, 0), (handmade.AFTER_SLOTS, 32)])
def test_a_new_member_of_a_set_of_an_older_format_gets_its_layout(disk_file, journal):
    data = handmade.disk(END)
    for at in (HEAD, END - 8192, END - 4096):
        data[at : at + 4096] = handmade.region(minor=1, journal=journal)
    old = find(disk_file(data)).header
    with Disk(disk_file(name="new"), write=True) as disk:
        header = region.joining(old, disk, region.TAIL, None)
        region.create(disk, header)
    assert (header.slots_offset, header.extents, header.slot_size) == (0, (), handmade.SLOT_SIZE)
    assert (header.journal_offset, header.journal_units) == journal
    expected = handmade.region(
        SIZE // 512 - handmade.SECTORS,
        index=1,
        region_id=header.region_id,
        journal=journal,
    )
    assert disk_file.last.read_bytes()[-4096:] == expected


def test_a_new_member_gets_the_extents_and_a_header_of_its_own(disk_file):
    old, _ = create([disk_file(name="a"), disk_file(name="b")], block_size=4096, product="p")
    with Disk(disk_file(name="new"), write=True) as disk:
        header = region.joining(replace(old, header_serial=9), disk, region.TAIL, None)
        region.create(disk, header)
    assert (header.header_serial, header.product) == (0, "p")
    assert (header.extents, header.journal_units) == (old.extents, 32)
    assert (header.slots_offset, header.slot_size) == (65536, old.slot_size)


def test_a_region_that_may_only_be_read_is_neither_joined_nor_removed(disk_file):
    data = handmade.disk(END)
    for at in (HEAD, END - 8192, END - 4096):
        data[at : at + 4096] = handmade.region(patch=[(96, b"\1")])
    path = disk_file(data)
    header = find(path).header
    assert header.read_only
    with Disk(path, write=True) as disk:
        assert code(region.retire, disk, header) == "region-version"
        assert code(region.joining, header, disk, region.TAIL, None) == "region-version"
    assert path.read_bytes() == data


def test_creating_writes_nowhere_outside_the_region(disk_file):
    path = disk_file(b"\xa5" * SIZE)
    (header,) = create([path], 8)
    data = path.read_bytes()
    assert set(data[: header.start]) | set(data[header.end :]) == {0xA5}
    assert find(path, [8]).header == header


def test_the_journal_is_right_after_the_slots_and_emptied(disk_file):
    path = disk_file(b"\xa5" * SIZE)
    (header,) = create([path])
    assert header.journal_units == 32
    assert header.journal_offset == 65536 + 2 * header.slot_size
    start = header.start + header.journal_offset
    assert not any(path.read_bytes()[start : start + 32 * 4096])


def test_a_retired_region_is_not_found_and_its_slots_are_free(disk_file):
    data = handmade.disk(END, slots=[(0, 1, handmade.BLOCKS, {})])
    path = disk_file(data)
    with Disk(path, write=True) as disk:
        region.retire(disk, region.find(disk).header)
    assert code(find, path) == "region-none"
    zeroed = {at // 4096 for at in range(0, END, 4096) if not any(path.read_bytes()[at:][:4096])}
    slots = {(HEAD + 4096 + index * handmade.SLOT_SIZE) // 4096 for index in (0, 1)}
    assert zeroed >= slots | {HEAD // 4096, END // 4096 - 2, END // 4096 - 1}


@pytest.mark.parametrize(("first", "count", "found"), [(64, 512, True), (64, 4096, False)])
def test_a_partition_of_an_mbr_may_not_reach_into_the_region(disk_file, first, count, found):
    path = disk_file()
    create([path])
    data = bytearray(path.read_bytes())
    data[510:512] = b"\x55\xaa"
    data[446:462] = struct.pack("<B3sB3sII", 0, b"", 0x83, b"", first, count)
    path.write_bytes(data)
    if found:
        assert find(path).how == "tail"
    else:
        assert code(find, path) == "region-none"


def test_a_disk_takes_no_write_that_was_not_allowed(disk_file):
    with Disk(disk_file(), write=True) as disk:
        assert code(disk.write, 4096, bytes(512)) == "disk-write"
        disk.allow([(4096, 8192)])
        disk.write(4096, b"x" * 4096)
        disk.allow([(16384, 20480)])
        disk.write(4096, b"y" * 512)
        for offset, size in ((4095, 2), (4096, 4097), (8192, 1), (12288, 4097), (20479, 2)):
            assert code(disk.write, offset, bytes(size)) == "disk-write"


# --- disks


@pytest.mark.parametrize(
    ("size", "lba_size"), [(0, 512), (1000, 512), (512 * 9, 4096), (4096, 1024)]
)
def test_what_is_no_disk_is_refused(disk_file, size, lba_size):
    assert code(Disk, disk_file(bytes(size)), lba_size) == "disk-geometry"


def test_missing_disks_and_reads_past_the_end_are_errors_with_their_place(disk_file):
    with pytest.raises(LifeboatError, match="no-such-disk"):
        Disk("no-such-disk")
    with Disk(disk_file(bytes(8192))) as disk, pytest.raises(LifeboatError, match="0x2000"):
        disk.read(4096, 8192)
