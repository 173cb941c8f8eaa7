"""`lifeboat image`: build, inspect and verify embedded-code images; image_sign signs them."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from lifeboat_host.base.errors import EXIT_DAMAGE, EXIT_OK, LifeboatError
from lifeboat_host.commands import image_sign, key, options, signing
from lifeboat_host.model import image, memory
from lifeboat_host.model.formats import Manifest
from lifeboat_host.model.keyset import ID_SIZE, PublicKey, signature_kind
from lifeboat_host.model.memory import Memory
from lifeboat_host.signing import keyfile
from lifeboat_host.signing import manifest as signed
from lifeboat_host.ui import consent, flash_picture, report_table
from lifeboat_host.ui.output import Output

_EXAMPLES = """\
examples:
  lifeboat image build -o code.img --version 1.0 os=u-boot.bin app=src/
  lifeboat image inspect code.img
  lifeboat image verify flash-dump.img --json
  lifeboat image build -o code.img --version 1.0 --sign owner.key os=u-boot.bin app=src/
  lifeboat image verify code.img --public owner.pub
  lifeboat image build --ranges -o code.img --version 1.1 os=u-boot.bin app=src/
  lifeboat image put code.img flash-dump.img     the memory in the dump stays

A chip that is programmed whole starts with an empty memory: it forgets its set and which builds it
ran. Program only the ranges that --ranges lists, or put the code into a dump of that chip.
"""


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "image",
        help="build, sign, inspect, verify embedded-code images",
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
    build.add_argument(
        "--no-memory", action="store_true", help="for a board without a memory in its code flash"
    )
    build.add_argument(
        "--follow-links",
        action="store_true",
        help="take what links name that lead out of a segment's folder",
    )
    build.add_argument(
        "--ranges", action="store_true", help="list the bytes to program, so that a memory stays"
    )
    image_sign.add_keys(build)
    options.add_flash(build, product=True)
    signing.add(build, "--sign")
    build.set_defaults(run=_build)
    image_sign.add(actions, common)

    put = actions.add_parser(
        "put",
        parents=[common],
        help="replace code and manifest in a dump of a chip, and leave its memory",
    )
    put.add_argument("image", type=Path, metavar="NEW", help="image file")
    put.add_argument("chip", type=Path, metavar="CHIP", help="dump of a code flash; is changed")
    put.add_argument("--yes", action="store_true", help="do not ask")
    put.set_defaults(run=_put)

    parsers = {}
    for name, run, help_text in (
        ("inspect", _inspect, "show the manifest, the segments and a map of the flash"),
        ("verify", _verify, "hold every block against its CRC and SHA; exit code 3 for damage"),
    ):
        action = parsers[name] = actions.add_parser(name, parents=[common], help=help_text)
        action.add_argument("image", type=Path, help="image file or dump of a code flash")
        action.add_argument("--block-size", type=options.number, metavar="N", help="if not found")
        action.set_defaults(run=run)
    parsers["verify"].add_argument(
        "--public",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="whose signature it has to have, too: a public key, or a key set; repeat it",
    )


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
        "signature": _describe_signature(manifest),
        "key_set": key.describe_set(manifest.key_set) if manifest.key_set else None,
        "memory_blocks": manifest.memory_blocks,
        "manifest_blocks": manifest.manifest_blocks,
        "read_only": manifest.read_only,
        "segments": [
            {**asdict(segment), "kind": segment.kind_name} for segment in manifest.segments
        ],
    }


def _describe_signature(manifest: Manifest) -> dict[str, Any] | None:
    """What the signature says of itself; whether it is good is another question."""
    if not manifest.signature:
        return None
    kind = signature_kind(manifest.signature[ID_SIZE:])
    return {
        "key": manifest.key_id.hex() if manifest.key_id else None,
        "size": len(manifest.signature),
        "parameters": [kind[0].lms, kind[0].lmots] if kind else None,
        "one_time_key": kind[1] if kind else None,
    }


def _signature_text(manifest: Manifest) -> str:
    found = _describe_signature(manifest)
    if found is None:
        return "none"
    who = f"by key {found['key']}" if found["key"] else "by nobody"
    if found["parameters"] is None:
        return f"{who}, but its {found['size']} bytes are no LMS signature"
    return f"{who} ({', '.join(found['parameters'])}), one-time key {found['one_time_key']}"


def _show(output: Output, manifest: Manifest) -> None:
    head = Table.grid(padding=(0, 2))
    head.add_row("code", f"{manifest.product} {manifest.version}")
    head.add_row("build", manifest.build)
    head.add_row("signature", _signature_text(manifest))
    head.add_row("security counter", str(manifest.security_counter))
    if manifest.key_set:
        head.add_row("brings key set", str(manifest.key_set.serial))
        for one in manifest.key_set.keys:
            head.add_row("", f"key {one.key.id.hex()}: {', '.join(one.role_names)}")
    blocks = f"{manifest.block_count} of {manifest.block_size} bytes"
    if manifest.memory_blocks:
        blocks += f", {manifest.memory_blocks} of memory"
    if manifest.manifest_blocks > 1:
        blocks += f", {manifest.manifest_blocks} of the manifest"
    head.add_row("blocks", blocks)
    if manifest.read_only:
        head.add_row("format", "newer: this version neither repairs nor backs up this code")
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
    cells = flash_picture.cells(manifest, flash_size, damaged)
    output.show(flash_picture.flash_map(cells, manifest.block_size, output.ascii_only))


def _describe_memory(found: Memory) -> dict[str, Any]:
    return {
        "state": found.state,
        "epoch": found.epoch,
        "uid": found.uid.hex(),
        "set": found.set_id.hex() if found.set_id else None,
        "members": [
            {
                key: value.hex() if isinstance(value, bytes) else value
                for key, value in asdict(member).items()
            }
            for member in found.members
        ],
        "builds": [{**asdict(build), "build_id": build.build_id.hex()} for build in found.builds],
        "rejected": [build_id.hex() for build_id in found.rejected],
        "failed": {str(block): count for block, count in (found.failed or {}).items()},
        "counter": found.counter,
        "records": len(found.records),
        "damage": [asdict(damage) for damage in found.damage],
        "read_only": found.read_only,
    }


_MEMORY_STATES = {
    memory.OK: "",
    memory.EMPTY: "empty: not yet begun",
    memory.LOST: "lost: neither mirror can be read",
    memory.NEWER: "of a newer format: neither used nor overwritten",
}


def _show_memory(output: Output, found: Memory) -> None:
    grid = Table.grid(padding=(0, 2))
    if found.state == memory.OK:
        grid.add_row("memory", f"{len(found.records)} records, epoch {found.epoch}")
        if found.uid:
            grid.add_row("board", found.uid.hex())
        grid.add_row("set", found.set_id.hex() if found.set_id else "none")
    else:
        grid.add_row("memory", _MEMORY_STATES[found.state])
    for member in found.members:
        last = member.first_lba + member.sectors - 1
        grid.add_row(
            f"member {member.index} of {member.count}",
            f"{member.name or 'a disk'}: LBA {member.first_lba} to {last}, sectors of "
            f"{member.lba_size} bytes, region {member.region_id.hex()}",
        )
    for build in found.builds:
        counter = f", counter {build.security_counter}" if build.security_counter else ""
        grid.add_row("known", f"{build.version}, build {build.build_id.hex()[:12]}{counter}")
    for build_id in found.rejected:
        grid.add_row("rejected", f"build {build_id.hex()[:12]}")
    for block, count in (found.failed or {}).items():
        grid.add_row("failed", f"block {block}: {count} repairs in vain")
    if found.counter:
        grid.add_row("counter", f"at least {found.counter}")
    for damage in found.damage:
        page = "" if damage.page is None else f", page {damage.page}"
        grid.add_row("damaged", f"mirror {damage.mirror}{page}: {damage.code}")
    output.show(grid, "")


def _show_ranges(output: Output, ranges: list[tuple[int, int]]) -> None:
    table = Table("program", "offset", "bytes", box=None, padding=(0, 2))
    for at, size in ranges:
        table.add_row("code" if not at else "manifest", f"{at:#010x}", str(size))
    output.show(table, "")


def _build(args: argparse.Namespace, output: Output) -> int:
    who = signing.signer(args)
    keys = keyfile.load_set(args.keys) if args.keys else None
    product, flash_size, block_size = options.flash_numbers(args)
    manifest = image.build(
        [replace(source, follow_links=args.follow_links) for source in args.segments],
        args.output,
        product=product,
        version=args.version,
        flash_size=flash_size,
        block_size=block_size,
        security_counter=args.security_counter,
        with_memory=not args.no_memory,
        keys=keys,
        signer=who,
    )
    _show(output, manifest)
    told = signing.tell(output, who)
    ranges = manifest.ranges(flash_size)
    if args.ranges:
        _show_ranges(output, ranges)
    output.show(f"wrote {args.output}, {flash_size} bytes")
    result = {"image": str(args.output), "flash_size": flash_size, **describe(manifest)}
    result["signing"] = told
    if args.ranges:
        result["ranges"] = [{"offset": at, "size": size} for at, size in ranges]
    output.result(result)
    return EXIT_OK


def _put(args: argparse.Namespace, output: Output) -> int:
    with image.Image(args.image) as new, image.Image(args.chip) as chip:
        plan = image.plan_put(new, chip)
    old = plan.old
    before = f"{old.product} {old.version}, build {old.build}" if old else "no code that is whole"
    after = f"{plan.new.product} {plan.new.version}, build {plan.new.build}"
    stakes = [f"{args.chip}: {before} is replaced by {after}"]
    if plan.memory:
        state = _MEMORY_STATES[plan.memory.state] or "it is left as it is"
        stakes.append(f"  memory: {state}")
    if old and old.product != plan.new.product:
        stakes.append("  the new code is for another product")
    consent.confirm(stakes, args.yes)
    image.put(plan, args.chip)
    output.show(*stakes)
    _show_ranges(output, plan.ranges)
    output.result(
        {
            "chip": str(args.chip),
            "build": plan.new.build_id.hex(),
            "before": old.build_id.hex() if old else None,
            "memory": plan.memory.state if plan.memory else None,
            "ranges": [{"offset": at, "size": size} for at, size in plan.ranges],
        }
    )
    return EXIT_OK


def _inspect(args: argparse.Namespace, output: Output) -> int:
    with image.Image(args.image, args.block_size) as file:
        manifest = file.manifest()
        with output.bar("reading") as bar:
            damaged = [item.block for item in image.damaged_blocks(file, manifest, bar)]
        _show(output, manifest)
        _show_map(output, manifest, file.flash_size, damaged)
        if damaged:
            count = f"{len(damaged)} of {manifest.block_count} blocks are damaged"
            output.show("", f"{count}: {report_table.spans([block, 1] for block in damaged)}")
        described = {**describe(manifest), "damaged": damaged}
        found = file.memory(manifest)
        if found:
            output.show("")
            _show_memory(output, found)
        described["memory"] = _describe_memory(found) if found else None
        output.result({"image": str(args.image), "flash_size": file.flash_size, **described})
    return EXIT_OK


_SIGNED = {
    signed.OK: "signed by key {}",
    signed.NONE: "nobody signed this image",
    signed.UNKNOWN: "signed by key {}, which is none of those that were named",
    signed.BAD: "the signature of key {} does not fit: this is not what its owner signed",
}


def _show_verdict(output: Output, manifest: Manifest, verdict: str) -> None:
    name = manifest.key_id.hex() if manifest.key_id else "without an id"
    output.show(_SIGNED[verdict].format(name))
    if verdict != signed.OK:
        output.show("  next: sign it with the owner's key, or distrust where it came from")


def _verify(args: argparse.Namespace, output: Output) -> int:
    keys: list[PublicKey] = []
    for path in args.public:
        keys += keyfile.load_keys(path, "code")
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
    verdict = signed.verdict(manifest, keys) if args.public else None
    if verdict:
        _show_verdict(output, manifest, verdict)
        ok = ok and verdict == signed.OK
    elif manifest.signature:
        output.show("it is signed; --public FILE checks by whom")
    output.result(
        {
            "image": str(args.image),
            "build": manifest.build_id.hex(),
            "blocks": manifest.block_count,
            "damaged": [asdict(item) for item in damage],
            "padding_clean": padding,
            "signature": verdict,
            "ok": ok,
        }
    )
    return EXIT_OK if ok else EXIT_DAMAGE
