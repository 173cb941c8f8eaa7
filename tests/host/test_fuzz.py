"""The commands with mutated files: they end with an exit code and a sentence, in bounded time.

A minute by default. For an hour: LIFEBOAT_FUZZ_SECONDS=3600 python -m pytest -k test_fuzz tests
A failure names its seed; LIFEBOAT_FUZZ_SEED=SEED runs that one alone.
"""

import contextlib
import io
import json
import os
import random
import time

import layouts_raw as raw
import pytest
from layouts import blank, disk_file, put

from fakes import board as sim
from fakes import scenarios
from lifeboat_host.commands.main import main

SECONDS = float(os.environ.get("LIFEBOAT_FUZZ_SECONDS", "60"))
SEED = os.environ.get("LIFEBOAT_FUZZ_SEED")
SIZE = 8 << 20
CASE_SECONDS = 60  # one case; a hang, whatever else the machine does


def run(*arguments):
    """(exit code, output); a traceback is a failure of the test."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        out.flush(), err.flush()
    return code, (out.buffer.getvalue() + err.buffer.getvalue()).decode()


def powered_on(members=1):
    """A simulated board after its first power-on."""
    import lifeboat

    board = sim.SimBoard(bytearray(scenarios.NEW), members=members, journal=4)
    with contextlib.redirect_stdout(io.StringIO()):
        lifeboat.power_on(board)
    return board


# --- what is mutated -----------------------------------------------------------------------


def an_image(folder):
    (folder / "a").write_bytes(bytes(scenarios.NEW))
    return [["image", "inspect", "a"], ["image", "verify", "a", "--json"]]


def a_member(folder):
    disk_file(folder / "a", powered_on().drives[0])
    return [["region", "inspect", "a"], ["region", "verify", "a"], ["log", "a"]]


def a_log_page(folder):
    disk_file(folder / "a", powered_on().drives[0])
    return [["log", "a", "--json"], ["log", "a", "--picture", "page.html"]]


def a_gpt(folder):
    blank(folder / "a", SIZE)
    put(folder / "a", raw.gpt(SIZE, [(raw.LINUX, 2048, 4095), (raw.LINUX, 6000, 7000)]))
    return [["region", "plan", "a", "--size", "2M"], ["region", "plan", "a", "--json", "--gpt"]]


def a_recovery_file(folder):
    blank(folder / "disk", SIZE)
    put(folder / "disk", raw.gpt(SIZE, [(raw.LINUX, 2048, 4095)]))
    with contextlib.chdir(folder) if hasattr(contextlib, "chdir") else _chdir(folder):
        code, said = run("region", "create", "disk", "--size", "2M", "--undo", "a", "--yes")
    assert code == 0, said
    return [["region", "remove", "disk", "--undo", "a", "--yes", "--json"]]


def a_console_log(folder):
    board = powered_on()
    import lifeboat

    line = "lifeboat: " + json.dumps(lifeboat.report().data)
    assert board
    (folder / "a").write_text("noise\n" + line + "\n")
    return [["report", "a"], ["report", "a", "--json"]]


@contextlib.contextmanager
def _chdir(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


# --- how -----------------------------------------------------------------------------------

ODD = (b"\0", b"\xff", b"\x1b", b"\x7f", b"\x80\0\0\0", b"\xff\xff\xff\xff", b"9" * 40, b"null",
       b"1e999", b"[[", b"LBREGION", b"LBMANIF\n", b"EFI PART", "\u202e".encode())  # fmt: skip


def interesting(data):
    """Places that are not in the middle of zeros or other filling."""
    step = 64
    found = [at for at in range(0, len(data), step) if len(set(data[at : at + step])) > 1]
    return found or [0]


def mutate(rng, data, places):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = min(rng.choice(places) + rng.randrange(64), len(data) - 1)
        kind = rng.randrange(6)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            new = rng.choice(ODD)
            data[at : at + len(new)] = new
        elif kind == 3:
            other, size = rng.choice(places), rng.choice((4, 8, 64, 512))
            data[at : at + size] = data[other : other + size]
        elif kind == 4:
            size = rng.choice((1, 2, 4, 8))
            data[at : at + size] = rng.choice((0, 1, (1 << 8 * size) - 1)).to_bytes(size, "little")
        elif rng.randrange(8) == 0:
            del data[at:]
        if not data:
            data = bytearray(1)
    return bytes(data)


TARGETS = [an_image, a_member, a_log_page, a_gpt, a_recovery_file, a_console_log]


@pytest.mark.parametrize("make", TARGETS, ids=lambda make: make.__name__)
def test_no_file_makes_a_command_fail_otherwise_than_by_a_sentence(tmp_path, make, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = make(tmp_path)
    good = (tmp_path / "a").read_bytes()
    others = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name != "a"}
    places = interesting(good)
    end = time.monotonic() + SECONDS / len(TARGETS)
    # Another part of the endless list each day would not be reproducible: it is always the same.
    seeds = iter([int(SEED)]) if SEED else iter(range(10**9))
    cases = 0
    for seed in seeds:
        rng = random.Random(f"{make.__name__} {seed}")
        hint = f"LIFEBOAT_FUZZ_SEED={seed} python -m pytest {__file__} -k {make.__name__}"
        (tmp_path / "a").write_bytes(mutate(rng, good, places))
        for name, data in others.items():
            (tmp_path / name).write_bytes(data)
        command = rng.choice(commands)
        began = time.monotonic()
        try:
            code, said = run(*command)
        except Exception as error:
            raise AssertionError(f"{command}: {error!r}; again: {hint}") from error
        assert code in (0, 1, 3), f"{command}: exit code {code}; again: {hint}"
        assert time.monotonic() - began < CASE_SECONDS, f"{command}: hangs; again: {hint}"
        odd = [c for c in said if not (c.isprintable() or c in "\n\u00a0\u3000")]
        assert not odd, f"{command}: {odd!r} reaches the terminal; again: {hint}"
        if code == 1 and "--json" in command:
            assert set(json.loads(said)) >= {"error"} or "disks" in said, f"{said}; again: {hint}"
        assert "Traceback" not in said, f"{said}; again: {hint}"
        if "remove" in command and code:
            assert (tmp_path / "disk").read_bytes() == others["disk"], f"written; again: {hint}"
        cases += 1
        if time.monotonic() > end:
            break
    assert cases
