"""A new build is tried once, stays when it is confirmed, and else the old one is back (I4)."""

import machine
import pytest

import lifeboat
from fakes import board as sim
from fakes import forgery, scenarios, signer, updates
from fakes.updates import DIFFERENT, NEW, OLD
from lifeboat import running, trial
from lifeboat.errors import LifeboatError
from lifeboat.scrub import Scrubber
from sim.power import Power, PowerCut


class Reset(BaseException):
    """The board resets itself."""


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    def reset():
        raise Reset

    monkeypatch.setattr(machine, "reset", reset, raising=False)
    monkeypatch.setattr(running, "attended", False)
    monkeypatch.setattr(trial, "staging", False)
    yield
    running.attended = False


@pytest.fixture
def armed():
    """Runs 1.0; both disks hold 2.0 as a candidate, and the next power-on tries it."""
    board = updates.running_old()
    updates.stage_new(board)
    board.supply(Power())
    return board


@pytest.fixture
def tried(armed):
    """Runs 2.0, unconfirmed."""
    assert lifeboat.power_on(armed).data["version"] == "2.0"
    armed.supply(Power())
    return armed


def code_of(call, *args):
    with pytest.raises(LifeboatError) as caught:
        call(*args)
    return caught.value.code


def reject(board, reason=""):
    with pytest.raises(Reset):
        trial.reject(reason, board)


def held(board):
    return [scenarios.whole_copies(disk) for disk in board.drives]


def erased(board):
    return [at // sim.ERASE for device, op, at in board.power.log if op == "erase"]


# Try


def test_the_next_power_on_tries_it(armed):
    report = lifeboat.power_on(armed)
    assert (report.verdict, report.data["version"]) == ("RUN", "2.0")
    assert bytes(armed.nor.data) == bytes(NEW)
    assert scenarios.codes(report) == ["trial-open"]
    assert report.data["bad"] == report.data["repaired"] == []
    told = report.data["trial"]
    assert (told["state"], told["starts"], told["limit"]) == ("trying", 1, 3)
    assert (told["version"], told["old_version"]) == ("2.0", "1.0")
    assert held(armed) == [["1.0"]] * 2  # a candidate is no backup yet


def test_the_manifest_is_replaced_last(armed):
    lifeboat.power_on(armed)
    assert erased(armed)[-1] == sim.BLOCKS - 1
    assert len(erased(armed)) == DIFFERENT


def test_only_blocks_that_differ_are_programmed():
    half = sim.image(seed=2, version="2.0")
    half[: 2 * sim.ERASE] = NEW[: 2 * sim.ERASE]
    raw = sim.manifest(bytes(half[: 6 * sim.ERASE]), version="2.0")
    half[scenarios.MANIFEST_AT :][: len(raw)] = raw
    half = half[: scenarios.MANIFEST_AT] + raw + b"\xff" * (sim.ERASE - len(raw))
    board = updates.running_old()
    updates.stage_new(board, half)
    board.supply(Power())
    assert lifeboat.power_on(board).data["version"] == "2.0"
    assert erased(board) == [0, 1, 8]


def test_nothing_is_learned_made_or_given_up_meanwhile(tried):
    known = tried.chip.data[:]
    report = lifeboat.power_on(tried)
    assert report.data["trial"]["starts"] == 2
    assert {device for device, _, _ in tried.power.log} == {"flash"}  # the memory's chip
    assert report.data["disk_writes"] == 0 and report.data["erases"] == 0
    assert bytes(known[:1024]) == bytes(tried.chip.data[:1024])


def test_a_third_start_unconfirmed_is_the_last(tried):
    for starts in (2, 3):
        assert lifeboat.power_on(tried).data["trial"]["starts"] == starts
    report = lifeboat.power_on(tried)
    assert (report.verdict, report.data["version"]) == ("RUN", "1.0")
    assert bytes(tried.nor.data) == bytes(OLD)
    assert ["trial-back", "flash", "2.0: trial-starts"] in report.data["reasons"]
    assert report.data["trial"]["state"] == "returned"
    again = lifeboat.power_on(tried)
    assert scenarios.codes(again) == [] and again.data["version"] == "1.0"
    assert again.data["trial"]["why"] == "trial-starts"  # the old application is still told
    assert held(tried) == [["1.0"]] * 2


def test_the_board_says_how_many_starts():
    board = updates.running_old()
    board.TRIAL_STARTS = 1
    updates.stage_new(board)
    assert lifeboat.power_on(board).data["version"] == "2.0"
    assert lifeboat.power_on(board).data["version"] == "1.0"


def test_soft_resets_and_sessions_of_the_host_are_no_starts(tried, monkeypatch):
    monkeypatch.setattr(machine, "reset_cause", lambda: machine.SOFT_RESET, raising=False)
    assert lifeboat.start(tried).data["version"] == "2.0"
    assert updates.trying(tried).starts == 1
    running.attended = True
    lifeboat.power_on(tried)
    assert updates.trying(tried).starts == 1


def test_a_watchdog_ends_it_at_once(tried, monkeypatch):
    monkeypatch.setattr(machine, "WDT_RESET", 3, raising=False)
    monkeypatch.setattr(machine, "reset_cause", lambda: 3, raising=False)
    report = lifeboat.power_on(tried)
    assert report.data["version"] == "1.0"
    assert report.data["trial"]["why"] == "trial-watchdog"


def test_a_watchdog_before_the_first_start_is_not_the_new_codes(armed, monkeypatch):
    monkeypatch.setattr(machine, "WDT_RESET", 3, raising=False)
    monkeypatch.setattr(machine, "reset_cause", lambda: 3, raising=False)
    assert lifeboat.power_on(armed).data["version"] == "2.0"


def test_the_board_is_asked_to_watch(armed):
    asked = []
    armed.watchdog, armed.TRIAL_MS = asked.append, 30000
    lifeboat.power_on(armed)
    assert asked == [30000]
    trial.confirm(armed)
    assert asked == [30000, 0]


def test_a_board_may_say_itself_that_its_watchdog_barked(tried):
    tried.barked = lambda: False
    assert lifeboat.power_on(tried).data["version"] == "2.0"
    tried.barked = lambda: True
    assert lifeboat.power_on(tried).data["trial"]["why"] == "trial-watchdog"


def test_one_that_fails_to_say_so_counts_starts(tried):
    tried.barked = None
    assert lifeboat.power_on(tried).data["version"] == "2.0"


def test_a_watchdog_that_fails_keeps_nothing_from_running(armed):
    armed.watchdog, armed.TRIAL_MS = None, 30000
    assert lifeboat.power_on(armed).runs


# Reject


def test_rejected_code_is_gone_at_the_next_power_on(tried):
    reject(tried, "no link")
    report = lifeboat.power_on(tried)
    assert (report.verdict, report.data["version"]) == ("RUN", "1.0")
    assert report.data["trial"]["why"] == "no link"
    assert ["trial-back", "flash", "2.0: no link"] in report.data["reasons"]


def test_the_journals_know_why():
    board = updates.running_old(journal=4)
    updates.stage_new(board)
    lifeboat.power_on(board)
    reject(board, "no link")
    lifeboat.power_on(board)
    pages = b"".join(
        sim.get(board.drives[0], scenarios.slot_of(board.drives[0], 2, journal=4) + at, 4096)
        for at in range(0, 4 * 4096, 4096)
    )
    entries = {pages[at : at + 64] for at in range(0, len(pages), 64)}
    told = [
        e[17:56].replace(b"\0", b" ").split() for e in entries if e[17:22] in (b"trial", b"taken")
    ]
    assert [b"trial", b"trying", b"2.0"] in told
    assert [b"taken-back", b"no", b"link", b"2.0"] in told


def test_going_back_costs_what_differs(tried):
    reject(tried)
    tried.supply(Power())
    report = lifeboat.power_on(tried)
    assert report.data["erases"] == DIFFERENT and len(erased(tried)) == DIFFERENT


def test_it_is_not_tried_again_unasked(tried):
    reject(tried)
    lifeboat.power_on(tried)
    report = lifeboat.power_on(tried)
    assert "update-offered" not in scenarios.codes(report)
    assert code_of(updates.stage_new, tried) == "build-rejected"
    updates.stage_new(tried, again=True)
    assert lifeboat.power_on(tried).data["version"] == "2.0"


def test_without_a_trial_there_is_nothing_to_reject_or_confirm(tried):
    trial.confirm(tried)
    assert code_of(trial.reject, "", tried) == "trial-none"
    board = updates.running_old()
    assert code_of(trial.confirm, board) == "trial-none"
    assert code_of(trial.reject, "", board) == "trial-none"


# Confirm


def test_confirmed_code_stays(tried):
    assert trial.confirm(tried) == "2.0"
    assert held(tried) == [["1.0", "2.0"]] * 2
    tried.supply(Power())
    report = lifeboat.power_on(tried)
    assert (report.verdict, report.data["version"], report.data["reasons"]) == ("RUN", "2.0", [])
    assert "trial" not in report.data
    assert [member["parity"] for member in report.data["members"]] == ["created"] * 2
    tried.supply(Power())
    assert lifeboat.power_on(tried).verdict == "RUN" and tried.power.log == []
    assert trial.confirm(tried) == "2.0"  # again is no error


def test_a_member_that_was_away_is_brought_level_later(tried):
    away = tried.drives.pop()
    trial.confirm(tried)
    tried.drives.append(away)
    report = lifeboat.power_on(tried)
    assert report.verdict == "RUN" and held(tried) == [["1.0", "2.0"]] * 2


def test_it_is_not_confirmed_without_a_whole_candidate(tried):
    for disk in tried.drives:
        sim.put(disk, scenarios.slot_of(disk, 1) + 69632 + 2 * sim.ERASE, b"rot!" * 128)
    assert code_of(trial.confirm, tried) == "backup-none"
    assert updates.trying(tried).state == trial.TRYING


def test_the_report_is_told(tried):
    trial.confirm(tried)
    report = lifeboat.report()
    assert report.data["trial"]["state"] == "confirmed" and report.data["reasons"] == []


def test_two_updates_in_a_row(tried):
    trial.confirm(tried)
    third = sim.image(seed=3, version="3.0")
    updates.stage_new(tried, third)
    assert held(tried) == [["2.0"]] * 2  # the oldest made room
    assert lifeboat.power_on(tried).data["version"] == "3.0"
    trial.confirm(tried)
    assert lifeboat.power_on(tried).data["reasons"] == []
    assert held(tried) == [["3.0", "2.0"]] * 2


# What is in the way


def rot(board, slot, block, disks=None):
    for disk in disks or board.drives:
        sim.put(disk, scenarios.slot_of(disk, slot) + 69632 + block * sim.ERASE, b"rot!" * 128)


def test_nothing_is_begun_without_a_way_back(armed):
    rot(armed, 0, 3)
    report = lifeboat.power_on(armed)
    assert bytes(armed.nor.data) == bytes(OLD)
    assert ["trial-back", "flash", "2.0: return-none"] in report.data["reasons"]
    assert report.data["trial"]["state"] == "dropped" and report.runs


def test_nor_with_a_candidate_that_has_rotten_everywhere(armed):
    rot(armed, 1, 3)
    report = lifeboat.power_on(armed)
    assert report.runs and bytes(armed.nor.data) == bytes(OLD)
    assert report.data["trial"]["why"] == "block-lost"


def test_one_good_candidate_is_enough(armed):
    rot(armed, 1, 3, armed.drives[:1])
    rot(armed, 0, 2, armed.drives[1:])
    assert lifeboat.power_on(armed).data["version"] == "2.0"


def test_without_its_disks_it_waits(armed):
    drives, armed.drives = armed.drives, []
    report = lifeboat.power_on(armed)
    assert report.data["version"] == "1.0" and "trial-waits" in scenarios.codes(report)
    armed.drives = drives
    assert lifeboat.power_on(armed).data["version"] == "2.0"


def test_unconfirmed_code_runs_while_the_way_back_is_away(tried):
    """I6: intact code runs; the disks bring the old one back as soon as they are here."""
    reject(tried)
    drives, tried.drives = tried.drives, []
    report = lifeboat.power_on(tried)
    assert report.runs and report.data["version"] == "2.0"
    assert "trial-stuck" in scenarios.codes(report)
    assert updates.trying(tried).starts == 1
    tried.drives = drives
    assert lifeboat.power_on(tried).data["version"] == "1.0"


def test_rot_of_tried_code_is_mended_from_its_candidate(tried):
    tried.nor.data[2 * sim.ERASE] ^= 1
    report = lifeboat.power_on(tried)
    assert report.data["version"] == "2.0" and bytes(tried.nor.data) == bytes(NEW)


def test_or_else_it_goes_back(tried):
    tried.nor.data[2 * sim.ERASE] ^= 1
    rot(tried, 1, 2)
    report = lifeboat.power_on(tried)
    assert report.runs and bytes(tried.nor.data) == bytes(OLD)
    assert report.data["trial"]["why"] == "block-lost"


def test_wiped_code_comes_back_as_the_trial_wants_it(tried):
    tried.nor.data[:] = b"\xff" * len(tried.nor.data)
    assert lifeboat.power_on(tried).runs and bytes(tried.nor.data) == bytes(NEW)


def test_code_that_a_person_programs_ends_the_trial(tried):
    tried.nor.data[:] = sim.image(seed=3, version="3.0")
    report = lifeboat.power_on(tried)
    assert report.data["version"] == "3.0" and "trial-dropped" in scenarios.codes(report)
    assert not updates.trying(tried).open


def test_a_memory_that_takes_nothing_keeps_nothing_from_running(armed):
    armed.chip.writeblocks = None
    report = lifeboat.power_on(armed)
    assert report.runs and bytes(armed.nor.data) == bytes(OLD)
    assert "memory-failed" in scenarios.codes(report)


def test_a_block_that_does_not_take_the_new_code_is_given_the_old_one(armed):
    # One bit that stays 0 where only the new code has a 1.
    for at in range(2 * sim.ERASE, 3 * sim.ERASE):
        if NEW[at] & ~OLD[at] & 0xFF:
            armed.nor.stuck = (at,)
            break
    report = lifeboat.power_on(armed)
    assert report.runs and bytes(armed.nor.data) == bytes(OLD)
    assert report.data["trial"]["why"] == "flash-verify"


def test_a_flash_that_is_locked_keeps_the_old_code(armed):
    armed.nor.fail_erase = range(sim.BLOCKS)
    report = lifeboat.power_on(armed)
    assert report.runs and bytes(armed.nor.data) == bytes(OLD)
    assert report.data["trial"]["state"] == "dropped"


def test_three_beginnings_each_way_and_both_are_named(armed):
    for _ in range(6):
        armed.supply(Power(6))
        with pytest.raises(PowerCut):
            lifeboat.power_on(armed)
        for disk in armed.drives:
            disk.settle("none")
    armed.supply(Power())
    while True:
        report = lifeboat.power_on(armed)
        if not report.runs:
            break
        assert bytes(armed.nor.data) in (bytes(OLD), bytes(NEW))
        return
    assert ["trial-stuck", "flash", "2.0, 1.0"] in report.data["reasons"]
    assert lifeboat.power_on(armed, unlimited=True).runs  # a person's word


def test_a_scrubber_creates_nothing_meanwhile(tried):
    scrubber = Scrubber(tried)
    for _ in range(50):
        scrubber.step(5)
    assert {device for device, _, _ in tried.power.log} <= set()
    assert held(tried) == [["1.0"]] * 2


def steps(scrubber, monkeypatch, ms):
    """A step, so many milliseconds after power-on."""
    monkeypatch.setattr(scrubber, "_clock", ms - scrubber._born)
    return scrubber.step(1)


def test_a_deadline_ends_it_where_a_scrubber_runs(tried, monkeypatch):
    tried.TRIAL_MS = 60000
    scrubber = Scrubber(tried)
    assert steps(scrubber, monkeypatch, 50000)
    with pytest.raises(Reset):
        steps(scrubber, monkeypatch, 61000)
    report = lifeboat.power_on(tried)
    assert (report.data["version"], report.data["trial"]["why"]) == ("1.0", "trial-late")


def test_a_deadline_is_nothing_to_what_was_confirmed(tried, monkeypatch):
    tried.TRIAL_MS = 60000
    scrubber = Scrubber(tried)
    trial.confirm(tried)
    assert steps(scrubber, monkeypatch, 61000) and steps(scrubber, monkeypatch, 62000)
    assert lifeboat.power_on(tried).data["version"] == "2.0"


# A board that asks before it repairs


def test_a_board_that_asks_waits_with_its_plan(capsys):
    board = updates.running_old()
    board.REPAIR = "ask"
    board.nor.data[2 * sim.ERASE] ^= 1
    board.nor.data[4 * sim.ERASE] ^= 1
    before = bytes(board.nor.data)
    for _ in range(2):
        report = lifeboat.power_on(board)
        assert report.verdict == "RESCUE" and bytes(board.nor.data) == before
        assert ["repair-asked", "flash", "2 blocks of 1.0"] in report.data["reasons"]
        assert report.data["bad"] == [[2, 1], [4, 1]] and report.data["lost"] == []
    assert board.power.log == []
    report = lifeboat.power_on(board, unlimited=True)
    assert report.verdict == "RUN" and bytes(board.nor.data) == bytes(OLD)


@pytest.mark.usefixtures("no_parity")
def test_what_can_not_be_repaired_is_told_as_ever():
    board = updates.running_old()
    board.REPAIR = "ask"
    board.nor.data[2 * sim.ERASE] ^= 1
    rot(board, 0, 2)
    report = lifeboat.power_on(board)
    assert report.verdict == "RESCUE" and report.data["lost"] == [[2, 1]]
    assert "repair-asked" not in scenarios.codes(report)


def test_healthy_code_asks_nothing():
    board = updates.running_old()
    board.REPAIR = "ask"
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN" and board.power.log == []


# Who writes the disks


def test_a_candidate_of_another_build_is_not_tried(armed):
    """Only the memory makes one count: its build id, so every byte of it."""
    evil = sim.image(seed=66, version="2.0")
    other = updates.running_old()
    updates.stage_new(other, evil)
    for disk, its in zip(armed.drives, other.drives):
        at = scenarios.slot_of(its, 1)
        sim.put(disk, at, sim.get(its, at, sim.SLOT))
    report = lifeboat.power_on(armed)
    assert report.runs and bytes(armed.nor.data) == bytes(OLD)


def test_a_candidate_that_nobody_asked_for_only_offers_itself():
    board = updates.running_old()
    updates.stage_new(board, arm=False)
    report = lifeboat.power_on(board)
    assert report.data["version"] == "1.0"
    assert scenarios.codes(report) == ["update-offered"] * 2


KEYS = signer.key_set(1, (signer.ALL, signer.key(1)))


def signed_board(**kwargs):
    old = signer.key(1).image(forgery.image(2, "1.0"), counter=1)
    board = sim.SimBoard(bytearray(old))
    board.KEYS, board.UNSIGNED = KEYS, False
    for name, value in kwargs.items():
        setattr(board, name, value)
    assert lifeboat.power_on(board).verdict == "RUN"
    return board


def signed_new(counter=2, key=1, seed=1):
    return signer.key(key).image(forgery.image(seed, "2.0"), counter=counter)


def test_a_signed_board_may_take_what_its_owner_signed():
    board = signed_board(OFFLINE_UPDATE=True)
    updates.stage_new(board, signed_new(), arm=False)
    report = lifeboat.power_on(board)
    assert report.data["version"] == "2.0" and report.data["trial"]["state"] == "trying"
    reject(board)
    assert lifeboat.power_on(board).data["version"] == "1.0"
    # Each counter once: not even another build with the same one.
    updates.stage_new(board, signed_new(seed=5), arm=False)
    report = lifeboat.power_on(board)
    assert report.data["version"] == "1.0" and "update-offered" in scenarios.codes(report)


@pytest.mark.parametrize("counter", [0, 1])
def test_not_with_a_counter_that_was_reached(counter):
    board = signed_board(OFFLINE_UPDATE=True)
    if counter == 0:
        assert code_of(updates.stage_new, board, signed_new(0)) == "counter-low"
        return
    updates.stage_new(board, signed_new(1), arm=False)
    assert lifeboat.power_on(board).data["version"] == "1.0"


def test_not_what_others_signed():
    board = signed_board(OFFLINE_UPDATE=True)
    assert code_of(updates.stage_new, board, signed_new(2, key=2)) in ("key-unknown",)


def test_the_counter_rises_with_the_confirmation_and_not_before():
    board = signed_board()
    updates.stage_new(board, signed_new())
    report = lifeboat.power_on(board)
    assert (report.data["version"], report.data["counter"]) == ("2.0", 1)
    trial.confirm(board)
    assert lifeboat.power_on(board).data["counter"] == 2


# Power cuts


def judge(board, cut):
    """What holds after each cut: one of both runs, whole, and the old copies are untouched."""
    board.supply(Power())
    report = lifeboat.power_on(board)
    assert report.verdict == "RUN", (cut, report.data)
    images = {"1.0": bytes(OLD), "2.0": bytes(NEW)}
    assert bytes(board.nor.data) == images[report.data["version"]], cut
    assert all("1.0" in versions for versions in held(board)), (cut, held(board))
    return report


def stage_it(board):
    updates.stage_new(board)


def confirm_it(board):
    trial.confirm(board)


def go_on(board, version):
    """What a person does who sees the old version still: stage the new one again."""
    for _ in range(4):
        if version == "2.0":
            return
        if not updates.trying(board).open:
            updates.stage_new(board, again=True)
            trial.staging = False
        version = lifeboat.power_on(board).data["version"]


PHASES = {
    "stage": ("old", stage_it),
    "try": ("armed", lifeboat.power_on),
    "confirm": ("tried", confirm_it),
    "back": ("rejected", lifeboat.power_on),
    "spent": ("spent", lifeboat.power_on),
}


@pytest.fixture(scope="module")
def states():
    """Boards before each phase."""
    old = updates.running_old()
    armed = updates.copy_of(old)
    updates.stage_new(armed)
    trial.staging = False
    tried = updates.copy_of(armed)
    lifeboat.power_on(tried)
    spent = updates.copy_of(tried)
    for _ in range(2):
        lifeboat.power_on(spent)
    rejected = updates.copy_of(tried)
    updates.trying(rejected).turn("rejected")
    return {"old": old, "armed": armed, "tried": tried, "rejected": rejected, "spent": spent}


def cut_phase(sweep, states, phase, torn, keep, second=None):
    state, act = PHASES[phase]
    whole = updates.copy_of(states[state])
    act(whole)
    operations = whole.power.count
    assert operations >= 4
    ends = set()
    for cut in sweep.cuts(range(1, operations + 1)):
        board = updates.copy_of(states[state])
        board.supply(Power(cut, torn))
        sweep.shows(flash=board.nor, disk0=board.drives[0], disk1=board.drives[1])
        with pytest.raises(PowerCut):
            act(board)
        running.disk_calls = 0
        trial.staging = False
        for disk in board.drives:
            disk.settle(keep, cut)
        if second:
            board.supply(Power(1 + cut * 7 % second, torn))
            try:
                lifeboat.power_on(board)
            except PowerCut:
                pass
            for disk in board.drives:
                disk.settle(keep, cut)
        report = judge(board, cut)
        ends.add(report.data["version"])
        # And it goes on: the new build gets to run, is confirmed, and stays.
        go_on(board, report.data["version"])
        assert bytes(board.nor.data) == bytes(NEW), cut
        trial.confirm(board)
        assert lifeboat.power_on(board).data["reasons"] == [], cut
        assert held(board) == [["1.0", "2.0"]] * 2, cut
    return ends


@pytest.mark.parametrize("keep", ["none", "all", "random"])
@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
@pytest.mark.parametrize("phase", ["stage", "try", "confirm", "back", "spent"])
def test_every_power_cut_leaves_one_build_or_the_other(sweep, states, phase, torn, keep):
    ends = cut_phase(sweep, states, phase, torn, keep)
    expected = {"stage": {"1.0"}, "try": {"2.0"}, "confirm": {"2.0"}, "back": {"1.0"}}
    if sweep.whole:
        assert ends == expected.get(phase, {"1.0"}) | ({"2.0"} if phase == "stage" else set())


@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
@pytest.mark.parametrize("phase", ["stage", "try", "confirm", "back", "spent"])
def test_so_does_a_second_one_in_what_follows(sweep, states, phase, torn):
    cut_phase(sweep, states, phase, torn, "random", second=20)


@pytest.mark.parametrize("phase", ["stage", "try", "confirm", "back"])
@pytest.mark.parametrize("at", range(0, 60, 5))
def test_a_member_that_vanishes_at_any_step_is_passed_by(states, phase, at):
    state, act = PHASES[phase]
    board = updates.copy_of(states[state])
    updates.dies_after(board.drives[0], at)
    act(board)
    board.drives[0].fault = None
    version = judge(board, at).data["version"]
    assert version == {"stage": "2.0", "try": "2.0", "confirm": "2.0", "back": "1.0"}[phase]


# What sweeps and fuzzing found


def test_a_manifest_that_can_not_be_read_does_not_end_a_trial(armed):
    """A power cut in its program, on flash with error correction: found by a sweep."""
    at = scenarios.MANIFEST_AT
    armed.nor.data[at:] = NEW[at:]
    armed.nor.unit = 256
    del armed.nor.view
    armed.nor.done = set(range(0, len(armed.nor.data), 256)) - set(
        range(6 * sim.ERASE, 8 * sim.ERASE, 256)
    )
    armed.nor.wrong = {at + 512}
    report = lifeboat.power_on(armed)
    assert report.verdict == "RUN" and bytes(armed.nor.data) == bytes(NEW)


def test_a_record_of_zeros_is_no_trial():
    """The memory keeps records without the zeros at their ends: found by fuzzing."""
    board = updates.running_old()
    updates.memory_of(board).add([(9, (bytes(240),))])
    assert not updates.trying(board).open
    assert lifeboat.power_on(board).data["reasons"] == []
