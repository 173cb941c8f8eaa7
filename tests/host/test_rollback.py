"""`lifeboat rollback`, with the board's own code behind a wire; see test_update.py, too."""

import pytest
from wire import Liar

from fakes import scenarios
from fakes.scenarios import NEW, OLD, Scenario
from lifeboat import boot
from lifeboat_host.commands import rollback

UPDATED = Scenario("updated", NEW, members_hold=[OLD, NEW])


@pytest.fixture
def board():
    """Runs version 2.0; both disks hold it, and 1.0."""
    board = UPDATED.board()
    assert boot.power_on(board).verdict == "RUN"
    return board


def contents(board):
    return bytes(board.nor.data), bytes(board.chip.data), [dict(d.sectors) for d in board.drives]


def test_what_ran_before_comes_back_and_goes_again(connected, board):
    run = connected(board)
    before = contents(board)
    code, result = run("rollback", "--dry-run")
    assert code == 0 and contents(board) == before
    assert [(b["version"], b["known"], b["disks"]) for b in result["builds"]] == [
        ("2.0", True, ["disk0", "disk1"]),
        ("1.0", True, ["disk0", "disk1"]),
    ]
    assert (result["before"], result["build"], result["done"]) == (
        result["builds"][0]["build"], None, False,
    )  # fmt: skip
    code, result = run("rollback")
    assert code == 1 and result["error"]["code"] == "consent" and contents(board) == before
    code, result = run("rollback", "--yes")
    assert (code, result["done"], result["report"]["version"]) == (0, True, "1.0")
    assert result["written"] == 6 and bytes(board.nor.data) == bytes(OLD)
    code, result = run("rollback", "--yes")
    assert (code, result["report"]["version"]) == (0, "2.0")
    assert bytes(board.nor.data) == bytes(NEW)


def test_a_version_or_digits_name_it(connected, board):
    run = connected(board)
    _, result = run("rollback", "1.0", "--dry-run")
    old = result["build"]
    assert old != result["before"]
    assert run("rollback", old[:4].upper(), "--dry-run")[1]["build"] == old
    code, result = run("rollback", "2.0", "--yes")
    assert (code, result["done"], result["written"]) == (0, False, 0)  # it is in flash


@pytest.mark.parametrize("wanted", ["3.0", "123", "zzzz", ""])
def test_what_is_not_here_is_refused_with_what_is(connected, board, wanted):
    before = contents(board)
    code, result = connected(board)("rollback", wanted, "--yes")
    assert (code, result["error"]["code"]) == (1, "rollback-build")
    assert "1.0" in result["error"]["hint"] and contents(board) == before


def test_without_another_build_there_is_nothing_to_go_back_to(connected):
    board = Scenario("one", NEW, members_hold=[NEW]).board()
    boot.power_on(board)
    code, result = connected(board)("rollback", "--yes")
    assert (code, result["error"]["code"]) == (1, "rollback-build")


def test_the_boards_refusals_are_told_and_nothing_is_written(connected, board):
    for disk in board.drives:
        scenarios.sim.put(disk, scenarios.slot_of(disk, 0) + 69632, b"rot!" * 128)
    before = contents(board)
    code, result = connected(board)("rollback", "--yes")
    assert (code, result["error"]["code"]) == (1, "block-lost")
    assert contents(board) == before


def test_what_it_means_is_said_before_the_question(board):
    build = rollback.Build("1a2b3c4d5e6f", "1.0", False, (0, 1), ["sata0"])
    said = "\n".join(rollback._stakes(build, "p 2.0"))
    assert "1.0, build 1a2b3c4d5e6f comes from sata0" in said
    assert "replaces p 2.0, which stays" in said and "NEVER RAN HERE" in said


def test_a_boot_stage_without_the_extra_says_so(connected, board, monkeypatch):
    from lifeboat import agent as agents

    monkeypatch.delattr(agents.UpdateAgent, "rollback")
    monkeypatch.setattr(agents.UpdateAgent, "updates", False)
    code, result = connected(board)("rollback", "--yes")
    assert (code, result["error"]["code"]) == (1, "update-missing")


@pytest.mark.parametrize("seed", range(60))
def test_odd_answers_end_in_an_error(connected, board, seed):
    code, result = connected(board, Liar(board, seed))("rollback", "--yes")
    assert code in (0, 1) and (code == 0 or result["error"]["code"])
