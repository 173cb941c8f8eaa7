"""`lifeboat region`: plan, create, inspect, verify and remove backup regions on disks."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from lifeboat_host.base.errors import EXIT_DAMAGE, EXIT_OK
from lifeboat_host.commands import options, region_create, region_remove
from lifeboat_host.commands.disks_option import located, opened
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import image, parity, region
from lifeboat_host.model.formats import EVIDENCE, PARITY, STATE, Extent, Manifest, RegionHeader
from lifeboat_host.reserve.session import describe
from lifeboat_host.ui.output import Output

_EXAMPLES = """\
examples:
  lifeboat region plan /dev/sdx                       what is on it, where a region would go
  lifeboat region create disk0.img disk1.img          a set of two
  lifeboat region create --lba 2048 /dev/sdx
  lifeboat region create --join disk0.img new.img     replace the other member of a set of two
  lifeboat region create --port /dev/ttyUSB0          all disks of the board there
  lifeboat region inspect disk0.img disk1.img
  lifeboat region verify --image code.img disk0.img
  lifeboat region remove disk0.img --undo lifeboat-undo-disk0.img-1a2b3c4d.json
"""


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "region",
        help="plan, create, inspect, verify, remove backup regions on disks",
        description="A region is the range of a disk that holds the backup copies of the code.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    disks = _disks()
    region_create.add(actions, common, disks)
    region_remove.add(actions, common, disks)
    inspect = actions.add_parser("inspect", parents=[common, disks], help="show headers and slots")
    verify = actions.add_parser(
        "verify",
        parents=[common, disks],
        help="read every block of every copy; exit code 3 for damage",
    )
    verify.add_argument("--image", type=Path, help="is the newest copy the backup of this image?")
    for action, run in ((inspect, _inspect), (verify, _verify)):
        action.add_argument("--lba", type=options.number, help="look at this LBA too")
        action.set_defaults(run=run)


def _disks() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "disks",
        nargs="*",
        type=Path,
        metavar="DISK",
        help="image file or block device; with --port a name like sata0 (default: all)",
    )
    parser.add_argument("--port", help="the disks are behind the board at this serial port")
    parser.add_argument(
        "--lba-size", type=int, choices=(512, 4096), help="of image files (default 512)"
    )
    return parser


# --- inspect, verify -----------------------------------------------------------------------


_PARITY = {parity.WHOLE: ", with parity", parity.NO_ROOM: "; no room for parity"}


def _describe_slot(slot: region.Slot) -> dict[str, Any]:
    if slot.candidate:
        return {
            "slot": slot.index,
            "state": "candidate",
            "why": slot.why,
            "build": slot.candidate.build_id.hex(),
            "product": slot.candidate.product,
            "version": slot.candidate.version,
        }
    if not (slot.commit and slot.manifest):
        state = "newer" if slot.newer else "free"
        return {"slot": slot.index, "state": state, "why": slot.why}
    return {
        "slot": slot.index,
        "state": "committed",
        "generation": slot.commit.generation,
        "build": slot.manifest.build_id.hex(),
        "product": slot.manifest.product,
        "version": slot.manifest.version,
        "block_count": slot.manifest.block_count,
        "block_size": slot.manifest.block_size,
        "security_counter": slot.manifest.security_counter,
        "read_only": slot.read_only,
    }


def _slot_text(slot: region.Slot) -> str:
    if slot.candidate:
        code = slot.candidate
        return f"candidate of an update: {code.product} {code.version}, build {code.build}"
    if slot.commit and slot.manifest:
        code = slot.manifest
        rest = ", of a newer format: only read" if slot.read_only else ""
        return (
            f"generation {slot.commit.generation}: {code.product} {code.version}, "
            f"build {code.build}{rest}"
        )
    if slot.newer:
        return f"of a newer format ({slot.why}): neither used nor overwritten"
    return f"free ({slot.why})"


_EXTENTS = {STATE: "state of a trial", EVIDENCE: "evidence", PARITY: "parity, not used"}


def _extent_text(header: RegionHeader, extent: Extent) -> str:
    name = _EXTENTS.get(extent.kind, f"type {extent.kind}, not known to this version")
    return f"{name}: {extent.units} units at {header.start + extent.offset:#x}"


def _show(output: Output, disk: Disk, found: region.Found, slots: list[region.Slot]) -> None:
    header = found.header
    grid = Table.grid(padding=(0, 2))
    grid.add_row("disk", f"{disk.path} (region by {found.how})")
    end = header.start_lba + header.sectors - 1
    grid.add_row("range", f"LBA {header.start_lba} to {end}, sectors of {header.lba_size} bytes")
    grid.add_row(
        "member", f"{header.member_index} of {header.member_count}, set {header.set_id.hex()}"
    )
    grid.add_row("product", header.product or "not told")
    for copy in found.copies:
        grid.add_row("header", f"{copy.name} copy at {copy.offset:#x}: {copy.state}")
    agreed = "" if found.agreed else "; the copies do not agree: only a board that knows it writes"
    grid.add_row("changed", f"{_times(header.header_serial)}{agreed}")
    if header.read_only:
        grid.add_row("format", "newer: this version only reads this region")
    for slot in slots:
        grid.add_row(f"slot {slot.index}", _slot_text(slot))
    if header.journal:
        start, units = header.journal
        grid.add_row("journal", f"{units} units at {start:#x}")
    for extent in header.extents:
        grid.add_row("extent", _extent_text(header, extent))
    output.show(grid)


def _times(count: int) -> str:
    return {0: "never since it was made", 1: "once"}.get(count, f"{count} times")


def _lbas(args: argparse.Namespace) -> list[int]:
    return [] if args.lba is None else [args.lba]


def _inspect(args: argparse.Namespace, output: Output) -> int:
    results = []
    with opened(args) as disks:
        for disk in disks:
            found = located(disk, _lbas(args))
            slots = region.read_slots(disk, found.header)
            _show(output, disk, found, slots)
            output.show("")
            results.append(
                {
                    **describe(disk, found.header),
                    "found": found.how,
                    "headers": [asdict(copy) for copy in found.copies],
                    "agreed": found.agreed,
                    "extents": [asdict(extent) for extent in found.header.extents],
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
    with opened(args) as disks:
        results = [_verify_disk(args, output, disk, wanted) for disk in disks]
    ok = all(result["ok"] for result in results)
    output.result({"members": results, "ok": ok})
    for step in dict.fromkeys(step for result in results for step in result["next"]):
        output.show(f"  next: {step}")
    return EXIT_OK if ok else EXIT_DAMAGE


def _verify_disk(
    args: argparse.Namespace, output: Output, disk: Disk, wanted: Manifest | None
) -> dict[str, Any]:
    found = located(disk, _lbas(args))
    slots = region.read_slots(disk, found.header)
    with output.bar(f"reading {disk.path.name}") as bar:
        checks = region.verify(disk, slots, bar)
    problems = [
        f"{copy.name} header copy at {copy.offset:#x}: {copy.state}"
        for copy in found.copies
        if copy.state != "ok"
    ]
    problems += [
        f"slot {check.slot.index}: block {block} at {check.slot.block(block):#x} is damaged"
        for check in checks
        for block in check.bad
    ]
    states = {check.slot.index: parity.state(disk, found.header, check) for check in checks}
    problems += [
        f"slot {index}: its parity is damaged"
        for index, state in states.items()
        if state == parity.DAMAGED
    ]
    steps = []
    if not found.headers_ok:
        steps.append(
            "header copies of its own set are rewritten by the board's next power-on, "
            "unless one is of a newer format"
        )
    if any(check.bad for check in checks):
        # A power-on with intact code does not read the blocks of the copies.
        steps.append(
            "damaged blocks of a copy are rewritten by the board's scrubber in operation, from "
            "its flash; a power-on alone does not read them"
        )
    if parity.DAMAGED in states.values():
        steps.append(
            "damaged parity is made anew by the scrubber of a board with the extra parity"
        )
    newest = region.newest(slots)
    if not checks:
        problems.append("no backup copy yet")
        steps.append("power the board on: it makes the backup when its code is good")
    elif wanted and newest and newest.manifest and newest.manifest.build != wanted.build:
        problems.append(
            f"the newest copy is build {newest.manifest.build}, "
            f"not the backup of {args.image} (build {wanted.build})"
        )
        steps.append("power the board on with that image: it makes the backup of what it runs")
    for problem in problems:
        output.show(f"{disk.path}: {problem}")
    if not problems:
        good = f"{len(checks)} good copies" if len(checks) > 1 else "ok"
        output.show(
            f"{disk.path}: {good}{_PARITY.get(states[newest.index], '') if newest else ''}"
        )
    return {
        "disk": str(disk.path),
        "ok": not problems,
        "problems": problems,
        "next": steps,
        "copies": [
            {
                **_describe_slot(check.slot),
                "bad": check.bad,
                "parity": states[check.slot.index],
            }
            for check in checks
        ],
    }
