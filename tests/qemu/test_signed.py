"""Boards whose boot stage has keys: what the owner signed runs and comes back, nothing else."""

import base64
import json
import subprocess
import sys
import time

import pytest
from described import check_output

from fakes import signer
from fakes.forgery import same_crc
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.model.report import parse_line
from lifeboat_host.qemu import board_spec
from lifeboat_host.signing import demo_keys
from qemu.rig import MB, pty_board

LINE = "lifeboat-locked: "


@pytest.fixture(autouse=True)
def signed_only(spec):
    if spec.policy != board_spec.SIGNED:
        pytest.skip("this boot stage has no keys")


def test_what_is_signed_runs_heals_and_comes_back(rig8):
    rig = rig8
    report, _ = rig.power_on()
    assert (report["verdict"], report["trust"], report["reasons"]) == ("RUN", "signed", [])
    assert report["disk_writes"] == 0
    block = rig.spec.block_size
    rig.damage((3 * block + 5, b"rot"), (block, b"\xff" * block))
    report = rig.heal()
    assert report["erases"] == 2
    # All of the flash, the memory too: the manifest comes from the disk.
    rig.damage((0, b"\xff" * rig.spec.flash_size))
    report = rig.heal()
    assert report["trust"] == "signed"


def test_what_nobody_signed_does_not_run_and_does_not_come_back(rig2):
    rig = rig2
    good = rig.good
    rig.spec = board_spec.load(rig.spec.id)  # builds an image without a signature
    rig.make_image(2 * MB, version="6.6", seed=2)
    unsigned = rig.flash.read_bytes()
    rig.spec = board_spec.load(rig.spec.id, board_spec.SIGNED)
    rig.good = good
    report = rig.heal()  # it was in the flash: the owner's comes back
    assert report["version"] == "1.0"
    rig.drives = []
    rig.flash.write_bytes(unsigned)
    report, console = rig.power_on()
    assert report["verdict"] == "RESCUE"
    assert "signature-none" in [code for code, _, _ in report["reasons"]]
    assert "app: running" not in console


def test_what_a_stranger_signed_does_not_run(rig2):
    rig = rig2
    rig.drives = []
    rig.spec = board_spec.load(rig.spec.id)
    rig.make_image(2 * MB, version="6.6")
    rig.spec = board_spec.load(rig.spec.id, board_spec.SIGNED)
    rig.sign(signer.key(666))
    report, _ = rig.power_on()
    assert report["verdict"] == "RESCUE"
    assert "key-unknown" in [code for code, _, _ in report["reasons"]]


# The console


def challenge(board, timeout=30):
    board.wait_for(LINE, timeout)
    return json.loads(board.wait_for("\n", timeout).split(LINE)[-1])


def knocked(board):
    """The challenge of a board that somebody types at while it starts."""
    for _ in range(300):
        board.send("\r")
        try:
            return challenge(board, 0.1)
        except LifeboatError:
            pass
    raise AssertionError("no challenge")


def answer(challenge, key=None):
    key = key or signer.demo_key("unlock")
    signature = key.sign(bytes.fromhex(challenge["challenge"]))
    return f"unlock {key.id.hex()} {base64.b64encode(signature).decode()}\r"


def lock(rig):
    with rig.board() as board:
        board.power_on_report()
        board.repl(interrupt=True)
        _, err = board.run("import board; from lifeboat import lock; lock.change(board, True)")
        assert not err, err


def dead(board):
    """Whether nothing that opens a REPL does: Ctrl-C, raw REPL, paste mode, soft reset."""
    before = len(board.console)
    board.send("\x03\x03\r\x01\x05\x02\x04print('al' + 'ive')\r\x04")
    board.send("import os\r")
    said = board.wait_for("lock-answer")
    return ">>>" not in board.console[before:] and "alive" not in said


def test_a_locked_console_opens_only_for_a_signed_answer(rig2):
    lock(rig2)
    with rig2.board() as board:
        report = board.power_on_report()
        assert (report["verdict"], report["console"]) == ("RUN", "locked")
        board.wait_for("app: running")
        asked = challenge(board)
        assert asked["verdict"] == "RUN"
        assert dead(board)
        asked = challenge(board)
        board.send(answer(asked, signer.key(666)))
        board.wait_for('"refused": "key-unknown"')
        board.send(answer({"challenge": "00" * 45}))
        board.wait_for('"refused": "signature-bad"')
        good = answer(asked)
        board.send(good)
        board.wait_for("lifeboat-open: {}")
        board.repl()
        out, err = board.run("print(6 * 7)")
        assert (out.strip(), err) == ("42", "")
    # An answer is used up, and a session ends with the board's power.
    with rig2.board() as board:
        board.power_on_report()
        fresh = challenge(board)
        assert fresh["challenge"] != asked["challenge"]
        board.send(good)
        board.wait_for('"refused": "signature-bad"')
        assert dead(board)


def test_who_types_at_power_on_need_not_wait_for_the_application(rig2):
    rig2.app_source += "\nwhile True: pass\n"
    rig2.make_image(2 * MB, version="1.1")
    rig2.good = rig2.flash.read_bytes()
    with rig2.board() as board:
        report = board.power_on_report()
        assert report["verdict"] == "RUN"
        board.wait_for("app: running")
        board.repl(interrupt=True)
        _, err = board.run("import board; from lifeboat import lock; lock.change(board, True)")
        assert not err, err
        board.reset()
        asked = knocked(board)
        board.send(answer(asked))
        board.wait_for("lifeboat-open: {}")
        board.wait_for("app: running")
        board.repl(interrupt=True)


def test_rescue_is_locked_too(rig2):
    lock(rig2)
    rig2.damage((0, b"\0" * 4096))
    rig2.drives = []
    with rig2.board() as board:
        assert board.power_on_report()["verdict"] == "RESCUE"
        assert challenge(board)["verdict"] == "RESCUE"
        assert dead(board)
        board.send("\r")
        board.send(answer(challenge(board)))
        board.wait_for("lifeboat-open: {}")
        board.repl()


def test_a_technician_locks_and_unlocks_with_the_tools(rig2, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    _, unlock = demo_keys.files(tmp_path / "keys")

    def tool(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "lifeboat_host", *arguments, "--json"],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        check_output((*arguments, "--json"), done.stdout)
        return done.returncode, json.loads(done.stdout)

    with pty_board(rig2) as (path, _):
        code, found = tool("lock", "--port", path, "--yes")
        assert (code, found["locked"]) == (0, True)
    with pty_board(rig2) as (path, _):
        code, found = tool("status", "--port", path)
        assert code == 1 and found["error"]["code"] == "link-locked"
        code, found = tool("unlock", "--port", path, "--key", str(unlock))
        assert (code, found.get("number")) == (0, 1), found
        code, found = tool("status", "--port", path)
        assert found["memory"]["owner"]["answers"] == 1


# What the attackers of tests/firmware/test_owner.py do, on the board


def codes(report):
    return {code for code, _, _ in report["reasons"]}


def test_older_code_and_disks_from_before_do_not_come_back(rig2, tmp_path):
    rig = rig2
    old = rig.flash.read_bytes()
    kept = [path.read_bytes() for path in rig.drives]
    rig.make_image(2 * MB, version="2.0", seed=2)
    rig.sign(counter=5)
    rig.good = rig.flash.read_bytes()
    report, _ = rig.power_on()
    assert (report["verdict"], report["counter"]) == ("RUN", 5)
    # All disks are as they were, and somebody flashes the old code; the memory stays.
    for path, content in zip(rig.drives, kept):
        path.write_bytes(content)
    start, end = rig.memory_range
    memory = rig.flash.read_bytes()[start:end]
    rig.flash.write_bytes(old[:start] + memory + old[end:])
    report, console = rig.power_on()
    assert (report["verdict"], report["counter"]) == ("RESCUE", 5)
    assert "counter-low" in codes(report) and "app: running" not in console


def test_keys_rotate_and_hostile_sets_change_nothing(rig2):
    rig = rig2
    other = signer.key(8)
    own = signer.demo_key("code")
    for keys, told in [
        (signer.key_set(9, (signer.ALL, other)), "keys-refused"),  # not one that signed it
        (b"\xff" * 240, None),
        (signer.key_set(0, (signer.ALL, own)), None),
    ]:
        rig.make_image(2 * MB, version="2.0")
        rig.sign(keys=keys)
        report, _ = rig.power_on()
        assert (report["verdict"], report["keys"]) == ("RUN", 1)
        assert codes(report) & {"keys-refused"} == ({told} if told else set())
    rig.make_image(2 * MB, version="3.0")
    rig.sign(keys=signer.key_set(2, (signer.ALL, own), (signer.ALL, other)))
    report, _ = rig.power_on()
    assert (report["verdict"], report["keys"]) == ("RUN", 2)


def test_a_block_with_the_right_crc_is_found_by_paranoid_and_by_the_scrubber(rig2):
    rig = rig2
    block = rig.spec.block_size
    good = rig.good[3 * block : 4 * block]
    rig.damage((3 * block, same_crc(good)))
    with rig.board() as board:
        report = board.power_on_report()
        assert (report["verdict"], report["trust"], report["bad"]) == ("RUN", "signed", [])
        board.repl(interrupt=True)
        code = "import board, lifeboat; board.PARANOID = True; lifeboat.power_on(board)"
        out, err = board.run(code)
        assert not err, err
        report = parse_line(out.strip().splitlines()[-1])
        assert (report["verdict"], report["trust"]) == ("RUN", "paranoid")
        assert report["bad"] == [[3, 1]]
    assert rig.content() == rig.good
    rig.damage((3 * block, same_crc(good)))
    with rig.board() as board:
        assert board.power_on_report()["bad"] == []
        board.repl(interrupt=True)
        code = (
            "import board\n"
            "from lifeboat.scrub import Scrubber\n"
            "scrubber = Scrubber(board, start=0)\n"
            "for _ in range(400): scrubber.step(20)\n"
        )
        out, err = board.run(code, timeout=120)
        assert not err, err
    assert rig.content() == rig.good


def test_an_application_that_fills_the_heap_opens_no_console(rig2):
    lock(rig2)
    start, end = rig2.memory_range
    memory = rig2.flash.read_bytes()[start:end]
    rig2.app_source += "\nkept = None\nwhile True: kept = [kept, bytes(24)]\n"
    rig2.make_image(2 * MB, version="1.1")
    data = rig2.flash.read_bytes()
    rig2.flash.write_bytes(data[:start] + memory + data[end:])
    with rig2.board() as board:
        assert board.power_on_report()["console"] == "locked"
        board.wait_for("MemoryError")
        before = len(board.console)
        for _ in range(3):
            board.send("\x03\x03\r\x01\x05\x02\x04print('al' + 'ive')\r\x04")
            time.sleep(1.5)
        said = board.console[before:]
        assert ">>>" not in said and "alive" not in said and "raw REPL" not in said
