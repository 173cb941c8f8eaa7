"""`lifeboat update`: new code by the disks of a board: staged, tried, confirmed or taken back."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lifeboat_host.base.errors import EXIT_OK, LifeboatError
from lifeboat_host.base.types import Progress
from lifeboat_host.board import provision
from lifeboat_host.board.agent import Agent
from lifeboat_host.board.provision import Code
from lifeboat_host.commands import options, signing, update_stage
from lifeboat_host.commands.provision import about_board, add_port, connected, grid, signed
from lifeboat_host.model.report import parse_line
from lifeboat_host.ui import consent, report_table
from lifeboat_host.ui.output import Output

_DESCRIPTION = """\
Brings new code to a connected board by way of its disks: the code in flash stays as it is until
the new build stands whole on the disks, beside a backup of the old one. Then the board is reset
and tries it. The application confirms it, or you do (--confirm); a new build that is not confirmed
within three starts, that crashes or that is rejected is replaced by the old one, by itself.

Only blocks that neither flash nor disks hold travel. A broken connection or a power cut costs
nothing: run the same command again and it goes on where it was. Without an option it tells how
things stand. `lifeboat flash` is the direct way, without a trial.
"""

_EXAMPLES = """\
examples:
  lifeboat update                               what is tried, and what the disks offer
  lifeboat update --image new.img               stage new.img, reset, try it
  lifeboat update --image new.img --wait 60     and wait until it is confirmed
  lifeboat update --confirm                     the new build is good: it stays
  lifeboat update --reject "no link"            it is not: reset, and the old one is back
  lifeboat update --accept 1a2b3c4d             try a build that a disk offers
  lifeboat update stage card.img --image new.img   put new.img on a disk that is here: it offers it

exit codes: 0 as wished; 1 otherwise, the old build running included
"""
_GATHERED = 16  # blocks at a time
_GATHER_S = 300
_STAGE_S = 600  # the board may read a whole copy before it gives up another one
_TOLD = "lifeboat-trial: "  # begins a line on the console
_TRIES = 3


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "update",
        parents=[common],
        help="new code by the disks: tried once, and back by itself if it is no good",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--image", type=Path, metavar="FILE", help="the new code")
    what.add_argument("--accept", metavar="BUILD", help="try a build that a disk offers")
    what.add_argument("--confirm", action="store_true", help="let the build that is tried stay")
    what.add_argument("--reject", metavar="REASON", help="bring the old build back")
    add_port(parser)
    signing.add(parser, "--sign")
    parser.add_argument(
        "--starts",
        type=int,
        choices=range(1, 256),
        metavar="N",
        help="how often it may begin to run before it is confirmed (default: the board's, or 3)",
    )
    parser.add_argument("--again", action="store_true", help="also a build that was rejected")
    parser.add_argument(
        "--wait",
        type=float,
        default=0,
        metavar="SECONDS",
        help="so long for the confirmation (default: not)",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=_run)
    update_stage.add(parser.add_subparsers(metavar="[stage]", required=False), common)


def _run(args: argparse.Namespace, output: Output) -> int:
    if args.image:
        return _update(args, output)
    with connected(args) as agent:
        agent.need_updates()
        about: dict[str, Any]
        last = agent.about["report"]
        done = True
        if args.confirm:
            about = agent.call("confirm", timeout=_GATHER_S)
            output.show(f"{about['trial']['version']} stays")
        elif args.reject is not None:
            about = agent.call("reject", args.reject)
            last = _reset(output, agent)
        elif args.accept:
            chosen = _chosen(args.accept, agent.call("trial")["offers"])
            consent.confirm(_stakes(chosen["version"], chosen["build"]), args.yes)
            about = agent.call("accept", chosen["build"], args.starts, timeout=_STAGE_S)
            last = _try(args, output, agent, chosen["build"])
        else:
            about, done = agent.call("trial"), False
            output.show(grid(_rows(about)), "")
        output.result(_told(agent, about, done, last))
    return EXIT_OK


def _update(args: argparse.Namespace, output: Output) -> int:
    who = signing.signer(args)
    with provision.opened(args.image) as file:
        with output.bar(f"reading {args.image.name}") as bar:
            file.check(bar)
        with connected(args) as agent:
            agent.need_updates()
            with signed(output, file, who) as (code, told):
                manifest = code.manifest
                consent.confirm(_stakes(manifest.version, manifest.build), args.yes)
                sent = _staged(args, output, agent, code)
                about: dict[str, Any] = agent.call("arm", args.starts)
                last = _try(args, output, agent, manifest.build)
                result = _told(agent, about, True, last)
                output.result({**result, "sent": sent, "signing": told})
    return EXIT_OK


def _staged(args: argparse.Namespace, output: Output, agent: Agent, code: Code) -> dict[str, Any]:
    """Bring the code onto the disks; a line that loses bytes is tried again."""
    began = time.monotonic()
    sent = 0
    for left in reversed(range(_TRIES)):
        try:
            stage = agent.stage(code.manifest.raw, args.again, _STAGE_S)
            for reason, where, detail in stage["reasons"]:
                output.show(f"{where}: {reason} {detail}")
            with output.bar("looking at what is there") as bar:
                _gather(agent, code.manifest.block_count, bar)
            needed = [
                block
                for first, count in agent.call("needed")
                for block in range(first, first + count)
            ]
            parcels = [(block, lambda block=block: code.block(block)) for block in needed]
            with output.bar("sending code") as bar:
                sent += agent.send("put", (), parcels, bar)
            disks = agent.call("commit", timeout=_GATHER_S)
            break
        except LifeboatError as error:
            if error.code not in provision.SHAKY or not left:
                raise
            agent.start()
    seconds = round(time.monotonic() - began, 2)
    output.show(
        f"staged on {', '.join(disks)}: {sent} of {code.manifest.block_count} blocks sent "
        f"in {seconds} s"
    )
    return {"blocks_sent": sent, "bytes": sent * agent.block_size, "disks": disks,
            "seconds": seconds}  # fmt: skip


def _gather(agent: Agent, blocks: int, progress: Progress) -> None:
    done = 0
    while agent.call("gather", _GATHERED, timeout=_GATHER_S):
        done += _GATHERED
        progress(min(done, blocks), blocks)
    progress(blocks, blocks)


def _try(args: argparse.Namespace, output: Output, agent: Agent, build: str) -> dict[str, Any]:
    """Reset the board, which tries a build; wait for the confirmation when that is wished."""
    last = _reset(output, agent)
    output.show(report_table.table(last))
    if last["verdict"] == "RESCUE" or last["build"] != build[:12]:
        raise _back(agent, last)
    if not args.wait:
        output.show("the new build runs; it stays when it is confirmed: lifeboat update --confirm")
        return last
    deadline = time.monotonic() + args.wait
    while True:
        left = deadline - time.monotonic()
        try:
            line = agent.link.line(left) if left > 0 else None
        except LifeboatError as error:
            if error.code != "link-timeout":
                raise
            line = None
        if line is None:
            raise LifeboatError(
                "update-waiting",
                f"{agent.link.port}: the new build was not confirmed within {args.wait:g} s",
                "it goes on running; confirm it with --confirm, or wait: it comes back by itself",
            )
        if line.startswith(_TOLD + "confirmed"):
            output.show("confirmed: it stays")
            return last
        again = parse_line(line)
        if again:
            if again["build"] != build[:12]:
                raise _back(agent, again)
            last = again


def _back(agent: Agent, last: dict[str, Any]) -> LifeboatError:
    trial = last.get("trial") or {}
    why = f", since {trial['why']}" if trial.get("why") else ""
    return LifeboatError(
        "update-back",
        f"{agent.link.port}: the new build did not stay{why}: the board says {last['verdict']} "
        f"and runs build {last['build']}",
        "docs/update.md has what each reason means; the old build runs, nothing is lost"
        if last["verdict"] != "RESCUE"
        else "mend what the reasons name: lifeboat status",
    )


def _reset(output: Output, agent: Agent) -> dict[str, Any]:
    output.show("reset")
    return provision.reset(agent)


def _chosen(wanted: str, offers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    fitting = [o for o in offers if options.means(wanted, o["version"], o["build"])]
    if len({offer["build"] for offer in fitting}) == 1:
        return fitting[0]
    listed = "; ".join(f"{o['version']}, build {o['build']}" for o in offers) or "none"
    raise LifeboatError(
        "update-build",
        f"{len(fitting)} builds that disks offer are {wanted!r}",
        f"offered here: {listed}; give a version, or four or more digits of a build id",
    )


def _stakes(version: str, build: str) -> list[str]:
    return [
        f"code: {version}, build {build[:12]}, goes onto the disks and is tried",
        "  the code in flash now is what comes back",
        "the board is reset",
    ]


def _rows(about: dict[str, Any]) -> list[tuple[str, str]]:
    trial = about["trial"]
    rows = [("trial", "none")]
    if trial["state"] != "none":
        why = f", {trial['why']}" if trial["why"] else ""
        rows = [
            ("trial", f"{trial['state']}: {trial['version']}, build {trial['build']}{why}"),
            ("starts", f"{trial['starts']} of {trial['limit']}"),
            ("before", f"{trial['old_version']}, build {trial['old']}"),
        ]
    return rows + [
        (f"on {offer['disk']}", f"{offer['version']}, build {offer['build']}, offered")
        for offer in about["offers"]
    ]


def _told(
    agent: Agent, about: dict[str, Any], done: bool, last: dict[str, Any] | None
) -> dict[str, Any]:
    return {**about_board(agent), **about, "done": done, "sent": None, "signing": None,
            "report": last}  # fmt: skip
