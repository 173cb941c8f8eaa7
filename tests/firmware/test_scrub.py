"""Inspection during operation: what it finds, what it mends, what it remembers."""

import asyncio
import struct
from binascii import crc32
from errno import EIO, ETIMEDOUT
from hashlib import sha256

import machine
import pytest

import lifeboat
from fakes import board as sim
from lifeboat import boot, partitioning, patrol, running
from lifeboat.errors import LifeboatError
from lifeboat.scrub import REPAIR, REPORT, RESTART, Scrubber
from lifeboat.userarea import user_area
from sim.disk import gone
from sim.power import Power, PowerCut

GOOD = sim.image(seed=1, version="2.0")
OLD = sim.image(seed=2, version="1.0")
PAGES = 4
SIZE = sim.region_size(sim.SLOT, 2, PAGES)
UNITS = 7 + 2 * 7  # six blocks and the manifest; on each disk records and six blocks


def board_with(**kwargs):
    kwargs.setdefault("journal", PAGES)
    board = sim.SimBoard(bytearray(GOOD), **kwargs)
    assert lifeboat.power_on(board).verdict == "RUN"
    return board


def region_of(disk):
    return disk.count * disk.size - SIZE


def block_of(disk, block, slot=0):
    return region_of(disk) + 4096 + slot * sim.SLOT + 69632 + block * sim.ERASE


def rot_copy(disk, block, slot=0):
    at = block_of(disk, block, slot)
    sim.put(disk, at, b"rotten" + sim.get(disk, at, 512)[6:])


def full_pass(scrubber):
    """Steps until a whole pass has ended, and not only the rest of one."""
    before = scrubber.passes
    for _ in range(100000):
        assert scrubber.step(1)
        if scrubber.passes > before + 1:
            return
    raise AssertionError("no pass ends")


def operation():
    return [tuple(entry) for entry in boot.report().data.get("operation", ())]


def journal(disk):
    """(phase, event, code, where, first, count) of the newest page, by format.md section 5."""
    best = 0, []
    for i in range(PAGES):
        page = sim.get(disk, disk.count * disk.size - 8192 - (PAGES - i) * 4096, 4096)
        if page[:8] == b"LBJOURNL" and struct.unpack("<I", page[4092:])[0] == crc32(page[:4092]):
            entries = []
            for n in range(struct.unpack_from("<I", page, 32)[0]):
                fields = struct.unpack_from("<B11s16s12sII", page, 64 + 64 * n + 16)
                texts = tuple(field.rstrip(b"\0").decode() for field in fields[1:4])
                entries.append(fields[:1] + texts + fields[4:])
            best = max(best, (struct.unpack_from("<I", page, 12)[0], entries))
    return best[1]


def test_a_healthy_pass_writes_nothing():
    board = board_with()
    before = bytes(board.nor.data), [dict(disk.sectors) for disk in board.drives]
    scrubber = Scrubber(board)
    full_pass(scrubber)
    full_pass(scrubber)
    assert (bytes(board.nor.data), [disk.sectors for disk in board.drives]) == before
    assert operation() == [] and scrubber.changed == set()
    status = scrubber.status()
    assert status["units"] == UNITS and status["passes"] >= 2 and status["stale"] == []
    assert status["age_s"] >= 0 and status["bound_s"] > 0


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("block", range(6))
def test_damage_in_flash_is_repaired_and_told(block, mapped):
    board = board_with(mapped=mapped)
    told = []
    scrubber = Scrubber(board, on_change=told.append)
    board.nor.data[block * sim.ERASE + 77] ^= 4
    erases = board.nor.erases
    full_pass(scrubber)
    assert board.nor.data == GOOD and board.nor.erases == erases + 1
    want = [
        ("found", "", "flash", block, 1),
        ("repaired", "", "disk0", block, 1),
        ("changed", "repair", "app", block, 1),
    ]
    assert operation() == want
    assert told == [["app"]] and scrubber.changed == {"app"}
    for disk in board.drives:
        assert journal(disk)[-3:] == [(1,) + entry for entry in want]


def test_a_damaged_manifest_is_written_anew():
    board = board_with()
    scrubber = Scrubber(board)
    at = (sim.BLOCKS - 1) * sim.ERASE
    for place in (at + 40, at + sim.ERASE - 1):
        board.nor.data[place] = 0
        full_pass(scrubber)
        assert board.nor.data == GOOD
    assert scrubber.changed == set()
    assert ("repaired", "", "disk0", sim.BLOCKS - 1, 1) in operation()


def test_the_first_finding_of_a_session_opens_it():
    board = board_with()
    lifeboat.power_on(board)
    scrubber = Scrubber(board)
    board.nor.data[0] ^= 1
    full_pass(scrubber)
    told = journal(board.drives[0])[3:]
    assert told[0] == (0, "power-on", "RUN", "2.0", 0, 0)
    assert [entry[0] for entry in told[1:]] == [1, 1, 1]
    board.nor.data[sim.ERASE] ^= 1
    full_pass(scrubber)
    assert sum(entry[1] == "power-on" for entry in journal(board.drives[0])) == 2


def test_report_only_repairs_nothing_and_tells_once():
    board = board_with()
    scrubber = Scrubber(board, policy=REPORT)
    board.nor.data[0] ^= 1
    rot_copy(board.drives[1], 3)
    before = bytes(board.nor.data)
    for _ in range(3):
        full_pass(scrubber)
    assert bytes(board.nor.data) == before
    assert sorted(operation()) == [("found", "", "disk1", 3, 1), ("found", "", "flash", 0, 1)]


def test_restart_resets_the_board_after_a_repair(monkeypatch):
    class Reset(BaseException):
        pass

    def reset():
        raise Reset

    monkeypatch.setattr(machine, "reset", reset, raising=False)
    board = board_with()
    scrubber = Scrubber(board, policy=RESTART)
    board.nor.data[0] ^= 1
    with pytest.raises(Reset):
        full_pass(scrubber)
    assert board.nor.data == GOOD
    assert operation()[-1] == ("changed", "restart", "app", 0, 1)
    assert journal(board.drives[0])[-1] == (1, "changed", "restart", "app", 0, 1)


@pytest.mark.parametrize("disk", [0, 1])
@pytest.mark.parametrize("block", [0, 5])
def test_a_damaged_copy_is_mended_from_flash(disk, block):
    board = board_with()
    drives = board.drives
    whole = sim.get(drives[disk], block_of(drives[disk], 0), 6 * sim.ERASE)
    scrubber = Scrubber(board)
    rot_copy(drives[disk], block)
    full_pass(scrubber)
    assert sim.get(drives[disk], block_of(drives[disk], 0), 6 * sim.ERASE) == whole
    name = "disk%d" % disk
    assert operation() == [("found", "", name, block, 1), ("mended", "", name, block, 1)]


def test_a_sector_that_can_not_be_read_is_written_anew():
    board = board_with()
    disk = board.drives[0]
    scrubber = Scrubber(board)
    bad = block_of(disk, 2) // 512
    disk.fault = lambda op, lba, n: EIO if op == "read" and lba <= bad < lba + n else None
    written = len(disk.written)

    def cured(op, lba, n):
        if op == "write" and lba <= bad < lba + n:
            disk.fault = None
        return EIO if op == "read" and lba <= bad < lba + n else None

    disk.fault = cured
    full_pass(scrubber)
    assert len(disk.written) >= written and disk.fault is None
    assert ("mended", "", "disk0", 2, 1) in operation()


def glitch(device, place, error):
    """Let the next read at that block go wrong; returns a list, empty until it did."""
    read, glitches = device.readblocks, []

    def readblocks(at, buf, *args):
        read(at, buf, *args)
        if at == place and not glitches:
            glitches.append(at)
            buf[9] ^= 1
            if error:
                raise OSError(error, "glitch")

    device.readblocks = readblocks
    return glitches


@pytest.mark.parametrize("error", [None, EIO])
@pytest.mark.parametrize("block", [2, sim.BLOCKS - 1])
def test_flash_that_was_read_badly_once_is_not_erased(error, block):
    board = board_with(mapped=False)
    scrubber = Scrubber(board)
    nor = board.nor
    before, erases = bytes(nor.data), nor.erases
    glitches = glitch(nor, block, error)
    full_pass(scrubber)
    assert glitches and nor.erases == erases and bytes(nor.data) == before
    assert operation() == []


@pytest.mark.parametrize("error", [None, EIO])
@pytest.mark.parametrize("what", ["header", "tail", "commit", "manifest", "block"])
def test_a_copy_that_was_read_badly_once_is_not_rewritten(what, error):
    board = board_with()
    disk = board.drives[1]
    scrubber = Scrubber(board)
    region = region_of(disk)
    at = {
        "header": region,
        "tail": region + SIZE - 4096,
        "commit": region + 4096,
        "manifest": region + 8192,
        "block": block_of(disk, 3),
    }[what]
    writes = disk.writes
    glitches = glitch(disk, at // 512, error)
    full_pass(scrubber)
    assert glitches and disk.writes == writes
    assert operation() == []


def test_a_finding_is_told_and_mended_a_command_or_two_at_a_time():
    board = board_with()
    scrubber = Scrubber(board)
    rot_copy(board.drives[0], 3)
    commands = []

    def fault(op, lba, count):
        commands.append(op)

    for disk in board.drives:
        disk.fault = fault
    most = 0
    while scrubber._patrol.findings.news or ("mended", "", "disk0", 3, 1) not in operation():
        commands.clear()
        scrubber.step(0)
        most = max(most, len(commands))
    assert most <= 2
    for disk in board.drives:
        assert journal(disk)[-1] == (1, "mended", "", "disk0", 3, 1)


def updated():
    """A board with copies of 1.0 and of 2.0 on both disks; the copies of 1.0 are in slot 0."""
    board = sim.SimBoard(bytearray(OLD), journal=PAGES)
    lifeboat.power_on(board)
    board.nor.data[:] = GOOD
    assert lifeboat.power_on(board).verdict == "RUN"
    return board


def test_an_older_copy_is_mended_from_another_member():
    board = updated()
    scrubber = Scrubber(board)
    assert scrubber.status()["units"] == 7 + 4 * 7
    whole = sim.get(board.drives[1], block_of(board.drives[1], 0), 6 * sim.ERASE)
    rot_copy(board.drives[1], 4)
    full_pass(scrubber)
    assert sim.get(board.drives[1], block_of(board.drives[1], 0), 6 * sim.ERASE) == whole


def test_what_no_copy_has_is_left_alone_and_told_once():
    board = updated()
    scrubber = Scrubber(board)
    for disk in board.drives:
        rot_copy(disk, 4)
    before = [sim.get(disk, block_of(disk, 0), 6 * sim.ERASE) for disk in board.drives]
    full_pass(scrubber)
    full_pass(scrubber)
    assert [sim.get(d, block_of(d, 0), 6 * sim.ERASE) for d in board.drives] == before
    for name in ("disk0", "disk1"):
        assert operation().count(("lost", "", name, 4, 1)) == 1
        assert ["block-lost", name, "4"] in boot.report().data["reasons"]


@pytest.mark.parametrize("what", ["commit", "manifest"])
def test_damaged_records_are_made_again_when_all_blocks_are_right(what):
    board = board_with()
    disk = board.drives[0]
    slot = region_of(disk) + 4096
    record = sim.get(disk, slot, 69632)
    scrubber = Scrubber(board)
    sim.put(disk, slot + (0 if what == "commit" else 4096), b"\xa5" * 512)
    rot_copy(disk, 1)
    full_pass(scrubber)
    assert sim.get(disk, slot, 69632) == record
    again = lifeboat.power_on(board)
    assert again.data["disk_writes"] == 0 and again.verdict == "RUN"


@pytest.mark.parametrize("copy", [0, SIZE - 8192, SIZE - 4096])
def test_a_damaged_header_copy_is_mended(copy):
    board = board_with()
    disk = board.drives[1]
    at = region_of(disk) + copy
    whole = sim.get(disk, at, 4096)
    scrubber = Scrubber(board)
    sim.put(disk, at, bytes(4096))
    full_pass(scrubber)
    assert sim.get(disk, at, 4096) == whole


def test_flash_without_any_good_copy_is_told_and_left():
    board = board_with()
    for disk in board.drives:
        rot_copy(disk, 2)
    board.nor.data[2 * sim.ERASE] ^= 1
    before = bytes(board.nor.data)
    # Rot after power-on, in all places at once.
    scrubber = Scrubber(board)
    full_pass(scrubber)
    assert bytes(board.nor.data) == before
    assert ("lost", "", "flash", 2, 1) in operation()
    assert ["block-lost", "flash", ""] in boot.report().data["reasons"]
    assert boot.report().data["lost"] == [[2, 1]]
    assert (1, "lost", "", "flash", 2, 1) in journal(board.drives[0])


def test_suspects_are_looked_at_first():
    board = board_with()
    scrubber = Scrubber(board)
    scrubber._position = 0
    board.nor.data[5 * sim.ERASE] ^= 1
    while scrubber.status()["position"] < 7:
        scrubber.step(0)
    assert board.nor.data == GOOD
    # Damaged again: found at the beginning of the next pass, not when it gets to block 5.
    board.nor.data[5 * sim.ERASE] ^= 1
    while board.nor.data != GOOD:
        scrubber.step(0)
    assert scrubber.status()["passes"] == 1 and scrubber.status()["position"] == 0


def test_a_warm_reset_goes_on_where_it_was():
    board = board_with()
    scrubber = Scrubber(board)
    full_pass(scrubber)
    while scrubber.status()["position"] != 9:
        scrubber.step(0)
    other = Scrubber(board)
    assert other.status()["position"] == 9 and other.status()["passes"] == scrubber.passes
    assert other.status()["age_s"] is not None


def test_a_pass_that_warm_resets_cut_into_pieces_counts():
    board = board_with()
    seen, passes = [], []
    for _ in range(40):
        scrubber = Scrubber(board)
        for _ in range(30):
            scrubber.step(0)
        seen.append(scrubber.status()["position"])
        passes.append(scrubber.passes)
    rounds = sum(b < a for a, b in zip(seen, seen[1:]))
    assert rounds > 2 and abs(passes[-1] - rounds) <= 1
    assert scrubber.status()["age_s"] is not None


def test_state_of_other_members_is_not_used():
    """Units have other numbers then: it might call a pass full that was not."""
    board = board_with()
    full_pass(Scrubber(board))
    board.drives.pop()
    scrubber = Scrubber(board)
    assert scrubber.passes == 0 and scrubber.status()["age_s"] is None


def test_a_cold_start_begins_anywhere(monkeypatch):
    starts = set()
    for _ in range(40):
        board = board_with()
        scrubber = Scrubber(board)
        starts.add(scrubber.status()["position"])
        assert scrubber.status()["age_s"] is None
    assert len(starts) > 5


def test_state_of_other_code_or_torn_state_is_not_used():
    board = board_with()
    scrubber = Scrubber(board)
    full_pass(scrubber)
    for at in (0, 4, 12, 50):
        kept = bytearray(board.kept)
        board.kept[len(kept) - 64 + at] ^= 1
        assert Scrubber(board).status()["passes"] == 0
        board.kept[:] = kept
    assert Scrubber(board).status()["passes"] == scrubber.passes > 0


def test_the_report_survives_a_soft_reset_with_what_happened_in_operation(monkeypatch):
    board = board_with()
    scrubber = Scrubber(board)
    board.nor.data[0] ^= 1
    full_pass(scrubber)
    monkeypatch.setattr(machine, "reset_cause", lambda: machine.SOFT_RESET)
    report = lifeboat.start(board)
    assert report.data["operation"][0] == ["found", "", "flash", 0, 1]


def test_other_code_in_flash_is_not_taken_for_damage():
    board = board_with()
    board.nor.data[:] = OLD
    with pytest.raises(LifeboatError) as caught:
        Scrubber(board)
    assert caught.value.code == "flash-changed"


def test_there_is_nothing_to_scrub_in_rescue():
    board = sim.SimBoard(bytearray(b"\xff" * len(GOOD)))
    assert lifeboat.power_on(board).verdict == "RESCUE"
    with pytest.raises(LifeboatError):
        Scrubber(board)


@pytest.mark.parametrize(
    "fault, code",
    [
        (gone, "disk-failed"),
        (lambda op, lba, n: ETIMEDOUT if op == "read" else None, "disk-timeout"),
    ],
)
def test_a_disk_that_fails_is_left_alone(fault, code):
    board = board_with()
    scrubber = Scrubber(board)
    board.drives[0].fault = fault
    full_pass(scrubber)
    board.nor.data[0] ^= 1
    full_pass(scrubber)
    assert board.nor.data == GOOD
    told = [entry for entry in operation() if entry[2] == "disk0"]
    assert told == [("reason", code, "disk0", 0, 0)]
    assert [r[0] for r in boot.report().data["reasons"]] == [code]
    assert ("repaired", "", "disk1", 0, 1) in operation()


def test_a_flash_that_fails_does_not_end_the_patrol():
    board = board_with()
    scrubber = Scrubber(board)
    board.nor.fail_erase = (0,)
    board.nor.data[0] ^= 1
    board.nor.data[sim.ERASE] ^= 1
    full_pass(scrubber)
    assert ("reason", "flash-failed", "flash", 0, 0) in operation()
    assert ("repaired", "", "disk0", 1, 1) in operation()
    board.nor.fail_erase = ()
    assert lifeboat.power_on(board).verdict == "RUN"
    assert board.nor.data == GOOD


def test_a_timers_tick_keeps_its_hands_off_a_disk_in_use():
    board = board_with()
    scrubber = Scrubber(board)
    disk = board.drives[0]
    area = user_area(disk)
    read = type(disk).readblocks
    seen = []

    def interrupted(*args):
        before = scrubber.steps
        scrubber.tick()
        seen.append(scrubber.steps - before)
        return read(disk, *args)

    area._dev._dev.readblocks = interrupted
    area.readblocks(0, bytearray(512))
    assert seen == [0] and scrubber.deferred == 1
    del area._dev._dev.readblocks
    scrubber.tick()
    assert scrubber.steps == 1


def test_a_tick_keeps_its_hands_off_a_power_on():
    board = board_with()
    scrubber = Scrubber(board)
    disk = board.drives[0]
    read = disk.readblocks
    calls = []

    def interrupted(*args):
        calls.append(args)
        scrubber.tick()
        return read(*args)

    disk.readblocks = interrupted
    lifeboat.power_on(board)
    assert calls and scrubber.steps == 0 and scrubber.deferred == len(calls)
    disk.readblocks = read
    scrubber.tick()
    assert scrubber.steps == 1


def test_after_a_power_on_without_a_reset_everything_is_looked_for_anew():
    """The slot of the oldest copy was given another one: it is not damage."""
    board = updated()
    scrubber = Scrubber(board)
    newer = sim.image(seed=3, version="3.0")
    board.nor.data[:] = newer
    assert lifeboat.power_on(board).verdict == "RUN"
    before = [dict(disk.sectors) for disk in board.drives]
    full_pass(scrubber)
    assert [disk.sectors for disk in board.drives] == before and operation() == []
    board.nor.data[0] ^= 1
    full_pass(scrubber)
    assert board.nor.data == newer and scrubber.changed == {"app"}


def test_a_repair_that_waits_does_not_outlast_a_power_on(monkeypatch):
    board = updated()
    waiting = []
    monkeypatch.setattr(patrol.micropython, "schedule", lambda f, a: waiting.append((f, a)))
    scrubber = Scrubber(board)
    board.nor.data[0] ^= 1
    while not waiting:
        scrubber.step(1)
    newer = sim.image(seed=3, version="3.0")
    board.nor.data[:] = newer
    lifeboat.power_on(board)
    erases = board.nor.erases
    (function, argument) = waiting.pop()
    function(argument)
    scrubber.step(1)
    function(argument)
    assert board.nor.data == newer and board.nor.erases == erases


def test_there_is_nothing_to_scrub_any_more_after_a_power_on_that_ends_in_rescue():
    board = board_with()
    scrubber = Scrubber(board)
    board.drives = []
    board.nor.data[0] ^= 1
    assert lifeboat.power_on(board).verdict == "RESCUE"
    with pytest.raises(LifeboatError):
        scrubber.step(1)


@pytest.mark.parametrize("call", [partitioning.show, lambda board: partitioning.create(board, ())])
def test_it_keeps_off_when_a_person_partitions(monkeypatch, call):
    monkeypatch.setattr(running, "attended", False)
    board = board_with()
    scrubber = Scrubber(board)
    call(board)
    assert not scrubber.step(1) and scrubber.steps == 0


def test_a_copy_that_claims_to_be_of_another_board_takes_no_time():
    """A forged record and manifest with blocks of a gigabyte: no pass would end."""
    block, count = 1 << 30, 900
    slot = sim.slot_size(count + 1, block)
    size = sim.region_size(slot)
    board = sim.SimBoard(bytearray(GOOD), members=1)
    disk = board.drives[0]
    disk.sectors, disk.count = {}, size // 512 + 40
    start = sim.make_region(disk, slot=slot, size=size)
    board.remember([disk])
    raw = bytearray(sim.manifest(bytes(count), 1, "sim", "9"))
    struct.pack_into("<I", raw, 16, block)
    struct.pack_into("<I", raw, len(raw) - 4, crc32(raw[:-4]))
    record = b"LBCOMMIT" + struct.pack("<BBHI", 1, 0, 512, 1) + bytes([1] * 16)
    record += sha256(raw[:-4]).digest() + struct.pack("<IIII", 1, len(raw), block, count)
    record = record.ljust(508, b"\0")
    at = start * 512 + 4096 + slot
    sim.put(disk, at, record + struct.pack("<I", crc32(record)))
    sim.put(disk, at + 4096, bytes(raw).ljust(-(-len(raw) // 512) * 512, b"\0"))
    assert lifeboat.power_on(board).verdict == "RUN"
    assert Scrubber(board).status()["units"] == 7 + 7


def test_a_repair_waits_until_scheduled_code_may_run(monkeypatch):
    """In a timer's callback the scheduler is locked: the repair comes after it."""
    board = board_with()
    waiting = []
    monkeypatch.setattr(patrol.micropython, "schedule", lambda f, a: waiting.append((f, a)))
    scrubber = Scrubber(board)
    board.nor.data[0] ^= 1
    while not waiting:
        scrubber.tick()
    for _ in range(3):
        scrubber.tick()
    assert board.nor.data != GOOD
    (function, argument) = waiting.pop()
    function(argument)
    assert board.nor.data == GOOD
    full_pass(scrubber)
    assert ("repaired", "", "disk0", 0, 1) in operation()


def test_it_runs_as_a_task():
    board = board_with()
    scrubber = Scrubber(board)
    board.nor.data[0] ^= 1

    async def application():
        task = asyncio.create_task(scrubber.run(step_ms=1, period_ms=1))
        while not scrubber.passes:
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(application())
    assert board.nor.data == GOOD


def test_a_callback_that_fails_ends_nothing():
    board = board_with()

    def broken(names):
        raise ValueError(names)

    scrubber = Scrubber(board, on_change=broken)
    board.nor.data[0] ^= 1
    full_pass(scrubber)
    assert board.nor.data == GOOD and scrubber.changed == {"app"}
    assert any(entry[:2] == ("reason", "internal") for entry in operation())


@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
@pytest.mark.parametrize("keep", ["none", "all", "last", "random"])
def test_every_power_cut_is_survived(sweep, torn, keep):
    """I2 and I4: flash, copies and records are damaged; each operation of mending is cut."""

    def prepared(power=None):
        board = updated()
        scrubber = Scrubber(board, policy=REPAIR)
        board.nor.data[0] ^= 1
        rot_copy(board.drives[0], 3, slot=1)
        rot_copy(board.drives[1], 5, slot=0)
        sim.put(board.drives[1], region_of(board.drives[1]) + 4096 + sim.SLOT, b"\xa5" * 512)
        board.supply(power or Power())
        return board, scrubber

    board, scrubber = prepared()
    full_pass(scrubber)
    operations = board.power.count
    assert board.nor.data == GOOD and operations > 20
    for cut in sweep.cuts(range(1, operations + 1)):
        board, scrubber = prepared(Power(cut, torn))
        sweep.shows(flash=board.nor, disk0=board.drives[0], disk1=board.drives[1])
        with pytest.raises(PowerCut):
            full_pass(scrubber)
            full_pass(scrubber)
        for disk in board.drives:
            disk.settle(keep, cut)
        board.supply(Power())
        report = lifeboat.power_on(board)
        assert report.verdict == "RUN", (cut, report.data)
        assert board.nor.data == GOOD, cut


def test_another_disk_in_the_place_of_a_member_is_not_written():
    board = board_with()
    disk = board.drives[0]
    scrubber = Scrubber(board)
    stranger = dict.fromkeys(range(disk.count), b"Z" * 512)
    disk.sectors = dict(stranger)
    disk.cache = []
    full_pass(scrubber)
    assert disk.sectors == stranger and not disk.cache
    assert ("reason", "disk-failed", "disk0", 0, 0) in operation()
    assert (
        scrubber._patrol._members[0].state == "failed"
        and scrubber._patrol._members[1].state == "level"
    )


def test_a_member_is_not_blamed_for_the_disk_it_is_mended_from():
    board = updated()
    scrubber = Scrubber(board)
    rot_copy(board.drives[1], 4)
    board.drives[0].fault = gone
    full_pass(scrubber)
    assert [m.state for m in scrubber._patrol._members] == ["failed", "level"]
    board.nor.data[0] ^= 1
    full_pass(scrubber)
    assert board.nor.data == GOOD


def test_a_block_that_can_not_be_repaired_is_not_erased_for_ever():
    board = board_with()
    scrubber = Scrubber(board)
    board.nor.data[70] &= 0xFE if GOOD[70] & 1 else 0xFF
    board.nor.data[70] |= 0 if GOOD[70] & 1 else 1
    board.nor.stuck = (70,)
    erases = board.nor.erases
    for _ in range(8):
        full_pass(scrubber)
    assert board.nor.erases - erases == 1
    assert boot.report().data["repaired"] == []


def test_a_disk_that_lies_is_not_written_for_ever():
    board = board_with(members=1)
    disk = board.drives[0]
    scrubber = Scrubber(board)
    at = block_of(disk, 1) // 512
    rot_copy(disk, 1)
    disk.lose = (at,)
    for _ in range(3):
        full_pass(scrubber)
    writes = disk.writes
    passes = scrubber.passes
    for _ in range(4):
        full_pass(scrubber)
    assert disk.writes == writes and scrubber.passes > passes


def test_a_disk_that_leaves_the_buffer_alone_is_found_out():
    """What was written, still in memory, is not taken for what the disk holds."""
    board = board_with(members=1)
    disk = board.drives[0]
    scrubber = Scrubber(board)
    rot_copy(disk, 1)
    lbas = range(block_of(disk, 1) // 512, block_of(disk, 2) // 512)
    disk.lose = lbas
    read, writes = disk.readblocks, disk.writes

    def readblocks(lba, buf, *args):
        if disk.writes == writes or lba not in lbas:
            read(lba, buf, *args)

    disk.readblocks = readblocks
    full_pass(scrubber)
    assert ("reason", "disk-lies", "disk0", 0, 0) in operation()
    assert not [entry for entry in operation() if entry[0] == "mended"]


def test_a_repair_waits_for_the_application_that_uses_the_disk():
    board = board_with()
    scrubber = Scrubber(board)
    board.nor.data[0] ^= 1
    running.disk_calls = 1
    try:
        for _ in range(200):
            scrubber.step(1)
        assert board.nor.data != GOOD
    finally:
        running.disk_calls = 0
    full_pass(scrubber)
    assert board.nor.data == GOOD and scrubber.changed == {"app"}


def test_a_full_schedule_is_waited_for(monkeypatch):
    board = board_with()
    calls = []

    def schedule(function, argument):
        calls.append(argument)
        if len(calls) < 5:
            raise RuntimeError("schedule queue full")
        function(argument)

    monkeypatch.setattr(patrol.micropython, "schedule", schedule)
    scrubber = Scrubber(board)
    board.nor.data[0] ^= 1
    full_pass(scrubber)
    assert board.nor.data == GOOD and len(calls) == 5


def test_a_repair_that_blows_up_is_not_told_as_done(monkeypatch):
    board = board_with()
    scrubber = Scrubber(board)

    def act(*args):
        raise MemoryError

    monkeypatch.setattr(patrol, "act", act)
    board.nor.data[0] ^= 1
    full_pass(scrubber)
    assert not [entry for entry in operation() if entry[0] in ("repaired", "changed")]
    assert ("reason", "internal", "scrub", 0, 0) in operation()


def test_a_flush_of_the_application_counts_as_use():
    board = board_with()
    scrubber = Scrubber(board)
    area = user_area(board.drives[0])
    ioctl = area._dev._dev.ioctl
    area._dev._dev.ioctl = lambda *args: (scrubber.tick(), ioctl(*args))[1]
    area.ioctl(3, 0)
    assert scrubber.steps == 0 and scrubber.deferred == 1


def test_what_can_not_be_told_does_not_end_the_patrol(monkeypatch):
    board = board_with()
    scrubber = Scrubber(board)

    def full(*args):
        raise MemoryError

    monkeypatch.setattr(scrubber._patrol._log, "tell", full)
    board.nor.data[0] ^= 1
    full_pass(scrubber)
    assert board.nor.data == GOOD


def test_a_power_cycle_count_that_fails_costs_one_disk_only():
    board = board_with()

    def fail():
        raise OSError(ETIMEDOUT, "smart")

    lifeboat.power_on(board)
    scrubber = Scrubber(board)
    board.drives[0].power_cycles = fail
    board.nor.data[0] ^= 1
    full_pass(scrubber)
    assert board.nor.data == GOOD
    assert scrubber._patrol._members[1].state == "level"
    assert journal(board.drives[1])[-1] == (1, "changed", "repair", "app", 0, 1)
