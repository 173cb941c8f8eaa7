"""Power loss as an attribute of a test.

    @pytest.mark.power_loss(given=healthy, runs=("2.0",), keeps=("1.0", "2.0"))
    def test_backup(board):
        lifeboat.power_on(board)

The test is a scenario: it runs on the board that given(geometry) returns, in each geometry of the
matrix, and the power fails at every instant of it and of the power-on that follows (sim.sweep).
runs: versions of which one runs in the end; the rest as in sim.oracle.Rules. By default that is
exhaustive in the smallest geometry and a sample of the others; LIFEBOAT_CAMPAIGN=power does all
first cuts everywhere, and leaves out what passed before (LIFEBOAT_LEDGER, a file of JSON lines
that it adds to). LIFEBOAT_CUT=POINT makes just one. A failed sweep names it, with the
command, and keeps what it left as images.
"""

from __future__ import annotations

import json
import os
import shlex

import pytest
from sweeping import keep_images

from sim.machine import Geometry
from sim.oracle import Rules
from sim.sweep import Failed, Sweep, Tally

CAMPAIGN = os.environ.get("LIFEBOAT_CAMPAIGN") == "power"
POINT = os.environ.get("LIFEBOAT_CUT", "")
LEDGER = os.environ.get("LIFEBOAT_LEDGER")

SMALL = Geometry(4096, 1, 4096, 2, 1, "end", "chip", 2)
MATRIX = (
    Geometry(4096, 1, 512, 2, 2, "end", "chip", 3),
    Geometry(4096, 256, 512, 3, 2, "start", "chip", 3),
    Geometry(4096, 4096, 4096, 2, 2, "end", "chip", 3),
    Geometry(4096, 16, 512, 2, 3, "end", "flash", 3),
    Geometry(8192, 2048, 512, 2, 4, "end", "chip", 2),
    Geometry(32768, 8, 4096, 3, 4, "start", "flash", 2),
    Geometry(65536, 1, 512, 2, 1, "end", "chip", 3),
    Geometry(65536, 512, 4096, 3, 2, "start", "flash", 2),
    Geometry(131072, 32, 512, 3, 1, "end", "chip", 2),
    Geometry(262144, 1, 512, 2, 2, "start", "chip", 2),
    Geometry(262144, 4096, 4096, 2, 1, "end", "flash", 2),
)
ALSO_SMALL = (
    Geometry(4096, 1, 512, 2, 1, "start", "chip", 2),
    Geometry(4096, 64, 4096, 2, 2, "end", "chip", 2),
)
_EACH = 3  # of the matrix, by default; the next scenario takes the next ones
_FIRST, _SECOND = 120, 120  # cut points of a sample
_MANY = 6000


def pytest_generate_tests(metafunc):
    if metafunc.definition.get_closest_marker("power_loss"):
        metafunc.parametrize("geometry", _geometries(metafunc.definition), ids=str)


def _geometries(item):
    marker = item.get_closest_marker("power_loss")
    if CAMPAIGN or POINT:
        chosen = (SMALL, *ALSO_SMALL, *MATRIX)
    else:
        names = [name for name in dir(item.module) if name.startswith("test_")]
        start = sorted(names).index(item.name) * _EACH
        chosen = (SMALL, *((MATRIX * 3)[(start + i) % len(MATRIX)] for i in range(_EACH)))
    fits = marker.kwargs.get("fits", lambda geometry: True)
    return list(filter(fits, chosen))


@pytest.fixture
def board(request, geometry):
    """The board that the scenario's marker gives."""
    return request.node.get_closest_marker("power_loss").kwargs["given"](geometry)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    marker = pyfuncitem.get_closest_marker("power_loss")
    if not marker:
        return None
    geometry, board = pyfuncitem.funcargs["geometry"], pyfuncitem.funcargs["board"]
    options = dict(marker.kwargs)
    del options["given"]
    options.pop("fits", None)
    runs = options.pop("runs")
    rules = Rules(
        images={v: bytes(image_of(geometry, v)) for v in runs},
        keeps=frozenset(options.pop("keeps", runs)),
        outside=tuple(foreign(disk) for disk in board.drives),
        **options,
    )
    small = geometry == SMALL or geometry in ALSO_SMALL
    first = None if small or CAMPAIGN else _FIRST
    second = None if small else _MANY if CAMPAIGN else _SECOND
    sweep = Sweep(board, pyfuncitem.obj, rules, first, second, POINT)
    try:
        tally = sweep.run()
    except Failed as failed:
        board = failed.board
        media = {"flash": board.nor, **{disk.name: disk for disk in board.drives}}
        if board.chip:
            media["memory"] = board.chip
        name = f"{pyfuncitem.nodeid}-{failed.point}"
        folder = keep_images(name, media)
        again = f"LIFEBOAT_CUT={failed.point} ./lifeboat test {shlex.quote(pyfuncitem.nodeid)}"
        pytest.fail(f"{failed}\njust it again:\n    {again}\nits images: {folder}", pytrace=False)
    pyfuncitem.user_properties.append(("power_loss", json.dumps(tally)))
    return True


def image_of(geometry, version):
    """Return the image of a version, as all scenarios have it."""
    return geometry.image({"1.0": 2, "2.0": 1}[version], version)


def foreign(disk):
    """Return what is somebody's on a disk, as {LBA: bytes}."""
    return {lba: data for lba, data in disk.sectors.items() if data[:4] == b"user"}


# A line that a stop has cut short is none.
def _entries(lines):
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def pytest_collection_modifyitems(config, items):
    if not LEDGER:
        return
    with open(LEDGER, encoding="utf-8") as file:
        done = {entry["test"] for entry in _entries(file) if entry.get("passed")}
    left = [item for item in items if item.nodeid not in done]
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
    items[:] = left


def pytest_runtest_logreport(report):
    if LEDGER and "PYTEST_XDIST_WORKER" not in os.environ and report.when == "call":
        entry = {
            "test": report.nodeid,
            "passed": not report.failed,
            "seconds": round(report.duration, 1),
            **{name: json.loads(value) for name, value in report.user_properties},
        }
        with open(LEDGER, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def pytest_terminal_summary(terminalreporter):
    tally = Tally()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "power_loss" and report.when == "call":
                    tally += Tally(*json.loads(value))
    if tally.planned:
        terminalreporter.write_line(told(tally))


def told(tally):
    """Return a tally in words."""
    return (
        f"power loss: {tally.planned:,} cut points planned, {tally.reached:,} reached, "
        f"{tally.passed:,} passed; {tally.states:,} different states"
    )
