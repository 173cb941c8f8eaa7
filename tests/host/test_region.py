"""region.py, disks.py and gpt.py on disk image files."""

import struct
import uuid
import zlib

import handmade
import pytest

from lifeboat_host import gpt, region
from lifeboat_host.disks import Disk
from lifeboat_host.errors import LifeboatError

TYPE = uuid.UUID("183690C2-8509-4DAE-A160-C2B9CF3B0828")
OTHER = uuid.UUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4")
SIZE = 2 << 20
HEAD = 4096  # where handmade.disk() has its region
END = HEAD + handmade.SECTORS * 512


def write_gpt(data, partitions, lba=512, break_primary=False):
    """Both tables of the GPT, by UEFI 2.10 section 5.3; partitions: (type, first, last)."""
    sectors = len(data) // lba
    entries = bytearray(128 * 128)
    for index, (kind, first, last) in enumerate(partitions):
        struct.pack_into("<16s16sQQ", entries, index * 128, kind.bytes_le, b"u" * 16, first, last)
    table_sectors = len(entries) // lba
    for own, other, at in ((1, sectors - 1, 2), (sectors - 1, 1, sectors - 1 - table_sectors)):
        header = bytearray(92)
        first_usable = 2 + table_sectors
        struct.pack_into("<8sIIII", header, 0, b"EFI PART", 0x10000, 92, 0, 0)
        last_usable = sectors - 2 - table_sectors
        struct.pack_into("<QQQQ", header, 24, own, other, first_usable, last_usable)
        struct.pack_into("<QIII", header, 72, at, 128, 128, zlib.crc32(entries))
        struct.pack_into("<I", header, 16, zlib.crc32(header))
        data[own * lba : own * lba + 92] = header
        data[at * lba : at * lba + len(entries)] = entries
    if break_primary:
        data[lba + 60] ^= 1


@pytest.fixture
def disk_file(tmp_path):
    def make(content=bytes(SIZE), name="disk.img"):
        path = tmp_path / name
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
    data[END - 8192 : END - 4096] = handmade.region(patch=[(8, b"\x02")])
    data[END - 4096 + 100] ^= 1
    with pytest.raises(LifeboatError, match=r"format version 2\.1.*CRC-32"):
        find(disk_file(data))


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
    path = disk_file()
    (header,) = create([path], 8, slots=2, need=handmade.SLOT_SIZE)
    data = path.read_bytes()
    journal = 4096 + 2 * handmade.SLOT_SIZE, 32
    expected = handmade.region(count=1, region_id=header.region_id, journal=journal)
    expected = bytearray(expected[:508])
    expected[16:32] = header.set_id
    expected = handmade.sealed(bytes(expected)).ljust(4096, b"\0")
    for at in (HEAD, END - 8192, END - 4096):
        assert data[at : at + 4096] == expected
    written = {at // 4096 for at in range(0, SIZE, 4096) if any(data[at : at + 4096])}
    assert written == {HEAD // 4096, END // 4096 - 2, END // 4096 - 1}


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
    assert region.size_for(slot, 2) == 4096 + 2 * slot + 131072 + 8192


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
    assert header.journal_offset == 4096 + 2 * header.slot_size
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


@pytest.mark.parametrize(("first", "count", "found"), [(2048, 512, True), (2048, 2048, False)])
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
