"""`lifeboat test`: all tests, and whether the evidence of docs/security.md was among them."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from lifeboat_host.base import tree
from lifeboat_host.base.errors import EXIT_ERROR, EXIT_OK

_NAMED = re.compile(r"`(test_\w+)\.py::(test_\w+)`")
_PAGE = "docs/security.md"
_WORKERS = 2  # that share the host's tests
CUT_POINTS = 100_000  # that the default run reaches at least
# Seconds that a floor's tests may take by default, on two idle cores; what is more becomes `slow`.
_SHARES = {
    "firmware": 300, "unix": 60, "arm": 60, "qemu": 420, "pico": 100, "host": 180, "fuzz": 120,
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Run pytest in the source tree; its exit code, or 1 when a claim has no test that passed."""
    parser = argparse.ArgumentParser(
        prog="lifeboat test",
        description="Runs pytest in the source tree; other arguments go to pytest.",
        epilog="floors: lifeboat test -m host (unix, arm, qemu, pico); one: lifeboat test -k NAME",
    )
    parser.add_argument("--slow", action="store_true", help="the long sweeps, too")
    parser.add_argument("-m", dest="markers", metavar="MARKERS", help="only these, as for pytest")
    args, rest = parser.parse_known_args(arguments)
    limit = [] if args.slow else ["not slow"]
    if args.markers or rest:
        chosen = [f"({args.markers})"] if args.markers else []
        return _pytest(" and ".join(chosen + limit), *rest)
    with tempfile.TemporaryDirectory(prefix="lifeboat-test.") as folder:
        # Both halves take the two cores of a small machine; a file of tests of emulators stays
        # with one of them, for what it makes once.
        ledgers = [Path(folder, name) for name in ("host.xml", "others.xml")]
        codes = [
            _pytest(" and ".join(["host", *limit]), "-n", "2", f"--junit-xml={ledgers[0]}"),
            _pytest(
                " and ".join(["not host", *limit]),
                *("-n", "2", "--dist", "loadfile"),
                f"--junit-xml={ledgers[1]}",
            ),
        ]
        missing = unproven((tree.root() / _PAGE).read_text(encoding="utf-8"), ledgers)
        cuts = cut_points(ledgers)
        for floor, seconds in durations(ledgers).items():
            share = "" if args.slow else f" of {_SHARES[floor]}" if floor in _SHARES else ""
            print(f"{floor:10} {seconds:5.0f}{share} s")
    if missing:
        print(f"{_PAGE} names tests that did not run and pass: {', '.join(missing)}")
    planned, reached, passed, states = cuts
    print(f"power loss: {reached:,} cut points reached, {states:,} different states")
    short = reached < CUT_POINTS or not planned == reached == passed
    if short:
        print(f"that is less than {CUT_POINTS:,}, or less than was planned: {planned:,}")
    return max([*codes, EXIT_ERROR if missing or short else EXIT_OK])


def cut_points(ledgers: Iterable[Path]) -> list[int]:
    """Cut points of the sweeps over power loss: planned, reached, passed; states that differ."""
    found = [0, 0, 0, 0]
    for case in _cases(ledgers):
        for told in case.iter("property"):
            if told.get("name") == "power_loss":
                numbers = json.loads(told.get("value", "[]"))
                found = [sum(pair) for pair in zip(found, numbers)]
    return found


def _pytest(markers: str, *options: str) -> int:
    command = [sys.executable, "-m", "pytest", "-m", markers, *options]
    return subprocess.run(command, cwd=tree.root(), check=False).returncode


def durations(ledgers: Iterable[Path]) -> dict[str, float]:
    """Seconds of the tests in each folder of tests/, as they add up on the workers."""
    found: dict[str, float] = {}
    for case in _cases(ledgers):
        folders = case.get("classname", "").split(".")
        floor = folders[1] if len(folders) > 2 else "other"
        if "[rp2_sd" in case.get("name", ""):  # the same tests on another emulator
            floor = "pico"
        found[floor] = found.get(floor, 0) + float(case.get("time", 0)) / _WORKERS
    return dict(sorted(found.items()))


def _cases(ledgers: Iterable[Path]) -> Iterator[ElementTree.Element]:
    for ledger in ledgers:
        try:
            yield from ElementTree.parse(ledger).iter("testcase")
        except (OSError, ElementTree.ParseError):  # pytest did not come so far
            continue


def unproven(page: str, ledgers: Iterable[Path]) -> list[str]:
    """Tests that a page names as `test_x.py::test_y` and that did not pass.

    ledgers: JUnit XML files of pytest. A test passed when it did with at least one of its
    parameters, and failed with none.
    """
    passed, failed = set(), set()
    for case in _cases(ledgers):
        module = case.get("classname", "").rpartition(".")[2]
        name = f"{module}.py::{case.get('name', '').partition('[')[0]}"
        kinds = {part.tag for part in case}
        if kinds & {"failure", "error"}:
            failed.add(name)
        elif "skipped" not in kinds:
            passed.add(name)
    named = {f"{module}.py::{name}" for module, name in _NAMED.findall(page)}
    return sorted(named - (passed - failed))
