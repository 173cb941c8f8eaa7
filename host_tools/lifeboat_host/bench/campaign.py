"""`lifeboat campaign`: proofs that take hours, with an account of what was done.

Each is a set of tests of tests/ with larger numbers. It can be stopped at any time and goes on
where it was, as long as firmware/ and tests/ are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lifeboat_host.base import tree
from lifeboat_host.base.errors import EXIT_ERROR, EXIT_OK, LifeboatError


class Campaign(NamedTuple):
    """tests: what pytest is to run; hours: on two cores; counts: (property of a test, words for
    its numbers, the least sum of the first one)."""

    text: str
    hours: float
    tests: tuple[str, ...]
    counts: tuple[str, tuple[str, ...], int]
    workers: int = 2


_SOAK = (
    "seconds", "lives", "cuts at operations", "cuts at times", "members pulled", "members absent",
    "rot in flash off", "rot in flash running", "rot in copies", "blocks repaired at power-on",
    "repaired running", "mended running", "writes of the application", "of them failed",
    "scrub passes",
)  # fmt: skip

CAMPAIGNS = {
    "power": Campaign(
        "power fails at every instant of every flow, and again in what follows, in 14 geometries",
        1.5,
        ("tests/firmware/test_power_loss.py",),
        (
            "power_loss",
            ("cut points planned", "reached", "passed", "different states judged"),
            2_000_000,
        ),
    ),
    "fuzz": Campaign(
        "a million inputs for every parser and for whole power-ons, led by coverage",
        1.0,
        ("tests/fuzz", "-m", "fuzz"),
        ("fuzz", ("inputs",), 1_000_000),
    ),
    "mutants": Campaign(
        "faults are put into the firmware, one at a time, and tests have to find each",
        1.5,
        ("tests/mutants/test_mutants.py",),
        ("mutants", ("mutants", "killed", "explained"), 150),
    ),
    "boards": Campaign(
        "power fails at real device writes of QEMU boards, up to four times in a row",
        9.0,
        ("tests/qemu/test_power_cuts.py", "tests/qemu/test_update.py", "-k", "cut"),
        ("board_cuts", ("cuts, each of them reached",), 10_000),
    ),
    "soak": Campaign(
        "an hour of a board: an application, rot, members pulled, power cut",
        1.1,
        ("tests/qemu/test_soak.py",),
        ("soak", _SOAK, 3600),
        workers=1,
    ),
}


def main(arguments: Sequence[str]) -> int:
    """Run a campaign, or what is left of it; 0 when all of it passed and reached its numbers."""
    listed = "\n".join(f"  {name:8} {c.text}; {c.hours:g} h" for name, c in CAMPAIGNS.items())
    parser = argparse.ArgumentParser(
        prog="lifeboat campaign",
        description=__doc__,
        epilog=f"campaigns (hours on two cores):\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=CAMPAIGNS, metavar="NAME", help="which: see below")
    parser.add_argument("--fresh", action="store_true", help="forget what was done before")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: 2)")
    parser.add_argument("--json", action="store_true", help="print the account as JSON")
    args = parser.parse_args(arguments)
    campaign = CAMPAIGNS[args.name]
    ledger = Ledger(tree.cache() / "campaign" / f"{args.name}.jsonl", _sources(), args.fresh)
    done = sum(1 for _ in ledger.entries())
    out = sys.stderr if args.json else sys.stdout
    print(f"{campaign.text}: about {campaign.hours:g} hours on two cores", file=out)
    print(f"its account: {ledger.path}", file=out)
    if done:
        print(f"{done} of its tests were done before; it goes on", file=out)
    out.flush()
    environment = dict(os.environ, LIFEBOAT_CAMPAIGN=args.name, LIFEBOAT_LEDGER=str(ledger.path))
    workers = args.workers or campaign.workers
    command = [sys.executable, "-m", "pytest", "-m", "", "-n", str(workers), *campaign.tests]
    code = subprocess.run(
        command, cwd=tree.root(), env=environment, stdout=out, check=False
    ).returncode
    return _account(args.name, campaign, ledger, code in (0, 5), args.json)


def _account(name: str, campaign: Campaign, ledger: Ledger, ended: bool, as_json: bool) -> int:
    kind, words, least = campaign.counts
    sums = [0] * len(words)
    failed, seconds, tests = [], 0.0, 0
    for entry in ledger.latest():
        tests += 1
        seconds += entry["seconds"]
        if not entry["passed"]:
            failed.append(entry["test"])
        for i, number in enumerate(entry.get(kind, ())):
            sums[i] += number
    enough = sums[0] >= least
    if as_json:
        numbers = dict(zip((word.replace(" ", "_") for word in words), sums))
        account = {"schema": 1, "campaign": name, "tests": tests, "failed": failed}
        account |= {"seconds": round(seconds), "least": least, **numbers}
        print(json.dumps(account))
    else:
        told = ", ".join(f"{number:,} {word}" for word, number in zip(words, sums))
        print(f"{name}: {tests} tests, {seconds / 3600:.1f} h of one core: {told}")
        for test in failed:
            print(f"FAILED {test}")
        if not enough:
            print(f"that is less than the {least:,} of this campaign")
        print("passed" if ended and enough and not failed else "NOT passed")
    return EXIT_OK if ended and enough and not failed else EXIT_ERROR


class Ledger:
    """What was done, as JSON lines; the first one says of which sources."""

    def __init__(self, path: Path, sources: str, fresh: bool) -> None:
        self.path = path
        head = json.dumps({"sources": sources, "test": ""})
        try:
            same = path.read_text(encoding="utf-8").partition("\n")[0] == head
        except OSError:
            same = False
        if fresh or not same:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(head + "\n", encoding="utf-8")
            except OSError as error:
                raise LifeboatError(
                    "campaign", f"{path}: {error.strerror}", "make room, or set LIFEBOAT_CACHE"
                ) from None

    def entries(self) -> Iterable[dict[str, Any]]:
        """All entries; a line that a stop has cut short is none."""
        for line in self.path.read_text(encoding="utf-8").splitlines()[1:]:
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def latest(self) -> Iterable[dict[str, Any]]:
        """The last entry of each test."""
        return {entry["test"]: entry for entry in self.entries()}.values()


# One number for all that a result depends on.
def _sources() -> str:
    digest = hashlib.sha256()
    for folder in ("firmware", "tests"):
        for path in sorted((tree.root() / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(tree.root())).encode() + b"\0")
                digest.update(path.read_bytes())
    return digest.hexdigest()
