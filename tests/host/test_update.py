"""`lifeboat update`, with the board's own code behind a wire; see test_trial.py, too."""

import json

import pytest
from layouts import blank, disk_file
from wire import Liar, Wire

from fakes import board as sim
from fakes import forgery, scenarios, updates
from fakes.updates import NEW, OLD
from lifeboat import boot, running, trial
from lifeboat_host.base.errors import LifeboatError


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(trial, "staging", False)


@pytest.fixture
def board():
    """Runs version 1.0; both disks hold it."""
    return updates.running_old()


class Telling(Wire):
    """A board whose application confirms, crashes or hangs after the reset."""

    def __init__(self, board, lines):
        super().__init__(board)
        self.lines = lines

    def reset(self, timeout):
        running.attended = False  # as a reset leaves it
        return super().reset(timeout)

    def line(self, timeout):
        if not self.lines:
            raise LifeboatError("link-timeout", "nothing")
        line = self.lines.pop(0)
        return line(self._board) if callable(line) else line


def test_staged_tried_and_confirmed(connected, board):
    run = connected(board, Telling(board, []))
    code, result = run("update", "--yes", code=bytes(NEW))
    assert (code, result["done"], result["report"]["version"]) == (0, True, "2.0")
    assert result["sent"]["blocks_sent"] == 6 and result["sent"]["disks"] == ["disk0", "disk1"]
    assert result["trial"]["state"] == "trying" and bytes(board.nor.data) == bytes(NEW)
    code, result = run("update")
    assert (code, result["trial"]["state"], result["trial"]["starts"]) == (0, "trying", 1)
    code, result = run("update", "--confirm")
    assert (code, result["trial"]["state"]) == (0, "confirmed")
    assert boot.power_on(board).data["reasons"] == []


def test_it_asks_first(connected, board):
    before = [dict(disk.sectors) for disk in board.drives]
    code, result = connected(board)("update", code=bytes(NEW))
    assert (code, result["error"]["code"]) == (1, "consent")
    assert [dict(disk.sectors) for disk in board.drives] == before


def test_rejected_it_is_back_and_not_taken_again(connected, board):
    run = connected(board, Telling(board, []))
    run("update", "--yes", code=bytes(NEW))
    code, result = run("update", "--reject", "no link")
    assert (code, result["report"]["version"]) == (0, "1.0")
    assert result["report"]["trial"]["why"] == "no link"
    assert bytes(board.nor.data) == bytes(OLD)
    code, result = run("update", "--yes", code=bytes(NEW))
    assert (code, result["error"]["code"]) == (1, "build-rejected")
    code, result = run("update", "--yes", "--again", code=bytes(NEW))
    assert (code, result["report"]["version"], result["sent"]["blocks_sent"]) == (0, "2.0", 0)


def test_it_waits_for_the_confirmation(connected, board):
    said = Telling(board, ["hello\n", "lifeboat-trial: confirmed 2.0\n"])
    code, result = connected(board, said)("update", "--yes", "--wait", "5", code=bytes(NEW))
    assert (code, result["report"]["version"]) == (0, "2.0")


def test_an_application_that_crashes_is_told(connected, board):
    def crash(board):
        trial.turn_back(board, "crash")
        return boot.power_on(board).line()

    said = Telling(board, ["Traceback\n", crash])
    code, result = connected(board, said)("update", "--yes", "--wait", "5", code=bytes(NEW))
    assert (code, result["error"]["code"]) == (1, "update-back")
    assert "crash" in result["error"]["message"] and bytes(board.nor.data) == bytes(OLD)


def test_one_that_says_nothing_is_waited_for_and_no_longer(connected, board):
    said = Telling(board, ["hello\n"])
    code, result = connected(board, said)("update", "--yes", "--wait", "5", code=bytes(NEW))
    assert (code, result["error"]["code"]) == (1, "update-waiting")


def test_what_is_there_already_is_not_sent(connected, board):
    run = connected(board, Telling(board, []))
    updates.stage_new(board, arm=False)
    code, result = run("update")
    assert [offer["version"] for offer in result["offers"]] == ["2.0"]
    code, result = run("update", "--yes", code=bytes(NEW))
    assert (code, result["sent"]["blocks_sent"]) == (0, 0)


def test_what_a_disk_offers_is_tried_by_a_persons_word(connected, board):
    run = connected(board, Telling(board, []))
    updates.stage_new(board, arm=False)
    code, result = run("update", "--accept", "9.9", "--yes")
    assert (code, result["error"]["code"]) == (1, "update-build")
    code, result = run("update", "--accept", "2.0", "--yes")
    assert (code, result["report"]["version"]) == (0, "2.0")


def test_flashing_directly_ends_a_trial(connected, board):
    run = connected(board, Telling(board, []))
    run("update", "--yes", code=bytes(NEW))
    code, result = run("flash", "--yes", code=bytes(sim.image(seed=3, version="3.0")))
    assert (code, result["report"]["version"]) == (0, "3.0")
    assert not updates.trying(board).open


@pytest.mark.parametrize("how", [("--confirm",), ("--reject", "x")])
def test_without_a_trial_there_is_nothing_to_say(connected, board, how):
    code, result = connected(board)("update", *how)
    assert (code, result["error"]["code"]) == (1, "trial-none")


def test_what_runs_already_is_not_tried(connected, board):
    code, result = connected(board)("update", "--yes", code=bytes(OLD))
    assert (code, result["error"]["code"]) == (1, "stage-same")


def test_a_boot_stage_without_the_extra_says_so(connected, board, monkeypatch):
    from lifeboat import agent as agents

    monkeypatch.setattr(agents.UpdateAgent, "updates", False)
    code, result = connected(board)("update", "--yes", code=bytes(NEW))
    assert (code, result["error"]["code"]) == (1, "update-missing")


@pytest.mark.parametrize("seed", range(60))
def test_odd_answers_end_in_an_error(connected, board, seed):
    code, result = connected(board, Liar(board, seed))("update", "--yes", code=bytes(NEW))
    assert code in (0, 1) and (code == 0 or result["error"]["code"])


# A disk that is carried there


@pytest.fixture
def card(board, tmp_path):
    path = tmp_path / "card.img"
    disk_file(path, board.drives[0])
    return path


@pytest.fixture
def stage(lifeboat, tmp_path, capsys):
    def run(disk, image=NEW, yes=True):
        """The exit code of `update stage`, and what it says."""
        (tmp_path / "new.img").write_bytes(bytes(image))
        capsys.readouterr()
        more = ["--yes"] if yes else []
        arguments = ["update", "stage", disk, "--image", tmp_path / "new.img", *more, "--json"]
        code, out, _ = lifeboat(*arguments)
        return code, json.loads(out)

    return run


def inserted(board, card):
    """Put the card back into the board."""
    disk = board.drives[0]
    data = card.read_bytes()
    size = disk.size
    pieces = {at // size: data[at : at + size] for at in range(0, len(data), size)}
    disk.sectors = {lba: piece for lba, piece in pieces.items() if any(piece)}


def test_a_card_brings_a_build_and_a_person_accepts_it(stage, connected, board, card):
    code, result = stage(card, yes=False)
    assert (code, result["error"]["code"]) == (1, "consent")
    code, result = stage(card)
    assert (code, result["slot"], result["version"], result["blocks"]) == (0, 1, "2.0", 6)
    inserted(board, card)
    report = boot.power_on(board)
    assert report.data["version"] == "1.0"
    assert [reason[:2] for reason in report.data["reasons"]] == [["update-offered", "disk0"]]
    run = connected(board, Telling(board, []))
    code, result = run("update", "--accept", "2.0", "--yes")
    assert (code, result["report"]["version"]) == (0, "2.0")
    code, result = run("update", "--confirm")
    assert code == 0 and boot.power_on(board).verdict == "RUN"
    assert all("2.0" in scenarios.whole_copies(disk) for disk in board.drives)


def test_a_card_is_staged_again_in_the_same_slot(stage, card):
    for _ in range(2):
        code, result = stage(card)
        assert (code, result["slot"]) == (0, 1)


def test_the_newest_copy_on_a_card_is_not_given_up(stage, board, tmp_path):
    forgery.install(board, NEW)
    boot.power_on(board)
    card, third = tmp_path / "card.img", sim.image(seed=3, version="3.0")
    disk = board.drives[0]
    disk_file(card, disk)
    code, result = stage(card, third)
    assert (code, result["slot"]) == (0, 0)  # that of 1.0
    sim.put(disk, scenarios.slot_of(disk, 1) + 69632, b"rot!" * 128)
    disk_file(card, disk)
    before = card.read_bytes()
    code, result = stage(card, third)
    assert (code, result["error"]["code"]) == (1, "stage-room")
    assert card.read_bytes() == before


def test_a_disk_without_a_region_takes_nothing(stage, tmp_path):
    blank(tmp_path / "disk.img", 16 << 20)
    code, result = stage(tmp_path / "disk.img")
    assert (code, result["error"]["code"]) == (1, "region-none")
