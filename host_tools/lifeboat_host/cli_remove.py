"""`lifeboat region remove`: give a region's range back."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lifeboat_host import cli_reserve, consent, diskmap, options, region, restore, undo
from lifeboat_host.cli_reserve import opened
from lifeboat_host.diskmap import DiskMap
from lifeboat_host.disks import Disk
from lifeboat_host.errors import EXIT_OK, LifeboatError
from lifeboat_host.output import Output

_DESCRIPTION = """\
Gives a region's range back, after asking. With the recovery file of its creation everything in the
range, and the partition table, becomes what it was; if the table has been changed since, only
lifeboat's partition is deleted from it. Without it the region's headers and commit records are set
to zero, and its partition is deleted.

When the disk, or lifeboat's partition on it, has become a file system, or the like, since: it may
reach into the region, or end before it (an application's on `region.user_area()`). So the range
has to be named, by typing it at the question or as --overwrite.
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


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Add the option by which a person agrees to what give_back() may destroy."""
    parser.add_argument(
        "--overwrite",
        type=cli_reserve.lba_range,
        action="append",
        default=[],
        metavar="FIRST-LAST",
        help="a region's LBAs, to say that a file system on the disk does not use them; repeat it",
    )


def _remove(args: argparse.Namespace, output: Output) -> int:
    with opened(args, write=True) as disks:
        output.result({"removed": give_back(args, output, disks)})
    return EXIT_OK


def give_back(
    args: argparse.Namespace, output: Output, disks: Sequence[Disk]
) -> list[dict[str, Any]]:
    """Remove the regions, after asking; each of them for --json.

    args: undo, lba, yes, and overwrite, as add_overwrite() says.
    """
    if not args.undo:
        return _remove_without(args, output, disks)
    if len(disks) != 1:
        raise LifeboatError(
            "undo-disk", "a recovery file is for one disk", "name the one that it is for"
        )
    return [_remove_with(args, output, disks[0])]


def _remove_with(args: argparse.Namespace, output: Output, disk: Disk) -> dict[str, Any]:
    saved = undo.load(args.undo)
    lbas = [saved.start // saved.lba_size]
    with output.bar(f"looking at {disk.path.name}") as bar:
        found = diskmap.look(disk, lbas, bar)
    way = restore.assess(disk, found, saved)
    first, last = saved.start // disk.lba_size, saved.end // disk.lba_size - 1
    stakes = [
        f"{disk.path}: LBA {first} to {last} become what {args.undo} says they were;",
        "  the backup copies in this range are lost",
        f"  {way.why}",
    ]
    _consent_to_data(args, disk, found, first, last)
    consent.confirm(stakes, args.yes)
    if not args.yes:  # a person may have taken hours to answer
        diskmap.look_again(disk, found, lbas)
    with consent.writing(_AGAIN), output.bar(f"restoring {disk.path.name}") as bar:
        restore.restore(disk, saved, way, bar)
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
            found = diskmap.look(disk, lbas, bar)
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
        name = Path(undo.file_name(disk, header.region_id))
        if name.exists():
            stakes.append(f"  with --undo {name} all of it would become what it was")
    consent.confirm(stakes, args.yes)
    for disk, found, _, _ in [] if args.yes else work:
        diskmap.look_again(disk, found, lbas)
    for disk, _, header, number in work:
        rest = f"; when it finds no region, delete partition {number} yourself" if number else ""
        with consent.writing(_AGAIN + rest):
            region.retire(disk, header)
            if number:
                restore.remove_entry(disk, number)
        output.show(f"{disk.path}: no backup region any more")
    return [
        {
            "disk": str(disk.path),
            "first": header.start_lba,
            "last": header.start_lba + header.sectors - 1,
            "table": restore.ENTRY if number else restore.NOTHING,
        }
        for disk, _, header, number in work
    ]
