"""Arguments that name disks, places on them, and what may be overwritten there."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.commands import options
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import region, remnant
from lifeboat_host.reserve.place import AUTO


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


def located(disk: Disk, lbas: Sequence[int]) -> region.Found:
    """The disk's region. Raises what region.find() raises, and region-moved."""
    try:
        return region.find(disk, lbas)
    except LifeboatError as error:
        lost = remnant.find(disk) if error.code == "region-none" else None
        if lost:
            raise remnant.moved(disk, lost) from None
        raise


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


def add_consent(parser: argparse.ArgumentParser) -> None:
    """Add the options by which a person agrees to what create() does."""
    what = "LBAs that are not zero and may be lost; once per disk that needs it, in their order"
    _add_lbas(parser, what)
    parser.add_argument(
        "--undo", type=Path, metavar="FILE", help="the recovery file, or a folder for several"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Add the option by which a person agrees to what give_back() may destroy."""
    what = "a region's LBAs, to say that a file system on the disk does not use them; repeat it"
    _add_lbas(parser, what)


def _add_lbas(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--overwrite",
        type=lba_range,
        action="append",
        default=[],
        metavar="FIRST-LAST",
        help=what,
    )


def lba_range(text: str) -> tuple[int, int]:
    """FIRST-LAST, both inclusive."""
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    if not match or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of LBAs like 2048-4095")
    return int(match[1]), int(match[2])
