"""`lifeboat board`: an emulated board in the background, with its console on a pty."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from lifeboat_host.base.errors import EXIT_OK, LifeboatError
from lifeboat_host.commands import options
from lifeboat_host.qemu import board_spec
from lifeboat_host.qemu.background import Session, Status
from lifeboat_host.qemu.machine import Drive, Usb
from lifeboat_host.ui import report_table
from lifeboat_host.ui.output import Output

# Seconds: a full inspection and a full recovery take less. An emulated Pico is slow.
_REPORT_TIMEOUT = {board_spec.QEMU: 60, board_spec.RP2040PY: 300}

_EXAMPLES = """\
examples:
  lifeboat board run --flash code.img --disk disk0.img --disk disk1.img
  lifeboat board run --flash code.img --usb-disk stick.img
  mpremote connect /dev/pts/N exec "import lifeboat; print(lifeboat.report().line())"
  lifeboat board reset
  lifeboat board off

Without --flash the board gets a blank flash in its own folder, where it stays.
"""


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "board",
        help="run an emulated board and talk to it",
        description="One board per --name runs in the background.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    named = argparse.ArgumentParser(add_help=False, parents=[common])
    named.add_argument("--name", default="default", help="which board (default: default)")
    for name, run, help_text in (
        ("run", _run, "switch it on; prints QEMU's command line and the console's pty"),
        ("command", _command, "print that command line and start nothing"),
    ):
        action = actions.add_parser(name, parents=[named], help=help_text)
        action.add_argument("--board", default=board_spec.DEFAULT_BOARD, help="board id")
        options.add_policy(action, "--signed")
        action.add_argument("--flash", type=Path, help="code flash image")
        action.add_argument(
            "--disk", type=Path, action="append", default=[], help="disk image; repeat it"
        )
        action.add_argument(
            "--usb-disk",
            type=Path,
            action="append",
            default=[],
            metavar="FILE",
            help="image of a disk on USB instead; repeat it",
        )
        action.set_defaults(run=run)
    for name, run, help_text in (
        ("off", _off, "switch it off"),
        ("reset", _reset, "press its reset button"),
        ("status", _status, "does it run, where is its console, what did it report"),
    ):
        actions.add_parser(name, parents=[named], help=help_text).set_defaults(run=run)


def _blank_flash(path: Path, size: int) -> Path:
    """The board's own flash: blank when new."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff" * size)
    return path


def _flash(args: argparse.Namespace, session: Session, spec: board_spec.BoardSpec) -> Path:
    flash: Path = args.flash or _blank_flash(session.folder / "flash.img", spec.flash_size)
    for path in [flash, *args.disk, *args.usb_disk]:
        if not path.is_file():
            raise LifeboatError(
                "board-medium",
                f"{path}: no such file",
                "make an image with `lifeboat image build`, a disk with `truncate -s 1G FILE`",
            )
    if flash.stat().st_size != spec.flash_size:
        raise LifeboatError(
            "board-medium",
            f"{flash}: {flash.stat().st_size} bytes, the board's flash has {spec.flash_size}",
            f"build the image with --board {spec.id}",
        )
    return flash


def _drives(args: argparse.Namespace) -> list[Drive]:
    return [*args.disk, *map(Usb, args.usb_disk)]


def _show(output: Output, status: Status) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_row("board", f"{status.name}, {'running' if status.running else 'off'}")
    if status.running:
        grid.add_row("pid", str(status.pid))
        grid.add_row("console", status.pty)
    grid.add_row("log", status.console_log)
    output.show(grid)
    if status.report:
        output.show("", report_table.table(status.report))
    if status.running:
        output.show("", f"  next: mpremote connect {status.pty} repl", "")


def _run(args: argparse.Namespace, output: Output) -> int:
    spec = board_spec.load(args.board, args.policy)
    session = Session(args.name)
    status = session.start(spec, _flash(args, session, spec), _drives(args))
    output.show(status.command, "")
    return _booted(output, session)


def _booted(output: Output, session: Session, reports_before: int = 0) -> int:
    timeout = _REPORT_TIMEOUT[session.emulator]
    if not session.wait_for_report(timeout, reports_before):
        output.show(f"no report within {timeout} seconds, see the log", "")
    status = session.status()
    _show(output, status)
    output.result(asdict(status))
    return EXIT_OK


def _command(args: argparse.Namespace, output: Output) -> int:
    spec = board_spec.load(args.board, args.policy)
    session = Session(args.name)
    command = session.arguments(spec, _flash(args, session, spec), _drives(args))
    output.show(shlex.join(command))
    output.result({"command": command})
    return EXIT_OK


def _off(args: argparse.Namespace, output: Output) -> int:
    session = Session(args.name)
    session.stop()
    output.show(f"board {args.name} is off")
    output.result(asdict(session.status()))
    return EXIT_OK


def _reset(args: argparse.Namespace, output: Output) -> int:
    session = Session(args.name)
    return _booted(output, session, session.reset())


def _status(args: argparse.Namespace, output: Output) -> int:
    status = Session(args.name).status()
    _show(output, status)
    output.result(asdict(status))
    return EXIT_OK
