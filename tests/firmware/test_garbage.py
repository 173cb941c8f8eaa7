"""I5: any bytes in region, slots and manifest give a verdict, and no write but by the rules."""

import pytest

from fakes import board as sim
from fakes import scenarios
from fakes.rng import Rng


@pytest.fixture(scope="module")
def media():
    return scenarios.backed_up()


def fill(kind, size):
    return {"zeros": bytes(size), "ones": b"\xff" * size, "random": sim.noise(7, size)}[kind]


@pytest.mark.parametrize("damage_flash", [False, True], ids=["intact", "damaged"])
@pytest.mark.parametrize("where", ["region", "manifest", "both"])
@pytest.mark.parametrize("kind", ["zeros", "ones", "random"])
def test_whole_areas_of_garbage(media, kind, where, damage_flash):
    board = scenarios.board_with(media)
    if damage_flash:
        board.nor.data[100] ^= 1
    if where != "manifest":
        for disk in board.drives:
            sim.put(disk, scenarios.region_of(disk), fill(kind, sim.REGION))
    if where != "region":
        board.nor.data[scenarios.MANIFEST_AT :] = fill(kind, sim.ERASE)
    report = scenarios.judge(board, where == "region" and not damage_flash)
    healed = where == "manifest" or not (damage_flash or where == "both")
    assert report.runs == healed
    if healed:
        assert board.nor.data == scenarios.NEW


@pytest.mark.parametrize("part", scenarios.PARTS)
def test_a_thousand_mutated_records(media, part):
    rng = Rng(part)
    ran = 0
    for i in range(1000):
        ran += scenarios.mutated(media, part, rng, fix=i % 4 != 0, damaged=i % 2 == 1).runs
    assert 0 < ran <= 1000
