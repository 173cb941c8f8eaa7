"""`lifeboat region plan` and `create`: reserve a range of disks."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifeboat_host.base.errors import EXIT_ERROR, EXIT_OK, LifeboatError
from lifeboat_host.commands import options
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import region
from lifeboat_host.model.formats import SLOT_SIZE_MIN, RegionHeader
from lifeboat_host.reserve import disk_map, recovery_file
from lifeboat_host.reserve import place as reserve
from lifeboat_host.reserve.disk_map import DiskMap
from lifeboat_host.reserve.place import AUTO, Place
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


def add_consent(parser: argparse.ArgumentParser) -> None:
    """Add the options by which a person agrees to what create() does."""
    parser.add_argument(
        "--overwrite",
        type=lba_range,
        action="append",
        default=[],
        metavar="FIRST-LAST",
        help="LBAs that are not zero and may be lost; once per disk that needs it, in their order",
    )
    parser.add_argument(
        "--undo", type=Path, metavar="FILE", help="the recovery file, or a folder for several"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a region goes and how large it is."""
    place = parser.add_mutually_exclusive_group()
    for name, value, text in (
        ("--tail", region.TAIL, "the end of the disk, outside of any partition"),
        ("--gpt", region.GPT, "a GPT partition; a blank disk gets a new GPT"),
    ):
        place.add_argument(
            name, dest="where", action="store_const", const=value, default=AUTO, help=text
        )
    place.add_argument(
        "--lba",
        dest="where",
        type=options.number,
        metavar="N",
        help="from this LBA on, outside of any partition",
    )
    parser.add_argument("--size", type=options.number, help="bytes (default: for the board)")
    parser.add_argument("--slots", type=int, default=2, help="backup copies, 2 to 16 (default 2)")


def lba_range(text: str) -> tuple[int, int]:
    """FIRST-LAST, both inclusive."""
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    if not match or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of LBAs like 2048-4095")
    return int(match[1]), int(match[2])


@contextmanager
def opened(
    args: argparse.Namespace, write: bool = False, others: Sequence[Path] = ()
) -> Iterator[list[Disk]]:
    """The disks that the command names: here, or behind the board at --port.

    others: more of them, which stand at the end of the list. Raises LifeboatError disk-twice.
    """
    paths = [*args.disks, *others]
    if args.port:
        from lifeboat_host.board import board_disk  # only here: it loads the serial port's library

        with board_disk.open_disks(args.port, list(map(str, paths)), write) as disks:
            yield list(disks)
        return
    if not args.disks:
        raise LifeboatError("disk-none", "no disk is named", "name an image or a block device")
    if len({path.resolve() for path in paths}) < len(paths):
        raise LifeboatError("disk-twice", "the same disk is named twice", "name each disk once")
    with ExitStack() as stack:
        yield [
            stack.enter_context(Disk(path, args.lba_size, write=write and path in args.disks))
            for path in paths
        ]


# --- plan ----------------------------------------------------------------------------------


@dataclass
class Proposal:
    """What would be done with a disk: a place with the region's header, or a refusal."""

    disk: Disk
    found: DiskMap
    place: Place | None = None
    header: RegionHeader | None = None
    refusal: LifeboatError | None = None

    def to_json(self) -> dict[str, Any]:
        place = self.place
        proposal = place and {
            "first": place.first,
            "last": place.last,
            "how": place.how,
            "changes_table": bool(place.table),
            "overwrites": place.used,
            "notes": place.notes,
        }
        found = self.found
        return {
            "disk": str(self.disk.path),
            "sectors": found.sectors,
            "lba_size": found.lba_size,
            "table": found.table,
            "pieces": [asdict(piece) for piece in found.pieces],
            "signatures": [asdict(claim) for claim in found.claims],
            "unknown": found.unknown,
            "proposal": proposal,
            "refused": self.refusal and self.refusal.to_json(),
        }


def propose(
    args: argparse.Namespace,
    output: Output,
    disks: Sequence[Disk],
    member: Disk | None = None,
) -> list[Proposal]:
    """A proposal for each disk; member: whose set they are to join. args: as add_place() says."""
    lbas = named_lbas(args)
    joined = region.find(member, lbas).header if member else None
    new: dict[str, Any] = {}  # what new_headers() wants to know
    if joined:
        size = joined.size
    else:
        new = {"slots": args.slots, "need": SLOT_SIZE_MIN}
        if args.size is None or args.board or args.flash_size:
            product, flash_size, block_size = options.flash_numbers(args)
            new = {
                "slots": args.slots,
                "need": region.slot_size_for(flash_size, block_size),
                "block_size": block_size,
                "manifest_area": region.manifest_area_for(flash_size, block_size),
                "product": product if args.board else "",
            }
        size = args.size or region.size_for(
            new["need"], args.slots, new.get("block_size", region.BLOCK_SIZE_MAX)
        )
    proposals = []
    for disk in disks:
        with output.bar(f"looking at {disk.path.name}") as bar:
            proposal = Proposal(disk, disk_map.look(disk, lbas, bar))
        proposals.append(proposal)
        try:
            with output.bar(f"reading {disk.path.name}") as bar:
                place = reserve.choose(disk, proposal.found, args.where, size, bar)
            if joined:
                proposal.header = region.joining(
                    joined, disk, place.first, args.member, place.sectors
                )
            else:
                at = [(place.first, place.sectors)]
                (proposal.header,) = region.new_headers([disk], at, **new)
            proposal.place = place
        except LifeboatError as error:
            proposal.refusal = error
    places = [(p.place.first, p.place.sectors) for p in proposals if p.place]
    if not joined and len(places) == len(proposals):
        headers = region.new_headers(disks, places, **new)
        for proposal, header in zip(proposals, headers):
            proposal.header = header
    return proposals


def named_lbas(args: argparse.Namespace) -> list[int]:
    """The LBA at which a person wants the region, if any: there may be one already."""
    return [args.where] if isinstance(args.where, int) else []


def _show(output: Output, proposal: Proposal) -> None:
    disk, place = proposal.disk, proposal.place
    size = disk_picture.size_text(disk.size)
    output.show(f"{disk.path}: {size}, sectors of {disk.lba_size} bytes")
    proposed = (place.first, place.last) if place else None
    output.show(disk_picture.disk_map(proposal.found, proposed, output.ascii_only))
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
    return lines + [f"  note: {note}" for note in place.notes]


def _joined(args: argparse.Namespace) -> list[Path]:
    if args.join and len(args.disks) != 1:
        raise LifeboatError("region-member", "one disk joins at a time", "name one disk")
    return [args.join] if args.join else []


def _plan(args: argparse.Namespace, output: Output) -> int:
    others = _joined(args)
    with opened(args, others=others) as disks:
        member = disks.pop() if others else None
        proposals = propose(args, output, disks, member)
    for proposal in proposals:
        _show(output, proposal)
    output.result({"disks": [proposal.to_json() for proposal in proposals]})
    return EXIT_ERROR if any(proposal.refusal for proposal in proposals) else EXIT_OK


# --- create --------------------------------------------------------------------------------


def _create(args: argparse.Namespace, output: Output) -> int:
    others = _joined(args)
    with opened(args, write=True, others=others) as disks:
        member = disks.pop() if others else None
        if args.port and disks:
            output.result(_create_through(args, output, disks, member))
            return EXIT_OK
        proposals = propose(args, output, disks, member)
        consent.confirm(stakes(args, output, proposals), args.yes)
        created = carry_out(args, output, proposals)
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
    lbas = named_lbas(args)
    memory = remembered.read(agent)
    own = _unremembered(disks, member, lbas, memory)
    created: list[dict[str, Any]] = []
    if own:  # an earlier run was cut short
        names = ", ".join(str(disk.path) for disk in disks)
        line = f"{names}: the regions are there; the controller is to remember them as its own"
        consent.confirm([line], args.yes)
    else:
        proposals = propose(args, output, disks, member)
        consent.confirm(stakes(args, output, proposals), args.yes)
        agent.call("disks")  # trouble on the line may have made it forget them
        created = carry_out(args, output, proposals)
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


def stakes(args: argparse.Namespace, output: Output, proposals: Sequence[Proposal]) -> list[str]:
    """Show the proposals; what they would do, a line each, for the question that follows.

    Sectors that are not zero are asked for here. Raises LifeboatError: why a disk is refused,
    overwrite, consent, undo-write.
    """
    for proposal in proposals:
        if proposal.refusal:
            raise proposal.refusal
    for proposal in proposals:
        _show(output, proposal)
    ready = _ready(proposals)
    files = _undo_paths(args, ready)
    _consent_to_overwriting(args, ready)
    lines = [line for p in proposals for line in (f"{p.disk.path}:", *_consequences(p))]
    return [*lines, f"recovery: {', '.join(map(str, files))}"]


def carry_out(
    args: argparse.Namespace, output: Output, proposals: Sequence[Proposal]
) -> list[dict[str, Any]]:
    """Make the regions to which stakes() got consent; each of them for --json.

    Raises LifeboatError: disk-changed (since propose()), undo-write, and reserve.carry_out()'s.
    """
    ready = _ready(proposals)
    files = _undo_paths(args, ready)
    taken = []
    for disk, place, header in ready:
        with output.bar(f"saving {disk.path.name}") as bar:
            taken.append(recovery_file.take(disk, place, header, bar))
    for proposal, old in zip(proposals, taken):
        _check_unchanged(args, output, proposal, old)
    unused: list[Path] = []
    try:
        for old, file in zip(taken, files):
            recovery_file.save(old, file)
            unused.append(file)
        for (disk, place, header), file in zip(ready, files):
            unused.remove(file)
            with consent.writing(f"to go back: {_way_back(args, disk, file)}"):
                reserve.carry_out(disk, place, header)
            output.show(
                f"{disk.path}: member {header.member_index} of {header.member_count}, "
                f"LBA {place.first} to {place.last}, "
                f"{header.slot_count} slots of {header.slot_size} bytes",
                f"  keep {file}: with it the disk can be put back as it was",
            )
    finally:
        for file in unused:  # of disks that were not changed
            file.unlink()
    return [
        {**describe(disk, header), "how": place.how, "undo": str(file)}
        for (disk, place, header), file in zip(ready, files)
    ]


def _way_back(args: argparse.Namespace, disk: Disk, file: Path) -> str:
    """The command that undoes what was done to a disk, also when it was not done to the end."""
    port = f" --port {args.port}" if args.port else ""
    if disk.local or port:
        return f"lifeboat region remove{port} {disk.path} --undo {file}"
    return f"lifeboat unprovision --disk {disk.path} --undo {file}"  # finds the board itself


def _check_unchanged(
    args: argparse.Namespace, output: Output, proposal: Proposal, old: recovery_file.Undo
) -> None:
    """Raise disk-changed unless what will be overwritten is what consent was given for."""
    disk, found, place = proposal.disk, proposal.found, proposal.place
    assert place
    with output.bar(f"looking again at {disk.path.name}") as bar:
        disk_map.look_again(disk, found, named_lbas(args), bar)
    # A new GPT goes where nothing is; the sectors of one that is there are part of the map.
    if old.used("headers", "body") != place.used or not found.gpt and old.used("table"):
        raise disk_map.changed(disk)


def _ready(proposals: Sequence[Proposal]) -> list[tuple[Disk, Place, RegionHeader]]:
    return [(p.disk, p.place, p.header) for p in proposals if p.place and p.header]


def describe(disk: Disk, header: RegionHeader) -> dict[str, Any]:
    """A region header for --json."""
    fields = {
        key: value.hex() if isinstance(value, bytes) else value
        for key, value in asdict(header).items()
        if key != "directory"  # `region inspect` has what it says
    }
    return {"disk": str(disk.path), **fields}


def _undo_paths(
    args: argparse.Namespace, ready: Sequence[tuple[Disk, Place, RegionHeader]]
) -> list[Path]:
    """Where the recovery files go. Raises LifeboatError undo-write."""
    path: Path = args.undo or Path()
    if path.is_dir():
        paths = [
            path / recovery_file.file_name(disk, header.region_id) for disk, _, header in ready
        ]
    elif len(ready) == 1:
        paths = [path]
    else:
        raise LifeboatError(
            "undo-write", f"{path}: several disks need several files", "name a folder"
        )
    for path in paths:
        if path.exists():
            raise LifeboatError("undo-write", f"{path}: exists already", "name another file")
    return paths


def _consent_to_overwriting(
    args: argparse.Namespace, ready: Sequence[tuple[Disk, Place, RegionHeader]]
) -> None:
    """Raise unless a person has named the sectors that are not zero."""
    given = list(args.overwrite)
    for disk, place, _ in ready:
        if not place.used:
            continue
        first, last = place.used
        said = given.pop(0) if given else None
        if said is None and not args.yes:
            text = f"{disk.path}: LBA {first}-{last} will be overwritten. Type {first}-{last}: "
            answer = consent.ask([text])
            said = place.used if answer == f"{first}-{last}" else None
        if not said or not place.first <= said[0] <= first <= last <= said[1] <= place.last:
            raise LifeboatError(
                "overwrite",
                f"{disk.path}: LBA {first}-{last} are not zero, and nobody has agreed to "
                "overwrite them; nothing was changed",
                f"look at them; if they may be lost, give --overwrite {first}-{last}",
            )
    if given:
        raise LifeboatError(
            "overwrite",
            f"--overwrite {given[0][0]}-{given[0][1]}: no disk needs that; nothing was changed",
            "give it once for each disk that lifeboat region plan says it for",
        )
