"""`lifeboat image`: build, inspect and verify embedded-code images."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from lifeboat_host import image, options, picture
from lifeboat_host.errors import EXIT_DAMAGE, EXIT_OK, LifeboatError
from lifeboat_host.formats import Manifest
from lifeboat_host.output import Output

_EXAMPLES = """\
examples:
  lifeboat image build -o code.img --version 1.0 os=u-boot.bin app=src/
  lifeboat image inspect code.img
  lifeboat image verify flash-dump.img --json
"""


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "image",
        help="build, inspect, verify embedded-code images",
        description="An image file has the exact content of a board's code flash.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    build = actions.add_parser("build", parents=[common], help="make an image")
    build.add_argument(
        "segments",
        nargs="+",
        type=_source,
        metavar="NAME=PATH",
        help="a folder becomes a ROMFS, a file is taken as it is; `os` is the operating system",
    )
    build.add_argument("-o", "--output", required=True, type=Path, help="image file to write")
    build.add_argument("--version", required=True, help="the image's version, up to 24 bytes")
    build.add_argument(
        "--security-counter", type=options.number, default=0, metavar="N", help="against rollback"
    )
    options.add_flash(build, product=True)
    build.set_defaults(run=_build)

    for name, run, help_text in (
        ("inspect", _inspect, "show the manifest, the segments and a map of the flash"),
        ("verify", _verify, "hold every block against its CRC and SHA; exit code 3 for damage"),
    ):
        action = actions.add_parser(name, parents=[common], help=help_text)
        action.add_argument("image", type=Path, help="image file or dump of a code flash")
        action.add_argument("--block-size", type=options.number, metavar="N", help="if not found")
        action.set_defaults(run=run)


def _source(text: str) -> image.Source:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return image.Source(name, Path(path))


def describe(manifest: Manifest) -> dict[str, Any]:
    """A manifest for programs."""
    return {
        "product": manifest.product,
        "version": manifest.version,
        "build": manifest.build_id.hex(),
        "block_size": manifest.block_size,
        "block_count": manifest.block_count,
        "security_counter": manifest.security_counter,
        "signature_type": manifest.signature_type,
        "segments": [
            {**asdict(segment), "kind": segment.kind_name} for segment in manifest.segments
        ],
    }


def _show(output: Output, manifest: Manifest) -> None:
    head = Table.grid(padding=(0, 2))
    head.add_row("code", f"{manifest.product} {manifest.version}")
    head.add_row("build", manifest.build)
    head.add_row("signature", "HSS/LMS" if manifest.signature_type else "none")
    head.add_row("security counter", str(manifest.security_counter))
    head.add_row("blocks", f"{manifest.block_count} of {manifest.block_size} bytes")
    segments = Table("segment", "kind", "offset", "bytes", "blocks", box=None, padding=(0, 2))
    for segment in manifest.segments:
        first, last = (
            segment.offset // manifest.block_size,
            (segment.end - 1) // manifest.block_size,
        )
        segments.add_row(
            segment.name,
            segment.kind_name,
            f"{segment.offset:#010x}",
            str(segment.size),
            str(first) if first == last else f"{first}-{last}",
        )
    output.show(head, "", segments, "")


def _show_map(output: Output, manifest: Manifest, flash_size: int, damaged: list[int]) -> None:
    cells = picture.cells(manifest, flash_size, damaged)
    output.show(picture.flash_map(cells, manifest.block_size, output.ascii_only))


def _build(args: argparse.Namespace, output: Output) -> int:
    product, flash_size, block_size = options.flash_numbers(args)
    manifest = image.build(
        args.segments,
        args.output,
        product=product,
        version=args.version,
        flash_size=flash_size,
        block_size=block_size,
        security_counter=args.security_counter,
    )
    _show(output, manifest)
    output.show(f"wrote {args.output}, {flash_size} bytes")
    output.result({"image": str(args.output), "flash_size": flash_size, **describe(manifest)})
    return EXIT_OK


def _inspect(args: argparse.Namespace, output: Output) -> int:
    with image.Image(args.image, args.block_size) as file:
        manifest = file.manifest()
        _show(output, manifest)
        _show_map(output, manifest, file.flash_size, [])
        described = describe(manifest)
        output.result({"image": str(args.image), "flash_size": file.flash_size, **described})
    return EXIT_OK


def _verify(args: argparse.Namespace, output: Output) -> int:
    with image.Image(args.image, args.block_size) as file:
        try:
            manifest = file.manifest()
        except LifeboatError as error:
            if not error.code.startswith("manifest-"):
                raise
            output.failure(error)
            return EXIT_DAMAGE
        with output.bar("verifying") as bar:
            damage = image.damaged_blocks(file, manifest, bar)
        padding = image.padding_clean(file, manifest)
        flash_size = file.flash_size
    for item in damage:
        state = "erased" if item.erased else "overwritten"
        output.show(f"{args.image}: block {item.block} at {item.offset:#010x} is {state}")
    if not padding:
        output.show(f"{args.image}: the bytes after the manifest are not all 0xFF")
    if damage:
        _show_map(output, manifest, flash_size, [item.block for item in damage])
        output.show(f"{len(damage)} of {manifest.block_count} blocks are damaged")
    else:
        output.show(f"all {manifest.block_count} blocks of version {manifest.version} are intact")
    ok = not damage and padding
    if not ok:
        output.show("  next: power the board on to have it repaired from its backup")
    output.result(
        {
            "image": str(args.image),
            "build": manifest.build_id.hex(),
            "blocks": manifest.block_count,
            "damaged": [asdict(item) for item in damage],
            "padding_clean": padding,
            "ok": ok,
        }
    )
    return EXIT_OK if ok else EXIT_DAMAGE
