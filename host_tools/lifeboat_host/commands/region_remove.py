"""`lifeboat region remove`: give a region's range back."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifeboat_host.base.errors import EXIT_OK, LifeboatError
from lifeboat_host.commands import options
from lifeboat_host.commands.disks_option import add_overwrite, opened
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import region
from lifeboat_host.reserve import disk_map, recovery_file
from lifeboat_host.reserve.disk_map import DiskMap
from lifeboat_host.reserve.give_back import ENTRY, NOTHING, assess, remove_entry, restore
from lifeboat_host.ui import consent
from lifeboat_host.ui.output import Output

if TYPE_CHECKING:
    from lifeboat_host.board.agent import Agent

_DESCRIPTION = """\
Gives a region's range back, after asking. With the recovery file of its creation everything in the
range, and the partition table, becomes what it was; if the table has been changed since, only
lifeboat's partition is deleted from it. Without it the region's headers and commit records are set
to zero, and its partition is deleted.

When the disk, or lifeboat's partition on it, has become a file system, or the like, since: it may
reach into the region, or end before it (an application's on `userarea.user_area()`). So the range
has to be named, by typing it at the question or as --overwrite.

With --port the controller's memory forgets the region afterwards; when it was cut short in
between, the same command does the rest.
"""

_AGAIN = "to go on: run the same command again"


def add(
    actions: options.Commands, common: argparse.ArgumentParser, disks: argparse.ArgumentParser
) -> None:
    """Add `remove` to the parser of `lifeboat region`."""
    remove = actions.add_parser(
        "remove",
        parents=[common, disks],
        help="give a region's range back",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    remove.add_argument("--undo", type=Path, metavar="FILE", help="recovery file of the creation")
    remove.add_argument("--lba", type=options.number, help="look at this LBA too")
    add_overwrite(remove)
    remove.add_argument("--yes", action="store_true", help="do not ask")
    remove.set_defaults(run=_remove)


def _remove(args: argparse.Namespace, output: Output) -> int:
    with opened(args, write=True) as disks:
        if not args.port:
            output.result({"removed": give_back(args, output, disks, args.undo)})
            return EXIT_OK
        output.result(_remove_through(args, output, disks))
    return EXIT_OK


def _remove_through(
    args: argparse.Namespace, output: Output, disks: Sequence[Disk]
) -> dict[str, Any]:
    """Remove regions through the board, and have its memory forget them: the regions first."""
    from lifeboat_host.board import remembered  # only here: it loads the serial port's library

    agent = disks[0].agent  # type: ignore[attr-defined]
    headers = region.headers(disks, [] if args.lba is None else [args.lba])
    names = [str(disk.path) for disk in disks]
    # An earlier run may have been cut short after the region, before the memory.
    known = {member.disk for member in remembered.read(agent).members}
    left = [d for d in disks if args.undo or str(d.path) in headers or str(d.path) not in known]
    removed = give_back(args, output, left, args.undo) if left else []
    ids = [header.region_id.hex() for header in headers.values()]
    return {
        "removed": removed,
        "forgotten": forget(args, output, agent, ids, names, ask=not removed),
    }


def forget(
    args: argparse.Namespace,
    output: Output,
    agent: Agent,
    removed: Collection[str],
    disks: Collection[str] | None,
    ask: bool,
) -> list[str]:
    """Have the controller's memory forget regions that are not here any more; their ids.

    removed: ids of regions; disks: names of disks whose remembered regions are forgotten, too;
    None: all that are not here. ask: nobody was asked yet.
    """
    from lifeboat_host.board import remembered

    memory = remembered.read(agent)
    found = agent.call("members")
    here = {m.get("region") for m in found["members"] if m.get("set") == memory.set_id}
    gone = [
        member
        for member in memory.members
        if member.region not in here
        and (disks is None or member.region in removed or member.disk in disks)
    ]
    if not memory.set_id or not gone:
        return []
    names = ", ".join(f"member {member.index} ({member.disk})" for member in gone)
    line = f"the controller forgets {names} of set {memory.set_id}"
    if len(gone) == len(memory.members):
        line += ", and has no set then"
    if ask:
        consent.confirm([line], args.yes)
    ids = [member.region for member in gone]
    try:
        with consent.writing(_AGAIN):
            remembered.write(agent, memory.set_id, ids)
    except LifeboatError as error:
        if error.code != "memory-place":
            raise
        output.show(
            "the code in flash does not leave room for the memory, which stays as it is: "
            f"it still knows {names}"
        )
        return []
    output.show(line)
    return ids


def give_back(
    args: argparse.Namespace, output: Output, disks: Sequence[Disk], undo: Path | None
) -> list[dict[str, Any]]:
    """Remove the regions, after asking; each of them for --json.

    undo: the recovery file of the disk; args: lba, yes, and overwrite, as add_overwrite() says.
    """
    if not undo:
        return _remove_without(args, output, disks)
    if len(disks) != 1:
        raise LifeboatError(
            "undo-disk", "a recovery file is for one disk", "name the one that it is for"
        )
    return [_remove_with(args, output, disks[0], undo)]


def _remove_with(
    args: argparse.Namespace, output: Output, disk: Disk, undo: Path
) -> dict[str, Any]:
    saved = recovery_file.load(undo)
    lbas = [saved.start // saved.lba_size]
    with output.bar(f"looking at {disk.path.name}") as bar:
        found = disk_map.look(disk, lbas, bar)
    way = assess(disk, found, saved)
    first, last = saved.start // disk.lba_size, saved.end // disk.lba_size - 1
    stakes = [
        f"{disk.path}: LBA {first} to {last} become what {undo} says they were;",
        "  the backup copies in this range are lost",
        f"  {way.why}",
    ]
    _consent_to_data(args, disk, found, first, last)
    consent.confirm(stakes, args.yes)
    if not args.yes:  # a person may have taken hours to answer
        disk_map.look_again(disk, found, lbas)
    with consent.writing(_AGAIN), output.bar(f"restoring {disk.path.name}") as bar:
        restore(disk, saved, way, bar)
    output.show(f"{disk.path}: LBA {first} to {last} are as they were; {way.why}")
    return {"disk": str(disk.path), "first": first, "last": last, "table": way.table}


def _consent_to_data(
    args: argparse.Namespace, disk: Disk, found: DiskMap, first: int, last: int
) -> None:
    """Raise unless nothing can have data in the region, or a person has named its range."""
    data = found.data_at(first, last)
    if not data:
        return
    said = (first, last) in args.overwrite
    if not args.overwrite and not args.yes:
        lines = [
            f"{disk.path}: the disk holds {data}.",
            "If it reaches into the region, its data there is lost.",
        ]
        prompt = f"If it does not, or may be lost, type {first}-{last}: "
        answer = consent.ask([*lines, prompt])
        said = answer == f"{first}-{last}"
    if not said:
        raise LifeboatError(
            "overwrite",
            f"{disk.path}: the disk holds {data}, which may reach into the region; "
            "nothing was changed",
            f"if it does not, or may be lost, give --overwrite {first}-{last}",
        )


def _remove_without(
    args: argparse.Namespace, output: Output, disks: Sequence[Disk]
) -> list[dict[str, Any]]:
    lbas = [] if args.lba is None else [args.lba]
    stakes, work = [], []
    for disk in disks:
        with output.bar(f"looking at {disk.path.name}") as bar:
            found = disk_map.look(disk, lbas, bar)
        header = region.find(disk, lbas).header
        if found.refusal and not found.claims:
            raise found.refusal
        first, last = header.start_lba, header.start_lba + header.sectors - 1
        own = found.own_partition(first, last)
        number = own.number if own else None
        work.append((disk, found, header, number))
        _consent_to_data(args, disk, found, first, last)
        stakes += [
            f"{disk.path}: LBA {first} to {last} are no backup region any more:",
            "  headers and commit records are set to zero, the rest stays as it is",
        ]
        if number:
            stakes.append(f"  partition {number} is deleted")
        name = Path(recovery_file.file_name(disk, header.region_id))
        if name.exists():
            stakes.append(f"  with --undo {name} all of it would become what it was")
    consent.confirm(stakes, args.yes)
    for disk, found, _, _ in [] if args.yes else work:
        disk_map.look_again(disk, found, lbas)
    for disk, _, header, number in work:
        rest = f"; when it finds no region, delete partition {number} yourself" if number else ""
        with consent.writing(_AGAIN + rest):
            region.retire(disk, header)
            if number:
                remove_entry(disk, number)
        output.show(f"{disk.path}: no backup region any more")
    return [
        {
            "disk": str(disk.path),
            "first": header.start_lba,
            "last": header.start_lba + header.sectors - 1,
            "table": ENTRY if number else NOTHING,
        }
        for disk, _, header, number in work
    ]
