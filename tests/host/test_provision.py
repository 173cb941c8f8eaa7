"""Provisioning from end to end: the commands, and the board's own agent on a board of fakes."""

from errno import EIO

import pytest
from wire import Liar

from fakes import board as sim
from lifeboat import boot
from sim.disk import RamDisk

BLOCK = sim.ERASE
SECTORS = 4096
OLD = bytes(sim.image(seed=1, version="1.0"))
NEW = bytes(sim.image(seed=2, version="2.0"))
BLANK = b"\xff" * len(NEW)


def blank_board(content, disks):
    board = sim.SimBoard(bytearray(content), members=0)
    board.drives = [RamDisk(f"disk{i}", SECTORS) for i in range(disks)]
    return board


def states(result):
    return {member["disk"]: member["state"] for member in result["report"]["members"]}


@pytest.fixture
def provision(connected, tmp_path):
    def prepared(board):
        run = connected(board)
        return lambda *args: run("provision", "--yes", "--undo", tmp_path, *args, code=NEW)

    return prepared


# Provision


def test_a_blank_board_becomes_protected(provision):
    board = blank_board(BLANK, disks=2)
    run = provision(board)
    code, result = run()
    assert code == 0 and [made["disk"] for made in result["created"]] == ["disk0", "disk1"]
    assert bytes(board.nor.data) == NEW
    assert set(states(result).values()) == {"level"}
    code, result = run()
    assert (code, result["done"], result["regions"]) == (0, False, ["disk0", "disk1"])


@pytest.mark.parametrize("disks", [2, 3])
def test_a_run_that_was_cut_between_two_regions_is_taken_up_there(provision, disks):
    board = blank_board(BLANK, disks)
    # Not zero and not recognised, so that both runs are given leave to overwrite it.
    for drive in board.drives:
        sim.put(drive, (SECTORS - 50) * 512, b"x" * 512)
    leave = [f"--overwrite={SECTORS - 50}-{SECTORS - 50}"] * disks
    run = provision(board)
    board.drives[1].fault = lambda op, lba, count: EIO if op == "write" else None
    code, result = run(*leave)
    assert code == 1 and result["error"]["code"] == "disk-write"
    board.drives[1].fault = None
    assert boot.power_on(board).verdict == "RUN"  # with a part of its set

    code, result = run(*leave)
    assert code == 0 and result["regions"] == ["disk0"]
    made = [(one["disk"], one["member_index"]) for one in result["created"]]
    assert made == [("disk1", 1), ("disk2", 2)][: disks - 1]
    assert list(states(result).values()) == ["level"] * disks
    assert result["report"]["reasons"] == []


def test_a_board_that_lacks_a_member_is_not_protected(provision):
    board = blank_board(BLANK, disks=2)
    run = provision(board)
    assert run()[0] == 0
    board.drives.pop()
    code, result = run()
    assert code == 1 and result["error"]["code"] == "provision-backup"
    assert "member-missing" in result["error"]["message"]


def test_a_disk_for_which_the_set_has_no_place_is_left_alone(provision):
    board = blank_board(BLANK, disks=1)
    run = provision(board)
    assert run()[0] == 0
    board.drives.append(RamDisk("disk1", SECTORS))
    assert run()[1]["done"] is False
    code, result = run("--disk", "disk1")
    assert code == 1 and result["error"]["code"] == "region-member"
    assert board.drives[1].writes == 0


def test_a_region_whose_disk_fails_at_the_reset_is_no_success(provision, monkeypatch):
    board = blank_board(BLANK, disks=2)
    run = provision(board)
    power_on = boot.power_on

    def worse(board):
        board.drives[1].fault = lambda op, lba, count: EIO
        return power_on(board)

    monkeypatch.setattr(boot, "power_on", worse)
    code, result = run()
    assert code == 1 and result["error"]["code"] == "provision-backup"
    assert "disk1" in result["error"]["message"]


# Flash


def test_new_code_is_backed_up_and_runs(connected):
    board = sim.SimBoard(bytearray(OLD))
    boot.power_on(board)
    run = connected(board)
    code, result = run("flash", "--yes", code=NEW)
    assert (code, result["done"]) == (0, True) and bytes(board.nor.data) == NEW
    assert states(result) == {"disk0": "created", "disk1": "created"}
    code, result = run("flash", code=NEW)
    assert (code, result["done"]) == (0, False)


def test_new_code_without_a_backup_is_an_error_until_it_has_one(connected):
    board = blank_board(OLD, disks=0)
    run = connected(board)
    for _ in range(2):
        code, result = run("flash", "--yes", code=NEW)
        assert code == 1 and result["error"]["code"] == "provision-backup"
        assert bytes(board.nor.data) == NEW
    board.drives = sim.SimBoard(bytearray(OLD)).drives
    code, result = run("flash", "--yes", code=NEW)
    assert (code, result["sent"]) == (0, None)
    assert set(states(result).values()) == {"created"}


def test_a_board_that_went_back_to_its_old_code_is_an_error(connected, monkeypatch):
    board = sim.SimBoard(bytearray(OLD))
    boot.power_on(board)
    run = connected(board)
    power_on = boot.power_on

    def worse(board):
        board.nor.data[2 * BLOCK] ^= 1  # as soon as the new code is there
        return power_on(board)

    monkeypatch.setattr(boot, "power_on", worse)
    code, result = run("flash", "--yes", code=NEW)
    assert code == 1 and result["error"]["code"] == "provision-code"
    assert bytes(board.nor.data) == OLD


# Verify


@pytest.fixture
def verified(connected, lifeboat):
    """Verify a board; gives (exit code, what it says is next)."""

    def run(board):
        connected(board)
        code, out, _ = lifeboat("verify", "--port", "-")
        return code, out.strip().split("\n")[-1]

    return run


def test_verify_says_what_helps(verified):
    board = sim.SimBoard(bytearray(OLD))
    assert boot.power_on(board).verdict == "RUN"
    assert verified(board) == (0, "all is well")

    board.nor.data[:] = NEW
    code, said = verified(board)
    assert code == 3 and "next: lifeboat backup" in said
    boot.power_on(board)

    board.nor.data[0] ^= 1
    code, said = verified(board)
    assert code == 3 and "next: lifeboat recover" in said
    board.nor.data[0] ^= 1

    board.drives.pop()
    code, said = verified(board)
    assert code == 3 and "lifeboat region create --port wire DISK --join disk0" in said


# Unprovision


def test_a_region_that_data_may_reach_into_is_removed_when_its_range_is_named(
    provision, connected
):
    board = blank_board(BLANK, disks=1)
    (made,) = provision(board)()[1]["created"]
    swap = bytearray(4096)
    swap[1024:1032] = (1).to_bytes(4, "little") + (SECTORS // 8 - 1).to_bytes(4, "little")
    swap[4086:] = b"SWAPSPACE2"
    sim.put(board.drives[0], 0, bytes(swap))
    first, last = made["start_lba"], made["start_lba"] + made["sectors"] - 1
    run = connected(board)
    code, result = run("unprovision", "--yes", "--undo", made["undo"])
    assert code == 1 and result["error"]["code"] == "overwrite"
    named = f"--overwrite {first}-{last}"
    assert named in result["error"]["hint"]
    code, result = run("unprovision", "--yes", "--undo", made["undo"], *named.split())
    assert code == 0 and [one["disk"] for one in result["removed"]] == ["disk0"]


# Whatever a board says


@pytest.mark.parametrize("seed", range(3))
def test_whatever_a_board_says_ends_without_a_traceback(connected, seed):
    board = sim.SimBoard(bytearray(OLD))
    boot.power_on(board)
    codes = set()
    for i in range(16):
        run = connected(board, Liar(board, 1000 * seed + i))
        for name in ("status", "verify"):
            code, result = run(name)
            codes.add(result["error"]["code"] if code == 1 else code)
    assert 0 in codes and "link-garbled" in codes
