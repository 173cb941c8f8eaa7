"""S3: which slot is given up (I2), what is written in which order, from intact code only (I7)."""

import hashlib
import struct
import types
import zlib
from errno import EIO, ENODEV, ETIMEDOUT

import pytest

import lifeboat
from fakes import board as sim
from fakes import scenarios
from lifeboat import running
from lifeboat.blockdev import Scratch
from lifeboat.checking import check, choose_own
from lifeboat.codeflash import CodeFlash
from lifeboat.creating import (
    CREATE,
    HEADER,
    MEND,
    backup_plan,
    create,
    generation_for,
    mend_from_flash,
    victims,
    write_blocks,
)  # fmt: skip
from lifeboat.errors import LifeboatError
from lifeboat.members import survey
from lifeboat.patrol_copies import as_source, is_right, of_copy, of_flash
from lifeboat.report import Report
from lifeboat.trust import Trust

A, B, C, D = (sim.image(seed=s, version="%d.0" % s) for s in (1, 2, 3, 4))


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    monkeypatch.setattr(running, "places", ())


class Setup:
    """Members as power-ons with these images left them; flash holds the last image."""

    def __init__(self, *images, **kwargs):
        self.board = sim.SimBoard(bytearray(images[0]), **kwargs)
        for image in images[:-1]:
            self.hold(image)
            assert lifeboat.power_on(self.board).verdict == "RUN"
        self.hold(images[-1])
        self.look()

    def hold(self, image):
        self.board.nor.data[:] = image

    def look(self):
        """Read the members anew, as a power-on does that has found the code intact."""
        board = self.board
        self.flash = CodeFlash(board.flash(), board.BLOCK_SIZE)
        self.trust = Trust(board, self.flash).recall()
        memory = self.trust.memory
        self.manifest = self.flash.manifest(self.trust)[0]
        running.places = memory.places
        self.report = Report()
        self.members = survey(board.drives, (), self.report)
        choose_own(self.members, self.trust, self.report)
        if memory.set_id:
            memory.remember_build(self.manifest.build, 0, self.manifest.version.encode())
        check(self.members, self.manifest, self.trust)
        self.scratch = Scratch(board.BLOCK_SIZE)
        self.buf = self.scratch.get()
        return self.members

    def generation(self):
        return generation_for(self.members, self.manifest, self.trust)

    def create(self, member=0):
        args = self.members[member], self.generation(), self.trust, self.scratch
        for _ in create(self.flash, self.manifest, *args):
            pass

    def fails(self, member=0):
        with pytest.raises(LifeboatError) as caught:
            self.create(member)
        return caught.value.code

    def mend(self, block, slot=0):
        copy = self.members[0].copies[slot]
        mend_from_flash(self.flash, self.manifest, copy, block, self.buf)


def record(disk, slot, slots=2):
    """Return (generation, build id) of a valid commit record, or None."""
    raw = sim.get(disk, scenarios.slot_of(disk, slot, slots), 512)
    if raw[:8] != b"LBCOMMIT" or zlib.crc32(raw[:508]) != struct.unpack("<I", raw[508:])[0]:
        return None
    return struct.unpack_from("<I", raw, 64)[0], raw[32:64]


def build(image):
    size = struct.unpack_from("<I", image, scenarios.MANIFEST_AT + 12)[0]
    raw = image[scenarios.MANIFEST_AT : scenarios.MANIFEST_AT + size]
    return hashlib.sha256(raw[:-4]).digest()


def spoil_block(disk, slot, block=2):
    sim.put(disk, scenarios.slot_of(disk, slot) + 69632 + block * sim.ERASE, b"x" * 512)


def test_a_slot_holds_the_whole_copy_as_specified():
    setup = Setup(A, members=1)
    disk = setup.board.drives[0]
    setup.create()
    at = scenarios.slot_of(disk, 0)
    raw = bytes(A[scenarios.MANIFEST_AT : scenarios.MANIFEST_AT + len(setup.manifest.raw)])
    assert sim.get(disk, at + 4096, 65536) == raw + bytes(65536 - len(raw))
    assert sim.get(disk, at + 69632, 6 * sim.ERASE) == A[: 6 * sim.ERASE]
    assert record(disk, 0) == (1, build(A)) and record(disk, 1) is None
    assert disk.cache == []


def test_writes_and_flushes_come_in_the_specified_order():
    setup = Setup(A, members=1)
    setup.board.power.log.clear()
    setup.create()
    at = scenarios.slot_of(setup.board.drives[0], 0) // 512
    log = [("flush" if op == "flush" else lba - at) for _, op, lba in setup.board.power.log]
    first, second = log.index("flush"), log.index("flush", 2)
    assert log[:first] == [0]
    assert all(lba >= 8 for lba in log[first + 1 : second])
    assert log[second:] == ["flush", 0, "flush"]


# The victim


@pytest.mark.parametrize("slots", [2, 3, 16])
def test_free_slots_are_filled_before_any_is_given_up(slots):
    images = [sim.image(seed=s, version=str(s)) for s in range(1, slots + 1)]
    setup = Setup(*images, images[0], members=1, slots=slots)
    records = [copy.commit for copy in setup.members[0].copies]
    assert [r.generation for r in records] == list(range(1, slots + 1))
    assert [r.build for r in records] == [build(image) for image in images]


def test_the_oldest_is_given_up_when_the_newest_is_whole():
    setup = Setup(A, B, C, members=1)
    setup.create()
    disk = setup.board.drives[0]
    assert record(disk, 0) == (3, build(C)) and record(disk, 1) == (2, build(B))
    setup.hold(D)
    setup.look()
    setup.create()
    assert record(disk, 0) == (3, build(C)) and record(disk, 1) == (4, build(D))


def test_the_newest_is_given_up_when_it_is_not_whole():
    setup = Setup(A, B, C, members=1)
    disk = setup.board.drives[0]
    spoil_block(disk, 1)
    setup.create()
    assert record(disk, 0) == (1, build(A)) and record(disk, 1) == (3, build(C))


def test_the_newest_is_given_up_when_a_sector_of_it_can_not_be_read():
    setup = Setup(A, B, C, members=1)
    disk = setup.board.drives[0]
    lba = (scenarios.slot_of(disk, 1) + 69632) // 512
    bad = {lba}

    # As real disks do it: a sector that can't be read works again after it was written.
    def fault(op, at, count):
        if op == "write":
            bad.difference_update(range(at, at + count))
        return EIO if op == "read" and bad & set(range(at, at + count)) else None

    disk.fault = fault
    setup.look()
    setup.create()
    assert record(disk, 0) == (1, build(A)) and record(disk, 1) == (3, build(C))


def test_a_free_slot_with_a_bad_sector_is_passed_over():
    setup = Setup(A, B, members=1, slots=3)
    disk = setup.board.drives[0]
    bad = (scenarios.slot_of(disk, 1, 3) + 69632) // 512
    disk.fault = lambda op, at, n: EIO if op == "read" and at <= bad < at + n else None
    setup.create()
    disk.fault = None
    assert record(disk, 0, 3) == (1, build(A)) and record(disk, 2, 3) == (2, build(B))
    assert record(disk, 1, 3) is None


def test_a_copy_of_another_block_size_is_not_read_and_given_up_before_good_ones():
    """It can't be this board's code, and may claim any size."""
    setup = Setup(A, B, C, members=1)
    disk = setup.board.drives[0]
    code = sim.noise(9, 4 * 8192)
    manifest = sim.manifest(code, block=8192)
    at = scenarios.slot_of(disk, 1)
    raw = bytearray(sim.get(disk, at, 512))
    raw[32:64] = hashlib.sha256(manifest[:-4]).digest()
    struct.pack_into("<IIII", raw, 64, 2, len(manifest), 8192, 4)
    struct.pack_into("<I", raw, 508, zlib.crc32(raw[:508]))
    sim.put(disk, at, raw)
    sim.put(disk, at + 4096, manifest + bytes(-len(manifest) % 512))
    setup.look()
    assert setup.members[0].copies[1].commit.sizes[1] == 8192
    blocks = range((at + 69632) // 512, (at + sim.SLOT) // 512)
    asked = []
    disk.fault = lambda op, lba, n: asked.append(lba) if op == "read" and lba in blocks else None
    assert victims(setup.members[0], setup.trust, setup.scratch) == [1]
    assert not asked
    disk.fault = None
    setup.create()
    assert record(disk, 0) == (1, build(A)) and record(disk, 1) == (2, build(C))


@pytest.mark.parametrize("damage", ["manifest", "build", "block_count"])
def test_a_slot_that_is_not_committed_by_all_rules_is_free(damage):
    setup = Setup(A, B, C, members=1)
    disk = setup.board.drives[0]
    at = scenarios.slot_of(disk, 1)
    if damage == "manifest":
        sim.put(disk, at + 4096, b"x" * 512)
    else:
        raw = bytearray(sim.get(disk, at, 512))
        raw[{"build": 32, "block_count": 76}[damage]] -= 1
        struct.pack_into("<I", raw, 508, zlib.crc32(raw[:508]))
        sim.put(disk, at, raw)
    setup.look()
    setup.create()
    assert record(disk, 0) == (1, build(A)) and record(disk, 1) == (2, build(C))


def make_newer(disk, slot, slots=2):
    """Turn a commit record into one of major version 2."""
    at = scenarios.slot_of(disk, slot, slots)
    raw = bytearray(sim.get(disk, at, 512))
    raw[8] = 2
    struct.pack_into("<I", raw, 508, zlib.crc32(raw[:508]))
    sim.put(disk, at, raw)


def test_a_slot_of_a_newer_format_is_not_overwritten():
    setup = Setup(A, B, C, members=1, slots=3)
    disk = setup.board.drives[0]
    make_newer(disk, 0, slots=3)
    at = scenarios.slot_of(disk, 0, slots=3)
    before = sim.get(disk, at, sim.SLOT)
    for image in (C, D, A, B):
        setup.hold(image)
        setup.look()
        setup.create()
    assert sim.get(disk, at, sim.SLOT) == before


@pytest.mark.parametrize("newer", [(0,), (1,), (0, 1)], ids=str)
def test_no_good_copy_is_given_up_for_want_of_another_slot(newer):
    setup = Setup(A, B, C, members=1)
    disk = setup.board.drives[0]
    for slot in newer:
        make_newer(disk, slot)
    before = dict(disk.sectors)
    setup.look()
    assert setup.fails() == "commit-version"
    assert disk.sectors == before


@pytest.mark.parametrize("slot, at", [(0, 4096), (1, 4096), (1, 69632)])
def test_a_disk_that_fails_once_while_its_copies_are_judged_loses_none_of_them(slot, at):
    """It answers again, but what it holds is not known."""
    setup = Setup(A, B, C, members=1)
    (disk,) = setup.board.drives
    lba = (scenarios.slot_of(disk, slot) + at) // 512
    generation, before, failed = setup.generation(), dict(disk.sectors), []

    def fault(op, first, n):
        if op == "read" and first <= lba < first + n and not failed:
            failed.append(first)
            return ETIMEDOUT

    disk.fault = fault
    args = setup.members[0], generation, setup.trust, setup.scratch
    with pytest.raises(LifeboatError) as caught:
        list(create(setup.flash, setup.manifest, *args))
    assert caught.value.code == "disk-failed" and failed and disk.sectors == before


# The generation


def test_all_members_get_one_generation():
    setup = Setup(A, B, members=3)
    for member in range(3):
        setup.create(member)
    assert [record(d, 1) for d in setup.board.drives] == [(2, build(B))] * 3


def test_a_member_that_comes_late_gets_the_generation_of_the_others():
    setup = Setup(A, B, B, members=2)
    disk = setup.board.drives[1]
    for slot in (0, 1):
        sim.put(disk, scenarios.slot_of(disk, slot), bytes(512))
    setup.look()
    setup.create(1)
    assert record(disk, 0) == (2, build(B))


def set_generation(disk, slot, value):
    at = scenarios.slot_of(disk, slot)
    raw = bytearray(sim.get(disk, at, 512))
    struct.pack_into("<I", raw, 64, value)
    struct.pack_into("<I", raw, 508, zlib.crc32(raw[:508]))
    sim.put(disk, at, raw)


def test_generations_end_and_the_last_one_is_used_again():
    """At most 0xFEFFFFFF; the build records of the memory say what is newer, not they."""
    setup = Setup(A, B, members=1)
    disk = setup.board.drives[0]
    set_generation(disk, 0, 0xFEFFFFFE)
    setup.look()
    setup.create()
    assert record(disk, 1) == (0xFEFFFFFF, build(B))
    setup.hold(C)
    setup.look()
    setup.create()
    assert record(disk, 0) == (0xFEFFFFFF, build(C))


@pytest.mark.parametrize("forged", [0xFF000000, 0xFFFFFFEF])
def test_a_generation_that_only_forgery_reaches_does_not_count(forged):
    setup = Setup(A, B, C, members=1)
    disk = setup.board.drives[0]
    set_generation(disk, 0, forged)
    setup.look()
    assert setup.generation() == 3
    set_generation(disk, 1, forged)
    setup.look()
    assert setup.generation() == 1


def test_a_generation_of_what_only_has_a_record_does_not_count():
    setup = Setup(A, B, C, members=1)
    disk = setup.board.drives[0]
    set_generation(disk, 1, 1000)
    sim.put(disk, scenarios.slot_of(disk, 1) + 4096, b"x" * 512)
    setup.look()
    assert setup.generation() == 2


def test_a_foreign_generation_does_not_count():
    setup = Setup(A, B, members=2)
    stranger = setup.board.drives[1]
    set_generation(stranger, 0, 1000)
    start = scenarios.region_of(stranger)
    for offset in (0, sim.REGION - 8192, sim.REGION - 4096):
        unit = sim.header(stranger, start // 512, member=1, members=2, set_id=b"X" * 16)
        sim.put(stranger, start + offset, unit)
    setup.look()
    assert [m.writable for m in setup.members] == [True, False]
    assert setup.members[1].generation == 1000 and setup.generation() == 2


def test_diverged_members_come_level_and_stay_so():
    """Two members of one set with different builds under the same generation."""
    one, two = Setup(A, B, members=2), Setup(A, C, members=2)
    for setup in (one, two):
        lifeboat.power_on(setup.board)
    board = one.board
    board.drives[1].sectors = two.board.drives[1].sectors
    for _ in range(2):
        assert lifeboat.power_on(board).verdict == "RUN"
    report = lifeboat.power_on(board)
    assert [m["state"] for m in report.data["members"]] == ["level", "level"]
    assert report.data["disk_writes"] == 0
    assert all("2.0" in scenarios.whole_copies(disk) for disk in board.drives)


# Refusals


def test_code_that_does_not_fit_is_refused_before_any_write():
    setup = Setup(A, members=1)
    disk = setup.board.drives[0]
    sim.make_region(disk, slot=69632 + 5 * sim.ERASE)
    setup.look()
    before = dict(disk.sectors)
    assert setup.fails() == "slot-small"
    assert disk.sectors == before and disk.writes == 0


def test_code_that_just_fits_is_stored():
    setup = Setup(A, members=1)
    disk = setup.board.drives[0]
    sim.make_region(disk, slot=69632 + 6 * sim.ERASE)
    setup.look()
    setup.create()
    assert record(disk, 0) == (1, build(A))


@pytest.mark.parametrize("block", [0, 3, 5])
def test_flash_that_changes_under_the_backup_gives_no_backup(block):
    setup = Setup(A, B, members=1)
    disk = setup.board.drives[0]
    setup.board.nor.data[block * sim.ERASE + 9] ^= 4
    assert setup.fails() == "flash-changed"
    assert record(disk, 0) == (1, build(A)) and record(disk, 1) is None


# What a disk can forget, as sectors from a slot's start.
LOSSES = {"block": 136 + 3 * 8, "last sector": 136 + 6 * 8 - 1, "manifest": 8, "record": 0}


@pytest.mark.parametrize("what", LOSSES)
def test_a_disk_that_forgets_what_it_acknowledged_has_no_backup(what):
    setup = Setup(A, B, members=1)
    disk = setup.board.drives[0]
    disk.lose = (scenarios.slot_of(disk, 1) // 512 + LOSSES[what],)
    assert setup.fails() == "disk-lies"
    assert record(disk, 0) == (1, build(A)) and record(disk, 1) is None


def test_the_others_get_their_backup_when_one_disk_lies():
    board = sim.SimBoard(bytearray(A), members=3)
    board.drives[1].lose = range(board.drives[1].count)
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN"
    assert [m["state"] for m in report.data["members"]] == ["created", "stale", "created"]
    assert ["disk-lies", "disk1"] in [r[:2] for r in report.data["reasons"]]


# Mending


def test_one_block_of_a_copy_is_rewritten_and_nothing_else():
    setup = Setup(A, A, members=1)
    disk = setup.board.drives[0]
    good = dict(disk.sectors)
    spoil_block(disk, 0, 4)
    setup.mend(4)
    assert disk.sectors == good and disk.cache == []


@pytest.mark.parametrize("block", range(6))
def test_each_block_of_a_copy_can_be_mended(block):
    setup = Setup(A, A, members=1)
    disk = setup.board.drives[0]
    good = dict(disk.sectors)
    spoil_block(disk, 0, block)
    disk.written.clear()
    setup.mend(block)
    assert disk.sectors == good
    first = (scenarios.slot_of(disk, 0) + 69632 + block * sim.ERASE) // 512
    assert disk.written == set(range(first, first + 8))


def test_mending_from_flash_that_changed_writes_nothing():
    setup = Setup(A, A, members=1)
    disk = setup.board.drives[0]
    setup.board.nor.data[4 * sim.ERASE] ^= 1
    writes = disk.writes
    with pytest.raises(LifeboatError) as caught:
        setup.mend(4)
    assert caught.value.code == "flash-changed" and disk.writes == writes


def test_mending_a_disk_that_lies_is_told():
    setup = Setup(A, A, members=1)
    disk = setup.board.drives[0]
    spoil_block(disk, 0, 4)
    disk.lose = range(disk.count)
    with pytest.raises(LifeboatError) as caught:
        setup.mend(4)
    assert caught.value.code == "disk-lies"


def test_another_disk_in_the_place_of_a_member_is_not_mended():
    setup = Setup(A, A, members=1)
    disk = setup.board.drives[0]
    disk.sectors.clear()
    writes = disk.writes
    with pytest.raises(OSError) as caught:
        setup.mend(4)
    assert caught.value.errno == ENODEV and disk.writes == writes and not disk.sectors


def test_a_source_that_fails_is_not_the_fault_of_the_copys_disk():
    setup = Setup(A, A, members=1)
    writes = setup.board.drives[0].writes

    def read(block, buf, offset):
        raise OSError(ETIMEDOUT, "source")

    copy = setup.members[0].copies[0]
    with pytest.raises(LifeboatError) as caught:
        for _ in write_blocks(setup.manifest, copy, (4,), as_source(read), setup.buf):
            pass
    assert caught.value.code == "copy-bad" and setup.board.drives[0].writes == writes


@pytest.mark.parametrize("n", [512, 1024, 4096])
@pytest.mark.parametrize("lies", [False, True])
def test_blocks_are_written_and_read_back_in_pieces_of_the_buffers_size(n, lies):
    setup = Setup(A, A, members=1)
    disk = setup.board.drives[0]
    good = dict(disk.sectors)
    for block in (1, 4):
        spoil_block(disk, 0, block)
    sizes = set()

    def read(block, buf, offset):
        sizes.add(len(buf))
        setup.flash.read(block, buf, offset)

    first = (scenarios.slot_of(disk, 0) + 69632 + 4 * sim.ERASE) // 512
    disk.lose = (first,) if lies else ()
    writing = write_blocks(
        setup.manifest, setup.members[0].copies[0], (1, 4), as_source(read), setup.buf[:n]
    )
    if lies:
        with pytest.raises(LifeboatError) as caught:
            list(writing)
        assert (caught.value.code, caught.value.detail) == ("disk-lies", "block 4")
    else:
        list(writing)
        assert disk.sectors == good and disk.cache == [] and sizes == {n}


def ended(generator):
    """What a generator returns."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def whole(flash, size, act):
    act(0, size)
    yield flash


def pieces_of(n):
    def pieces(flash, size, act):
        for offset in range(0, size, n):
            act(offset, min(n, size - offset))
            yield flash

    return pieces


@pytest.mark.parametrize("n", [512, 1536, 4096])
@pytest.mark.parametrize("where", ["flash", "copy"])
def test_a_block_is_right_by_both_sums_in_pieces_of_any_size(where, n):
    setup = Setup(A, A, members=1)
    manifest = setup.manifest

    def right(block):
        if where == "flash":
            feed = of_flash(setup.flash, block)
        else:
            feed = of_copy(setup.members[0].copies[0], block, sim.ERASE, setup.buf)
        return ended(is_right(manifest, block, feed, pieces_of(n), where == "flash"))

    assert [right(block) for block in range(6)] == [True] * 6
    setup.board.nor.data[3 * sim.ERASE - 1] ^= 1
    spoil_block(setup.board.drives[0], 0, 2)
    assert [right(block) for block in range(6)] == [True, True, False, True, True, True]


@pytest.mark.parametrize("table", ["crc", "digest"])
def test_one_wrong_sum_is_enough(table):
    setup = Setup(A, A, members=1)
    raw = bytearray(setup.manifest.raw)
    raw[128 + 48 + (4 * 2 if table == "crc" else 4 * 6 + 32 * 2)] ^= 1
    manifest = type(setup.manifest)(bytes(raw[:-4]) + struct.pack("<I", zlib.crc32(raw[:-4])))
    feed = of_flash(setup.flash, 2)
    assert ended(is_right(manifest, 2, feed, whole, True)) is False
    assert ended(is_right(setup.manifest, 2, feed, whole, True)) is True


# Which slots may be given up, best first


def raw_of(image):
    size = struct.unpack_from("<I", image, scenarios.MANIFEST_AT + 12)[0]
    return bytes(image[scenarios.MANIFEST_AT : scenarios.MANIFEST_AT + size])


def put_copy(disk, slot, slots, image, generation, how):
    """Write a committed copy by format.md alone; how: what is wrong with it."""
    at = scenarios.slot_of(disk, slot, slots)
    raw = bytearray(raw_of(image))
    if how == "product":
        raw[40:44] = b"else"
    if how == "newer manifest":
        raw[8] = 2
    raw[-4:] = struct.pack("<I", zlib.crc32(raw[:-4]))
    region_id = sim.get(disk, scenarios.region_of(disk, slots), 512)[32:48]
    record = b"LBCOMMIT" + struct.pack("<BBHI", 2 if how == "newer" else 1, 2, 512, slot)
    record += region_id + hashlib.sha256(raw[:-4]).digest()
    record += struct.pack("<IIII", generation, len(raw), sim.ERASE, 6)
    record += struct.pack("<II", how == "incompat", how == "read-only")
    record += bytes(508 - len(record))
    sim.put(disk, at, record + struct.pack("<I", zlib.crc32(record)))
    if how == "broken":
        raw[50] ^= 1
    sim.put(disk, at + 4096, bytes(raw).ljust(4096, b"\0"))
    sim.put(disk, at + 69632, bytes(image[: 6 * sim.ERASE]))
    if how == "bad block":
        sim.put(disk, at + 69632 + 5 * sim.ERASE, b"x" * 512)


IMAGES = {"A": A, "B": B, "C": C, "D": D}


def giving_up(slots, builds=(), rejected=(), remembers=True):
    """Return the victims of a member with these slots; "" is a free one, "A" a whole copy of A,
    "A bad block" one with damage. Generations rise with the slot's number."""
    board = sim.SimBoard(bytearray(D), members=1, slots=len(slots), remembers="nothing")
    (disk,) = board.drives
    bad = []
    for slot, what in enumerate(slots):
        at = scenarios.slot_of(disk, slot, len(slots)) // 512
        if what:
            put_copy(disk, slot, len(slots), IMAGES[what[0]], slot + 1, what[2:])
        if what.endswith("unreadable"):
            bad.append(at)
        if what.endswith("unreadable manifest"):
            bad[-1:] = [at + 8]
    if remembers:
        board.remember(board.drives)
        pages = [bytes(board.chip.data[i : i + 256]) for i in (256, 512)]
        pages += [sim.build_record(3 + i, raw_of(IMAGES[b])) for i, b in enumerate(builds)]
        pages += [sim.record(4, 20 + i, build(IMAGES[b])) for i, b in enumerate(rejected)]
        board.chip.data[:] = sim.memory(pages)
    disk.fault = lambda op, lba, n: (
        EIO if op == "read" and any(lba <= at < lba + n for at in bad) else None
    )
    flash = CodeFlash(board.flash(), board.BLOCK_SIZE)
    trust = Trust(board, flash).recall()
    running.places = trust.memory.places
    members = survey(board.drives, (), Report())
    choose_own(members, trust, Report())
    assert members[0].region and members[0].region.slots == len(slots)
    try:
        return victims(members[0], trust, Scratch(sim.ERASE))
    except LifeboatError as error:
        return error.code


# slots, builds that the memory knows (the newest last), rejected ones -> victims
GIVEN_UP = {
    "all free": (["", "", ""], "AB", "", [0, 1, 2]),
    "one used": (["A", "", ""], "AB", "", [1, 2]),
    "free before useless": (["D", "A", ""], "AB", "", [2, 0]),
    "an unknown build": (["A", "D", "B"], "AB", "", [1]),
    "two unknown builds": (["D", "B", "C"], "AB", "", [0, 2]),
    "a rejected build": (["A", "B", "C"], "ABC", "B", [1]),
    "another product": (["A", "B product", "C"], "ABC", "", [1]),
    "a broken manifest": (["A", "B", "C broken"], "ABC", "", [2]),
    "the oldest by the memory": (["A", "B", "C"], "CAB", "", [2]),
    "the oldest by the memory, two slots": (["A", "B"], "BA", "", [1]),
    "one build twice": (["A", "B", "A"], "AB", "", [0]),
    "newest with a bad block": (["A", "B", "C bad block"], "ABC", "", [2]),
    "newest by the memory with a bad block": (["A bad block", "B", "C"], "BCA", "", [0]),
    "oldest with a bad block": (["A bad block", "B", "C"], "ABC", "", [0]),
    "middle with a bad block": (["A", "B bad block", "C"], "ABC", "", [0]),
    "newer record": (["A newer", "B", "C"], "ABC", "", [1]),
    "incompat record": (["A incompat", "B", "C"], "ABC", "", [1]),
    "newer manifest": (["A newer manifest", "B", "C"], "ABC", "", [1]),
    "read-only record": (["A read-only", "B", "C"], "ABC", "", [1]),
    "read-only record of an unknown build": (["D read-only", "B", "C"], "BC", "", [1]),
    "newer ones and one good": (["A newer", "B newer manifest", "C"], "ABC", "", "commit-version"),
    "only newer ones": (["A newer", "B newer", "C newer"], "ABC", "", "commit-version"),
    "newer ones and one bad": (["A newer", "B newer", "C bad block"], "ABC", "", [2]),
    "newer ones and a free one": (["A newer", "", "C"], "ABC", "", [1]),
    "unreadable last": (["A unreadable", "B", "C"], "ABC", "", [1]),
    "unreadable, and a free one": (["A unreadable", "", "C"], "ABC", "", [1]),
    "unreadable and a newest that is bad": (["A unreadable", "B bad block"], "AB", "", [1]),
    "unreadable and one good": (["A unreadable", "B"], "AB", "", [0]),
    "unreadable manifest and one good": (["A unreadable manifest", "B"], "AB", "", [0]),
    "unreadable manifest, two good": (["A unreadable manifest", "B", "C"], "ABC", "", [1]),
    "unreadable, newer, one good": (["A newer", "B unreadable", "C"], "ABC", "", [1]),
}  # fmt: skip


@pytest.mark.parametrize("row", GIVEN_UP)
def test_which_slots_are_given_up(row):
    slots, builds, rejected, want = GIVEN_UP[row]
    assert giving_up(slots, builds, rejected) == want


@pytest.mark.parametrize(
    "slots, want",
    [
        (["A", "B", "C"], [0]), (["A", "B", "C bad block"], [2]), (["A", "D product", "C"], [1]),
        (["A", "", "C"], [1]), (["A broken", "B", "C"], [0]), (["A newer", "B", "C"], [1]),
    ],
    ids=str,
)  # fmt: skip
def test_without_a_memory_the_generation_says_which_is_the_oldest(slots, want):
    assert giving_up(slots, remembers=False) == want


# What is to be done so that every own member has a backup: a row for each state


def a_member(name="disk0", backup="level", writable=True, header=()):
    region = types.SimpleNamespace(bad_copies=list(header))
    return types.SimpleNamespace(name=name, backup=backup, writable=writable, region=region)


def planned(*members, bad=(), broken=(), clear=True):
    """The plan, with disk names and "disk.slot.block"; bad, broken: the same for what is so."""
    by_name = {m.name: m for m in members}
    made = {}

    def items(texts):
        for disk, slot, block in (text.split(".") for text in texts):
            key = disk, slot
            made.setdefault(key, types.SimpleNamespace(member=by_name[disk], slot=slot))
            yield made[key], int(block)

    def shown(action, argument):
        if action == MEND:
            copy, block = argument
            return "%s.%s.%d" % (copy.member.name, copy.slot, block)
        return sorted({c.slot for c in argument}) if action == CREATE else argument

    plan = backup_plan(list(members), list(items(bad)), list(items(broken)), clear)
    return [(action, member.name, shown(action, arg)) for action, member, arg in plan]


PLANS = {
    "no member": (lambda: planned(), []),
    "empty": (lambda: planned(a_member(backup="stale")), [(CREATE, "disk0", [])]),
    "level": (lambda: planned(a_member()), []),
    "mended": (lambda: planned(a_member(backup="mended")), []),
    "foreign": (lambda: planned(a_member(backup="stale", writable=False, header=(0,))), []),
    "unclear set": (lambda: planned(a_member(backup="stale", header=(0,)), clear=False), []),
    "unclear set, bad block": (lambda: planned(a_member(), bad=["disk0.0.3"], clear=False), []),
    "bad block": (lambda: planned(a_member(), bad=["disk0.0.3"]), [(MEND, "disk0", "disk0.0.3")]),
    "bad blocks": (
        lambda: planned(a_member(), bad=["disk0.0.3", "disk0.0.4", "disk0.2.3"]),
        [(MEND, "disk0", "disk0.0.3"), (MEND, "disk0", "disk0.0.4"), (MEND, "disk0", "disk0.2.3")],
    ),
    "bad block of what may not be written": (
        lambda: planned(a_member(writable=False), bad=["disk0.0.3"]), []
    ),
    "mend before anything else is decided": (
        lambda: planned(a_member(backup="stale", header=(0,)), bad=["disk0.0.3"]),
        [(MEND, "disk0", "disk0.0.3")],
    ),
    "block that could not be mended": (
        lambda: planned(a_member(), broken=["disk0.1.3"]), [(CREATE, "disk0", ["1"])]
    ),
    "two blocks that could not be mended": (
        lambda: planned(a_member(), broken=["disk0.1.3", "disk0.1.4"]),
        [(CREATE, "disk0", ["1"])],
    ),
    "two copies that could not be mended": (
        lambda: planned(a_member(), broken=["disk0.1.3", "disk0.2.3"]),
        [(CREATE, "disk0", ["1", "2"])],
    ),
    "broken block of what may not be written": (
        lambda: planned(a_member(writable=False), broken=["disk0.0.3"]), []
    ),
    "bad header": (lambda: planned(a_member(header=(0,))), [(HEADER, "disk0", None)]),
    "bad header of an empty member": (
        lambda: planned(a_member(backup="stale", header=(0, 4096))),
        [(CREATE, "disk0", []), (HEADER, "disk0", None)],
    ),
    "each member for itself": (
        lambda: planned(
            a_member("a", "stale"), a_member("b"), a_member("c", "stale", False),
            a_member("d", header=(0,)), a_member("e"), broken=["e.0.1"],
        ),
        [(CREATE, "a", []), (HEADER, "d", None), (CREATE, "e", ["0"])],
    ),
    "each copy on its own member": (
        lambda: planned(a_member("a"), a_member("b"), bad=["b.0.1", "a.1.1", "b.0.2"]),
        [(MEND, "a", "a.1.1"), (MEND, "b", "b.0.1"), (MEND, "b", "b.0.2")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", PLANS)
def test_what_is_to_be_done_for_the_backups(row):
    make, want = PLANS[row]
    assert make() == want


def everything(disk):
    return dict(disk.sectors)


def read_only_image(image):
    """The image with a bit of ro_compat in its manifest."""
    out, size = bytearray(image), len(raw_of(image))
    raw = bytearray(raw_of(image))
    struct.pack_into("<I", raw, 100, 1)
    raw[-4:] = struct.pack("<I", zlib.crc32(raw[:-4]))
    out[scenarios.MANIFEST_AT : scenarios.MANIFEST_AT + size] = raw
    return out


def test_of_code_that_must_not_be_written_no_backup_is_made():
    board = sim.SimBoard(read_only_image(A))
    before = [everything(disk) for disk in board.drives]
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN_DEGRADED" and report.data["disk_writes"] == 0
    assert [everything(disk) for disk in board.drives] == before


def test_a_region_that_must_not_be_written_is_not_and_the_others_are():
    board = sim.SimBoard(bytearray(A))
    disk = board.drives[0]
    start = scenarios.region_of(disk)
    for offset in (0, sim.REGION - 8192, sim.REGION - 4096):
        raw = bytearray(sim.get(disk, start + offset, 512))
        struct.pack_into("<I", raw, 96, 1)
        struct.pack_into("<I", raw, 508, zlib.crc32(raw[:508]))
        sim.put(disk, start + offset, raw)
    before = everything(disk)
    report = lifeboat.power_on(board)
    assert [m["state"] for m in report.data["members"]] == ["stale", "created"]
    assert everything(disk) == before and disk.writes == 0 and report.verdict == "RUN"


# Whole flows


def whole_copy(disk, slot, image, slots):
    """Whether a slot has a record and the blocks of an image."""
    found = record(disk, slot, slots)
    at = scenarios.slot_of(disk, slot, slots) + 69632
    blocks = sim.get(disk, at, 6 * sim.ERASE)
    return bool(found) and found[1] == build(image) and blocks == image[: 6 * sim.ERASE]


@pytest.mark.parametrize("remembers", ["set", None])
def test_a_copy_that_was_just_mended_is_not_thrown_away(remembers):
    """Flash put back to an older build, a block of it bad in flash and in a disk's copy."""
    setup = Setup(A, B, C, C, members=2, slots=3, remembers=remembers)
    first, second = setup.board.drives
    for disk in (first, second):
        assert [whole_copy(disk, i, image, 3) for i, image in enumerate((A, B, C))] == [True] * 3
    setup.hold(A)
    setup.board.nor.data[2 * sim.ERASE] ^= 1
    spoil_block_of(first, 0, 3)
    report = lifeboat.power_on(setup.board)
    assert report.verdict == "RUN" and setup.board.nor.data == A
    for disk in (first, second):
        assert [whole_copy(disk, i, image, 3) for i, image in enumerate((A, B, C))] == [True] * 3
    again = lifeboat.power_on(setup.board)
    assert [m["state"] for m in again.data["members"]] == ["level", "level"]
    assert again.data["disk_writes"] == 0


def spoil_block_of(disk, slot, slots, block=2):
    at = scenarios.slot_of(disk, slot, slots) + 69632 + block * sim.ERASE
    sim.put(disk, at, b"x" * 512)


@pytest.mark.parametrize("slots", [2, 3])
def test_a_copy_that_can_not_be_mended_is_replaced_by_a_new_one(slots):
    setup = Setup(A, B, B, members=2, slots=slots)
    first, second = setup.board.drives
    setup.board.nor.data[2 * sim.ERASE] ^= 1
    spoil_block_of(first, 1, slots)
    first.lose = range(
        (scenarios.slot_of(first, 1, slots) + 69632) // 512,
        (scenarios.slot_of(first, 1, slots) + sim.SLOT) // 512,
    )
    report = lifeboat.power_on(setup.board)
    assert report.verdict == "RUN" and setup.board.nor.data == B
    assert whole_copy(second, 1, B, slots)
    if slots == 3:
        assert whole_copy(first, 2, B, slots) and whole_copy(first, 0, A, slots)
        assert record(first, 1, slots) is None
    else:
        # It is the newest: what is given up for the new one is itself, which fails again.
        assert whole_copy(first, 0, A, slots) and not whole_copy(first, 1, B, slots)
        assert [m["state"] for m in report.data["members"]] == ["stale", "level"]
