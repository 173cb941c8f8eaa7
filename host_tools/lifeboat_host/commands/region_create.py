"""`lifeboat region plan` and `create`: reserve a range of disks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifeboat_host.base.errors import EXIT_ERROR, EXIT_OK, LifeboatError
from lifeboat_host.commands import options
from lifeboat_host.commands.disks_option import add_consent, add_place, opened
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import region
from lifeboat_host.reserve.session import Lbas, Proposal, Session, Wish
from lifeboat_host.ui import consent, disk_picture
from lifeboat_host.ui.output import Output

if TYPE_CHECKING:
    from lifeboat_host.board.remembered import Remembered

_PLAN = """\
Shows what is on each disk and where its region would go; writes nothing. Exit code 1: at least
one disk was refused.

A disk with a GPT gets a partition of its own, of lifeboat's type, in free space; a blank disk or
one with an MBR gives up its tail. Whatever is recognised (partitions, file systems, RAID, LVM, ZFS
and encryption metadata, another backup region, also of a newer format) is never touched, and there
is no option for that.
"""

_CREATE = """\
Reserves what `lifeboat region plan` shows, after asking. Several disks become one set.

Sectors that are not zero and not recognised are overwritten only when a person names them: the
range is typed at the question or given as --overwrite. Before a disk is changed, a recovery file
with all that will be overwritten is written; with it `lifeboat region remove --undo` puts the disk
back, byte for byte.

With --port the controller's memory knows the set afterwards, unless it remembers another one: then
`lifeboat adopt` decides. When it was cut short in between, the same command does the rest. Made
without the board, a set has to be adopted by it: `lifeboat adopt`.
"""


def add(
    actions: options.Commands, common: argparse.ArgumentParser, disks: argparse.ArgumentParser
) -> None:
    """Add `plan` and `create` to the parser of `lifeboat region`."""
    raw = argparse.RawDescriptionHelpFormatter
    plan = actions.add_parser(
        "plan",
        parents=[common, disks],
        help="show what is on disks and where a region would go",
        description=_PLAN,
        formatter_class=raw,
    )
    create = actions.add_parser(
        "create",
        parents=[common, disks],
        help="reserve a range and write the region there",
        description=_CREATE,
        formatter_class=raw,
    )
    for action, run in ((plan, _plan), (create, _create)):
        add_place(action)
        action.add_argument("--join", type=Path, metavar="DISK", help="become a member of its set")
        action.add_argument("--member", type=int, metavar="INDEX", help="with --join: which one")
        options.add_flash(action, product=False)
        action.set_defaults(run=run)
    add_consent(create)


# --- plan ----------------------------------------------------------------------------------


def _show(output: Output, proposal: Proposal) -> None:
    disk, place = proposal.disk, proposal.place
    size = disk_picture.size_text(disk.size)
    output.show(f"{disk.path}: {size}, sectors of {disk.lba_size} bytes")
    proposed = (place.first, place.last) if place else None
    width = output.console.width
    output.show(disk_picture.disk_map(proposal.found, proposed, output.ascii_only, width))
    if place:
        output.show(*_consequences(proposal))
    if proposal.refusal:
        output.show(f"  refused ({proposal.refusal.code}): {proposal.refusal.message}")
        output.show(f"  next: {proposal.refusal.hint}")
    output.show("")


def _consequences(proposal: Proposal) -> list[str]:
    place = proposal.place
    assert place
    disk = proposal.disk
    size = disk_picture.size_text(place.sectors * disk.lba_size)
    lines = [f"  LBA {place.first} to {place.last} ({size}) would be the region: {place.how}"]
    if place.table:
        what = "is changed" if proposal.found.gpt else "is made"
        lines.append(f"  the partition table {what}, both copies of it")
    if place.used:
        lines.append(
            f"  LBA {place.used[0]}-{place.used[1]} are not zero and not recognised: "
            "they would be overwritten"
        )
    if place.beside is not None:
        lines.append(f"  LBA {place.first}-{place.last} have to be named to be taken")
    return lines + [f"  note: {note}" for note in place.notes]


def _joined(args: argparse.Namespace) -> list[Path]:
    if args.join and len(args.disks) != 1:
        raise LifeboatError("region-member", "one disk joins at a time", "name one disk")
    return [args.join] if args.join else []


def _plan(args: argparse.Namespace, output: Output) -> int:
    others = _joined(args)
    with opened(args, others=others) as disks:
        member = disks.pop() if others else None
        proposals = _proposed(args, output, disks, member).proposals
    for proposal in proposals:
        _show(output, proposal)
    output.result({"disks": [proposal.to_json() for proposal in proposals]})
    return EXIT_ERROR if any(proposal.refusal for proposal in proposals) else EXIT_OK


def _wish(args: argparse.Namespace) -> Wish:
    """What the arguments of add_place() and options.add_flash() ask for."""
    flash = None
    if args.size is None or args.board or args.flash_size:
        product, flash_size, block_size = options.flash_numbers(args)
        flash = (product if args.board else "", flash_size, block_size)
    return Wish(args.where, args.size, args.slots, flash)


def _proposed(
    args: argparse.Namespace, output: Output, disks: Sequence[Disk], member: Disk | None
) -> Session:
    session = Session(_wish(args), output.bar)
    if member:
        session.join(disks[0], member, args.member)
    else:
        session.propose(disks)
    return session


# --- create --------------------------------------------------------------------------------


def _create(args: argparse.Namespace, output: Output) -> int:
    others = _joined(args)
    with opened(args, write=True, others=others) as disks:
        member = disks.pop() if others else None
        if args.port and disks:
            output.result(_create_through(args, output, disks, member))
            return EXIT_OK
        session = _proposed(args, output, disks, member)
        consent.confirm(stakes(args, output, session), args.yes)
        created = carry_out(args, output, session)
    output.show(
        "a board that remembers nothing yet takes them for its own at its first power-on; one "
        "that remembers other disks only reads them until it is told that they are its own",
        "  next: then lifeboat adopt, with the disks in it; or create them through it: --port",
    )
    output.result({"created": created, "adopt": True})
    return EXIT_OK


def _create_through(
    args: argparse.Namespace, output: Output, disks: Sequence[Disk], member: Disk | None
) -> dict[str, Any]:
    """Create regions through the board, and have its memory know them: the regions first."""
    from lifeboat_host.board import remembered  # only here: it loads the serial port's library

    agent = disks[0].agent  # type: ignore[attr-defined]
    lbas = _wish(args).lbas
    memory = remembered.read(agent)
    own = _unremembered(disks, member, lbas, memory)
    created: list[dict[str, Any]] = []
    if own:  # an earlier run was cut short
        names = ", ".join(str(disk.path) for disk in disks)
        line = f"{names}: the regions are there; the controller is to remember them as its own"
        consent.confirm([line], args.yes)
    else:
        session = _proposed(args, output, disks, member)
        consent.confirm(stakes(args, output, session), args.yes)
        agent.call("disks")  # trouble on the line may have made it forget them
        created = carry_out(args, output, session)
        own = str(created[0]["set_id"])
    adopt = memory.set_id not in (None, own)
    result = {"created": created, "adopt": adopt, "remembered": False}
    if memory.state == "none":
        output.show(f"memory: {memory.text}")
    elif adopt:
        output.show(
            f"the controller remembers set {memory.set_id} ({memory.disks}), and only reads the "
            "new regions until it is told that they are its own",
            f"  next: lifeboat adopt {own[:8]}",
        )
    else:
        try:
            with consent.writing("to go on: run the same command again"):
                memory = remembered.write(agent, own, lbas=lbas)
        except LifeboatError as error:
            if error.code != "memory-place":
                raise
            output.show(
                "there is no code in flash that leaves room for the memory: the set becomes the "
                "controller's own when it finds such code, and no other set"
            )
        else:
            output.show(f"memory: set {own} is this controller's own ({memory.disks})")
            result["remembered"] = True
    return result


def _unremembered(
    disks: Sequence[Disk], member: Disk | None, lbas: Sequence[int], memory: Remembered
) -> str | None:
    """The set of which all these disks have a region already, when the memory is the only place
    that does not know that, and may be told."""
    headers = list(region.headers([*disks, *([member] if member else [])], lbas).values())
    sets = {header.set_id.hex() for header in headers}
    if memory.state == "none" or len(sets) != 1 or len(headers) < len(disks) + bool(member):
        return None
    regions = {header.region_id.hex() for header in headers}
    (own,) = sets
    return own if memory.set_id in (None, own) and regions - memory.regions else None


def stakes(
    args: argparse.Namespace, output: Output, session: Session, given: Sequence[Lbas] | None = None
) -> list[str]:
    """Show the proposals; what they would do, a line each, for the question that follows.

    Sectors that are not zero are asked for here, but for those that are given: --overwrite. Raises
    LifeboatError: why a disk is refused, overwrite, consent, undo-write.
    """

    def ask(disk: Disk, lbas: Lbas) -> bool:
        span = f"{lbas[0]}-{lbas[1]}"
        text = f"{disk.path}: LBA {span} will be overwritten. Type {span}: "
        return consent.ask([text]) == span

    proposals = session.proposals
    for proposal in proposals:
        _ = proposal.ready
    for proposal in proposals:
        _show(output, proposal)
    files = session.name_files(args.undo or Path())
    session.consent(args.overwrite if given is None else given, None if args.yes else ask)
    lines = [line for p in proposals for line in (f"{p.disk.path}:", *_consequences(p))]
    return [*lines, f"recovery: {', '.join(map(str, files))}"]


def carry_out(args: argparse.Namespace, output: Output, session: Session) -> list[dict[str, Any]]:
    """Make the regions to which stakes() got consent; each of them for --json.

    Raises what Session.saved() and Session.write() raise.
    """
    with session.saved():
        for proposal in session.proposals:
            place, header = proposal.ready
            with consent.writing(f"to go back: {_way_back(args, proposal)}"):
                session.write(proposal)
            output.show(
                f"{proposal.disk.path}: member {header.member_index} of {header.member_count}, "
                f"LBA {place.first} to {place.last}, "
                f"{header.slot_count} slots of {header.slot_size} bytes",
                f"  keep {proposal.file}: with it the disk can be put back as it was",
            )
    return [proposal.made() for proposal in session.proposals]


def _way_back(args: argparse.Namespace, proposal: Proposal) -> str:
    """The command that undoes what was done to a disk, also when it was not done to the end."""
    disk, file = proposal.disk, proposal.file
    port = f" --port {args.port}" if args.port else ""
    if disk.local or port:
        return f"lifeboat region remove{port} {disk.path} --undo {file}"
    return f"lifeboat unprovision --disk {disk.path} --undo {file}"  # finds the board itself
