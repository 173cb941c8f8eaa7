"""I4: power cuts at every device operation of creating and recovering, before it and half-way."""

import pytest

import lifeboat
from fakes import board as sim
from fakes import scenarios
from fakes.scenarios import NEW, OLD, Scenario
from lifeboat.region import Region
from sim.power import Power


def spoil(board):
    """Damage a block of the flash and of the newest copies: the older ones are what can run."""
    for disk in board.drives:
        at = scenarios.slot_of(disk, 1, journal=2) + 69632 + 2 * sim.ERASE
        sim.put(disk, at, bytes(512))
    board.nor.data[2 * sim.ERASE] ^= 1


def spoil_parity_too(board):
    spoil(board)
    scenarios.spoil_parity(board, 1, journal=2)


def spoil_manifest_too(board):
    spoil_parity_too(board)
    board.nor.data[scenarios.MANIFEST_AT] ^= 1


# The last ones, with journals, would take the other floors too long.
SCENARIOS = [
    *scenarios.SCENARIOS,
    Scenario("restore-older", NEW, members_hold=[OLD, NEW], damage=spoil_parity_too, journal=2),
    Scenario("from-parity", NEW, members_hold=[OLD, NEW], damage=spoil, journal=2),
    Scenario("restore-older-manifest", NEW, [OLD, NEW], spoil_manifest_too, journal=2),
]


@pytest.mark.parametrize("keep", ["none", "all", "last", "random"])
@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_every_cut_is_survived(sweep, scenario, torn, keep):
    _, operations = scenario.undisturbed()
    assert operations > 0
    cuts = sweep.cuts(range(1, operations + 1))
    done = scenarios.sweep(scenario, torn, keep, cuts, sweep.shows)
    assert done == operations or not sweep.whole


def test_the_sweep_meets_every_kind_of_operation():
    kinds = set()
    for scenario in SCENARIOS:
        board = scenario.board()
        lifeboat.power_on(board)
        kinds |= {(device.rstrip("01"), name) for device, name, _ in board.power.log}
    assert kinds == {
        ("flash", "erase"),
        ("flash", "program"),
        ("disk", "write"),
        ("disk", "flush"),
    }


def test_the_sweep_meets_the_journal():
    board = SCENARIOS[-1].board()
    lifeboat.power_on(board)
    for disk in board.drives:
        first = scenarios.slot_of(disk, 2, journal=2) // disk.size
        assert {(disk.name, "write", first), (disk.name, "write", first + 8)} & {*board.power.log}


def test_a_missing_flush_would_be_found(monkeypatch):
    """The sweep itself: without flushes a record must be met that commits what is not there."""
    monkeypatch.setattr(Region, "flush", lambda self: None)
    scenario = SCENARIOS[1]
    _, operations = scenario.undisturbed()
    lies = 0
    for cut in range(1, operations + 1):
        board = scenario.board(Power(cut))
        scenarios.cut_power(board)
        for disk in board.drives:
            disk.settle("last")
            committed = sim.get(disk, scenarios.slot_of(disk, 1), 512)[:8] == b"LBCOMMIT"
            lies += committed and "2.0" not in scenarios.whole_copies(disk)
    assert lies
