"""`lifeboat update stage`: a new build onto a disk that was taken out of its board."""

from __future__ import annotations

import argparse
from pathlib import Path

from lifeboat_host.base.errors import EXIT_OK, LifeboatError
from lifeboat_host.board import provision
from lifeboat_host.commands import options, signing
from lifeboat_host.commands.provision import signed
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import candidate, region
from lifeboat_host.model.reasons import ADVICE
from lifeboat_host.ui import consent
from lifeboat_host.ui.output import Output

_DESCRIPTION = """\
Puts a new build as a candidate into a slot of the backup region of a disk that is here: the way
for boards that no line reaches. Carried to its board, the disk offers the build (update-offered);
it is tried when a person says so (`lifeboat update --accept`, or `update.accept` at the REPL), or
by a signed board that allows it (OFFLINE_UPDATE). The newest copy on the disk is never given up.
"""


def add(actions: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the action to the parser of `update`."""
    parser = actions.add_parser(
        "stage",
        parents=[common],
        help="put a build on a disk that was taken out of its board: there it offers itself",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("disk", type=Path, metavar="DISK", help="image file or block device")
    parser.add_argument("--image", type=Path, metavar="FILE", required=True, help="the new code")
    signing.add(parser, "--sign")
    parser.add_argument("--lba", type=options.number, help="look for the region at this LBA too")
    parser.add_argument(
        "--lba-size", type=int, choices=(512, 4096), help="of an image file (default 512)"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, output: Output) -> int:
    who = signing.signer(args)
    with provision.opened(args.image) as file:
        with output.bar(f"reading {args.image.name}") as bar:
            file.check(bar)
        with Disk(args.disk, args.lba_size, write=True) as disk:
            header = region.find(disk, [] if args.lba is None else [args.lba]).header
            _check_product(args.image, header.product, file.manifest.product)
            with signed(output, file, who) as (code, told):
                manifest = code.manifest
                slot = candidate.room(disk, header, manifest)
                what = f"{manifest.version}, build {manifest.build}"
                lines = [f"slot {slot.index} of {args.disk} gets {what}, as a candidate"]
                if slot.manifest:
                    old = slot.manifest
                    lines.append(f"  it takes the place of {old.version}, build {old.build}")
                consent.confirm(lines, args.yes)
                with output.bar("writing the candidate") as bar:
                    candidate.write(disk, header, slot, manifest, code.block, bar)
        output.show(f"{args.disk} offers {what} to its board")
        output.result(
            {
                "disk": str(args.disk),
                "slot": slot.index,
                "version": manifest.version,
                "build": manifest.build,
                "blocks": manifest.block_count,
                "signing": told,
            }
        )
    return EXIT_OK


def _check_product(path: Path, of_region: str, of_image: str) -> None:
    if of_region and of_region != of_image:
        raise LifeboatError(
            "manifest-product",
            f"{path}: for {of_image}, the region is of {of_region}",
            ADVICE["manifest-product"],
        )
