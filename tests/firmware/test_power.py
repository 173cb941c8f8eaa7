"""I4: power cuts at every device operation of creating and recovering, before it and half-way."""

import pytest

import lifeboat
from fakes import board as sim
from fakes import scenarios
from fakes.power import Power
from lifeboat.region import Region

SCENARIOS = scenarios.SCENARIOS


@pytest.mark.parametrize("keep", ["none", "all", "last", "random"])
@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_every_cut_is_survived(scenario, torn, keep):
    _, operations = scenario.undisturbed()
    assert operations > 0
    assert scenarios.sweep(scenario, torn, keep) == operations


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
