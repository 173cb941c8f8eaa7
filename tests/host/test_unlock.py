"""`lifeboat lock` and `unlock`, against the firmware's own lock and against odd boards."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import threading
import tty
from pathlib import Path

import pytest

from fakes import board as sim
from fakes import forgery, signer
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.board.locked import Challenge, parse_status
from lifeboat_host.commands import signing
from lifeboat_host.model.keyset import KeySet, PublicKey
from lifeboat_host.signing import keyfile

A, U = signer.key(1), signer.key(3)
GOOD = b"LBUNLOCK\x09unit-0001" + bytes(23) + b"\1\0\0\0"


class Signer:
    """What `--key` gives, of a key for tests."""

    def __init__(self, key=U):
        self.key, self.public, self.last = key, PublicKey.parse(key.public), None
        self.messages = []

    def sign(self, message):
        self.messages.append(message)
        return self.key.sign(message)


@pytest.fixture
def who(monkeypatch):
    """The signer that the commands use: one of tests, whose one-time keys nobody counts."""
    used = Signer()
    monkeypatch.setattr(signing, "signer", lambda args: used)
    return used


@contextlib.contextmanager
def terminal():
    """A pty: (our end, the path of the other one), raw."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    try:
        yield ours, os.ttyname(theirs)
    finally:
        os.close(ours)
        os.close(theirs)


@contextlib.contextmanager
def locked_board(times=1):
    with terminal() as (ours, path):
        script = Path(__file__).with_name("locked_board.py")
        board = subprocess.Popen(
            [sys.executable, "-u", str(script), str(times)], stdin=ours, stdout=ours
        )
        try:
            yield path, board
        finally:
            board.kill()
            board.wait()


def test_a_signed_answer_opens_the_firmwares_lock(lifeboat, who):
    with locked_board(2) as (path, board):
        for number in (1, 2):
            code, out, err = lifeboat("unlock", "--key", "u.key", "--port", path, "--json")
            assert code == 0, err
            found = json.loads(out)
            assert (found["board"], found["number"]) == (b"unit-0001".hex(), number)
        assert board.wait(20) == 0
    assert who.messages[0] == GOOD


def test_the_answer_for_a_board_that_is_elsewhere_is_printed(lifeboat, who):
    code, out, _ = lifeboat("unlock", "--key", "u.key", "--challenge", GOOD.hex())
    assert code == 0
    word, name, signature = out.split()
    assert (word, name) == ("unlock", U.id.hex()) and len(signature) > 1000


@pytest.mark.parametrize(
    "text",
    ["", "zz", "00" * 45, GOOD.hex()[:-2], GOOD.hex() + "00", GOOD[:8].hex() + "00" * 37,
     (b"LBMANIF\n" + GOOD[8:]).hex(), (GOOD[:9] + b"x" * 32 + GOOD[41:]).hex(),
     (GOOD[:8] + b"\x21" + GOOD[9:]).hex()],
)  # fmt: skip
def test_nothing_but_a_challenge_is_signed(lifeboat, who, text):
    code, _, err = lifeboat("unlock", "--key", "u.key", "--challenge", text)
    assert code == 1 and "no challenge" in err
    assert who.messages == []


def status(**changes):
    about = {"verdict": "RUN", "challenge": GOOD.hex(), "key": [U.id.hex()], **changes}
    return "lifeboat-locked: " + json.dumps(about) + "\r\n"


@contextlib.contextmanager
def saying(*lines):
    """A board that says these lines, one whenever something is sent to it; the last for ever."""
    with terminal() as (ours, path):
        stop = threading.Event()

        def talk():
            said = list(lines)
            while not stop.is_set():
                try:
                    if not os.read(ours, 65536):
                        return
                    os.write(ours, said[0] if isinstance(said[0], bytes) else said[0].encode())
                except OSError:
                    return
                if len(said) > 1:
                    del said[0]

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        yield path
        stop.set()


def test_a_key_that_opens_another_board_is_not_spent(lifeboat, who):
    with saying(status(key=[A.id.hex()])) as path:
        code, _, err = lifeboat("unlock", "--key", "u.key", "--port", path)
    assert code == 1 and "does not open this board" in err
    assert who.messages == []


def test_a_board_without_a_challenge_is_told(lifeboat, who):
    with saying(status(challenge=None, why="flash-failed")) as path:
        code, _, err = lifeboat("unlock", "--key", "u.key", "--port", path)
    assert code == 1 and "flash-failed" in err and who.messages == []


def test_a_refusal_is_told_in_words(lifeboat, who):
    with saying(status(), status(refused="memory-failed")) as path:
        code, _, err = lifeboat("unlock", "--key", "u.key", "--port", path)
    assert code == 1 and "memory-failed" in err


@pytest.mark.parametrize(
    "line",
    [
        ">>> ", "lifeboat-locked: \r\n", "lifeboat-locked: 5\r\n", "lifeboat-locked: {\r\n",
        b"\xff" * 100000, "lifeboat-locked: " + "[" * 5000 + "\r\n", status(challenge=5),
        status(challenge="00"), status(key=5), "x" * 20000 + "\r\n",
    ],
)  # fmt: skip
def test_whatever_a_board_says_nothing_is_signed(lifeboat, who, line):
    with saying(line) as path:
        code, _, err = lifeboat("unlock", "--key", "u.key", "--port", path, "--timeout", "1")
    assert code == 1 and "no challenge came" in err and "Traceback" not in err
    assert who.messages == []


def test_escapes_of_a_board_do_not_reach_the_terminal(lifeboat, who):
    with saying(status(challenge=None, why="\x1b[2J")) as path:
        code, out, err = lifeboat("unlock", "--key", "u.key", "--port", path)
    assert code == 1 and "\x1b" not in out + err


def test_a_port_that_is_not_there(lifeboat, who, tmp_path):
    code, _, err = lifeboat("unlock", "--key", "u.key", "--port", tmp_path / "tty")
    assert code == 1 and "cannot be opened" in err


def test_lines_that_are_no_status():
    assert parse_status("lifeboat: {}") is None
    assert parse_status(status().strip()).challenge == Challenge.parse(GOOD)
    with pytest.raises(LifeboatError):
        Challenge.parse(b"")


# lifeboat lock


def signed_board(**names):
    board = sim.SimBoard(bytearray(A.image(forgery.image(1, "1.0"))), members=1, journal=4)
    keys = signer.key_set(1, (signer.CODE | signer.KEYS, A), (signer.UNLOCK, U))
    for name, value in {"UNSIGNED": False, "KEYS": keys, **names}.items():
        setattr(board, name, value)
    return board


def test_a_board_is_locked_and_left_open_again(connected):
    board = signed_board()
    run = connected(board)
    code, found = run("lock", "--yes")
    assert (code, found["locked"], found["keys"]) == (0, True, [U.id.hex()])
    code, found = run("status")
    assert found["memory"]["owner"]["locked"]
    code, found = run("lock", "--off")
    assert (code, found["locked"]) == (0, False)


def test_it_asks_before(connected):
    code, found = connected(signed_board())("lock")
    assert code == 1 and found["error"]["code"] == "consent"


def test_a_board_that_nobody_could_open_is_not_locked(connected):
    run = connected(signed_board(KEYS=signer.key_set(1, (signer.CODE, A))))
    assert run("lock", "--yes")[1]["error"]["code"] == "lock-keyless"
    run = connected(sim.SimBoard(bytearray(forgery.image(1, "1.0")), members=1, journal=4))
    assert run("lock", "--yes")[1]["error"]["code"] == "lock-keyless"


def test_what_the_boot_stage_locks_stays_locked(connected):
    code, found = connected(signed_board(LOCKED=True))("lock", "--off")
    assert (code, found["locked"]) == (0, True)


def test_the_demos_keys_are_those_of_the_signed_boards(lifeboat, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for _ in range(2):  # those that are there stay
        code, out, _ = lifeboat("key", "demo", tmp_path / "keys", "--json")
        assert code == 0
    paths = [Path(path) for path in json.loads(out)["keys"]]
    assert [path.name for path in paths] == ["code.key", "unlock.key"]
    policy = (Path(__file__).parents[2] / "boards/policies/signed/policy.py").read_text()
    digits = "".join(re.findall(r'^    "([0-9a-f]+)"$', policy, re.M))
    boards = KeySet.parse(bytes.fromhex(digits))
    for path, role in zip(paths, ("code", "unlock")):
        public = keyfile.load(path).public
        assert boards.key(public.id, role) == public
        assert public.raw == signer.demo_key(role).public
