"""The line to a board, against a fake board at the other end of a pty."""

import contextlib
import errno
import json
import os
import random
import re
import select
import struct
import threading
import time
import tty
import zlib

import pytest

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.board import agent as agents
from lifeboat_host.board import link as links
from lifeboat_host.board.agent import Agent
from lifeboat_host.board.link import Link
from lifeboat_host.qemu import background

BANNER = b"raw REPL; CTRL-B to exit\r\n>"
WINDOW = 128


class Board(threading.Thread):
    """Speaks the raw REPL as MicroPython's documentation describes it, raw-paste mode included.

    run: code -> (output, traceback). Changing `said` makes it a worse board.
    """

    def __init__(self, run=lambda code: (b"", b"")):
        super().__init__(daemon=True)
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        self.port = os.ttyname(self.slave)
        self.run_code = run
        self.raw = False
        self.codes = []
        self.left = threading.Event()

    def say(self, data):
        while data:
            data = data[os.write(self.master, data) :]

    def hear(self):
        return os.read(self.master, 1)

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                self.step(self.hear())

    def step(self, byte):
        if byte == b"\x01":
            self.raw = True
            self.say(BANNER)
        elif byte == b"\x02":
            self.raw = False
            self.left.set()
            self.say(b"\r\n>>> ")
        elif byte == b"\x03" and not self.raw:
            self.say(b"\r\n>>> ")
        elif byte == b"\x05" and self.raw:
            assert self.hear() + self.hear() == b"A\x01"
            self.paste()

    def paste(self):
        self.say(b"R\x01" + struct.pack("<H", WINDOW))
        code = b""
        while True:
            byte = self.hear()
            if byte == b"\x04":
                break
            code += byte
            if len(code) % WINDOW == 0:
                self.say(b"\x01")
        self.say(b"\x04")
        token = re.fullmatch(r"print\('(\w+)'\)", code.decode())
        if token:  # the host's way to know whether we answer what it asks
            out, error = token[1].encode() + b"\r\n", b""
        else:
            self.codes.append(code.decode())
            out, error = self.run_code(code.decode())
        self.say(out + b"\x04" + error + b"\x04>")

    def pulled(self, code):
        """For run_code: the cable is pulled while the code runs."""
        self.unplug()
        raise OSError(errno.EIO, code)

    def unplug(self):
        """Only from the board's own thread, or when that has ended."""
        master, self.master = self.master, -1
        os.close(master)


@pytest.fixture
def board():
    """Start a Board, or one of a class derived from it."""
    started = []

    def start(*args, kind=Board):
        started.append(kind(*args))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        os.close(one.slave)  # which ends the thread when it next reads or writes
        one.join(0.5)
        if not one.is_alive() and one.master >= 0:
            one.unplug()


@pytest.fixture
def impatient(monkeypatch):
    """What would take a real board seconds."""
    for name in ("_WRITE_S", "_NOISE_S", "_ATTEMPT_S", "_COME_BACK_S"):
        monkeypatch.setattr(links, name, 0.5)


def code_of(action, *args, **kwargs):
    with pytest.raises(LifeboatError) as caught:
        action(*args, **kwargs)
    assert caught.value.message
    return caught.value.code


def opened(port, timeout=1):
    with Link(port, timeout):
        raise AssertionError("it should not have opened")


def test_code_runs_and_the_board_is_left_at_its_prompt(board):
    one = board(lambda code: (b"2\r\n", b""))
    with Link(one.port) as link:
        assert link.exec("print(1 + 1)") == "2\n"
        assert link.eval("1 + 1") == 2
    assert one.codes == ["print(1 + 1)", "print(repr(1 + 1))"]
    one.left.wait(10)
    assert not one.raw


def test_code_longer_than_the_window_of_raw_paste_arrives(board):
    one = board()
    code = "x = %r" % ("y" * 1000)
    with Link(one.port) as link:
        link.exec(code)
    assert one.codes == [code]


def test_an_exception_on_the_board_is_an_error_with_its_traceback(board):
    traceback = b"Traceback (most recent call last):\r\nZeroDivisionError: divide by zero\r\n"
    one = board(lambda code: (b"before\r\n", traceback))
    with Link(one.port) as link:
        with pytest.raises(LifeboatError, match="ZeroDivisionError") as caught:
            link.exec("1/0")
        assert caught.value.code == "link-device"
        one.run_code = lambda code: (b"1\r\n", b"")
        assert link.eval("1") == 1


def test_there_is_no_such_port(tmp_path):
    assert code_of(opened, str(tmp_path / "none")) == "link-open"


def test_a_port_that_somebody_uses_is_refused(board):
    one = board()
    with Link(one.port):
        assert code_of(opened, one.port) == "link-open"


class Dead(Board):
    def run(self):
        pass


class Mute(Board):
    """Takes everything, says nothing."""

    def step(self, byte):
        pass


class Talker(Board):
    """Never stops talking and never listens."""

    def run(self):
        rng = random.Random(1)
        with contextlib.suppress(OSError):
            while True:
                self.say(rng.randbytes(256).replace(b"\x04", b""))


@pytest.mark.parametrize("kind", [Dead, Mute, Talker])
def test_a_board_that_does_not_answer_is_an_error_and_no_hang(board, impatient, kind):
    assert code_of(opened, board(kind=kind).port) == "link-timeout"


def test_code_that_does_not_end_is_an_error_and_no_hang(board):
    one = board(lambda code: one.hear() and (b"", b""))
    with Link(one.port) as link:
        assert code_of(link.exec, "while True: pass", 0.5) == "link-timeout"
        # Ctrl-C ends it, and the next call finds the board again.
        one.run_code = lambda code: (b"1\r\n", b"")
        assert link.eval("1") == 1


def test_code_that_is_left_alone_is_interrupted(board):
    ended = threading.Event()

    def wait(code):
        while one.hear() != b"\x03":
            pass
        ended.set()
        return b"", b"KeyboardInterrupt"

    one = board(wait)
    with contextlib.suppress(KeyboardInterrupt), Link(one.port) as link:
        link.begin("binary")
        raise KeyboardInterrupt
    assert ended.wait(10)


def test_output_without_end_is_an_error_and_no_hang(board):
    class Endless:
        def __call__(self, code):
            with contextlib.suppress(OSError):
                for _ in range(100000):
                    one.say(b"spam " * 20)
            return b"", b""

    one = board(Endless())
    with Link(one.port) as link:
        assert code_of(link.exec, "spam", 0.5) == "link-timeout"


def test_more_than_a_dead_board_takes_is_an_error_and_no_hang(board, impatient):
    one = board(lambda code: time.sleep(3) or (b"", b""))
    with Link(one.port) as link:
        link.begin("deaf")
        assert code_of(link.write, b"x" * (1 << 20)) == "link-timeout"


def test_a_cable_pulled_while_code_runs_is_an_error(board):
    one = board()
    one.run_code = one.pulled
    with Link(one.port) as link:
        assert code_of(link.exec, "anything") == "link-closed"
        assert code_of(link.exec, "anything") == "link-closed"


def test_what_an_earlier_session_left_half_said_is_thrown_away(board):
    one = board(lambda code: (b"1\r\n", b""))
    one.say(b"\x04\x04>OK" + BANNER + bytes(range(256)) + b"R\x01" + BANNER)
    with Link(one.port) as link:
        assert link.eval("1") == 1


class Starting(Board):
    """Is busy at first, and answers what was typed meanwhile much later, as a boot does."""

    def run(self):
        typed = b""
        while typed.count(b"\x01") < 2:
            typed += self.hear()
        self.say(b"[lifeboat] RUN\r\n" + BANNER * 2)
        self.raw = True
        super().run()


def test_a_board_that_is_starting_is_waited_for(board, impatient):
    one = board(lambda code: (b"1\r\n", b""), kind=Starting)
    with Link(one.port, 20) as link:
        assert link.eval("1") == 1


class Draining(Board):
    """Was left in the middle of an exchange: it throws away what comes until nothing does, and
    is slow, so that its moment without anything is longer than a first attempt.
    """

    def run(self):
        while select.select([self.master], [], [], 1.2)[0]:
            self.hear()
        super().run()


def test_a_slow_board_that_was_left_in_an_exchange_is_given_its_pause(
    board, impatient, monkeypatch
):
    monkeypatch.setattr(links, "_LONGEST_S", 2)
    one = board(lambda code: (b"1\r\n", b""), kind=Draining)
    with Link(one.port, 20) as link:
        assert link.eval("1") == 1


def test_reset_gives_the_report_that_follows(board):
    report = {"verdict": "RUN", "reasons": [], "build": None, "bad": [], "repaired": []}
    report |= {"lost": [], "members": [], "ms": {}}

    def restart(code):
        one.raw = False
        odd = b'lifeboat: {"verdict": "RUN", "members": 5}\r\n'
        one.say(b"noise\r\n" + odd + b"lifeboat: %s\r\napp\r\n" % json.dumps(report).encode())
        return b"", b""

    one = board(restart)
    with Link(one.port) as link:
        assert link.reset(5) == report
    with Link(one.port) as link:
        assert link.reset(5) == report
        one.run_code = lambda code: (b"1\r\n", b"")
        assert link.eval("1") == 1


def test_a_reset_without_a_report_is_an_error_and_no_hang(board, impatient):
    one = board()
    with Link(one.port) as link:
        assert code_of(link.reset, 0.5) == "link-timeout"


def test_a_port_that_does_not_come_back_after_a_reset_is_an_error(board, impatient):
    one = board()
    one.run_code = one.pulled
    with Link(one.port) as link:
        assert code_of(link.reset, 5) == "link-closed"


# --- the agent's protocol: docs/provisioning.md ----------------------------------------------

ABOUT = b'"agent": 1, "product": "p", "block_size": 4096, "blocks": 9, "piece": 64, "window": 2, '
ABOUT += b'"frame": 256, "report": null'


class Script:
    """An agent that does in the call named `method` what `act(board)` does."""

    def __init__(self, act):
        self.act = act
        self.board = None

    def __call__(self, code):
        if "Agent(board)" in code:
            return b"", b""
        if "identify" in code:
            return b'agent: {"ok": {' + ABOUT + b"}}\r\n", b""
        return self.act(self.board), b""


@pytest.fixture
def scripted(board):
    """Connect to a Board with that script."""
    with contextlib.ExitStack() as stack:

        def connect(act):
            script = Script(act)
            one = script.board = board(script)
            return Agent(stack.enter_context(Link(one.port)))

        yield connect


def take_piece(one):
    """A piece, decoded by the words of the protocol alone; acknowledged."""

    def number():
        high, low = ord(one.hear()), ord(one.hear())
        assert 64 <= high < 128 and 64 <= low < 128
        return (high - 64) * 64 + low - 64

    size, threes = number(), number()
    places = [number() for _ in range(threes)]
    data = bytearray(b"".join(one.hear() for _ in range(size)))
    assert b"\x03" not in data
    for place in places:
        data[place] = 3
    one.say(b"+")
    return bytes(data)


def take_parcel(one):
    number, size, packed, crc = struct.unpack("<IIII", take_piece(one))
    data = b""
    while len(data) < (packed or size):
        data += take_piece(one)
    data = zlib.decompress(data) if packed else data
    assert len(data) == size and zlib.crc32(data) == crc
    return number, data


def test_a_board_without_the_agent_is_told_so(board):
    one = board(lambda code: (b"no-agent no module named 'lifeboat.agent'\r\n", b""))
    with Link(one.port) as link:
        assert code_of(Agent, link) == "no-agent"


def test_an_agent_of_another_version_is_not_used(board):
    answer = b'agent: {"ok": {' + ABOUT.replace(b'"agent": 1', b'"agent": 2') + b"}}\r\n"
    one = board(lambda code: (b"" if "Agent(board)" in code else answer, b""))
    with Link(one.port) as link:
        assert code_of(Agent, link) == "no-agent"


def test_a_reason_of_the_board_becomes_the_error(scripted):
    one = scripted(lambda _: b'agent: {"error": ["manifest-product", "other"]}\r\n')
    with pytest.raises(LifeboatError, match="other") as caught:
        one.call("code")
    assert caught.value.code == "manifest-product" and caught.value.hint


ODD = ["{", "{}", "5", "null", "[" * 100000]
ODD += ['{"error": 3}', '{"error": "x"}', '{"error": [1, 2]}', '{"error": ["a", "b", "c"]}']
ODD += ['{"ok": null}', '{"ok": {}}', '{"ok": []}', '{"ok": ["product"]}']


class Answers(Link):
    """Instead of a line: these come one after the other."""

    def __init__(self, answers):
        super().__init__("port")
        self.answers = list(answers)

    def begin(self, code, timeout=0):
        pass

    def end(self, timeout):
        return self.answers.pop(0)


@pytest.mark.parametrize("said", ["", "spam\r\n", *(f"agent: {odd}\r\n" for odd in ODD)])
def test_an_answer_that_is_none_is_an_error(said):
    one = Agent(Answers(["", 'agent: {"ok": {%s}}' % ABOUT.decode(), said]))
    assert code_of(one.call, "code") == "link-garbled"


@pytest.mark.parametrize(
    "key, value",
    [
        ("product", 5), ("block_size", 0), ("block_size", 4097), ("block_size", 1 << 40),
        ("blocks", -1), ("blocks", True), ("piece", 0), ("piece", 4096), ("window", 0),
        ("frame", 0), ("frame", "256"), ("report", {"verdict": "RUN"}), ("report", None),
    ],
)  # fmt: skip
def test_a_board_that_says_odd_things_about_itself_is_not_believed(key, value):
    about = json.loads(b'{"agent": 1, ' + ABOUT.split(b", ", 1)[1] + b"}")
    if value is None:
        del about[key]
    else:
        about[key] = value
    answer = 'agent: {"ok": %s}' % json.dumps(about)
    assert code_of(Agent, Answers(["", answer])) == "link-garbled"


PAYLOADS = {
    "zeros": bytes(4096),
    "threes": b"\x03" * 4096,
    "all bytes": bytes(range(256)) * 4,
    "random": random.Random(7).randbytes(4096),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_parcels_arrive_without_the_byte_of_ctrl_c(scripted, name):
    got = []

    def act(one):
        while True:
            number, data = take_parcel(one)
            if not data:
                return b'agent: {"ok": 2}\r\n'
            got.append((number, data))
            one.say(b"=")

    one = scripted(act)
    data = PAYLOADS[name]
    done = []
    parcels = [(5, lambda: data), (9, lambda: data[:100])]
    assert one.send("blocks", (), parcels, lambda *a: done.append(a)) == 2
    assert got == [(5, data), (9, data[:100])] and done == [(1, 2), (2, 2)]


def test_a_parcel_that_arrives_damaged_is_sent_again(scripted):
    got = []

    def act(one):
        for verdict in (b"~", b"~", b"=", None):
            got.append(take_parcel(one))
            one.say(verdict or b"")
        return b'agent: {"ok": 1}\r\n'

    assert scripted(act).send("blocks", (), [(3, lambda: b"abc")]) == 1
    assert got == [(3, b"abc")] * 3 + [(0, b"")]


def test_a_parcel_is_given_up_after_three_times(scripted):
    def act(one):
        for _ in range(3):
            take_parcel(one)
            one.say(b"~")
        return b""

    assert code_of(scripted(act).send, "blocks", (), [(3, lambda: b"abc")]) == "link-garbled"


def test_a_fault_of_the_board_in_mid_exchange_is_shown(board):
    """Its traceback comes where an acknowledgement was expected."""
    script = Script(None)

    def run_code(code):
        if "'blocks'" in code:
            return b"", b"Traceback (most recent call last):\r\nMemoryError: no room\r\n"
        return script(code)

    one = script.board = board(run_code)
    with Link(one.port) as link:
        agent = Agent(link)
        with pytest.raises(LifeboatError, match="MemoryError: no room") as caught:
            agent.send("blocks", (), [(3, lambda: b"abc")])
        assert caught.value.code == "link-device"
        assert agent.call("identify")["product"] == "p"  # and the line goes on


def test_a_board_that_refuses_a_parcel_says_why(scripted):
    def act(one):
        take_parcel(one)
        one.say(b"!")
        return b'agent: {"error": ["flash-verify", "3"]}\r\n'

    assert code_of(scripted(act).send, "blocks", (), [(3, lambda: b"abc")]) == "flash-verify"


def frame(data, kind=None):
    packed = zlib.compress(data)
    kind = kind or (b"z" if len(packed) < len(data) else b"r")
    payload = {b"0": b"", b"z": packed, b"r": data}[kind]
    return kind + b"%04x%08x" % (len(payload), zlib.crc32(data)) + payload


@pytest.mark.parametrize("name", PAYLOADS)
def test_frames_become_the_bytes_they_stand_for(scripted, name):
    data = PAYLOADS[name][:1000]

    def act(one):
        for at in range(0, 1000, 256):
            piece = data[at : at + 256]
            one.say(frame(piece, None if any(piece) else b"0"))
            assert one.hear() == b"+"
        return b'agent: {"ok": null}\r\n'

    assert scripted(act).receive("disk_read", ("sata0", 0, 2), 1000) == data


def test_a_damaged_frame_is_asked_for_again(scripted, impatient):
    tries = []

    def act(one):
        tries.append(1)
        good = frame(b"abcd" * 10)
        one.say(good if len(tries) == 2 else good[:-1] + b"?")
        while one.hear() not in b"+\x03":
            pass
        return b'agent: {"ok": null}\r\n'

    assert scripted(act).receive("disk_read", ("sata0", 0, 1), 40) == b"abcd" * 10
    assert len(tries) == 2


def test_a_disk_that_fails_while_it_is_read_says_so(scripted):
    def act(one):
        one.say(frame(b"x" * 256))
        assert one.hear() == b"+"
        one.say(b"!")
        return b'agent: {"error": ["disk-failed", "5"]}\r\n'

    assert code_of(scripted(act).receive, "disk_read", ("sata0", 0, 1), 512) == "disk-failed"


def test_encoding_is_exact():
    # 3 bytes, one of them a 3 at place 1; digits count from 64 ("@").
    assert agents.encoded(b"\x01\x03\x05") == b"@C" + b"@A" + b"@A" + b"\x01\x00\x05"
    assert agents.encoded(b"") == b"@@@@"


# --- which board --------------------------------------------------------------------------


@pytest.mark.parametrize("running", [[], ["a"], ["a", "b"]])
def test_the_board_that_runs_is_the_one_that_is_meant(tmp_path, monkeypatch, running):
    for name in ("a", "b", "off"):
        (tmp_path / "run" / name).mkdir(parents=True)
    monkeypatch.setenv("LIFEBOAT_CACHE", str(tmp_path))
    monkeypatch.setattr(background.Session, "running", property(lambda self: self.name in running))
    monkeypatch.setattr(
        background.Session, "_state", lambda self: {"pty": f"/dev/pts/{self.name}"}
    )
    if len(running) == 1:
        assert background.default_port() == "/dev/pts/a"
    else:
        assert code_of(background.default_port) == "link-open"


def test_no_board_has_ever_run_here(tmp_path, monkeypatch):
    monkeypatch.setenv("LIFEBOAT_CACHE", str(tmp_path / "none"))
    assert code_of(background.default_port) == "link-open"


@pytest.mark.parametrize(
    "name",
    ["provision", "flash", "status", "verify", "backup", "recover", "adopt", "unprovision"],
)
def test_every_command_explains_itself_and_tells_of_a_port_that_is_not_there(
    lifeboat, tmp_path, name
):
    code, out, _ = lifeboat(name, "--help")
    assert code == 0 and "--port" in out and "--json" in out
    flash = tmp_path / "flash.img"
    if name in ("provision", "flash"):
        source = tmp_path / "os.bin"
        source.write_bytes(b"code")
        lifeboat(
            "image", "build", "-o", flash, "--version", "1", "--product", "p", f"os={source}",
            "--flash-size", "64K", "--block-size", "4K",
        )  # fmt: skip
        arguments = ["--image", flash]
    else:
        arguments = []
    code, out, _ = lifeboat(name, "--port", tmp_path / "none", *arguments, "--json")
    assert code == 1 and json.loads(out)["error"]["code"] == "link-open"
