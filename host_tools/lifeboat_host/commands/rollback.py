"""`lifeboat rollback`: a connected board goes back to a build of which its disks hold a copy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lifeboat_host.base.errors import EXIT_OK, LifeboatError
from lifeboat_host.board import provision, remembered
from lifeboat_host.commands import options
from lifeboat_host.commands.provision import about_board, add_port, connected, grid
from lifeboat_host.ui import consent, report_table
from lifeboat_host.ui.output import Output

_DESCRIPTION = """\
Makes the flash hold another build, out of the backup copies on the board's own disks: the one that
ran before an update, say. Only blocks that differ are written, the manifest last, and nothing
before the board has seen that every block has a good copy, and that the code in flash now has
one, too: it is what a power cut brings back. Then the board is reset.

Which builds can come back: `lifeboat rollback --dry-run` lists them. A slot holds one, so a set
with more slots keeps more. On a signed board one whose security counter is too low can't.
"""

_EXAMPLES = """\
examples:
  lifeboat rollback --dry-run       which builds the disks hold; nothing is changed
  lifeboat rollback                 the build that ran before this one
  lifeboat rollback 1.0             this version
  lifeboat rollback 1a2b3c4d        this build

exit codes: 0 the board runs that build; 1 otherwise
"""


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "rollback",
        parents=[common],
        help="go back to a build of which a connected board's disks hold a copy",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "build",
        nargs="?",
        metavar="BUILD",
        help="version, or the first digits of a build id (default: what ran before)",
    )
    add_port(parser)
    parser.add_argument("--dry-run", action="store_true", help="only list the builds")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=_run)


@dataclass
class Build:
    """A build in copies of the own set. order: of two the one that ran later has the higher."""

    build: str
    version: str
    known: bool
    order: tuple[int, int]
    disks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.version}, build {self.build}"


def _run(args: argparse.Namespace, output: Output) -> int:
    with connected(args) as agent:
        agent.need_updates()
        memory, found = remembered.read(agent), agent.call("members")
        code = provision.described(agent)
        now = code.about["build"] if code.about else None
        builds = _builds(found["members"], [one["build"] for one in memory.builds])
        rows = [
            ("code", str(code)),
            *((f"on {', '.join(b.disks)}", _told(b, now)) for b in builds),
        ]
        output.show(grid(rows), "")
        listed = {
            "builds": [
                {"build": b.build, "version": b.version, "known": b.known, "disks": b.disks}
                for b in builds
            ]
        }
        result: dict[str, Any] = {
            **about_board(agent), **listed, "before": now, "build": None, "written": 0,
            "done": False, "report": agent.about["report"],
        }  # fmt: skip
        chosen = None if args.dry_run and not args.build else _chosen(args.build, builds, now)
        if chosen:
            result["build"] = chosen.build
        if args.dry_run or chosen is None or chosen.build == now:
            if chosen and chosen.build == now:
                output.show(f"{chosen} is in flash already")
            output.result(result)
            return EXIT_OK
        consent.confirm(_stakes(chosen, str(code) if code.about else None), args.yes)
        done = agent.call("rollback", chosen.build, timeout=provision.POWER_ON_S)
        output.show(f"{done['written']} blocks written; reset: the board inspects its code")
        last = provision.reset(agent)
        output.show(report_table.table(last))
        result.update(done=True, written=done["written"], report=last)
        if last["verdict"] == "RESCUE" or last["build"] != chosen.build:
            raise LifeboatError(
                "rollback-code",
                f"{agent.link.port}: the board says {last['verdict']} and runs build "
                f"{last['build']} instead of {chosen.build}: {last['reasons']}",
                "mend what the reasons name, then run the same command again",
            )
        output.result(result)
    return EXIT_OK


def _told(build: Build, now: str | None) -> str:
    note = ", in flash" if build.build == now else "" if build.known else ", never ran here"
    return f"{build}{note}"


def _builds(members: Sequence[dict[str, Any]], memory: Sequence[str]) -> list[Build]:
    """The builds in copies of the own set, the one that ran last first. memory: newest first."""
    found: dict[str, Build] = {}
    for member in members:
        if member["state"] not in remembered.OF_OWN_SET:
            continue
        for copy in member["copies"]:
            if "error" in copy:
                continue
            name = copy["build"]
            places = [at for at, build in enumerate(memory) if build.startswith(name)]
            order = (-min(places, default=len(memory)), copy["generation"])
            one = found.setdefault(
                name, Build(name, copy["version"], bool(copy.get("known")), order)
            )
            one.order = max(one.order, order)
            if member["disk"] not in one.disks:
                one.disks.append(member["disk"])
    return sorted(found.values(), key=lambda one: one.order, reverse=True)


def _chosen(wanted: str | None, builds: Sequence[Build], now: str | None) -> Build:
    """The build that is meant. Raises LifeboatError rollback-build, with those that are here."""
    listed = "; ".join(str(build) for build in builds) or "none"
    if wanted is None:
        others = [build for build in builds if build.build != now and build.known]
        if others:
            return others[0]
        raise LifeboatError(
            "rollback-build",
            "the disks hold no other build that has run here",
            f"builds here: {listed}; name one to run what never ran here",
        )
    fitting = [build for build in builds if options.means(wanted, build.version, build.build)]
    if len(fitting) == 1:
        return fitting[0]
    why = f"{len(fitting)} builds here are" if fitting else "no build here is"
    raise LifeboatError(
        "rollback-build",
        f"{why} {wanted!r}",
        f"builds here: {listed}; give a version, or four or more digits of a build id",
    )


def _stakes(chosen: Build, now: str | None) -> list[str]:
    lines = [f"code: {chosen} comes from {', '.join(chosen.disks)}"]
    if now:
        lines.append(f"  it replaces {now}, which stays on the disks")
    if not chosen.known:
        lines.append("  it NEVER RAN HERE: whoever wrote the disks decides what it does")
    lines.append("the board is reset")
    return lines
