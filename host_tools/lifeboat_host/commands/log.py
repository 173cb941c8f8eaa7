"""`lifeboat log`: what the journals on the disks tell."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.text import Text

from lifeboat_host.base import files
from lifeboat_host.base.errors import EXIT_DAMAGE, EXIT_OK, LifeboatError
from lifeboat_host.commands import log_evidence, options
from lifeboat_host.commands.disks_option import located
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import journal, reasons
from lifeboat_host.model.journal import History, Journal, Session
from lifeboat_host.qemu import background
from lifeboat_host.ui import log_page
from lifeboat_host.ui.output import Output
from lifeboat_host.ui.report_table import VERDICTS

_DESCRIPTION = """\
Shows what a controller found and did at its power-ons and in operation, from the journal
in the backup regions. Only reads. Name all disks of the controller that you have: what
several of them tell appears once. A healthy power-on leaves no trace.

--evidence shows instead what kind of damage it was that repairs have replaced: cells that lost
their charge, an erase or a write that was cut off, an overwrite, another build's block.
"""

_EXAMPLES = """\
examples:
  lifeboat log disk0.img disk1.img
  lifeboat log /dev/sdx --picture log.html       a disk that was taken out of the machine
  lifeboat log                                   the board that `lifeboat board` runs
  lifeboat log --port /dev/ttyUSB0               all disks of the connected board
  lifeboat log --port /dev/ttyUSB0 sata0 --json
  lifeboat log --evidence disk0.img              what the damage was that was repaired

exit codes: 0 the last session ended well; 3 its verdict is not RUN, or damage in the code
that was found in operation was not repaired
"""


_NAMED = 6  # blocks, in the summary


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "log",
        parents=[common],
        help="show what the journal on the disks tells",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "disks",
        nargs="*",
        metavar="DISK",
        help="file or block device; with --port a disk of the board (default: all of its disks)",
    )
    parser.add_argument(
        "--port",
        help="serial port or pty (default without a DISK: the board that `lifeboat board` runs)",
    )
    parser.add_argument("--lba", type=options.number, help="look for the region at this LBA too")
    parser.add_argument(
        "--lba-size", type=int, choices=(512, 4096), help="of image files (default 512)"
    )
    parser.add_argument(
        "--evidence", action="store_true", help="show what kind of damage was repaired"
    )
    options.add_openmetrics(parser)
    parser.add_argument(
        "--picture", type=_picture, metavar="FILE", help="draw a timeline: FILE.svg or FILE.html"
    )
    parser.set_defaults(run=_run)


def _picture(name: str) -> Path:
    path = Path(name)
    if path.suffix not in (".svg", ".html"):
        raise argparse.ArgumentTypeError(f"{name!r} ends neither in .svg nor in .html")
    return path


def _run(args: argparse.Namespace, output: Output) -> int:
    journals, problems, found = _read(args, output)
    histories = journal.by_set(journals)
    if args.picture:
        _draw(args.picture, histories)
    if found:
        output.show(*found.show())
    for history in () if found else histories:
        output.show(*_show(history), "")
    for disk, error in problems:
        output.show(f"{disk}: {error.code}: {error.message}", f"  next: {error.hint}")
    if args.picture:
        output.show(f"picture: {args.picture}")
    if args.openmetrics:
        from lifeboat_host.ui import metrics  # only here: few want its library

        metrics.write(args.openmetrics, metrics.of_histories(histories))
    output.result(
        {
            "sets": [_json(history) for history in histories],
            "problems": [{"disk": disk, **error.to_json()} for disk, error in problems],
            "picture": str(args.picture) if args.picture else None,
            **({"evidence": found.to_json()} if found else {}),
        }
    )
    bad = any(history.sessions and not history.sessions[-1].good for history in histories)
    return EXIT_DAMAGE if bad else EXIT_OK


def _open(args: argparse.Namespace, stack: ExitStack) -> Sequence[Disk]:
    if args.port or not args.disks:
        from lifeboat_host.board import board_disk

        port = args.port or background.default_port()
        return stack.enter_context(board_disk.open_disks(port, args.disks))
    paths = dict.fromkeys(args.disks)
    return [stack.enter_context(Disk(path, args.lba_size)) for path in paths]


def _read(
    args: argparse.Namespace, output: Output
) -> tuple[list[Journal], list[tuple[str, LifeboatError]], log_evidence.Found | None]:
    """The journals, what is wrong with the disks that have none to read, and what --evidence
    wants."""
    journals, problems = [], []
    found = log_evidence.Found() if args.evidence else None
    lbas = [] if args.lba is None else [args.lba]
    with ExitStack() as stack:
        for disk in _open(args, stack):
            try:
                header = located(disk, lbas).header
                if found is not None:
                    found.add(disk, header, output)
                with output.bar(f"reading {disk.path.name}") as bar:
                    journals.append(journal.read(disk, header, bar))
            except LifeboatError as error:
                if error.code.startswith("link-"):
                    raise
                problems.append((str(disk.path), error))
    if not journals and not (found and found.lists):
        first = problems[0][1]
        raise LifeboatError(first.code, "; ".join(e.message for _, e in problems), first.hint)
    return journals, problems, found


def _draw(path: Path, histories: Sequence[History]) -> None:
    if len(histories) > 1:
        raise LifeboatError(
            "log-sets",
            f"the disks belong to {len(histories)} sets, a picture shows one",
            "name the disks of one controller",
        )
    history = histories[0]
    if path.suffix == ".svg":
        text = log_page.svg(history)
    else:
        text = log_page.html(history, [f"{name}: {value}" for name, value in _summary(history)])
    try:
        files.replace(path, text.encode())
    except OSError as error:
        raise LifeboatError(
            "log-write", f"{path}: {error.strerror}", "name another file"
        ) from None


# --- for people ----------------------------------------------------------------------------


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _span(span: tuple[int, int]) -> str:
    least, most = span
    return _plural(most, "power cycle") if least == most else f"{least} to {most} power cycles"


def _repeated(history: History) -> str:
    """The blocks that were repaired most often."""
    most = sorted(history.repeated.items(), key=lambda item: -len(item[1]))
    return _some(f"block {block} ({len(numbers)} times)" for block, numbers in most)


def _some(blocks: Iterable[str]) -> str:
    """The first of these, and how many there are besides."""
    parts = list(blocks)
    more = len(parts) - _NAMED
    return ", ".join(parts[:_NAMED]) + (f" and {_plural(more, 'other')}" if more > 0 else "")


def _summary(history: History) -> Iterator[tuple[str, str]]:
    """(name, value) of what follows from all sessions together."""
    if not history.sessions:
        yield "sessions", "none: no power-on has had anything to tell"
        return
    first, last = history.sessions[0], history.sessions[-1]
    cycles = f"; {_span(history.cycles)} between the first and the last" if history.cycles else ""
    yield "sessions", f"{len(history.sessions)}, numbers {first.number} to {last.number}{cycles}"
    repairs = sum(map(len, history.repairs.values()))
    of_blocks = f"{_plural(repairs, 'repair')} of {_plural(len(history.repairs), 'block')}"
    yield "repaired", of_blocks if repairs else "none"
    if history.repeated:
        yield "again", f"{_repeated(history)}: the flash wears out, or its supply is weak"
    good = history.last_good
    yield "last good", _name(good) if good else "none of these sessions"
    meaning = VERDICTS.get(last.verdict, ("", "not known"))[1]
    if last.damaged and last.verdict != "RESCUE":
        meaning = "but then damage in the code was found that was not repaired"
    if last.damaged:
        meaning += f": {_some(f'block {block}' for block in last.damaged)}"
    lost = "; blocks were lost, no copy has them" if last.lost else ""
    yield "last", f"{_name(last)}: {last.verdict or 'no verdict'}, {meaning}{lost}"


def _name(session: Session) -> str:
    when = journal.when(session.time)
    return f"session {session.number}{f' ({when})' if when else ''}"


def _show(history: History) -> Iterator[Text | str]:
    yield f"set {history.set_id.hex()}"
    for member in history.journals:
        header = member.header
        yield (
            f"  {member.disk}: member {header.member_index} of {header.member_count}, "
            f"{len(member.entries)} entries in {member.used} of {member.units} pages"
        )
        for page, code in member.damaged:
            gone = (
                "of a newer format, not read"
                if code == journal.VERSION
                else ("what only this page told is gone")
            )
            yield f"    page {page}: {code}; {gone}"
        if member.read_only:
            yield "    boards of this version add nothing to this journal"
    for index, session in enumerate(history.sessions):
        yield ""
        yield _headline(history, session)
        yield from _events(history, session)
        if not index and session.number > 1:
            yield "  earlier sessions are gone: newer ones took their place"
    yield ""
    for name, value in _summary(history):
        yield f"{name:<10}{value}"


def _headline(history: History, session: Session) -> Text:
    cycles = history.cycles_before(session)
    style = VERDICTS.get(session.verdict, ("", ""))[0]
    return Text.assemble(
        (f"session {session.number}", "bold"),
        f"  {journal.when(session.time) or 'no clock'}  ",
        (session.verdict or "its beginning is gone", style),
        f"  version {session.version}" if session.version else "",
        f"  {_span(cycles)} later" if cycles else "",
    )


def _events(history: History, session: Session) -> Iterator[str]:
    phase: bool | None = None
    for event in session.events:
        entry = event.entry
        if entry.event == "power-on":
            continue
        if entry.in_operation != phase:
            phase = entry.in_operation
            yield "  in operation" if phase else "  at power-on"
        line = f"    {journal.moment(entry):>11}  {journal.explain(entry)}"
        only = history.only(event)
        yield f"{line}  [{only}]" if only else line


# --- for programs --------------------------------------------------------------------------


def _json(history: History) -> dict[str, Any]:
    last, good = history.sessions[-1:], history.last_good
    return {
        "set_id": history.set_id.hex(),
        "members": [
            {
                "disk": member.disk,
                "region_id": member.header.region_id.hex(),
                "member_index": member.header.member_index,
                "member_count": member.header.member_count,
                "pages": member.units,
                "used": member.used,
                "damaged": [{"page": page, "code": code} for page, code in member.damaged],
                "read_only": member.read_only,
                "entries": len(member.entries),
            }
            for member in history.journals
        ],
        "sessions": [_json_session(history, session) for session in history.sessions],
        "power_cycles": history.cycles,
        "repairs": {str(block): numbers for block, numbers in history.repairs.items()},
        "repeated": list(history.repeated),
        "last_good": good.number if good else None,
        "last_verdict": last[0].verdict if last else None,
        "blocks_lost": bool(last) and last[0].lost,
        "blocks_damaged": last[0].damaged if last else [],
    }


def _json_session(history: History, session: Session) -> dict[str, Any]:
    return {
        "session": session.number,
        "time": session.time,
        "verdict": session.verdict or None,
        "version": session.version or None,
        "power_cycles": session.cycles,
        "power_cycles_since": history.cycles_before(session),
        "disks": session.disks,
        "events": [
            {
                **asdict(event.entry),
                "text": journal.tell(event.entry),
                "advice": reasons.advice(event.entry),
                "disks": event.disks,
            }
            for event in session.events
        ],
    }
