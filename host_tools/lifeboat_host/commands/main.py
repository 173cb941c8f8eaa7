"""The `lifeboat` command: parses, hands over, prints errors."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lifeboat_host import __version__
from lifeboat_host.base import files
from lifeboat_host.base.errors import EXIT_ERROR, EXIT_OK, LifeboatError
from lifeboat_host.commands import (
    adopt,
    board,
    doctor,
    image,
    key,
    lock,
    log,
    options,
    provision,
    region,
    rollback,
    test,
    update,
)
from lifeboat_host.commands import help as help_pages
from lifeboat_host.model import report
from lifeboat_host.ui import report_table
from lifeboat_host.ui.output import Output

_LOG_MAX = 256 << 20

_EXAMPLES = """\
examples:
  lifeboat image build -o code.img --version 1.0 os=u-boot.bin app=src/
  lifeboat region create disk0.img disk1.img
  lifeboat board run --flash code.img --disk disk0.img --disk disk1.img
  lifeboat report console.log

exit codes: 0 done, 1 error, 2 wrong usage, 3 a verify found damage
"""

# Commands with arguments of their own, each in a module with main(arguments) -> exit code.
_MODULES = {
    "demo": ("bench.demo", "damage a board's code flash in many ways and watch it heal"),
    "bench": ("bench.measure", "measure speed and size against the stated goals"),
    "campaign": ("bench.campaign", "the long proofs: power cuts, fuzzing, mutants, a soak"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    output = Output(json="--json" in rest)
    try:
        if command == "test":
            return test.main(rest)
        if command == "mpremote":
            return subprocess.run(
                [sys.executable, "-m", "mpremote", *rest], check=False
            ).returncode
        if command in _MODULES:
            module, _ = _MODULES[command]
            return int(importlib.import_module(f"lifeboat_host.{module}").main(rest))
        args = _parser().parse_args(arguments)
        # Then standard output is for the metrics alone.
        quiet = args.quiet or getattr(args, "openmetrics", None) == "-"
        output = Output(json=args.json, quiet=quiet)
        return int(args.run(args, output))
    except LifeboatError as error:
        output.failure(error)
        return EXIT_ERROR
    except MemoryError:
        output.failure(LifeboatError("memory", "this takes more memory than there is"))
        return EXIT_ERROR
    except KeyboardInterrupt as stop:
        output.failure(LifeboatError("interrupted", "interrupted", str(stop)))
        return 130
    except BrokenPipeError:
        # The reader of our output has gone: nothing to tell anybody, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lifeboat",
        description="Controllers that restore their own code from a reserved range of a disk.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lifeboat {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    common = options.common()
    image.add(commands, common)
    region.add(commands, common)
    board.add(commands, common)
    provision.add(commands, common)
    adopt.add(commands, common)
    rollback.add(commands, common)
    update.add(commands, common)
    key.add(commands, common)
    lock.add(commands, common)
    log.add(commands, common)
    explain = commands.add_parser(
        "report", parents=[common], help="explain the report line in a board's console output"
    )
    explain.add_argument("log", nargs="?", type=Path, help="console log (default: standard input)")
    explain.set_defaults(run=_report)
    doctor.add(commands, common)
    help_pages.add(commands, common, parser)
    commands.add_parser(
        "mpremote", help="MicroPython's own tool, as it was installed for lifeboat"
    )
    commands.add_parser("test", help="run the project's tests")
    for command, (_, help_text) in _MODULES.items():
        commands.add_parser(command, help=help_text)
    return parser


def _report(args: argparse.Namespace, output: Output) -> int:
    if args.log:
        data, _ = files.read(args.log, _LOG_MAX, "report-read", "name a console log")
    else:
        data = sys.stdin.buffer.read(_LOG_MAX)
    text = data.decode(errors="replace")
    found = report.last_report(text.split("\n"))
    output.show(report_table.table(found))
    output.result(found)
    return EXIT_OK
