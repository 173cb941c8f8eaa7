"""power_on() ends with a verdict whatever happens, and intact code runs (I6, I7)."""

import json
import sys
import types
import zlib
from errno import EIO, ENODEV, ETIMEDOUT

import machine
import pytest

import lifeboat
from fakes import board as sim
from fakes import scenarios
from lifeboat.errors import LifeboatError
from lifeboat.report import Report
from sim import disk as disks
from sim.power import Power

NEW = scenarios.NEW

# What a power-on may send to one disk of two slots that has a backup: IDENTIFY or the like, 2 GPT
# headers, 1 tail copy, 3 copies audited, 2 commit records, 1 piece of manifest.
COMMANDS = 1 + 2 + 1 + 3 + 2 + 1


@pytest.fixture(autouse=True)
def a_cold_start(monkeypatch):
    monkeypatch.setattr(machine, "reset_cause", lambda: machine.PWRON_RESET)


def backed_up(members=2, **kwargs):
    board = sim.SimBoard(bytearray(NEW), members=members, **kwargs)
    assert lifeboat.power_on(board).verdict == "RUN"
    for disk in board.drives:
        disk.reads = disk.writes = 0
    board.power.count = 0
    return board


def reasons(report):
    return [code for code, _, _ in report.data["reasons"]]


def line(capsys):
    """Return the last report line on the console."""
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("lifeboat: ")]
    return json.loads(lines[-1][10:])


# I7: a healthy power-on


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "unmapped"])
@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("members", [1, 2, 6])
@pytest.mark.parametrize("slots", [2, 3])
def test_a_healthy_power_on_writes_nothing_and_reads_little(members, slots, sector, mapped):
    board = backed_up(members, slots=slots, sector=sector, mapped=mapped)
    before = bytes(board.nor.data), [dict(d.sectors) for d in board.drives]
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and report.data["reasons"] == []
    assert board.power.count == 0
    assert (bytes(board.nor.data), [d.sectors for d in board.drives]) == before
    assert report.data["erases"] == report.data["disk_writes"] == 0
    assert all(0 < d.reads <= COMMANDS + slots - 2 for d in board.drives)


def test_the_line_on_the_console_is_the_report_that_is_returned(capsys):
    board = backed_up()
    report = lifeboat.power_on(board)
    data = line(capsys)
    assert data == report.data == lifeboat.report().data
    assert data["product"] == "sim" and data["version"] == "2.0" and data["blocks"] == 6
    assert data["manifest"] == "ok" and data["trust"] == "unsigned"
    level = {"state": "level", "generation": 1, "parity": "level"}
    assert data["members"] == [dict(level, disk="disk0"), dict(level, disk="disk1")]
    assert set(data["ms"]) == {"inspect", "recover", "backup", "total"}


# I6: disks


def counting(disk, fault, after=0):
    """Let a disk fail from a command on; return the list of commands it got."""
    asked = []

    def note(op, lba, count):
        asked.append(op)
        return fault(op, lba, count) if len(asked) > after else None

    disk.fault = note
    return asked


def all_ops(errno):
    return lambda op, lba, count: errno


FAULTS = {
    "dead": disks.dead, "hung": disks.hung, "gone": disks.gone,
    "EIO on all": all_ops(EIO), "ETIMEDOUT on all": all_ops(ETIMEDOUT),
    "ENODEV on all": all_ops(ENODEV),
}  # fmt: skip


def test_without_disks_intact_code_runs_degraded():
    report = lifeboat.power_on(sim.SimBoard(bytearray(NEW), members=0))
    assert report.verdict == "RUN_DEGRADED" and reasons(report) == ["backup-none"]


def test_with_disks_without_a_region_intact_code_runs_degraded():
    board = sim.SimBoard(bytearray(NEW))
    for disk in board.drives:
        disk.sectors.clear()
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN_DEGRADED"
    assert reasons(report) == ["member-missing", "member-missing", "backup-none"]
    states = [m["state"] for m in report.data["members"]]
    assert states == ["no-region"] * 2 + ["missing"] * 2
    assert {device for device, _, _ in board.power.log} == {"flash"}  # that this build ran
    board.supply(Power())
    lifeboat.power_on(board)
    assert board.power.count == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_intact_code_runs_with_only_failing_disks(fault):
    board = backed_up()
    asked = [counting(disk, FAULTS[fault]) for disk in board.drives]
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN_DEGRADED"
    assert [m["state"] for m in report.data["members"]] == ["failed", "failed"]
    assert all(len(a) <= COMMANDS for a in asked) and board.power.count == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_one_failing_disk_does_not_keep_the_other_from_serving(fault):
    board = backed_up()
    asked = counting(board.drives[0], FAULTS[fault])
    board.nor.data[5] ^= 1
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and board.nor.data == NEW
    assert len(asked) <= COMMANDS


@pytest.mark.parametrize("errno", [ETIMEDOUT, ENODEV])
@pytest.mark.parametrize("work", ["nothing", "create", "mend a header", "repair and mend"])
def test_a_disk_that_stops_answering_is_not_asked_again_whatever_was_going_on(errno, work):
    """Fail at each command of a power-on in turn: not one more is sent."""
    for after in range(200):
        if work == "create":
            board = sim.SimBoard(bytearray(NEW), members=1)
        else:
            board = backed_up(1)
        disk = board.drives[0]
        if work == "mend a header":
            sim.put(disk, scenarios.region_of(disk), bytes(512))
        if work == "repair and mend":
            board = scenarios.SCENARIOS[6].board()
            disk = board.drives[0]
        asked = counting(disk, all_ops(errno), after)
        report = lifeboat.power_on(board)
        if len(asked) <= after:
            assert report.verdict == "RUN"
            break
        # Where damaged code needs the disk, one that is still spinning up is waited for.
        more = asked[after + 1 :]
        assert more == (["init"] * len(more) if work == "repair and mend" and not after else [])
        assert len(more) < 10
        assert report.data["members"][0]["state"] == "failed"
        if work != "repair and mend":
            assert report.runs
    else:
        raise AssertionError("the work never ended")
    assert after > COMMANDS - 2


# I6: what a board's code does


class Raiser:
    """Something to raise from everywhere."""

    errors = [OSError(EIO), OSError(), ValueError("x"), KeyError(1), MemoryError(), TypeError(),
              AttributeError("a"), AssertionError(), RuntimeError(), StopIteration(),
              lifeboat.LifeboatError("nonsense", object()), ZeroDivisionError()]  # fmt: skip

    def __init__(self, error):
        self.error = error

    def __call__(self, *args):
        raise self.error


errors = pytest.mark.parametrize("error", Raiser.errors, ids=lambda e: type(e).__name__)


@errors
@pytest.mark.parametrize("method", ["start", "disks"])
def test_disks_that_can_not_be_had_do_not_keep_intact_code_from_running(method, error):
    board = backed_up()
    setattr(board, method, Raiser(error))
    report = lifeboat.power_on(board)
    assert report.verdict == {"start": "RUN", "disks": "RUN_DEGRADED"}[method]
    assert "disks-failed" in reasons(report) and "flash-failed" not in reasons(report)


@errors
@pytest.mark.parametrize("method", ["readblocks", "writeblocks", "ioctl"])
def test_a_disk_driver_may_raise_anything(method, error):
    board = sim.SimBoard(bytearray(NEW))
    setattr(board.drives[0], method, Raiser(error))
    report = lifeboat.power_on(board)
    assert report.runs


@errors
def test_a_flash_that_can_not_be_had_gives_rescue(error, capsys):
    board = backed_up()
    board.flash = Raiser(error)
    report = lifeboat.power_on(board)
    assert report.verdict == "RESCUE" and not report.runs and reasons(report)
    assert line(capsys)["verdict"] == "RESCUE"


@errors
@pytest.mark.parametrize("method", ["readblocks", "writeblocks", "ioctl", "view"])
def test_a_flash_driver_may_raise_anything(method, error):
    board = backed_up()
    board.nor.data[3] ^= 1
    setattr(board.nor, method, Raiser(error))
    report = lifeboat.power_on(board)
    assert report.verdict == "RESCUE" and reasons(report)


@errors
def test_retained_memory_is_for_comfort_only(error):
    board = backed_up()
    board.retained = Raiser(error)
    assert lifeboat.power_on(board).verdict == "RUN"
    assert lifeboat.start(board).verdict == "RUN"


ATTRIBUTES = "PRODUCT", "BLOCK_SIZE", "REGION_LBAS", "start", "retained"


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_a_board_that_lacks_something_gets_a_verdict(attribute):
    board = backed_up()
    whole = {n: getattr(board, n) for n in dir(board) if n[0] != "_" and n != attribute}
    report = lifeboat.power_on(types.SimpleNamespace(**whole))
    assert report.verdict in ("RUN", "RUN_DEGRADED", "RESCUE")
    assert report.runs == (attribute not in ("PRODUCT", "BLOCK_SIZE"))


@pytest.mark.parametrize("value", [False, None, 1, "yes", []])
def test_unsigned_code_runs_only_where_the_board_says_so_in_full(value):
    board = backed_up()
    board.UNSIGNED = value
    report = lifeboat.power_on(board)
    assert report.verdict == "RESCUE" and reasons(report) == ["policy"]
    assert board.power.count == 0


@pytest.mark.parametrize("size", [0, -4096, 1000, 4095, 12288, 1 << 40])
def test_a_wrong_block_size_gives_rescue_and_no_write(size):
    board = backed_up()
    board.BLOCK_SIZE = size
    assert lifeboat.power_on(board).verdict == "RESCUE"
    assert board.power.count == 0


# Members that are not level do not count


def test_a_member_without_room_stays_stale_though_its_header_was_mended():
    board = sim.SimBoard(bytearray(NEW), members=1)
    disk = board.drives[0]
    sim.make_region(disk, slot=73728)
    sim.put(disk, scenarios.region_of(disk), bytes(512))
    report = lifeboat.power_on(board)
    assert report.data["members"][0]["state"] == "stale"
    assert report.verdict == "RUN_DEGRADED"
    assert {"slot-small", "header-bad", "backup-none"} <= set(reasons(report))


# Soft resets


def soft(monkeypatch):
    monkeypatch.setattr(machine, "reset_cause", lambda: machine.SOFT_RESET)


def test_after_a_soft_reset_the_stored_report_is_given_and_nothing_is_inspected(
    monkeypatch, capsys
):
    board = backed_up()
    first = lifeboat.start(board)
    soft(monkeypatch)
    for name in ("flash", "disks"):
        setattr(board, name, Raiser(AssertionError("touched")))
    started = []
    board.start = lambda: started.append(1)
    again = lifeboat.start(board)
    assert again.data == first.data == line(capsys)
    assert lifeboat.report() is again
    # The application finds its disks spinning up, as after a power-on.
    assert started == [1]


def test_disks_that_do_not_start_after_a_soft_reset_are_told(monkeypatch):
    board = backed_up()
    first = lifeboat.start(board)
    soft(monkeypatch)
    board.start = Raiser(OSError(5, "disks"))
    again = lifeboat.start(board)
    assert again.verdict == first.verdict == "RUN"
    assert again.data["reasons"][-1][0] == "disks-failed"


@pytest.mark.parametrize("cause", ["PWRON_RESET", "HARD_RESET"])
def test_after_any_other_reset_everything_is_inspected(monkeypatch, cause):
    board = backed_up()
    lifeboat.start(board)
    monkeypatch.setattr(machine, "reset_cause", lambda: getattr(machine, cause))
    board.nor.data[0] ^= 1
    assert lifeboat.start(board).data["repaired"] == [[0, 1, "disk0"]]


def test_a_stored_rescue_stays_a_rescue(monkeypatch):
    board = sim.SimBoard(bytearray(b"\xff" * len(NEW)), members=0)
    lifeboat.power_on(board)
    soft(monkeypatch)
    board.nor.data[:] = NEW
    assert lifeboat.start(board).verdict == "RESCUE"


@pytest.mark.parametrize("spoil", ["garbage", "no area", "no text", "error", "no machine"])
def test_after_a_soft_reset_without_a_stored_report_everything_is_inspected(monkeypatch, spoil):
    board = backed_up()
    soft(monkeypatch)
    if spoil == "garbage":
        board.kept[20] ^= 1
    elif spoil == "no area":
        board.kept = None
    elif spoil == "no text":
        monkeypatch.setattr(Report, "kept", Raiser(ValueError()))
    elif spoil == "error":
        board.retained = Raiser(OSError())
    else:
        monkeypatch.delattr(machine, "reset_cause")
    board.nor.data[0] ^= 1
    report = lifeboat.start(board)
    assert report.verdict == "RUN" and report.data["erases"] == 1


@pytest.mark.usefixtures("no_parity")
def test_a_rescue_too_long_to_keep_does_not_leave_the_run_before(monkeypatch):
    board = backed_up(1)
    assert Report.kept(board.kept).verdict == "RUN"
    sim.make_region(board.drives[0], member=0, members=64)
    sim.put(board.drives[0], scenarios.slot_of(board.drives[0], 0) + 69632, b"x" * 512)
    board.nor.data[0] ^= 1
    assert lifeboat.power_on(board).verdict == "RESCUE"
    soft(monkeypatch)
    assert lifeboat.start(board).verdict == "RESCUE"


# What runs afterwards


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "unmapped"])
def test_segments_are_the_bytes_of_the_flash(mapped):
    board = backed_up(mapped=mapped)
    ((name, kind, size, data),) = lifeboat.segments(board)
    data = data()
    assert (name, kind, bytes(data)) == ("app", 0, NEW[: 6 * sim.ERASE])


def test_code_that_the_verdict_is_not_about_does_not_run():
    board = backed_up()
    assert lifeboat.power_on(board).verdict == "RUN"
    board.nor.data[:] = scenarios.OLD
    with pytest.raises(LifeboatError) as caught:
        list(lifeboat.segments(board))
    assert caught.value.code == "flash-changed"


def romfs_board(*segments):
    """Return a board with these (name, kind) segments, one block each."""
    board = sim.SimBoard(bytearray(NEW), members=0)
    code = bytes(NEW[: len(segments) * sim.ERASE])
    raw = sim.manifest(code)
    head = bytearray(raw[:128])
    records = b"".join(
        sim.pad(name, 24)
        + kind.to_bytes(4, "little")
        + (i * sim.ERASE).to_bytes(4, "little")
        + sim.ERASE.to_bytes(4, "little")
        + bytes(12)
        for i, (name, kind) in enumerate(segments)
    )
    body = head + records + raw[176:-4]
    body[12:16] = (len(body) + 4).to_bytes(4, "little")
    body[24:26] = len(segments).to_bytes(2, "little")
    body += zlib.crc32(body).to_bytes(4, "little")
    board.nor.data[scenarios.MANIFEST_AT :] = body + b"\xff" * (sim.ERASE - len(body))
    return board


def test_romfs_segments_are_mounted_and_the_first_becomes_current(monkeypatch):
    board = romfs_board(("os", 1), ("rom", 2), ("blob", 0), ("more", 2))
    assert lifeboat.power_on(board).runs
    mounted, current = [], []
    vfs = types.SimpleNamespace(
        VfsRom=lambda data: bytes(data), mount=lambda fs, path: mounted.append((fs, path))
    )
    monkeypatch.setitem(sys.modules, "vfs", vfs)
    monkeypatch.setattr("os.chdir", current.append)
    monkeypatch.setattr(sys, "path", ["x"])
    lifeboat.mount(board)
    size = sim.ERASE
    assert mounted == [(NEW[size : 2 * size], "/rom"), (NEW[3 * size : 4 * size], "/more")]
    assert current == ["/rom"] and sys.path == ["/rom", "x"]


# The memory on a device of its own


@errors
@pytest.mark.parametrize("method", ["memory", "uid", "ioctl"])
def test_a_memory_that_can_not_be_had_does_not_keep_intact_code_from_running(method, error):
    board = backed_up()
    setattr(board.chip if method == "ioctl" else board, method, Raiser(error))
    report = lifeboat.power_on(board)
    assert report.runs and report.data["memory"] == "none"
    assert "memory-failed" in reasons(report)
    assert not {"internal", "flash-failed"} & set(reasons(report))


def test_a_set_that_could_not_be_remembered_is_not_told_as_adopted():
    board = backed_up()
    sim.make_region(board.drives[0], set_id=b"X" * 16)
    board.chip.writeblocks = Raiser(OSError(EIO))
    report = lifeboat.power_on(board, adopt=b"X" * 16)
    assert "memory-failed" in reasons(report) and "adopted" not in reasons(report)
    assert report.data["set"] == "53" * 16
