"""Writing a GPT: what is not ours in it stays as it is, byte for byte."""

import random
import struct
import zlib

import layouts_raw as raw
import pytest
from layouts import blank, put

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.disk import gpt
from lifeboat_host.disk.disk import Disk

SIZE = 8 << 20
OWN = "11111111-2222-3333-4444-555555555555"
TYPE = str(raw.LIFEBOAT).upper()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "disk.img"
    blank(path, SIZE)
    return path


def change(path, lba_size=512, number=None):
    """Add our partition, or remove one; gives the ranges of bytes that were written."""
    with Disk(path, lba_size, write=True) as disk:
        table = gpt.read(disk, gpt.read_mbr(disk))
        assert table.problem == ""
        if number:
            steps = gpt.remove_partition(table, number)
        else:
            last = table.copy.last_usable
            steps = gpt.add_partition(table, TYPE, OWN, last - 7, last, "lifeboat")
        disk.allow([(at, at + len(data)) for step in steps for at, data in step])
        gpt.write(disk, steps)
        again = gpt.read(disk, gpt.read_mbr(disk))
    assert again.problem == ""
    return again


@pytest.mark.parametrize(
    ("lba_size", "layout"),
    [
        (512, {}),
        (4096, {}),
        (512, {"note": b"a later version's fields", "header_size": 128}),
        (512, {"note": b"what the vendor keeps here"}),
        (512, {"count": 4}),
        (512, {"count": 131, "entry_size": 256}),
        (512, {"entry_size": 512}),
        (4096, {"count": 20, "entry_size": 256}),
    ],
)
def test_only_our_entry_and_the_checksums_change(path, lba_size, layout):
    put(path, raw.gpt(SIZE, [(raw.LINUX, 256, 511)], lba=lba_size, **layout))
    before = path.read_bytes()
    entry_size = layout.get("entry_size", 128)
    length = layout.get("count", 128) * entry_size
    change(path, lba_size)
    after = path.read_bytes()
    changed = {at for at in range(SIZE) if before[at] != after[at]}
    sectors = SIZE // lba_size
    allowed = set()
    for own, entries in ((1, 2), (sectors - 1, sectors - 1 - -(-length // lba_size))):
        header = own * lba_size
        allowed |= {*range(header + 16, header + 20), *range(header + 88, header + 92)}
        at = entries * lba_size
        allowed |= set(range(at + entry_size, at + 2 * entry_size))
        table = after[at : at + length]
        assert struct.unpack_from("<I", after, header + 88)[0] == zlib.crc32(table)
        size = layout.get("header_size", 92)
        sealed = bytearray(after[header : header + size])
        sealed[16:20] = bytes(4)
        assert struct.unpack_from("<I", after, header + 16)[0] == zlib.crc32(sealed)
        assert table[entry_size : entry_size + 16] == raw.LIFEBOAT.bytes_le
    assert changed and changed <= allowed


def test_adding_and_removing_is_no_change_at_all(path):
    put(path, raw.gpt(SIZE, [(raw.LINUX, 256, 511), (raw.LINUX, 600, 611)], note=b"kept"))
    before = path.read_bytes()
    table = change(path)
    number = next(part.number for part in table.copy.partitions if part.type == TYPE)
    assert number == 3
    change(path, number=number)
    assert path.read_bytes() == before


def test_the_first_entry_that_is_free_is_taken(path):
    parts = [(raw.LINUX, 256, 511), (raw.uuid.UUID(int=0), 0, 0), (raw.LINUX, 600, 611)]
    put(path, raw.gpt(SIZE, parts))
    partitions = change(path).copy.partitions
    assert [part.number for part in partitions] == [1, 2, 3]
    assert (partitions[1].unique, partitions[1].name) == (OWN, "lifeboat")


def test_a_protective_mbr_of_a_huge_disk_says_the_most_it_can(tmp_path):
    path = tmp_path / "huge.img"
    blank(path, 4 << 40)
    with Disk(path, write=True) as disk:
        steps = gpt.new_table(disk, TYPE, OWN, 2048, 4095, "lifeboat")
    (offset, mbr) = steps[-1][0]
    assert (offset, mbr[450], mbr[454:462]) == (0, 0xEE, b"\1\0\0\0\xff\xff\xff\xff")


def test_a_disk_that_forgets_what_was_written_is_found_out(path):
    class Forgetful(Disk):
        def write(self, offset, data):
            pass

    put(path, raw.gpt(SIZE, []))
    with Forgetful(path, write=True) as disk:
        table = gpt.read(disk, gpt.read_mbr(disk))
        with pytest.raises(LifeboatError) as caught:
            gpt.write(disk, gpt.add_partition(table, TYPE, OWN, 100, 107, "lifeboat"))
    assert caught.value.code == "gpt-readback"


def header_field(offset, form, value):
    """A GPT whose two headers have this value, with checksums that are right."""

    def spoil(parts):
        out = []
        for at, data in parts:
            if data.startswith(b"EFI PART"):
                data = bytearray(data)
                struct.pack_into(form, data, offset, value)
                data[16:20] = bytes(4)
                struct.pack_into("<I", data, 16, zlib.crc32(data[:92]))
            out.append((at, bytes(data)))
        return out

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        header_field(40, "<Q", 3),  # first usable LBA: inside the table
        header_field(40, "<Q", 0),
        header_field(48, "<Q", SIZE // 512 - 2),  # last usable LBA: inside the backup's entries
        header_field(48, "<Q", 1 << 60),
        header_field(72, "<Q", 0),  # the entries' LBA
        header_field(72, "<Q", 1 << 63),
        header_field(80, "<I", 0xFFFFFFFF),  # number and size of entries
        header_field(84, "<I", 0xFFFFFFFF),
        header_field(84, "<I", 0),
        header_field(12, "<I", 1 << 20),  # header size
        header_field(32, "<Q", 7),  # where the other copy is
    ],
)
def test_a_table_with_senseless_fields_is_never_changed(path, spoil):
    put(path, spoil(raw.gpt(SIZE, [(raw.LINUX, 256, 511)])))
    with Disk(path) as disk:
        assert gpt.read(disk, gpt.read_mbr(disk)).problem


@pytest.mark.parametrize("seed", range(30))
def test_random_damage_gives_an_answer(path, seed):
    """Whatever stands there: a table, a table with a problem, or none; never an exception."""
    rng = random.Random(seed)
    put(path, raw.gpt(SIZE, [(raw.LINUX, 256, 511)]))
    for _ in range(rng.randrange(1, 5)):
        at = rng.choice((rng.randrange(2048), SIZE - 1 - rng.randrange(2048), 446 + seed))
        put(path, [(at, rng.randbytes(rng.randrange(1, 64))[: SIZE - at])])
    with Disk(path) as disk:
        gpt.read_table(disk)
        gpt.read(disk, gpt.read_mbr(disk))
