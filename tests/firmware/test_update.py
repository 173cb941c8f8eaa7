"""Going back to a build that a copy holds: by a person's word, and never without a way back."""

from errno import EIO

import pytest

import lifeboat
from fakes import board as sim
from fakes import forgery, scenarios, signer
from fakes.scenarios import NEW, OLD, Scenario
from lifeboat import running, update
from lifeboat.errors import LifeboatError
from lifeboat.scrub import Scrubber
from sim.power import Power, PowerCut

IDS = {
    version: sim.build_id(raw[scenarios.MANIFEST_AT :][: scenarios.MANIFEST_SIZE])
    for version, raw in (("1.0", OLD), ("2.0", NEW))
}
UPDATED = Scenario("updated", NEW, members_hold=[OLD, NEW])
DIFFERENT = [
    block
    for block in range(sim.BLOCKS)
    if OLD[block * sim.ERASE :][: sim.ERASE] != NEW[block * sim.ERASE :][: sim.ERASE]
]


@pytest.fixture(autouse=True)
def no_session():
    yield
    running.attended = False


@pytest.fixture
def board():
    """Runs version 2.0; both disks hold it, and 1.0."""
    return UPDATED.board()


def code_of(call, *args):
    with pytest.raises(LifeboatError) as caught:
        call(*args)
    return caught.value.code


def rot(board, version, block, disks=None):
    """Damage a block of the copies of a version."""
    slot = {"1.0": 0, "2.0": 1}[version]
    for disk in disks or board.drives:
        sim.put(disk, scenarios.slot_of(disk, slot) + 69632 + block * sim.ERASE, b"rot!" * 128)


def held(board):
    return [scenarios.whole_copies(disk) for disk in board.drives]


# What it does


def test_the_other_build_is_back_and_both_copies_stay(board):
    update.rollback(board, "1.0")
    assert bytes(board.nor.data) == bytes(OLD)
    report = lifeboat.power_on(board)
    assert (report.verdict, report.data["version"], report.data["bad"]) == ("RUN", "1.0", [])
    assert report.data["disk_writes"] == 0 and scenarios.states(report) == ["level"] * 2
    assert held(board) == [["1.0", "2.0"]] * 2
    update.rollback(board, IDS["2.0"].hex()[:5].upper())
    assert bytes(board.nor.data) == bytes(NEW)
    assert lifeboat.power_on(board).verdict == "RUN"


def test_only_what_differs_is_erased(board):
    half = bytearray(OLD)
    half[: 3 * sim.ERASE] = NEW[: 3 * sim.ERASE]
    code = bytes(half[: 6 * sim.ERASE])
    raw = sim.manifest(code, version="1.5")
    half[scenarios.MANIFEST_AT :] = raw + b"\xff" * (sim.ERASE - len(raw))
    board.nor.data[:] = half
    assert lifeboat.power_on(board).verdict == "RUN"  # 1.5 takes the slot of 1.0
    board.supply(Power())
    update.rollback(board, "2.0")
    erased = [at for device, op, at in board.power.log if op == "erase"]
    assert erased == [block * sim.ERASE for block in (3, 4, 5, 8)]
    assert not any(device != "flash" for device, _, _ in board.power.log)


def test_what_is_here_is_listed_and_nothing_written(board, capsys):
    board.supply(Power())
    update.rollback(board)
    said = capsys.readouterr().out
    assert f"2.0 {IDS['2.0'].hex()[:12]} disk0 in flash" in said
    assert f"1.0 {IDS['1.0'].hex()[:12]} disk0" in said and "never" not in said
    assert said.index("2.0 ") < said.index("1.0 ")
    assert board.power.log == []


def test_a_build_that_never_ran_here_comes_back_by_a_persons_word(board, capsys):
    board.chip.data[:] = b"\xff" * len(board.chip.data)
    assert lifeboat.power_on(board).verdict == "RUN"  # remembers 2.0 alone
    update.rollback(board)
    assert "1.0" in capsys.readouterr().out.split("never ran here")[0].split("\n")[-1]
    update.rollback(board, "1.0")
    report = lifeboat.power_on(board)
    assert (report.verdict, report.data["version"]) == ("RUN", "1.0")


def test_one_good_copy_is_enough(board):
    rot(board, "1.0", 2, board.drives[:1])
    update.rollback(board, "1.0")
    assert bytes(board.nor.data) == bytes(OLD)


def test_code_that_is_lost_is_no_reason_to_stay(board):
    rot(board, "2.0", 3)
    board.nor.data[3 * sim.ERASE] ^= 1
    update.rollback(board, "1.0")
    assert bytes(board.nor.data) == bytes(OLD)


def test_a_lost_manifest_is_no_reason_to_stay(board):
    board.nor.data[scenarios.MANIFEST_AT :] = b"\0" * sim.ERASE
    update.rollback(board, "1.0")
    assert bytes(board.nor.data) == bytes(OLD)


def test_a_scrubber_keeps_off_until_the_reset(board):
    lifeboat.power_on(board)
    scrubber = Scrubber(board)
    update.rollback(board, "1.0")
    assert not scrubber.step(5)


def test_not_even_a_soft_reset_believes_the_last_verdict(board):
    lifeboat.power_on(board)
    kept = board.retained()
    assert kept is None or any(kept[:4])
    update.rollback(board, "1.0")
    assert not board.retained() or not any(board.retained()[:4])


# What it refuses, and then nothing is written


# Three digits of an id are too few: somebody may mean a version.
@pytest.mark.parametrize("wanted", ["3.0", "zz", "1", IDS["1.0"].hex()[:3], "ffffffffffff"])
def test_what_is_not_there_or_not_clear_is_refused(board, wanted):
    board.supply(Power())
    assert code_of(update.rollback, board, wanted) == "build-none"
    assert board.power.log == []


def test_digits_that_both_begin_with_are_refused(board, monkeypatch):
    monkeypatch.setattr(update, "hexlify", lambda data: b"abcdef0123456789")
    assert code_of(update.rollback, board, "abcd") == "build-none"


def test_a_build_that_is_not_whole_is_refused(board):
    board.supply(Power())
    rot(board, "1.0", 2)
    assert code_of(update.rollback, board, "1.0") == "block-lost"
    assert board.power.log == []


def test_the_code_in_flash_is_not_given_up_without_a_way_back(board):
    board.supply(Power())
    rot(board, "2.0", 4)
    assert code_of(update.rollback, board, "1.0") == "return-none"
    assert board.power.log == []


def test_nor_is_code_that_could_still_be_repaired(board):
    board.supply(Power())
    board.nor.data[3 * sim.ERASE] ^= 1  # the copies have this block
    rot(board, "2.0", 4)  # and the flash that one
    assert code_of(update.rollback, board, "1.0") == "return-none"
    assert board.power.log == []


def test_nor_when_no_copy_has_its_manifest(board):
    board.supply(Power())
    for disk in board.drives:
        sim.put(disk, scenarios.slot_of(disk, 1) + 4096, b"\0" * 512)
    assert code_of(update.rollback, board, "1.0") == "return-none"
    assert board.power.log == []


def test_disks_of_others_are_not_asked(board):
    for disk in board.drives:
        first = scenarios.region_of(disk)
        for at in (first, first + sim.REGION - 8192, first + sim.REGION - 4096):
            header = bytearray(sim.get(disk, at, 512))
            header[16:32] = b"stranger's set!!"
            sim.put(disk, at, forgery.sealed(header))
    assert code_of(update.rollback, board, "1.0") == "build-none"


def test_a_board_without_a_policy_goes_nowhere(board):
    board.UNSIGNED = False
    assert code_of(update.rollback, board, "1.0") == "policy"


def signed(version, counter):
    return signer.key(1).image(forgery.image(1 + counter, version), counter=counter)


@pytest.mark.parametrize(("counter", "code"), [(1, "build-none"), (2, None)])
def test_a_counter_that_is_too_low_is_not_gone_back_to(counter, code):
    """The memory raised it when the newer build ran and had its backup."""
    old, new = signed("1.0", counter), signed("2.0", 2)
    if counter == 2:
        old = signer.key(1).image(forgery.image(9, "1.0"), counter=2)
    board = sim.SimBoard(bytearray(old))
    board.KEYS = signer.key_set(1, (signer.ALL, signer.key(1)))
    board.UNSIGNED = False
    assert lifeboat.power_on(board).verdict == "RUN"
    forgery.install(board, new)
    assert lifeboat.power_on(board).data["counter"] == 2
    if code:
        assert code_of(update.rollback, board, "1.0") == code
        assert forgery.parts(board.nor.data) == forgery.parts(new)
    else:
        update.rollback(board, "1.0")
        assert forgery.parts(board.nor.data) == forgery.parts(old)
        assert lifeboat.power_on(board).verdict == "RUN"


# Trouble on the way


@pytest.mark.parametrize("keep", ["none", "all", "random"])
@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
@pytest.mark.parametrize("way", [("2.0", "1.0"), ("1.0", "2.0")], ids="->".join)
def test_every_power_cut_leaves_one_build_or_the_other(sweep, way, torn, keep):
    start, end = way
    images = {"1.0": bytes(OLD), "2.0": bytes(NEW)}

    def prepared(power):
        board = UPDATED.board()
        if start == "1.0":
            update.rollback(board, "1.0")
            lifeboat.power_on(board)
        board.supply(power)
        return board

    whole = prepared(Power())
    update.rollback(whole, end)
    operations = whole.power.count
    assert operations >= 2 * len(DIFFERENT)
    ends = set()
    for cut in sweep.cuts(range(1, operations + 1)):
        board = prepared(Power(cut, torn))
        sweep.shows(flash=board.nor, disk0=board.drives[0], disk1=board.drives[1])
        with pytest.raises(PowerCut):
            update.rollback(board, end)
        for disk in board.drives:
            disk.settle(keep, cut)
        board.supply(Power())
        report = lifeboat.power_on(board)
        assert report.verdict == "RUN", (cut, report.data)
        assert bytes(board.nor.data) == images[report.data["version"]], cut
        assert held(board) == [["1.0", "2.0"]] * 2, cut
        ends.add(report.data["version"])
        update.rollback(board, end)  # and the person tries again
        assert bytes(board.nor.data) == images[end], cut
    assert start in ends or not sweep.whole


@pytest.mark.parametrize("at", range(1, 30, 3))
def test_a_disk_that_dies_on_the_way_is_passed_by(board, at):
    left = at

    def fault(op, lba, count):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(EIO)

    board.drives[0].fault = fault
    update.rollback(board, "1.0")
    assert bytes(board.nor.data) == bytes(OLD)


def test_both_disks_die_on_the_way_and_come_back(board):
    left = 40

    def fault(op, lba, count):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(EIO)

    for disk in board.drives:
        disk.fault = fault
    assert code_of(update.rollback, board, "1.0") in ("block-lost", "build-none", "return-none")
    for disk in board.drives:
        disk.fault = None
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and bytes(board.nor.data) in (bytes(OLD), bytes(NEW))
