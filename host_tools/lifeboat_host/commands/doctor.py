"""`lifeboat doctor`: what this machine has for lifeboat, and what is missing."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from lifeboat_host.base import tree
from lifeboat_host.base.errors import EXIT_ERROR, EXIT_OK, LifeboatError
from lifeboat_host.commands import options
from lifeboat_host.disk.signatures import find_tool
from lifeboat_host.qemu import board_spec
from lifeboat_host.ui.output import Output

_DESCRIPTION = """\
Looks, and changes nothing. Exit code 1 when something is missing that most commands need; what
only some need is named with them.
"""


@dataclass(frozen=True)
class Finding:
    """needed: without it more than the named commands fail."""

    what: str
    ok: bool
    detail: str
    next: str = ""
    needed: bool = False


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "doctor",
        parents=[common],
        help="say what is missing on this machine",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, output: Output) -> int:
    found = [finding for check in _CHECKS for finding in check()]
    table = Table.grid(padding=(0, 2))
    for one in found:
        table.add_row("ok" if one.ok else "MISSING" if one.needed else "no", one.what, one.detail)
    output.show(table)
    for one in found:
        if not one.ok and one.next:
            output.show(f"  next: {one.what}: {one.next}")
    missing = [one for one in found if one.needed and not one.ok]
    output.show("", "all that is needed is here" if not missing else "something is missing")
    output.result({"ok": not missing, "findings": [asdict(one) for one in found]})
    return EXIT_ERROR if missing else EXIT_OK


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", sys.version_info >= (3, 9), version, "install 3.9 or newer", True)
    for name in ("crcmod", "mpremote", "pyhsslms", "serial", "rich"):
        there = importlib.util.find_spec(name) is not None
        yield Finding(f"Python package {name}", there, "", "run ./lifeboat setup", True)


def _tools() -> Iterator[Finding]:
    for name in ("wipefs", "blkid"):
        path = find_tool(name)
        yield Finding(name, bool(path), path or "for region plan and create", "install util-linux")


def _boards() -> Iterator[Finding]:
    try:
        root = tree.root()
    except LifeboatError as error:
        yield Finding("source tree", False, "for demo, bench, test, board", error.hint)
        return
    yield Finding("source tree", True, str(root))
    for path in sorted((root / "boards").glob("*/board.json")):
        spec = board_spec.load(path.parent.name)
        try:
            firmware, hint = str(spec.firmware), ""
        except LifeboatError as error:
            firmware, hint = "its firmware is not built", error.hint
        yield Finding(f"board {spec.id}", not hint, firmware, hint)
        if spec.emulator == board_spec.QEMU:
            there = shutil.which(spec.qemu)
            yield Finding(spec.qemu, bool(there), there or "its emulator", "run ./lifeboat setup")


def _ports() -> Iterator[Finding]:
    folder = Path("/dev")
    ports = sorted([*folder.glob("ttyUSB*"), *folder.glob("ttyACM*")])
    for port in ports:
        may = os.access(port, os.R_OK | os.W_OK)
        hint = f"add yourself to its group: usermod -aG dialout {os.environ.get('USER', 'YOU')}"
        yield Finding(f"port {port}", may, "" if may else "you may not open it", hint)
    if not ports:
        yield Finding("serial port", False, "none is plugged in: for boards on a desk")


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (_python, _tools, _boards, _ports)
