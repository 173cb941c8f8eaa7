"""`lifeboat region`: create, inspect and verify backup regions on disks."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from lifeboat_host import image, options, region
from lifeboat_host.disks import Disk
from lifeboat_host.errors import EXIT_DAMAGE, EXIT_OK, LifeboatError
from lifeboat_host.formats import RegionHeader
from lifeboat_host.output import Output

_EXAMPLES = """\
examples:
  lifeboat region create disk0.img disk1.img          a set of two, at the disks' tails
  lifeboat region create --lba 2048 /dev/sdx
  lifeboat region create --join disk0.img new.img     replace the other member of a set of two
  lifeboat region inspect disk0.img disk1.img
  lifeboat region verify --image code.img disk0.img
"""


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "region",
        help="create, inspect, verify backup regions on disks",
        description="A region is the range of a disk that holds the backup copies of the code.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    create = actions.add_parser(
        "create",
        parents=[common],
        help="reserve a range and write the region there",
        description="Refuses a range that is in use. Several disks become one set.",
    )
    _add_disks(create)
    place = create.add_mutually_exclusive_group()
    place.add_argument(
        "--tail",
        dest="where",
        action="store_const",
        const=region.TAIL,
        default=region.TAIL,
        help="at the end of the disk (default)",
    )
    place.add_argument(
        "--gpt",
        dest="where",
        action="store_const",
        const=region.GPT,
        help="in the GPT partition that has lifeboat's type",
    )
    place.add_argument(
        "--lba", dest="where", type=options.number, metavar="N", help="from this LBA on"
    )
    create.add_argument("--size", type=options.number, help="bytes (default: for the board)")
    create.add_argument("--slots", type=int, default=2, help="backup copies, 2 to 16 (default 2)")
    create.add_argument("--join", type=Path, metavar="DISK", help="become a member of its set")
    create.add_argument("--member", type=int, metavar="INDEX", help="with --join: which one")
    create.add_argument("--force", action="store_true", help="take a range that is in use")
    create.add_argument("--yes", action="store_true", help="with --force: do not ask")
    options.add_flash(create, product=False)
    create.set_defaults(run=_create)

    inspect = actions.add_parser("inspect", parents=[common], help="show headers and slots")
    verify = actions.add_parser(
        "verify", parents=[common], help="read every block of every copy; exit code 3 for damage"
    )
    verify.add_argument("--image", type=Path, help="is the newest copy the backup of this image?")
    for action, run in ((inspect, _inspect), (verify, _verify)):
        _add_disks(action)
        action.add_argument("--lba", type=options.number, help="look at this LBA too")
        action.set_defaults(run=run)


def _add_disks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("disks", nargs="+", type=Path, metavar="DISK", help="file or block device")
    parser.add_argument(
        "--lba-size", type=int, choices=(512, 4096), help="of image files (default 512)"
    )


# --- create --------------------------------------------------------------------------------


def _create(args: argparse.Namespace, output: Output) -> int:
    with ExitStack() as stack:
        disks = [stack.enter_context(Disk(p, args.lba_size, write=True)) for p in args.disks]
        _check_distinct(args)
        headers = _headers(args, disks)
        stakes = []
        for disk, header in zip(disks, headers):
            with output.bar(f"looking at {disk.path.name}") as bar:
                stakes += [f"{disk.path}: {s}" for s in region.at_stake(disk, header, bar)]
        if stakes:
            _consent(args, stakes)
        for disk, header in zip(disks, headers):
            region.create(disk, header)
            output.show(
                f"{disk.path}: member {header.member_index} of {header.member_count}, "
                f"LBA {header.start_lba} to {header.start_lba + header.sectors - 1}, "
                f"{header.slot_count} slots of {header.slot_size} bytes"
            )
        members = [_describe(disk, header) for disk, header in zip(disks, headers)]
        output.result({"created": members})
    return EXIT_OK


def _check_distinct(args: argparse.Namespace) -> None:
    paths = [path.resolve() for path in [*args.disks, *([args.join] if args.join else [])]]
    if len(set(paths)) < len(paths):
        raise LifeboatError("disk-twice", "the same disk is named twice", "name each disk once")


def _headers(args: argparse.Namespace, disks: list[Disk]) -> list[RegionHeader]:
    if args.join:
        if len(disks) != 1:
            raise LifeboatError("region-member", "one disk joins at a time", "name one disk")
        with Disk(args.join, args.lba_size) as member:
            lbas = [args.where] if isinstance(args.where, int) else []
            found = region.find(member, lbas)
        return [region.joining(found.header, disks[0], args.where, args.member)]
    if args.size is None or args.board or args.flash_size:
        _, flash_size, block_size = options.flash_numbers(args)
        need = region.slot_size_for(flash_size, block_size)
        return region.new_set(disks, args.where, slots=args.slots, size=args.size, need=need)
    return region.new_set(disks, args.where, slots=args.slots, size=args.size)


def _consent(args: argparse.Namespace, stakes: list[str]) -> None:
    """Raise unless a person has said to go on."""
    lines = "\n  ".join(stakes)
    if not args.force:
        raise LifeboatError(
            "region-in-use",
            f"the range is in use, nothing was written:\n  {lines}",
            "choose another place with --lba or --size; --force destroys what is listed",
        )
    if args.yes:
        return
    print(f"this will destroy:\n  {lines}", file=sys.stderr)
    print("type `destroy` to go on: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != "destroy":
        raise LifeboatError("region-in-use", "not confirmed, nothing was written")


# --- inspect, verify -----------------------------------------------------------------------


def _describe(disk: Disk, header: RegionHeader) -> dict[str, Any]:
    fields = {
        key: value.hex() if isinstance(value, bytes) else value
        for key, value in asdict(header).items()
    }
    return {"disk": str(disk.path), **fields}


def _describe_slot(slot: region.Slot) -> dict[str, Any]:
    if not (slot.commit and slot.manifest):
        return {"slot": slot.index, "state": "free", "why": slot.why}
    return {
        "slot": slot.index,
        "state": "committed",
        "generation": slot.commit.generation,
        "build": slot.manifest.build_id.hex(),
        "product": slot.manifest.product,
        "version": slot.manifest.version,
        "block_count": slot.manifest.block_count,
        "block_size": slot.manifest.block_size,
    }


def _show(output: Output, disk: Disk, found: region.Found, slots: list[region.Slot]) -> None:
    header = found.header
    grid = Table.grid(padding=(0, 2))
    grid.add_row("disk", f"{disk.path} (region by {found.how})")
    end = header.start_lba + header.sectors - 1
    grid.add_row("range", f"LBA {header.start_lba} to {end}, sectors of {header.lba_size} bytes")
    grid.add_row(
        "member", f"{header.member_index} of {header.member_count}, set {header.set_id.hex()}"
    )
    for copy in found.copies:
        grid.add_row("header", f"{copy.name} copy at {copy.offset:#x}: {copy.state}")
    for slot in slots:
        text = f"free ({slot.why})"
        if slot.commit and slot.manifest:
            text = (
                f"generation {slot.commit.generation}: {slot.manifest.product} "
                f"{slot.manifest.version}, build {slot.manifest.build}"
            )
        grid.add_row(f"slot {slot.index}", text)
    output.show(grid)


def _lbas(args: argparse.Namespace) -> list[int]:
    return [] if args.lba is None else [args.lba]


def _inspect(args: argparse.Namespace, output: Output) -> int:
    results = []
    for path in args.disks:
        with Disk(path, args.lba_size) as disk:
            found = region.find(disk, _lbas(args))
            slots = region.read_slots(disk, found.header)
            _show(output, disk, found, slots)
            output.show("")
            results.append(
                {
                    **_describe(disk, found.header),
                    "found": found.how,
                    "headers": [asdict(copy) for copy in found.copies],
                    "slots": [_describe_slot(slot) for slot in slots],
                }
            )
    output.result({"members": results})
    return EXIT_OK


def _verify(args: argparse.Namespace, output: Output) -> int:
    wanted = None
    if args.image:
        with image.Image(args.image) as file:
            wanted = file.manifest()
    results = []
    for path in args.disks:
        with Disk(path, args.lba_size) as disk:
            found = region.find(disk, _lbas(args))
            slots = region.read_slots(disk, found.header)
            with output.bar(f"reading {path.name}") as bar:
                checks = region.verify(disk, slots, bar)
        problems = [
            f"{copy.name} header copy at {copy.offset:#x}: {copy.state}"
            for copy in found.copies
            if copy.state != "ok"
        ]
        problems += [
            f"slot {check.slot.index}: block {block} at "
            f"{region.block_offset(check.slot.offset, check.manifest, block):#x} is damaged"
            for check in checks
            for block in check.bad
        ]
        newest = region.newest(slots)
        if not checks:
            problems.append("no backup copy yet")
        elif wanted and newest and newest.manifest and newest.manifest.build != wanted.build:
            problems.append(
                f"the newest copy is build {newest.manifest.build}, "
                f"not the backup of {args.image} (build {wanted.build})"
            )
        for problem in problems:
            output.show(f"{path}: {problem}")
        if not problems:
            output.show(f"{path}: {len(checks)} good copies" if len(checks) > 1 else f"{path}: ok")
        results.append(
            {
                "disk": str(path),
                "ok": not problems,
                "problems": problems,
                "copies": [{**_describe_slot(check.slot), "bad": check.bad} for check in checks],
            }
        )
    ok = all(result["ok"] for result in results)
    output.result({"members": results, "ok": ok})
    if not ok:
        output.show(
            "  next: power the board on; it brings its members level when the code is good"
        )
    return EXIT_OK if ok else EXIT_DAMAGE
