"""Power-ons of several geometries, judged here; one line per geometry."""

import sys

import lifeboat
from fakes import board as sim
from fakes import gpt
from lifeboat import region as regions
from lifeboat.blockdev import Checked
from lifeboat.codeflash import CodeFlash
from lifeboat.trust import Trust
from sim.disk import dead, gone, hung

# (members, slots, bytes per sector, block size, whether the flash is mapped)
SHAPES = (
    (1, 2, 512, 4096, True), (2, 3, 512, 8192, False), (2, 2, 4096, 20480, True),
    (1, 3, 4096, 4096, False), (6, 2, 512, 4096, True),
)  # fmt: skip


def power_on(board, verdict, **want):
    report = lifeboat.power_on(board)
    assert report.verdict == verdict, report.data
    for key in want:
        assert report.data[key] == want[key], (key, report.data)
    return report


def records_end_in_zeros(board):
    """Whatever the scratch held before."""
    flash = CodeFlash(board.flash(), board.BLOCK_SIZE)
    manifest, _ = flash.manifest(Trust(board, flash).recall())
    for drive in board.drives:
        region = regions.find(Checked(drive), board.REGION_LBAS, bytearray(4096), ())
        dirty = b"\x55" * 4096
        region.write_manifest(0, manifest, bytearray(dirty))
        region.write_commit(0, manifest, 1, bytearray(dirty))
        area = bytearray(4096 + region.area)
        region.read(region.slot_at(0), area)
        assert area[:8] == b"LBCOMMIT" and not any(area[512:4096])
        assert not any(area[4096 + len(manifest.raw) :])


def states(report):
    return {m["state"] for m in report.data["members"]}


def flow(members, slots, sector, block, mapped):
    old = sim.image(seed=6, block=block, version="1.0")
    new = sim.image(seed=5, block=block, version="2.0")
    shape = {"members": members, "slots": slots, "sector": sector, "block": block}
    board = sim.SimBoard(bytearray(old), mapped=mapped, **shape)
    nor = board.nor

    assert states(power_on(board, "RUN", erases=0)) == {"created"}
    records_end_in_zeros(board)
    before = board.power.count
    assert states(power_on(board, "RUN", erases=0, disk_writes=0, reasons=[])) == {"level"}
    assert board.power.count == before

    nor.data[:] = new
    assert states(power_on(board, "RUN", version="2.0", erases=0)) == {"created"}
    for at in (0, 2 * block + 17, 6 * block - 1):
        nor.data[at] ^= 0x80
    power_on(board, "RUN", erases=3, bad=[[0, 1], [2, 1], [5, 1]], disk_writes=0)
    assert nor.data == new
    nor.data[8 * block + 100] ^= 1
    power_on(board, "RUN", erases=1, bad=[[8, 1]], disk_writes=0)
    nor.data[:] = b"\xff" * len(new)
    power_on(board, "RUN", erases=7, version="2.0", disk_writes=0)
    assert nor.data == new

    for fault in (dead, hung, gone):
        for disk in board.drives:
            disk.fault = fault
        assert states(power_on(board, "RUN_DEGRADED", erases=0)) == {"failed"}
        nor.data[1] ^= 1
        power_on(board, "RESCUE", erases=0)
        for disk in board.drives:
            disk.fault = None
        power_on(board, "RUN", erases=1)
    assert nor.data == new


def partition():
    board = sim.SimBoard(sim.image(), members=1, extra=400)
    disk = board.drives[0]
    disk.sectors.clear()
    first = 128
    gpt.both(disk, [(gpt.LIFEBOAT, first, first + sim.REGION // 512 - 1)])
    sim.make_region(disk, first)
    board.remember(board.drives)
    assert states(power_on(board, "RUN")) == {"created"}
    board.nor.data[5] ^= 1
    power_on(board, "RUN", erases=1)


def codes(report):
    return [code for code, _, _ in report.data["reasons"]]


def memory():
    """The memory in the code flash: six blocks of code, two mirrors of four, the manifest."""
    content = sim.image(total=17, memory=8)
    board = sim.SimBoard(bytearray(content), remembers="flash")
    nor = board.nor
    report = power_on(board, "RUN", memory="ok", erases=0)
    assert codes(report) == ["adopted"] and states(report) == {"created"}
    before = board.power.count
    power_on(board, "RUN", erases=0, disk_writes=0, reasons=[])
    assert board.power.count == before

    nor.data[5] ^= 1
    power_on(board, "RUN", erases=1, reasons=[], bad=[[0, 1]])
    # Another set beside the own one is only read.
    other = sim.SimBoard(bytearray(content), members=1).drives[0]
    other.name, other.power = "other", board.power
    sim.make_region(
        other, set_id=b"X" * 16, slot=sim.slot_size(17), size=sim.region_size(sim.slot_size(17))
    )
    board.drives.append(other)
    report = power_on(board, "RUN", reasons=[], disk_writes=0)
    assert [m["state"] for m in report.data["members"]] == ["level", "level", "foreign"]

    # A record that rots in one mirror is appended there once more; the next power-on is healthy.
    board.drives.pop()
    nor.data[12 * sim.ERASE + 300] ^= 1
    power_on(board, "RUN", memory="ok")
    before = bytes(nor.data)
    power_on(board, "RUN", memory="ok", reasons=[], disk_writes=0)
    assert nor.data == before

    # All of the flash is wiped, and one set is here.
    nor.data[:] = b"\xff" * len(content)
    report = power_on(board, "RUN", version="1.0", memory="ok")
    for at in list(range(6)) + [16]:
        start, end = at * sim.ERASE, (at + 1) * sim.ERASE
        assert nor.data[start:end] == content[start:end], at
    power_on(board, "RUN", erases=0, disk_writes=0, reasons=[])

    # A person names another set.
    for i, disk in enumerate(board.drives):
        slot = sim.slot_size(17)
        sim.make_region(
            disk, member=i, members=2, set_id=b"Y" * 16, slot=slot, size=sim.region_size(slot)
        )
    assert "set-other" in codes(power_on(board, "RUN_DEGRADED", disk_writes=0))
    report = lifeboat.power_on(board, adopt=b"Y" * 16)
    assert report.verdict == "RUN" and codes(report) == ["adopted"], report.data
    power_on(board, "RUN", erases=0, disk_writes=0, reasons=[])


class Anything:
    def __init__(self, error):
        self.error = error

    def __call__(self, *args):
        raise self.error


def exceptions():
    for error in (OSError(5), OSError(), ValueError("x"), MemoryError(), KeyError(1)):
        board = sim.SimBoard(sim.image())
        board.disks = Anything(error)
        power_on(board, "RUN_DEGRADED")
        board = sim.SimBoard(sim.image())
        board.drives[0].readblocks = Anything(error)
        assert lifeboat.power_on(board).runs
        board.flash = Anything(error)
        power_on(board, "RESCUE")


class Machine:
    """What the unix port's machine module lacks."""

    SOFT_RESET = 5
    cause = 1

    def reset_cause(self):
        return self.cause


def soft_reset():
    board = sim.SimBoard(sim.image())
    machine = sys.modules["machine"] = Machine()
    first = lifeboat.start(board)
    machine.cause = machine.SOFT_RESET
    # Nothing is inspected again, or this would be found.
    board.nor.data[5] ^= 1
    before = board.power.count
    again = lifeboat.start(board)
    assert again is not first and again.data == first.data
    assert board.power.count == before
    assert lifeboat.report() is again


for shape in SHAPES:
    flow(*shape)
    print("flow", *shape)
partition()
print("partition ok")
memory()
print("memory ok")
exceptions()
print("exceptions ok")
soft_reset()
print("soft reset ok")
