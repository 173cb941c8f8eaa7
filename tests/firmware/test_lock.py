"""A locked console: what opens it, what does not, and what a power cut leaves."""

import base64
import io
import json
import struct
import sys
import types

import pytest

import lifeboat
from fakes import board as sim
from fakes import forgery, signer
from lifeboat import lock, trust
from lifeboat.errors import LifeboatError
from sim.power import Power, PowerCut

A, U, EVIL = signer.key(1), signer.key(3), signer.key(666)
SET = signer.key_set(1, (signer.CODE | signer.KEYS, A), (signer.UNLOCK, U))
IMAGE = A.image(forgery.image(1, "1.0"))
TAG = "lifeboat-locked: "


def board_with(remembers="set", **names):
    it = sim.SimBoard(bytearray(IMAGE), members=1, journal=4, remembers=remembers)
    values = {"UNSIGNED": False, "KEYS": SET, "LOCKED": True, **names}
    for name, value in values.items():
        setattr(it, name, value)
    return it


@pytest.fixture
def console(monkeypatch, capsys):
    """console(board, *lines): what a locked console says to these lines, and whether it opens."""

    def talk(board, *lines):
        typed = b"".join(x if isinstance(x, bytes) else x.encode() + b"\r" for x in lines)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed)))
        capsys.readouterr()
        opened = lock.serve(board)
        said = capsys.readouterr().out.splitlines()
        assert all(line.startswith(("lifeboat-locked: ", "lifeboat-open: ")) for line in said)
        return [json.loads(line.partition(": ")[2]) for line in said], opened

    return talk


def message(count, name):
    """The 45 bytes of format.md section 7."""
    return struct.pack("<8sB32sI", b"LBUNLOCK", len(name), name, count)


def signed(what, key=U):
    return f"unlock {key.id.hex()} {base64.b64encode(key.sign(what)).decode()}"


def test_the_challenge_is_as_the_page_says(console):
    board = board_with(uid=lambda: b"unit-0001")
    lifeboat.power_on(board)
    said, opened = console(board)
    assert said == [
        {
            "verdict": "RUN",
            "challenge": message(1, b"unit-0001").hex(),
            "key": [U.id.hex()],
        }
    ]
    assert not opened


def test_a_board_without_a_name_of_its_own_has_its_sets(console):
    board = board_with()
    said, _ = console(board)
    assert said[0]["challenge"] == message(1, b"S" * 16).hex()


def test_a_board_without_any_name_stays_locked(console):
    board = board_with("nothing")
    said, opened = console(board, "", signed(message(1, b"")))
    assert not opened
    assert [(s["challenge"], s.get("why")) for s in said] == [(None, "lock-nameless")] * 3


def test_an_answer_opens_and_is_used_up(console):
    board = board_with()
    answers = [signed(message(i, b"S" * 16)) for i in (1, 2)]
    said, opened = console(board, answers[0])
    assert opened and said[-1] == {}
    said, opened = console(board, answers[0])
    assert not opened and said[1]["refused"] == "signature-bad"
    said, opened = console(board, answers[1])
    assert opened
    report = lifeboat.power_on(board)
    assert report.data["console"] == "locked"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (signed(message(1, b"S" * 16), EVIL), "key-unknown"),
        (signed(message(1, b"S" * 16), A), "key-unknown"),  # of another role
        (signed(message(2, b"S" * 16)), "signature-bad"),
        (signed(message(0, b"S" * 16)), "signature-bad"),
        (signed(message(1, b"T" * 16)), "signature-bad"),
        (signed(b""), "signature-bad"),
        (f"unlock {U.id.hex()} ", "lock-answer"),
        (f"unlock {U.id.hex()} AAAA", "signature-bad"),
        ("unlock", "lock-answer"),
        ("unlock zz AAAA", "lock-answer"),
        ("unlock 00 A", "lock-answer"),
        ("open " + signed(message(1, b"S" * 16))[7:], "lock-answer"),
        ("import os", "lock-answer"),
        (b"\xff\xfe\x00\r", "lock-answer"),
        (b"x" * 12001 + b"\r", "lock-answer"),
        (signed(message(1, b"S" * 16)) + " " * 12000 + "x", "lock-answer"),
    ],
)
def test_nothing_else_does(console, line, code):
    board = board_with()
    chip = bytes(board.chip.data)
    said, opened = console(board, line, "")
    assert not opened
    assert said[1]["refused"] == code
    assert "refused" not in said[2] and said[2]["challenge"] == said[0]["challenge"]
    assert board.chip.data == chip


def test_ctrl_c_is_no_part_of_a_line(console):
    """What a tool sends first to stop a program may come before an answer, and within it."""
    board = board_with()
    said, _ = console(board, b"\x03\x03\r\x01\x03\x04\r")
    assert [s.get("refused") for s in said] == [None] * 3
    line = signed(message(1, b"S" * 16))
    said, opened = console(board, b"\r\x03\x03" + line[:9].encode() + b"\x03", line[9:])
    assert opened


def test_a_long_line_does_not_hide_the_next_one(console):
    board = board_with()
    said, opened = console(board, b"x" * 50000 + b"\n", signed(message(1, b"S" * 16)))
    assert opened


def test_where_the_number_can_not_be_kept_nothing_opens(console):
    board = board_with()
    board.chip.writeblocks = lambda *args: None
    said, opened = console(board, signed(message(1, b"S" * 16)))
    assert not opened and said[1]["refused"] == "memory-failed"


def test_a_dead_flash_stays_locked(console):
    board = board_with()

    def flash():
        raise OSError(5)

    board.flash = flash
    assert lock.closed(board)
    said, opened = console(board, signed(message(1, b"S" * 16)))
    assert not opened and said[0]["challenge"] is None


def test_a_new_controller_opens_for_an_answer_to_its_own_name(console):
    """Its memory begins with the number of the answer, so that it counts only once."""
    board = board_with("nothing", uid=lambda: b"new")
    line = signed(message(1, b"new"))
    _, opened = console(board, line)
    assert opened
    _, opened = console(board, line)
    assert not opened
    # A wiped one, too: else nobody could help it.
    board = board_with("nothing", uid=lambda: b"new")
    board.nor.data[:] = b"\xff" * len(board.nor.data)
    assert console(board, line)[1]
    assert not console(board, line)[1]


def test_the_memory_locks_and_leaves_open():
    board = board_with(LOCKED=False)
    assert not lock.closed(board)
    lock.change(board, True)
    assert lock.closed(board)
    assert lifeboat.power_on(board).data["console"] == "locked"
    lock.change(board, False)
    assert not lock.closed(board)
    chip = bytes(board.chip.data)
    lock.change(board, False)
    assert board.chip.data == chip


def test_the_boot_stages_lock_outlives_the_memory():
    board = board_with()
    lock.change(board, False)
    assert lock.closed(board)
    board.chip.data[:] = b"\xff" * len(board.chip.data)
    assert lock.closed(board)
    assert lifeboat.power_on(board).data["console"] == "locked"


@pytest.mark.parametrize(
    "names",
    [{"KEYS": signer.key_set(1, (signer.CODE, A)), "LOCKED": False},
     {"KEYS": b"", "UNSIGNED": True, "LOCKED": False}],
)  # fmt: skip
def test_who_could_never_open_it_again_can_not_lock(names):
    board = board_with(**names)
    with pytest.raises(LifeboatError) as caught:
        lock.change(board, True)
    assert caught.value.code == "lock-keyless"
    assert not lock.closed(board)


def test_the_memory_is_not_written_where_code_stands(console):
    """An image that leaves no room for it, over one mirror; the other one is still whole."""
    board = sim.SimBoard(
        bytearray(A.image(forgery.image(1, "1.0", "flash"))), members=1, journal=4,
        remembers="flash",
    )  # fmt: skip
    board.UNSIGNED, board.KEYS, board.uid = False, SET, lambda: b"me"
    assert lifeboat.power_on(board).verdict == "RUN"
    code, raw = forgery.parts(A.image(sim.image(2, 12, "2.0", total=17)))
    board.nor.data[: len(code)] = code
    board.nor.data[-sim.ERASE :] = forgery.pad(raw, sim.ERASE, b"\xff")
    assert "memory-place" in [c for c, _, _ in lifeboat.power_on(board).data["reasons"]]
    with pytest.raises(LifeboatError) as caught:
        lock.change(board, True)
    assert caught.value.code == "memory-failed"
    said, opened = console(board, signed(message(1, b"me")))
    assert not opened and said[1]["refused"] == "memory-failed"
    assert board.nor.data[: len(code)] == code


def test_nothing_that_fails_opens_a_console(monkeypatch):
    board = board_with(LOCKED=False)
    lock.change(board, True)

    def fails(*args):
        raise OSError(110)

    board.chip.readblocks = fails
    assert lock.closed(board)
    board.flash = fails
    assert lock.closed(board)

    def full(*args):
        raise MemoryError

    monkeypatch.setattr(trust, "Memory", full)
    assert lock.closed(board_with(LOCKED=False))


def test_a_board_that_nobody_could_name_is_not_locked():
    board = board_with("nothing", LOCKED=False)
    with pytest.raises(LifeboatError) as caught:
        lock.change(board, True)
    assert caught.value.code == "lock-nameless"


def test_keys_without_one_that_opens_do_not_come_to_a_locked_board():
    keys = signer.key_set(2, (signer.CODE | signer.KEYS, A))
    board = board_with()
    lifeboat.power_on(board)
    forgery.install(board, A.image(forgery.image(2, "2.0"), keys=keys))
    report = lifeboat.power_on(board)
    assert (report.verdict, report.data["keys"]) == ("RUN", 1)
    assert "keys-refused" in [code for code, _, _ in report.data["reasons"]]


def test_the_last_answer_is_the_last(console):
    board = board_with()
    lock._write(lock._trusted(board), 0xFFFFFFFF, 0)
    said, opened = console(board, signed(message(0, b"S" * 16)))
    assert not opened and said[0]["challenge"] is None


def test_who_goes_on_typing_does_not_keep_the_application_waiting(monkeypatch):
    clock = [0]

    class Typist:
        def read(self, count):
            clock[0] += 9000
            return b"x"

    monkeypatch.setattr(lock, "ticks_ms", lambda: clock[0])
    monkeypatch.setattr(lock, "_heard", lambda ms: True)
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=Typist()))
    assert not lock.knock(board_with())
    assert 100_000 < clock[0] < 150_000


@pytest.mark.parametrize(("remembers", "operations"), [("set", 2), ("nothing", 8)])
@pytest.mark.parametrize("torn", [False, True])
def test_power_may_fail_at_any_operation_of_an_answer(sweep, console, torn, remembers, operations):
    """What opened a console once never does so again, whatever the cut left."""
    line = signed(message(1, b"me"))
    for cut in sweep.cuts(range(1, 40)):
        board = board_with(remembers, uid=lambda: b"me")
        sweep.shows(flash=board.nor, **{disk.name: disk for disk in board.drives})
        board.supply(Power(cut, torn))
        try:
            _, opened = console(board, line)
        except PowerCut:
            board.supply(Power())
            _, opened = console(board, line)
            # Not used up before, or used up without effect.
            again = console(board, line)[1]
            assert not again
            assert opened or console(board, signed(message(2, b"me")))[1]
            continue
        assert opened
        break
    assert cut > operations or not sweep.whole
