"""What damage was is kept: in the ring of format.md, once, and never in the way of a repair."""

import struct
from binascii import crc32
from errno import EIO, ETIMEDOUT

import pytest

import lifeboat
from fakes import board as sim
from fakes.scenarios import codes
from lifeboat import running
from lifeboat.scrub import Scrubber
from sim.disk import RamDisk
from sim.power import Power, PowerCut

SIZE = sim.ERASE
CODE = bytes(sim.image())
BUILD = sim.build_id(CODE[8 * SIZE :][: struct.unpack_from("<I", CODE, 8 * SIZE + 12)[0]])
UNITS = 6
JOURNAL = 4
REGION = sim.region_size(sim.SLOT, 2, JOURNAL) + UNITS * 4096
RING = 4096 + 2 * sim.SLOT + JOURNAL * 4096  # offset in the region

# format.md section 3, "Evidence".
LAYOUT = "<8sBBHI16s32sIIIII12sIIIIIIIIII"
NAMES = (
    "magic major minor header_size serial region_id build_id sum block block_size time session "
    "reason ones zeros changed blank first last listed raw_units incompat ro_compat"
).split()


def give_ring(disk, units=UNITS, offset=RING, flags=0, kind=2):
    """Name an extent in all header copies of a disk."""
    at = disk.count * disk.size - REGION
    for place in (at, at + REGION - 8192, at + REGION - 4096):
        unit = bytearray(sim.get(disk, place, 4096))
        unit[268:284] = struct.pack("<HHIQ", kind, flags, units, offset)
        unit[508:512] = struct.pack("<I", crc32(unit[:508]))
        sim.put(disk, place, unit)


def board_of(members=2, **kwargs):
    it = sim.SimBoard(bytearray(CODE), members=0, **kwargs)
    it.drives = [RamDisk("disk%d" % i, REGION // 512 + 40, it.power) for i in range(members)]
    for i, disk in enumerate(it.drives):
        sim.make_region(disk, member=i, members=members, size=REGION, journal=JOURNAL)
        give_ring(disk)
    it.remember(it.drives)
    return it


@pytest.fixture
def board():
    it = board_of()
    assert lifeboat.power_on(it).verdict == "RUN"
    it.supply(Power())
    return it


def unit_at(disk, index):
    return sim.get(disk, disk.count * disk.size - REGION + RING + index * 4096, 4096)


def put_unit(disk, index, unit):
    sim.put(disk, disk.count * disk.size - REGION + RING + index * 4096, bytes(unit))


def entry(disk, index):
    """The fields of an entry and its differences; None when there is none."""
    unit = unit_at(disk, index)
    if unit[:8] != b"LBEVIDEN":
        return None
    assert struct.unpack_from("<I", unit, 4092)[0] == crc32(unit[:4092])
    found = dict(zip(NAMES, struct.unpack_from(LAYOUT, unit)))
    assert (found["major"], found["minor"], found["header_size"]) == (1, 2, 224)
    assert (found["incompat"], found["ro_compat"]) == (0, 0)
    end = 224 + 8 * found["listed"]
    assert not any(unit[136:224]) and not any(unit[end:4092])
    found["differences"] = list(struct.iter_unpack("<IBBH", unit[224:end]))
    return found


def entries(disk):
    return [found for found in (entry(disk, i) for i in range(UNITS)) if found]


def test_a_bit_that_lost_its_charge(board):
    at = next(
        i for i in range(100, SIZE) if CODE[2 * SIZE + i] == 0x10 | CODE[2 * SIZE + i] & 0x6F
    )
    board.nor.data[2 * SIZE + at] |= 0x80
    damaged = bytes(board.nor.data[2 * SIZE : 3 * SIZE])
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and bytes(board.nor.data) == CODE
    was = damaged[at]
    for disk in board.drives:
        (found,) = entries(disk)
        assert found["differences"] == [(at, was, was & 0x7F, 0)]
        assert [found[n] for n in ("ones", "zeros", "changed", "blank")] == [1, 0, 1, was == 255]
        assert (found["first"], found["last"], found["raw_units"]) == (at, at, 0)
        assert (found["block"], found["block_size"], found["serial"]) == (2, SIZE, 1)
        assert found["sum"] == crc32(damaged) and found["build_id"] == BUILD
        assert found["reason"] == b"power-on\0\0\0\0"
        assert found["session"] == report.data["session"] > 0
        assert found["region_id"] == bytes([1 + int(disk.name[-1])]) * 16


def test_the_same_damage_is_kept_once_and_other_damage_beside_it(board):
    for damage in (1, 1, 2, 1):
        board.nor.data[2 * SIZE] ^= damage
        assert lifeboat.power_on(board).verdict == "RUN"
    assert [found["serial"] for found in entries(board.drives[0])] == [1, 2]
    board.nor.data[3 * SIZE] ^= 1
    assert lifeboat.power_on(board).verdict == "RUN"
    assert [found["block"] for found in entries(board.drives[0])] == [2, 2, 3]


def test_what_does_not_fit_is_kept_whole(board):
    """A torn erase: the first half is blank."""
    board.nor.data[SIZE : SIZE + SIZE // 2] = b"\xff" * (SIZE // 2)
    damaged = bytes(board.nor.data[SIZE : 2 * SIZE])
    assert lifeboat.power_on(board).verdict == "RUN"
    for disk in board.drives:
        (found,) = entries(disk)
        assert found["raw_units"] == 1 and unit_at(disk, 1) == damaged
        pairs = list(zip(damaged, CODE[SIZE : 2 * SIZE]))
        wrong = [i for i, (a, b) in enumerate(pairs) if a != b]
        assert found["changed"] == found["blank"] == len(wrong) and found["listed"] == 16
        assert (found["first"], found["last"]) == (wrong[0], wrong[-1])
        assert found["zeros"] == 0
        assert found["ones"] == sum((a & ~b).bit_count() for a, b in pairs)
        assert [d[0] for d in found["differences"]] == wrong[:16]


@pytest.mark.parametrize("mapped", [True, False])
def test_heavy_damage_is_counted_up_to_4096_bytes_and_its_end_is_known(mapped):
    """Blocks of 64 KB: the first 8 KB are blank, and one byte further on."""
    size = 65536
    code = bytes(sim.image(blocks=2, block=size, total=4))
    it = sim.SimBoard(bytearray(code), members=0, block=size, erase=size, mapped=mapped)
    region = sim.region_size(sim.slot_size(4, size)) + 40 * 4096
    it.drives = [RamDisk("disk0", region // 512 + 40, it.power)]
    (disk,) = it.drives
    slot = sim.slot_size(4, size)
    start = sim.make_region(disk, slot=slot, size=region) * 512
    ring = 4096 + 2 * slot
    for place in (start, start + region - 8192, start + region - 4096):
        unit = bytearray(sim.get(disk, place, 4096))
        unit[268:284] = struct.pack("<HHIQ", 2, 0, 40, ring)
        unit[508:512] = struct.pack("<I", crc32(unit[:508]))
        sim.put(disk, place, unit)
    it.remember(it.drives)
    assert lifeboat.power_on(it).verdict == "RUN"
    it.nor.data[:8192] = b"\xff" * 8192
    it.nor.data[40000] ^= 1
    damaged = bytes(it.nor.data[:size])
    assert lifeboat.power_on(it).verdict == "RUN" and bytes(it.nor.data) == code
    unit = sim.get(disk, start + ring, 4096)
    found = dict(zip(NAMES, struct.unpack_from(LAYOUT, unit)))
    counted = [i for i in range(8192) if code[i] != 0xFF]
    assert 4096 <= found["changed"] == found["blank"] == len(counted)
    assert (found["first"], found["last"]) == (counted[0], 40000)
    assert (found["listed"], found["raw_units"], found["sum"]) == (16, 16, crc32(damaged))
    assert sim.get(disk, start + ring + 4096, size) == damaged


def test_one_block_is_kept_whole_a_power_on_and_its_ring_turns(board):
    board.nor.data[: 3 * SIZE] = sim.noise(9, 3 * SIZE)
    assert lifeboat.power_on(board).verdict == "RUN"
    disk = board.drives[0]
    assert [found["raw_units"] for found in entries(disk)] == [1, 0, 0]
    assert entry(disk, 0)["block"] == 0 and entry(disk, 2)["block"] == 1
    # 4 of 6 units are taken; one with raw data goes to 4 and 5, the next to the start.
    board.nor.data[:SIZE] = sim.noise(10, SIZE)
    assert lifeboat.power_on(board).verdict == "RUN"
    assert entry(disk, 4)["serial"] == 4 and unit_at(disk, 5) == sim.noise(10, SIZE)
    board.nor.data[:SIZE] = sim.noise(11, SIZE)
    assert lifeboat.power_on(board).verdict == "RUN"
    assert entry(disk, 0)["serial"] == 5 and unit_at(disk, 1) == sim.noise(11, SIZE)


def test_the_manifest_is_kept_too(board):
    board.nor.data[8 * SIZE + 40] ^= 0xFF
    assert lifeboat.power_on(board).verdict == "RUN"
    (found,) = entries(board.drives[0])
    right = CODE[8 * SIZE + 40]
    assert found["block"] == 8 and found["differences"] == [(40, right ^ 0xFF, right, 0)]


def test_damage_that_could_not_be_repaired_is_not_noted(board, no_parity):
    for disk in board.drives:
        sim.put(disk, disk.count * 512 - REGION + 4096 + 69632, bytes(512))
    board.nor.data[0] ^= 1
    assert lifeboat.power_on(board).verdict == "RESCUE"
    assert entries(board.drives[0]) == []


def test_a_repair_that_fails_is_noted(board):
    """The block is erased, and can't be programmed."""
    board.nor.data[0] ^= 1

    def writeblocks(*args):
        raise OSError(EIO)

    board.nor.writeblocks = writeblocks
    assert lifeboat.power_on(board).verdict == "RESCUE"
    (found,) = entries(board.drives[0])
    assert found["block"] == 0 and found["changed"] == 1


def test_another_build_that_comes_back_is_no_damage(board, no_parity):
    """Its blocks differ from those that were in flash unharmed."""
    new = bytes(sim.image(seed=2, version="2.0"))
    board.nor.data[:] = new
    assert lifeboat.power_on(board).verdict == "RUN"
    for disk in board.drives:
        at = disk.count * 512 - REGION + 4096 + sim.SLOT + 69632
        sim.put(disk, at, bytes(512))
    board.nor.data[0] ^= 1
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and bytes(board.nor.data) == CODE
    assert "older-build" in codes(report) and entries(board.drives[0]) == []


def test_members_that_are_not_remembered_get_none(board):
    board.chip.data[:] = b"\xff" * len(board.chip.data)
    board.nor.data[0] ^= 1
    assert lifeboat.power_on(board).verdict == "RUN"
    assert entries(board.drives[0]) == []


# --- hostile rings -------------------------------------------------------------------------


WRONG = {
    "in the slots": {"offset": 4096 + sim.SLOT},
    "in the journal": {"offset": RING - 4096},
    "over the tail": {"units": UNITS + 1},
    "over the end of numbers": {"offset": (1 << 64) - 4096},
    "no multiple": {"offset": RING + 512, "units": 2},
    "empty": {"units": 0},
    "another kind": {"kind": 9},
}


@pytest.mark.parametrize("how", WRONG)
def test_a_ring_in_a_wrong_place_is_not_there(board, how):
    for disk in board.drives:
        give_ring(disk, **WRONG[how])
    before = [dict(disk.sectors) for disk in board.drives]
    board.nor.data[0] ^= 1
    assert lifeboat.power_on(board).verdict == "RUN"
    for disk, sectors in zip(board.drives, before):
        first = (disk.count * 512 - REGION + RING) // 512
        journal = range(first - 8 * JOURNAL, first)
        changed = {lba for lba in disk.sectors if disk.sectors[lba] != sectors.get(lba)}
        assert changed <= set(journal), how


def test_an_extent_that_overlaps_another_is_not_there(board):
    for disk in board.drives:
        for place in (0, REGION - 8192, REGION - 4096):
            at = disk.count * 512 - REGION + place
            unit = bytearray(sim.get(disk, at, 4096))
            unit[284:300] = struct.pack("<HHIQ", 3, 0, 1, RING + 4096)
            unit[508:512] = struct.pack("<I", crc32(unit[:508]))
            sim.put(disk, at, unit)
    board.nor.data[0] ^= 1
    assert lifeboat.power_on(board).verdict == "RUN"
    assert entries(board.drives[0]) == []


def one(board):
    """A board with one entry; returns its disk."""
    board.nor.data[2 * SIZE] ^= 1
    assert lifeboat.power_on(board).verdict == "RUN"
    return board.drives[0]


def forged(unit, at, form, value):
    unit = bytearray(unit)
    struct.pack_into(form, unit, at, value)
    unit[4092:] = struct.pack("<I", crc32(unit[:4092]))
    return bytes(unit)


@pytest.mark.parametrize(
    "at, form, value",
    [
        (0, "<B", 0), (8, "<B", 2), (10, "<H", 192), (12, "<I", 0), (12, "<I", 0xFF000000),
        (16, "<B", 77), (124, "<I", 2), (128, "<I", 1), (4088, "<I", 7),
    ],
)  # fmt: skip
def test_an_entry_that_breaks_a_rule_does_not_count(board, at, form, value):
    disk = one(board)
    unit = forged(unit_at(disk, 0), at, form, value)
    if at == 4088:
        unit = unit[:4092] + bytes(4)
    put_unit(disk, 0, unit)
    one(board)  # the same damage: kept again, in its place
    assert entry(disk, 0)["serial"] == 1 and unit_at(disk, 0) != unit


def test_the_last_serial_ends_a_ring(board):
    disk = one(board)
    put_unit(disk, 0, forged(unit_at(disk, 0), 12, "<I", 0xFEFFFFFF))
    board.nor.data[3 * SIZE] ^= 1
    assert lifeboat.power_on(board).verdict == "RUN"
    assert len(entries(disk)) == 1 and len(entries(board.drives[1])) == 2


def test_what_looks_like_an_entry_in_raw_data_is_none(board):
    """The damaged block holds the bytes of an entry, with a serial of its own."""
    disk = one(board)
    planted = forged(unit_at(disk, 0), 12, "<I", 0x1000)
    board.nor.data[SIZE : 2 * SIZE] = forged(planted, 68, "<I", 5)
    assert lifeboat.power_on(board).verdict == "RUN"
    assert unit_at(disk, 2)[:8] == b"LBEVIDEN"  # raw data
    board.nor.data[3 * SIZE] ^= 1
    assert lifeboat.power_on(board).verdict == "RUN"
    # A higher serial than that of the entry before it: it is taken for one. Nothing is lost by it.
    assert entry(disk, 3)["serial"] in (3, 0x1001)


# --- nothing waits for it ------------------------------------------------------------------


@pytest.mark.parametrize("error", [EIO, ETIMEDOUT])
def test_a_ring_that_can_not_be_read_is_told_and_the_code_runs(board, error):
    first = board.drives[0].count - REGION // 512 + RING // 512

    def fault(op, lba, count):
        return error if lba in range(first, first + 8 * UNITS) else None

    board.drives[0].fault = fault
    board.nor.data[0] ^= 1
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and bytes(board.nor.data) == CODE
    told = [reason for reason in report.data["reasons"] if reason[1] == "disk0"]
    assert [code for code, _, _ in told] == ["disk-timeout" if error != EIO else "disk-failed"]
    assert len(entries(board.drives[1])) == 1


def test_the_disk_is_written_after_the_flash(board):
    order = []
    erase, disk = board.nor.ioctl, board.drives[0]
    first = disk.count - REGION // 512 + RING // 512

    def ioctl(op, arg):
        if op == 6:
            order.append("erase")
        return erase(op, arg)

    def fault(op, lba, count):
        if op != "init" and lba >= first and lba < first + 8 * UNITS:
            order.append(op)

    board.nor.ioctl, disk.fault = ioctl, fault
    board.nor.data[: 2 * SIZE] = bytes(2 * SIZE)
    assert lifeboat.power_on(board).verdict == "RUN"
    assert order.count("erase") == 2 and "write" in order
    assert "erase" not in order[order.index("read") :]


def test_a_board_may_want_the_evidence_first(board):
    """REPAIR = "report": every block is on the disk before it is erased."""
    board.REPAIR = "report"
    order = []
    erase = board.nor.ioctl

    def ioctl(op, arg):
        if op == 6:
            order.append((arg, [found["block"] for found in entries(board.drives[0])]))
        return erase(op, arg)

    board.nor.ioctl = ioctl
    for block in (1, 4, 5):
        board.nor.data[block * SIZE] ^= 1
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and bytes(board.nor.data) == CODE
    assert order == [(1, [1]), (4, [1, 4]), (5, [1, 4, 5])]
    sessions = {found["session"] for found in entries(board.drives[0])}
    assert sessions == {report.data["session"]}


@pytest.mark.parametrize("error", [EIO, ETIMEDOUT])
def test_a_disk_that_fails_does_not_keep_the_block_from_its_repair(board, error):
    board.REPAIR = "report"
    first = board.drives[0].count - REGION // 512 + RING // 512

    def fault(op, lba, count):
        return error if op == "write" and lba in range(first, first + 8 * UNITS) else None

    board.drives[0].fault = fault
    board.nor.data[0] ^= 1
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and bytes(board.nor.data) == CODE
    assert len(entries(board.drives[1])) == 1


def test_a_heap_without_room_costs_the_evidence_only(board, monkeypatch):
    def full(*args):
        raise MemoryError

    monkeypatch.setattr("lifeboat.evidence.Keeper._look", full)
    board.nor.data[0] ^= 1
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and report.data["reasons"] == []
    assert entries(board.drives[0]) == []


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("keep", ["none", "all", "random"])
def test_every_cut_is_survived(torn, keep):
    def damaged(power):
        it = board_of(1, power=power)
        it.nor.data[SIZE : 2 * SIZE] = bytes(SIZE)
        for disk, sectors in zip(it.drives, media):
            disk.sectors = dict(sectors)
        it.chip.data[:] = memory
        return it

    before = board_of(1)
    assert lifeboat.power_on(before).verdict == "RUN"
    media, memory = [dict(disk.sectors) for disk in before.drives], bytes(before.chip.data)
    whole = damaged(Power())
    assert lifeboat.power_on(whole).verdict == "RUN" and len(entries(whole.drives[0])) == 1
    for cut in range(1, whole.power.count + 1):
        it = damaged(Power(cut, torn))
        with pytest.raises(PowerCut):
            lifeboat.power_on(it)
        it.drives[0].settle(keep, cut)
        it.supply(Power())
        assert lifeboat.power_on(it).verdict == "RUN" and bytes(it.nor.data) == CODE
        unit = unit_at(it.drives[0], 0)  # a whole one, or none
        if unit[:8] == b"LBEVIDEN" and struct.pack("<I", crc32(unit[:4092])) == unit[4092:]:
            # Of what the next power-on found, where the cut has torn the block.
            assert entry(it.drives[0], 0)["raw_units"] == 1
            assert entry(it.drives[0], 0)["sum"] == crc32(unit_at(it.drives[0], 1))


def test_a_disk_that_forgets_it_is_told(board):
    """It is read back; the other member's stands, and the repair is not kept waiting."""
    board.nor.data[0] ^= 1
    forgetful = board.drives[0]
    first = (forgetful.count * forgetful.size - REGION + RING) // forgetful.size
    forgetful.lose = range(first, first + 8)
    report = lifeboat.power_on(board)
    assert report.runs and bytes(board.nor.data) == CODE
    assert ["disk-lies", "disk0", "evidence"] in report.data["reasons"]
    assert entries(forgetful) == [] and len(entries(board.drives[1])) == 1


# --- the scrubber --------------------------------------------------------------------------


def test_the_scrubber_keeps_what_it_repairs(board):
    report = lifeboat.power_on(board)
    running.attended = False
    scrubber = Scrubber(board, start=0)
    board.nor.data[4 * SIZE + 9] ^= 0x40
    for _ in range(100000):
        if scrubber.passes:
            break
        scrubber.step(5)
    assert bytes(board.nor.data) == CODE
    for disk in board.drives:
        (found,) = entries(disk)
        assert (found["block"], found["reason"]) == (4, b"scrub\0\0\0\0\0\0\0")
        assert found["session"] == report.data["session"] > 0
