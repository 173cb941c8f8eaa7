"""What the commands print with --json is what docs/schema.json says.

The fixtures `lifeboat` and `connected` hold whatever a test has a command print to it, too, and so
do the tests on boards.
"""

import argparse
import contextlib
import json

import jsonschema
import pytest
from described import COMMANDS, check
from layouts import blank, disk_file

from fakes import board as sim
from fakes import scenarios
from lifeboat_host.commands import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An image, and the disk of a simulated board that repaired a block."""
    import lifeboat

    path = tmp_path_factory.mktemp("json")
    board = sim.SimBoard(bytearray(scenarios.NEW), members=1, journal=4)
    for _ in range(2):
        with contextlib.redirect_stdout(None):
            lifeboat.power_on(board)
        board.nor.data[4096] ^= 1
    report = lifeboat.report().data
    (path / "console.log").write_text("lifeboat: " + json.dumps(report))
    (path / "code.img").write_bytes(bytes(scenarios.NEW))
    bad = bytearray(scenarios.NEW)
    bad[0] ^= 1
    (path / "bad.img").write_bytes(bad)
    disk_file(path / "disk.img", board.drives[0])
    return path


SOME = [
    ("image inspect", ["code.img"], 0),
    ("image inspect", ["bad.img"], 0),
    ("image verify", ["code.img"], 0),
    ("image verify", ["bad.img"], 3),
    ("region inspect", ["disk.img"], 0),
    ("region verify", ["disk.img"], 0),
    ("region plan", ["disk.img"], 1),
    ("log", ["disk.img"], 0),
    ("doctor", [], 0),
    ("error", ["image", "inspect", "disk.img"], 1),
    ("error", ["region", "inspect", "nothing"], 1),
]


@pytest.mark.parametrize(("name", "arguments", "want"), SOME)
def test_results_are_as_described(lifeboat, folder, monkeypatch, name, arguments, want):
    monkeypatch.chdir(folder)
    command = arguments if name == "error" else [*name.split(), *arguments]
    code, out, _ = lifeboat(*command, "--json")
    assert code == want
    check(name, out)


def test_a_report_is_as_described(lifeboat, folder):
    code, out, _ = lifeboat("report", folder / "console.log", "--json")
    assert code == 0 and check("report", out)["schema"] == 1


def test_a_region_that_comes_and_goes_is_as_described(lifeboat, tmp_path):
    disk = tmp_path / "disk.img"
    blank(disk, 16 << 20)
    options = ["--size", "4M", "--undo", tmp_path / "undo", "--yes", "--json"]
    assert check("region plan", lifeboat("region", "plan", disk, "--size", "4M", "--json")[1])
    assert check("region create", lifeboat("region", "create", disk, *options)[1])["created"]
    options = ["--undo", tmp_path / "undo", "--yes", "--json"]
    assert check("region remove", lifeboat("region", "remove", disk, *options)[1])["removed"]


def commands(parser, words=()):
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for group in groups:
        for name, one in group.choices.items():
            yield from commands(one, (*words, name))
    if any("--json" in action.option_strings for action in parser._actions):
        yield " ".join(words)


def test_each_command_that_prints_json_is_described():
    ours = set(commands(main._parser()))
    assert len(ours) > 30
    others = {"error", "demo", "bench", "campaign"}  # which have parsers of their own
    assert COMMANDS == ours | others


def test_what_is_wrong_does_not_pass():
    for name in COMMANDS:
        with pytest.raises(jsonschema.ValidationError):
            check(name, {"schema": 2})
        with pytest.raises(jsonschema.ValidationError):
            check(name, {"schema": 1})


def test_a_connected_board_is_as_described(connected):
    board = sim.SimBoard(bytearray(scenarios.NEW), members=2, journal=4)
    import lifeboat

    with contextlib.redirect_stdout(None):
        lifeboat.power_on(board)
    run = connected(board)
    code, status = run("status")
    assert code == 0 and check("status", status)["report"]["verdict"] == "RUN"
    code, found = run("verify")
    assert code == 0 and check("verify", found)["ok"]
    board.nor.data[0] ^= 1
    code, found = run("verify")
    assert code == 3 and not check("verify", found)["ok"]
