"""`lifeboat provision`, `flash`, `status`, `verify`, `backup`, `recover`, `unprovision`: what a
technician does with a board that is connected."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from lifeboat_host.base.errors import EXIT_DAMAGE, EXIT_ERROR, EXIT_OK, LifeboatError
from lifeboat_host.board import board_disk, provision, remembered
from lifeboat_host.board.agent import Agent
from lifeboat_host.board.board_disk import BoardDisk
from lifeboat_host.board.link import Link
from lifeboat_host.board.provision import Code, Present
from lifeboat_host.commands import options, region_create, region_remove, signing
from lifeboat_host.commands.disks_option import add_consent, add_overwrite, add_place
from lifeboat_host.model import image, region
from lifeboat_host.model.draft import Signer
from lifeboat_host.model.formats import RegionHeader
from lifeboat_host.model.reasons import ADVICE
from lifeboat_host.qemu.background import default_port
from lifeboat_host.reserve import recovery_file
from lifeboat_host.reserve.session import Proposal, Session, Wish
from lifeboat_host.ui import consent, report_table
from lifeboat_host.ui.output import Output

_PROVISION = """\
Takes a board from blank to protected: the embedded code, a backup region on each disk, the first
backup, and a drill, in which a block is damaged on purpose and has to come back. It says first
what it will do, and asks.

Every step looks at what is there: run it again after a broken connection and it goes on where it
was; run it on a protected board and it changes nothing.
"""

_RECOVER = """\
Inspects, repairs and backs up, as a power-on does, but with a person's patience: it reads all
backup copies, however long that takes, where a power-on stops looking (read-limit), and tries
again the repairs that failed too often before (repair-limit).
"""

_DESCRIPTIONS = {"provision": _PROVISION, "recover": _RECOVER}

STOPPED = "the application was stopped to ask; to start it again: mpremote connect {} reset"


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the commands to the parser."""
    with_port = argparse.ArgumentParser(add_help=False, parents=[common])
    add_port(with_port)
    run: Callable[[argparse.Namespace, Output], int]
    parsers = {}
    for name, run, text in (
        ("provision", _provision, "take a connected board from blank to protected"),
        ("flash", _flash, "bring new code into a connected board, and back it up"),
        ("status", _status, "what a connected board is, runs, and reported last"),
        ("verify", _verify, "read all code and all backup copies; exit code 3 for damage"),
        ("backup", _backup, "bring the backup copies level with the code in flash, now"),
        ("recover", _recover, "inspect and repair the code in flash, now, with all patience"),
        ("unprovision", _unprovision, "remove the backup regions of a connected board's disks"),
    ):
        parser = parsers[name] = commands.add_parser(
            name,
            parents=[with_port],
            help=text,
            description=_DESCRIPTIONS.get(name, text),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(run=run)
    options.add_openmetrics(parsers["status"])
    for name in ("provision", "flash"):
        parsers[name].add_argument(
            "--image", type=Path, required=True, metavar="FILE", help="made by lifeboat image"
        )
        signing.add(parsers[name], "--sign")
    for name in ("provision", "unprovision"):
        parsers[name].add_argument(
            "--disk", action="append", default=[], metavar="NAME", help="such as sata0; repeat it"
        )
    add_place(parsers["provision"])
    add_consent(parsers["provision"])
    parsers["unprovision"].add_argument(
        "--undo",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="recovery file: puts back what was there; repeat it for several disks",
    )
    add_overwrite(parsers["unprovision"])
    parsers["unprovision"].add_argument(
        "--lba", type=options.number, help="look for a region at this LBA too"
    )
    for name in ("flash", "unprovision"):
        parsers[name].add_argument("--yes", action="store_true", help="do not ask")


def add_port(parser: argparse.ArgumentParser) -> None:
    """Add the option that says which board."""
    parser.add_argument(
        "--port", help="serial port or pty (default: the board that `lifeboat board` runs)"
    )


@contextmanager
def connected(args: argparse.Namespace) -> Iterator[Agent]:
    """The board at the port that a person names."""
    with Link(args.port or default_port()) as link:
        yield Agent(link)


def about_board(agent: Agent) -> dict[str, Any]:
    """Which board this is, for --json."""
    return {
        "port": agent.link.port,
        "product": agent.product,
        "flash_size": agent.flash_size,
        "block_size": agent.block_size,
    }


def _present_json(found: Present) -> dict[str, Any]:
    return {**(found.about or {"error": found.why}), "bad": found.bad}


def grid(rows: Sequence[tuple[str, str]]) -> Table:
    """Rows of a name and a text, for people."""
    table = Table.grid(padding=(0, 2))
    for row in rows:
        table.add_row(*row)
    return table


def member_rows(
    members: Sequence[dict[str, Any]], builds_known: bool = False
) -> list[tuple[str, str]]:
    """The members and their copies; builds_known: also say which copies never ran here."""
    rows = []
    for member in members:
        rows.append((f"disk {member['disk']}", member["state"]))
        for copy in member["copies"]:
            text = copy.get("error") or f"{copy['version']}, build {copy['build']}"
            if builds_known and copy.get("known") is False:
                text += ", never ran here"
            if copy.get("bad"):
                text += f", {len(copy['bad'])} damaged: {_spans(copy['bad'])}"
            rows.append(("", f"generation {copy['generation']} in slot {copy['slot']}: {text}"))
    return rows


def _spans(blocks: Sequence[int]) -> str:
    return report_table.spans([block, 1] for block in blocks)


# --- status, verify, backup, recover -------------------------------------------------------


def _status(args: argparse.Namespace, output: Output) -> int:
    with connected(args) as agent:
        found = provision.described(agent)
        answer = agent.call("members")
        memory = remembered.read(agent)
        last = agent.about["report"]
        rows = [
            ("board", f"{agent.product} at {agent.link.port}"),
            ("flash", f"{agent.flash_size} bytes, blocks of {agent.block_size}"),
            ("code", str(found)),
            *member_rows(answer["members"], bool(memory.builds)),
            *remembered.rows(memory, answer),
        ]
        if agent.about.get("scrub"):
            rows.append(("scrubber", _scrubbed(agent.about["scrub"])))
        output.show(grid(rows), "")
        if last:
            output.show("the last power-on:", report_table.table(last), "")
        output.show(STOPPED.format(agent.link.port))
        result = {
            **about_board(agent),
            "code": _present_json(found),
            **answer,
            **remembered.to_json(memory, answer),
            "report": last,
            "scrub": agent.about.get("scrub"),
        }
        output.result(result)
    if args.openmetrics:
        from lifeboat_host.ui import metrics  # only here: few want its library

        metrics.write(args.openmetrics, metrics.of_status(result))
    return EXIT_OK


def _scrubbed(scrub: dict[str, Any]) -> str:
    """How far it was when the application was stopped, for people."""
    done = f"{scrub['units'] - scrub['left']} of {scrub['units']} parts of this pass"
    age, bound = scrub["age_ms"], scrub["bound_s"]
    last = "no full pass yet" if age is None else f"a full one ended {age // 1000} s before"
    pace = "" if bound is None else f"; a pass takes {bound} s"
    return f"{done}, {last}{pace}"


def _verify(args: argparse.Namespace, output: Output) -> int:
    with connected(args) as agent:
        with output.bar("code flash") as bar:
            found = provision.present(agent, bar)
        with output.bar("backup copies") as bar:
            answer = provision.verify_copies(agent, bar)
        copies = [copy for member in answer["members"] for copy in member["copies"]]
        bad = [copy for copy in copies if copy.get("bad") or "error" in copy]
        level = found.intact and provision.protected(answer)
        ok = level and not bad and not answer["reasons"]
        text = str(found)
        if found.bad:
            text += f", {len(found.bad)} damaged: {_spans(found.bad)}"
        elif found.about and not found.about["blank"]:
            text += ", damage after the manifest"
        output.show(grid([("code", text), *member_rows(answer["members"])]))
        for reason in answer["reasons"]:
            output.show(" ".join(part for part in reason if part))
        if not copies:
            output.show("no backup copy")
        output.show("", "all is well" if ok else f"  next: {_next(agent, found, answer, bad)}")
        output.result({**about_board(agent), "ok": ok, "code": _present_json(found), **answer})
    return EXIT_OK if ok else EXIT_DAMAGE


def _next(
    agent: Agent, found: Present, answer: dict[str, Any], bad: Sequence[dict[str, Any]]
) -> str:
    if not any(member["copies"] for member in answer["members"]):
        if found.about is None:
            return "lifeboat provision"
        return "lifeboat region create, then lifeboat backup"
    if not found.intact or bad:
        return "lifeboat recover"
    for code, _, _ in answer["reasons"]:
        if code == "member-missing":
            member = next(m["disk"] for m in answer["members"] if m["copies"])
            port = agent.link.port
            create = f"lifeboat region create --port {port} DISK --join {member}"
            return f"attach the missing disk, or another: {create}, then lifeboat backup"
        if code in ADVICE:
            return ADVICE[code]
    return "lifeboat backup"


def _backup(args: argparse.Namespace, output: Output) -> int:
    with connected(args) as agent:
        with output.bar("code flash") as bar:
            found = provision.present(agent, bar)
        if not found.intact:
            raise LifeboatError(
                "code-damaged",
                f"{agent.link.port}: the code in flash is damaged: no backup is made of it",
                "lifeboat recover",
            )
        if provision.protected(agent.call("members")):
            output.show(f"{found}: every member holds its backup already")
            output.result({**about_board(agent), "done": False, "report": None})
            return EXIT_OK
        return _finished(output, agent, provision.power_on(agent), "RUN")


def _recover(args: argparse.Namespace, output: Output) -> int:
    with connected(args) as agent:
        last = provision.power_on(agent, unlimited=True)
        return _finished(output, agent, last, "RUN", "RUN_DEGRADED")


def _finished(output: Output, agent: Agent, last: dict[str, Any], *wanted: str) -> int:
    output.show(report_table.table(last), "", STOPPED.format(agent.link.port))
    output.result({**about_board(agent), "done": True, "report": last})
    return EXIT_OK if last["verdict"] in wanted else EXIT_ERROR


# --- flash ---------------------------------------------------------------------------------


@contextmanager
def signed(
    output: Output, file: Code, who: Signer | None
) -> Iterator[tuple[Code, dict[str, Any] | None]]:
    """The code as `who` signs it, in a copy of the image, and what is told about that.

    Called when a board is there: each time costs a one-time key.
    """
    if who is None:
        yield file, None
        return
    with tempfile.TemporaryDirectory(prefix="lifeboat-") as folder:
        path = Path(folder, file.image.path.name)
        image.sign(file.image, path, who)
        told = signing.tell(output, who)
        with provision.opened(path) as code:
            yield code, told


def _flash(args: argparse.Namespace, output: Output) -> int:
    who = signing.signer(args)
    with provision.opened(args.image) as file:
        with output.bar(f"reading {args.image.name}") as bar:
            file.check(bar)
        with connected(args) as agent, signed(output, file, who) as (code, told):
            stakes, bad = _code_stakes(output, agent, code)
            sent, last = None, agent.about["report"]
            done = bool(bad) or not provision.protected(agent.call("members"))
            if done:
                consent.confirm([*stakes, "the board is reset, and makes its backups"], args.yes)
                if bad:
                    sent = _send_code(output, agent, code)
                last = _reset(output, agent)
                output.show(report_table.table(last))
                _check_outcome(agent, code, last)
            output.result(
                {**about_board(agent), "done": done, "sent": sent, "signing": told, "report": last}
            )
    return EXIT_OK


def _code_stakes(output: Output, agent: Agent, code: Code) -> tuple[list[str], list[int]]:
    """What flashing would do, a line each, and the blocks that it would write."""
    before = provision.described(agent)
    with output.bar("comparing") as bar:
        bad = provision.differing(agent, code, bar)
    new = f"{code.manifest.product} {code.manifest.version}, build {code.manifest.build}"
    if not bad:
        output.show(f"code: {new} is in flash already")
        return [], bad
    memory = remembered.read(agent)
    if not provision.has_memory(code, memory):
        why = (
            "the image leaves no room for it"
            if memory.blocks
            else "this board has no place for it"
        )
        output.show(f"memory: none with this code ({why}): the disks are believed")
    lines = [f"code: {len(bad)} blocks are written, for {new}"]
    if before.about:
        lines.append(f"  it replaces {before}")
        if not provision.holding(agent.call("members")):
            lines.append(
                "  which has no backup: when this is cut short, the board runs nothing "
                "until it is flashed again"
            )
    lines += provision.losses(agent, code, before, memory)
    output.show(*lines)
    return lines, bad


def _send_code(output: Output, agent: Agent, code: Code) -> dict[str, Any]:
    with output.bar("sending code") as bar:
        sent = provision.flash(agent, code, bar)
    rate = sent["bytes"] / sent["seconds"] / 1024 if sent["seconds"] else 0
    output.show(
        f"code: {sent['blocks_sent']} blocks sent in {sent['seconds']} s, {rate:.0f} KiB/s"
    )
    return sent


def _reset(output: Output, agent: Agent) -> dict[str, Any]:
    output.show("reset: the board inspects its code and makes its backups")
    return provision.reset(agent)


def _check_outcome(
    agent: Agent, code: Code, last: dict[str, Any], disks: Sequence[str] = ()
) -> None:
    """Raise unless the board runs that code, and it and these disks have the backup."""
    said = f"the board says {last['verdict']}, {last['reasons']}"
    hint = "mend what the reasons name, then run the same command again"
    if last["verdict"] == "RESCUE" or last["build"] != code.manifest.build:
        raise LifeboatError(
            "provision-code",
            f"{agent.link.port}: the code that was sent does not run: {said}, "
            f"build {last['build']} instead of {code.manifest.build}",
            hint,
        )
    if not provision.protected(last, disks):
        raise LifeboatError(
            "provision-backup",
            f"{agent.link.port}: the code runs, but not every member has its backup: {said}",
            hint,
        )


# --- provision -----------------------------------------------------------------------------


def _provision(args: argparse.Namespace, output: Output) -> int:
    who = signing.signer(args)
    with provision.opened(args.image) as file:
        with output.bar(f"reading {args.image.name}") as bar:
            file.check(bar)
        with connected(args) as agent, signed(output, file, who) as (code, told):
            output.show(f"board: {agent.product} at {agent.link.port}")
            result = _steps(args, output, agent, code)
            output.result({**about_board(agent), "signing": told, **result})
    return EXIT_OK


def _steps(args: argparse.Namespace, output: Output, agent: Agent, code: Code) -> dict[str, Any]:
    stakes, bad = _code_stakes(output, agent, code)
    wish = _wish(args, agent, code)
    session, headers = _regions_planned(args, output, agent, wish)
    proposals = session.proposals
    regions = list(headers)
    if proposals:
        # When the same command is run again its first ranges were for disks that are done.
        given = args.overwrite[max(0, len(args.overwrite) - session.needs) :] if headers else None
        stakes += region_create.stakes(args, output, session, given)
    own = _set_to_remember(agent, code, headers, proposals)
    if own:
        lines = _memory_stakes(agent, own, regions, proposals)
        output.show(*lines)
        stakes += lines
    last = agent.about["report"]
    steps: dict[str, Any] = {"code": None, "created": [], "memory": None, "drill": None}
    result = {"done": False, **steps, "regions": regions, "report": last}
    level = provision.protected(agent.call("members"), regions)
    if level and not stakes:
        output.show("backup: every member holds it already", "the board is protected")
        return result
    consent.confirm(
        [*stakes, "the board is reset, makes its backups, and goes through a drill"], args.yes
    )
    if bad:
        result["code"] = _send_code(output, agent, code)
    if proposals:
        agent.call("disks")  # trouble on the line may have made it forget them
        result["created"] = region_create.carry_out(args, output, session)
    if own:  # the regions first: a cut in between is told as member-new
        with consent.writing("to go on: run the same command again"):
            memory = remembered.write(agent, own, lbas=wish.lbas)
        output.show(f"memory: set {own} is this controller's own ({memory.disks})")
        result["memory"] = own
    last = _reset(output, agent)
    _check_outcome(agent, code, last, [*regions, *(made["disk"] for made in result["created"])])
    output.show(f"backup: made on {', '.join(provision.holding(last))}")
    drill = provision.drill(agent, code.manifest.block_count)
    output.show(
        f"drill: block {drill['block']} was damaged on purpose and came back from {drill['from']}",
        "",
        report_table.table(drill["report"]),
        "",
        "the board is protected and runs",
    )
    return {
        **result,
        "done": True,
        "drill": {"block": drill["block"], "from": drill["from"]},
        "report": drill["report"],
    }


def _set_to_remember(
    agent: Agent, code: Code, headers: dict[str, RegionHeader], proposals: Sequence[Proposal]
) -> str | None:
    """The set that has to be written into the memory: regions of it are made now, or an earlier
    run was cut short before it came to that."""
    memory = remembered.read(agent)
    planned = [proposal.header for proposal in proposals if proposal.header]
    found = list(headers.values())
    if not (found or planned) or not provision.has_memory(code, memory):
        return None
    own = (found or planned)[0].set_id.hex()
    missing = {h.region_id.hex() for h in found if h.set_id.hex() == own} - memory.regions
    return own if planned or missing or memory.set_id != own else None


def _memory_stakes(
    agent: Agent, own: str, regions: Sequence[str], proposals: Sequence[Proposal]
) -> list[str]:
    disks = [*regions, *(str(proposal.disk.path) for proposal in proposals)]
    lines = [f"memory: set {own} becomes this controller's own: {', '.join(disks)}"]
    memory = remembered.read(agent)
    if memory.set_id not in (None, own):
        lines.append(
            f"  set {memory.set_id} ({memory.disks}) is forgotten; its disks are only read then"
        )
    return lines


def _wish(args: argparse.Namespace, agent: Agent, code: Code) -> Wish:
    """Regions for any code that fits the flash, or of the size that a person wants."""
    flash_size = agent.flash_size
    if args.size is not None:
        flash_size = code.manifest.code_size + agent.block_size
    return Wish(args.where, args.size, args.slots, ("", flash_size, agent.block_size))


def _regions_planned(
    args: argparse.Namespace, output: Output, agent: Agent, wish: Wish
) -> tuple[Session, dict[str, RegionHeader]]:
    """Proposals for the regions that are missing, and the headers of the set's that are here."""
    wanted = board_disk.attached(agent, args.disk, write=True)
    disks = board_disk.attached(agent, write=True)
    headers = region.headers(disks, wish.lbas)
    for member in agent.call("members")["members"]:
        if member["disk"] in headers and member["state"] == "foreign":
            output.show(
                f"region: {member['disk']} has one of another set, and is left alone; if it is to "
                f"be this controller's: lifeboat adopt {(member.get('set') or 'SET')[:8]}"
            )
            wanted = [disk for disk in wanted if str(disk.path) != member["disk"]]
            del headers[member["disk"]]
    for name in headers:
        output.show(f"region: {name} has one already")
    wanted = [disk for disk in wanted if str(disk.path) not in headers]
    session = Session(wish, output.bar)
    if headers:
        full = _join(output, session, wanted, disks, headers)
        if full and args.disk:
            hint = "leave it out; or begin anew with all disks: lifeboat unprovision"
            raise LifeboatError("region-member", full[0], hint)
        for line in full:
            output.show(f"region: {line}")
    else:
        session.propose(wanted)
    return session, headers


def _join(
    output: Output,
    session: Session,
    wanted: Sequence[BoardDisk],
    disks: Sequence[BoardDisk],
    headers: dict[str, RegionHeader],
) -> list[str]:
    """Propose to give disks the places in the set that are not taken: perhaps an earlier run was
    cut short before it came to them. A line for each disk that is left over."""
    member = next(disk for disk in disks if str(disk.path) in headers)
    count = headers[str(member.path)].member_count
    taken = {header.member_index for header in headers.values()}
    places = [index for index in range(count) if index not in taken]
    for disk, index in zip(wanted, places):
        output.show(f"region: {disk.path} becomes a member of the set of {member.path}")
        session.join(disk, member, index)
    return [
        f"{disk.path}: has no region, and the set has all its {count} members"
        for disk in wanted[len(places) :]
    ]


def _unprovision(args: argparse.Namespace, output: Output) -> int:
    files = {recovery_file.load(path).disk: path for path in args.undo}
    with connected(args) as agent:
        disks = board_disk.attached(agent, args.disk, write=True)
        unknown = [name for name in files if name not in [str(disk.path) for disk in disks]]
        if unknown:
            raise LifeboatError(
                "undo-disk",
                f"{files[unknown[0]]} is for {unknown[0]}, which is not among the disks",
                f"disks: {', '.join(str(disk.path) for disk in disks)}",
            )
        having = region.headers(disks, [] if args.lba is None else [args.lba])
        removed = []
        for disk in disks:
            undo = files.get(str(disk.path))
            if str(disk.path) in having or undo:
                removed += region_remove.give_back(args, output, [disk], undo)
        if not removed:
            output.show("no disk has a backup region")
        regions = [header.region_id.hex() for header in having.values()]
        forgotten = region_remove.forget(
            args, output, agent, regions, args.disk or None, ask=not removed
        )
        output.result({**about_board(agent), "removed": removed, "forgotten": forgotten})
    return EXIT_OK
