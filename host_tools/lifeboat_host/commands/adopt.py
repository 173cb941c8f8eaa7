"""`lifeboat adopt`: which disks are the controller's own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from lifeboat_host.base.errors import EXIT_ERROR, EXIT_OK, LifeboatError
from lifeboat_host.board import provision, remembered
from lifeboat_host.board.remembered import DiskSet, Remembered
from lifeboat_host.commands import options
from lifeboat_host.commands.provision import (
    STOPPED,
    about_board,
    add_port,
    connected,
    grid,
    member_rows,
)
from lifeboat_host.ui import consent, report_table
from lifeboat_host.ui.output import Output

_DESCRIPTION = """\
Makes a set of disks the controller's own. The controller remembers its set in its flash, where no
disk can write; every other disk is only read. This is how a person changes that: after disks were
moved between controllers, regions were made elsewhere, or a chip was wiped and several sets are
here.

Shows what is remembered and which sets are here, asks, and does it: the regions of SET that are
here are remembered, then everything is done that a power-on does, and repairs that failed before
are tried again. The set that was remembered before is forgotten; its disks are only read.
"""

_EXAMPLES = """\
examples:
  lifeboat adopt --dry-run        which sets are here, and what adopting would mean
  lifeboat adopt                  the only set that is not remembered
  lifeboat adopt 1a2b3c4d         this one

exit codes: 0 the set is remembered and the board runs; 1 otherwise
"""


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "adopt",
        parents=[common],
        help="make a set of disks the own one of a connected board's controller",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "set",
        nargs="?",
        metavar="SET",
        help="set id, or its first digits (default: the only set here that is not remembered)",
    )
    add_port(parser)
    parser.add_argument("--dry-run", action="store_true", help="only show what it would do")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, output: Output) -> int:
    with connected(args) as agent:
        memory, found = remembered.read(agent), agent.call("members")
        here = remembered.sets(found)
        code = provision.described(agent)
        rows = [("code", str(code)), *remembered.rows(memory, found)]
        output.show(grid(rows), "")
        chosen = _chosen(args.set, memory, here)
        result: dict[str, Any] = {
            **about_board(agent),
            **remembered.to_json(memory, found),
            "adopted": None,
            "done": False,
            "report": agent.about["report"],
        }
        if chosen is None:
            output.show(f"set {memory.set_id} is remembered already: there is nothing to adopt")
            output.result({**result, "adopted": memory.set_id})
            return EXIT_OK if _runs(agent.about["report"]) else EXIT_ERROR
        output.show(f"set {chosen.set_id}:", grid(_rows(chosen, memory)), "")
        stakes = _stakes(chosen, memory, code.about is not None)
        if args.dry_run or args.yes:
            output.show(*stakes, "")
        if args.dry_run:
            output.result({**result, "adopted": chosen.set_id})
            return EXIT_OK
        consent.confirm(stakes, args.yes)
        last = agent.call("adopt", chosen.set_id, timeout=provision.POWER_ON_S)
        memory, found = remembered.read(agent), agent.call("members")
        ok = memory.set_id == chosen.set_id and memory.state == "ok" and _runs(last)
        output.show(report_table.table(last), "", grid(remembered.rows(memory, found)), "")
        output.show(_outcome(chosen, memory, last), STOPPED.format(agent.link.port))
        output.result(
            {
                **result,
                **remembered.to_json(memory, found),
                "adopted": chosen.set_id if memory.set_id == chosen.set_id else None,
                "done": True,
                "report": last,
            }
        )
    return EXIT_OK if ok else EXIT_ERROR


def _runs(last: dict[str, Any] | None) -> bool:
    return last is not None and last["verdict"] in ("RUN", "RUN_DEGRADED")


def _chosen(wanted: str | None, memory: Remembered, here: Sequence[DiskSet]) -> DiskSet | None:
    """The set that is meant; None: all that is here is remembered already.

    Raises LifeboatError adopt-set, with the sets that are here.
    """
    ids = [one.set_id for one in here]
    listed = "; ".join(f"{remembered.short(one.set_id, ids)} on {one.disks}" for one in here)
    if wanted is not None:
        digits = wanted.lower()
        fitting = [one for one in here if digits and one.set_id.startswith(digits)]
        if len(fitting) == 1:
            return fitting[0]
        why = f"{len(fitting)} sets here begin" if fitting else "no set here begins"
        raise LifeboatError(
            "adopt-set", f"{why} with {wanted!r}", f"sets here: {listed or 'none'}"
        )
    open_sets = [one for one in here if one.set_id != memory.set_id or one.new]
    if len(open_sets) == 1:
        return open_sets[0]
    if open_sets:
        raise LifeboatError(
            "adopt-set",
            f"{len(open_sets)} sets are here that are not, or not wholly, remembered: {listed}",
            "name the one that is meant: lifeboat adopt SET",
        )
    if memory.set_id in ids:
        return None
    raise LifeboatError(
        "adopt-set",
        "no disk here has a region of a set",
        "attach the disks; or make regions: lifeboat region create --port PORT",
    )


def _rows(chosen: DiskSet, memory: Remembered) -> list[tuple[str, str]]:
    return member_rows(chosen.members, bool(memory.builds))


def _stakes(chosen: DiskSet, memory: Remembered, code: bool) -> list[str]:
    """What adopting the set means, a line each."""
    one = len(chosen.members) == 1
    lines = [
        f"own from now on: {chosen.disks}; lifeboat writes its backups there, "
        "and gives up older copies for them"
    ]
    if memory.state == "none":
        lines.append("but nothing is remembered here: it counts for this one time")
    if memory.set_id and memory.set_id != chosen.set_id:
        lines.append(
            f"forgotten: set {memory.set_id} ({memory.disks}); "
            "its disks are only read from then on"
        )
    elif memory.set_id:
        kept = {member["region"] for member in chosen.members}
        absent = [m for m in memory.members if m.region not in kept]
        if absent:
            names = ", ".join(f"member {m.index} ({m.disk})" for m in absent)
            lines.append(f"forgotten: {names}, not here")
    if memory.failed:
        blocks = ", ".join(str(block) for block, _ in memory.failed)
        lines.append(f"tried again: the repair of block {blocks}, which failed before")
    if not code:
        disks = "this disk" if one else "these disks"
        lines.append(f"there is no code in flash: the newest whole backup on {disks} is restored")
    return [*lines, "then all is done that a power-on does: inspect, repair, back up"]


def _outcome(chosen: DiskSet, memory: Remembered, last: dict[str, Any]) -> str:
    if memory.set_id != chosen.set_id or memory.state != "ok":
        why = ": it is learned beside intact code only" if not _runs(last) else ""
        return f"set {chosen.set_id} is not remembered{why}; memory {memory.text}"
    if not _runs(last):
        return f"set {chosen.set_id} is remembered, but the board says {last['verdict']}"
    return f"set {chosen.set_id} is this controller's own, and the board runs"
