"""Power cuts at every device operation of creating and recovering, before it and half-way."""

import hashlib
import struct
import zlib

import pytest
from fakes import board as sim
from fakes.power import Power, PowerCut

import lifeboat
from lifeboat.region import Region

NEW = sim.image(seed=1, version="2.0")
OLD = sim.image(seed=2, version="1.0")
MANIFEST_AT = (sim.BLOCKS - 1) * sim.ERASE


def whole_copies(disk):
    """Return the versions of all committed and whole copies on a disk, by format.md alone."""
    region = disk.count * 512 - sim.REGION
    found = []
    for slot in range(2):
        at = region + 4096 + slot * sim.SLOT
        record = sim.get(disk, at, 512)
        if record[:8] != b"LBCOMMIT" or zlib.crc32(record[:508]) != struct.unpack("<I", record[508:])[0]:
            continue
        size, block, count = struct.unpack_from("<III", record, 68)
        manifest = sim.get(disk, at + 4096, 8192)[:size]
        if zlib.crc32(manifest[:-4]) != struct.unpack("<I", manifest[-4:])[0]:
            continue
        if hashlib.sha256(manifest[:-4]).digest() != record[32:64]:
            continue
        digests = size - 4 - 32 * count
        good = all(
            hashlib.sha256(sim.get(disk, at + 69632 + i * block, block)).digest()
            == manifest[digests + 32 * i : digests + 32 * i + 32]
            for i in range(count)
        )
        if good:
            found.append(manifest[72:96].rstrip(b"\0").decode())
    return found


class Scenario:
    """A state, from which a power-on writes; and what must hold after a cut of it.

    final: the flash after an undisturbed power-on; kept: versions of which every member held a
    whole copy before: one of them must always be left on each.
    """

    def __init__(self, name, flash, members_hold=(), damage=None, final=NEW):
        self.name = name
        self.final = final
        self.kept = bool(members_hold)
        board = sim.SimBoard(bytearray(NEW))
        for image in members_hold:
            board.nor.data[:] = image
            assert lifeboat.power_on(board).verdict == "RUN"
        board.nor.data[:] = flash
        if damage:
            damage(board)
        self.flash = bytes(board.nor.data)
        self.media = [dict(disk.sectors) for disk in board.drives]

    def board(self, power):
        board = sim.SimBoard(bytearray(self.flash), power=power)
        for disk, media in zip(board.drives, self.media):
            disk.sectors = dict(media)
        return board


def rot(board):
    """Damage the flash in two blocks, and a different one of them in each copy."""
    for i, disk in enumerate(board.drives):
        block = (1, 4)[i]
        board.nor.data[block * sim.ERASE] ^= 1
        region = disk.count * 512 - sim.REGION
        record = sim.get(disk, region + 4096, 512)
        sim.put(disk, region + 4096 + 69632 + block * sim.ERASE, b"rotten".ljust(512, b"\0"))
        assert record[:8] == b"LBCOMMIT"


def tear_header(board):
    disk = board.drives[0]
    sim.put(disk, disk.count * 512 - sim.REGION, bytes(512))


BLANK = b"\xff" * len(NEW)
HALF = bytes(NEW[: 3 * sim.ERASE] + OLD[3 * sim.ERASE :])
PADDED = bytes(NEW[:-2]) + b"\x00\xff"

SCENARIOS = [
    Scenario("first-create", NEW),
    Scenario("update", NEW, members_hold=[OLD]),
    Scenario("second-update", NEW, members_hold=[NEW, OLD]),
    Scenario("recover-erased", BLANK, members_hold=[NEW]),
    Scenario("recover-half-other", HALF, members_hold=[OLD, NEW]),
    Scenario("recover-padding", PADDED, members_hold=[NEW]),
    Scenario("recover-and-mend", NEW, members_hold=[NEW], damage=rot),
    Scenario("mend-header", NEW, members_hold=[NEW], damage=tear_header),
]


def final_of(scenario):
    """The flash that an undisturbed power-on leaves, and how many operations it takes."""
    board = scenario.board(Power())
    assert lifeboat.power_on(board).verdict == "RUN"
    return bytes(board.nor.data), board.power.count


@pytest.mark.parametrize("keep", ["none", "all", "last", "random"])
@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_every_cut_is_survived(scenario, torn, keep):
    final, operations = final_of(scenario)
    assert operations > 0
    reached = 0
    for cut in range(1, operations + 1):
        power = Power(cut, torn)
        board = scenario.board(power)
        with pytest.raises(PowerCut):
            lifeboat.power_on(board)
        assert power.off and power.count == cut
        reached += 1
        for disk in board.drives:
            disk.settle(keep, seed=cut)
        where = "%s cut %d %s keep=%s" % (scenario.name, cut, "torn" if torn else "before", keep)
        if scenario.kept and scenario.name != "recover-and-mend":
            assert all(whole_copies(disk) for disk in board.drives), where  # I2
        board.supply(Power())
        report = lifeboat.power_on(board)
        assert report.verdict == "RUN", where
        assert bytes(board.nor.data) == final, where
        # No copy is lost: afterwards every member has the code that runs.
        version = report.data["version"]
        assert all(version in whole_copies(disk) for disk in board.drives) or (
            scenario.name == "recover-and-mend"
        ), where
        states = {m["state"] for m in report.data["members"]}
        assert states <= {"level", "created", "mended"}, where
    assert reached == operations


def test_the_sweep_meets_every_kind_of_operation():
    kinds = set()
    for scenario in SCENARIOS:
        board = scenario.board(Power())
        lifeboat.power_on(board)
        kinds |= {(device.rstrip("01"), name) for device, name, _ in board.power.log}
    assert kinds == {("flash", "erase"), ("flash", "program"), ("disk", "write"), ("disk", "flush")}


def test_a_missing_flush_would_be_found(monkeypatch):
    """The sweep itself: without flushes a record must be met that commits what is not there."""
    monkeypatch.setattr(Region, "flush", lambda self: None)
    scenario = SCENARIOS[1]
    _, operations = final_of(scenario)
    lies = 0
    for cut in range(1, operations + 1):
        board = scenario.board(Power(cut))
        with pytest.raises(PowerCut):
            lifeboat.power_on(board)
        for disk in board.drives:
            disk.settle("last")
            second_slot = disk.count * 512 - sim.REGION + 4096 + sim.SLOT
            committed = sim.get(disk, second_slot, 512)[:8] == b"LBCOMMIT"
            lies += committed and "2.0" not in whole_copies(disk)
    assert lies
