"""`lifeboat key`: make, show, split and move private keys; make key sets."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from rich.table import Table

from lifeboat_host.base import files as base_files
from lifeboat_host.base.errors import EXIT_OK, LifeboatError
from lifeboat_host.commands import options
from lifeboat_host.model.keyset import ROLES, KeySet, Listed, Parameters, PublicKey
from lifeboat_host.signing import demo_keys, files, keyfile
from lifeboat_host.signing.keyfile import PrivateKey
from lifeboat_host.signing.used import Ledger
from lifeboat_host.ui import consent
from lifeboat_host.ui.output import Output

_DESCRIPTION = """\
Keys of whoever owns the boards. A private key signs images; its public key stands in the boards.

A private key has a fixed number of one-time keys. Each signature uses one up, and none may ever
sign twice: whoever has two signatures of one can sign what he likes. So each use is written down
before it signs, in a journal beside the key file (KEY.used) and in a record on this machine. Never
copy a key file to sign elsewhere: split it. docs/keys.md leads through all of it.
"""

_EXAMPLES = """\
examples:
  lifeboat key new owner.key
  lifeboat key show owner.key --public owner.pub
  lifeboat key set -o set1.keys --serial 1 owner.key:code,keys spare.pub:code,unlock,keys
  lifeboat key split owner.key ci.key --count 100     for another machine
  lifeboat key move ci.key --skip 0                   there, once

exit codes: 0 done, 1 error, 2 wrong usage
"""


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "key",
        help="make and keep the keys that sign images",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    new = actions.add_parser(
        "new",
        parents=[common],
        help="make a private key",
        description="Makes a private key. More one-time keys take longer to make (each step of "
        "the height 32 times), wider digits make smaller signatures that take longer to make and "
        "to verify.",
    )
    new.add_argument("key", type=Path, metavar="KEY", help="private key file to write, mode 0600")
    new.add_argument(
        "--height",
        type=int,
        default=keyfile.DEFAULT.height,
        metavar="H",
        help="2^H signatures: 5 (32, for tests), 10 (1024, the default) or 15 (32768)",
    )
    new.add_argument(
        "--width",
        type=int,
        choices=(1, 2, 4, 8),
        default=keyfile.DEFAULT.width,
        help="bits of a digit (default: %(default)s)",
    )
    new.add_argument(
        "--hash",
        type=int,
        choices=(192, 256),
        default=8 * keyfile.DEFAULT.n,
        help="bits of SHA-256 that are used (default: %(default)s)",
    )
    new.set_defaults(run=_new)

    show = actions.add_parser(
        "show", parents=[common], help="what a key is, and how many signatures it has left"
    )
    show.add_argument("key", type=Path, metavar="KEY", help="private or public key file")
    show.add_argument("--public", type=Path, metavar="FILE", help="write the public key there")
    show.set_defaults(run=_show)

    split = actions.add_parser(
        "split",
        parents=[common],
        help="give some of a key's one-time keys to another machine",
        description="Takes the last N one-time keys that are left away from KEY and writes them "
        "into NEW: a private key file with the same public key. Both can sign, and never with the "
        "same one-time key. Carry NEW to the other machine, and run there once: lifeboat key move "
        "NEW --skip 0",
    )
    split.add_argument("key", type=Path, metavar="KEY", help="private key file")
    split.add_argument("new", type=Path, metavar="NEW", help="private key file to write")
    split.add_argument("--count", type=options.number, required=True, metavar="N", help="how many")
    split.set_defaults(run=_split)

    move = actions.add_parser(
        "move",
        parents=[common],
        help="let this machine sign with a key file that came from another one",
        description="For a key file that `key split` made for this machine, or when the machine "
        "that signed before is lost. Asks first: nobody can find out whether a copy of KEY still "
        "signs elsewhere.",
    )
    move.add_argument("key", type=Path, metavar="KEY", help="private key file")
    move.add_argument(
        "--skip",
        type=options.number,
        required=True,
        metavar="N",
        help="leave out N one-time keys after the last one that the journal knows: at least as "
        "many as may have been used since this file was copied; 0 for one that split just made",
    )
    move.add_argument(
        "--count",
        type=options.number,
        metavar="N",
        help="use only N, so that those behind them, which were split off, stay out",
    )
    move.add_argument("--yes", action="store_true", help="do not ask")
    move.set_defaults(run=_move)

    demo = actions.add_parser(
        "demo",
        parents=[common],
        help="the key files of the QEMU boards that `board run --signed` runs",
        description="Writes code.key and unlock.key, for tries: everybody knows these keys.",
    )
    demo.add_argument("folder", type=Path, metavar="FOLDER", help="where to write them")
    demo.set_defaults(run=_demo)

    key_set = actions.add_parser(
        "set",
        parents=[common],
        help="write a key set, and the line for board.py",
        description="Writes the key set that boards obey, and prints it as a line for board.py. "
        "The file is for `lifeboat image build --keys`, which brings a new set to boards. Roles: "
        "code (signs images), unlock (opens a locked console), keys (brings a new key set).",
    )
    key_set.add_argument(
        "keys", nargs="+", type=_listed, metavar="KEY:ROLES", help="such as owner.pub:code,keys"
    )
    key_set.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="file to write"
    )
    key_set.add_argument(
        "--serial",
        type=options.number,
        required=True,
        metavar="N",
        help="a set with a higher one replaces this one",
    )
    key_set.set_defaults(run=_set)


def _listed(text: str) -> tuple[Path, int]:
    path, _, names = text.rpartition(":")
    roles = names.split(",")
    if not path or not set(roles) <= set(ROLES):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not KEY:ROLES, with roles such as {','.join(ROLES)}"
        )
    return Path(path), sum(ROLES[name] for name in set(roles))


def describe_set(keys: KeySet) -> dict[str, Any]:
    """A key set for programs."""
    return {
        "serial": keys.serial,
        "keys": [{**describe(one.key), "roles": one.role_names} for one in keys.keys],
    }


def describe(key: PublicKey) -> dict[str, Any]:
    """A public key for programs."""
    return {
        "id": key.id.hex(),
        "parameters": [key.parameters.lms, key.parameters.lmots],
        "signature_size": key.parameters.signature_size,
    }


def _rows(output: Output, rows: list[tuple[str, str]]) -> None:
    grid = Table.grid(padding=(0, 2))
    for row in rows:
        grid.add_row(*row)
    output.show(grid)


def _about(output: Output, key: PrivateKey) -> dict[str, Any]:
    """Show a private key; the same for programs."""
    ledger = Ledger(key)
    standing = ledger.look()
    parameters = key.public.parameters
    own = f"of {key.first} to {key.end - 1}"
    if standing.foreign:
        state = "unknown on this machine (key-elsewhere)"
    elif standing.left:
        state = f"{standing.left} are left, the next one is {standing.next}; {own}"
    else:
        state = f"none are left; {own}"
    _rows(
        output,
        [
            ("key", key.public.id.hex()),
            ("kind", f"{parameters.lms}, {parameters.lmots}"),
            ("signature", f"{parameters.signature_size} bytes"),
            ("private key", str(key.path)),
            ("one-time keys", state),
            ("journal", str(ledger.journal)),
            ("record", str(ledger.record)),
        ],
    )
    for warning in [*standing.warnings, *filter(None, [standing.foreign])]:
        output.warning(warning)
    return {
        "key": str(key.path),
        **describe(key.public),
        "first": key.first,
        "end": key.end,
        "next": None if standing.foreign else standing.next,
        "left": None if standing.foreign else standing.left,
        "journal": str(ledger.journal),
        "record": str(ledger.record),
        "elsewhere": standing.foreign.to_json() if standing.foreign else None,
        "warnings": [warning.to_json() for warning in standing.warnings],
    }


def _new(args: argparse.Namespace, output: Output) -> int:
    path = _free(args.key)
    parameters = Parameters(args.hash // 8, args.height, args.width)
    with output.bar("computing the tree") as bar:
        key = keyfile.make(path, parameters, bar)
    # The record first: without it the key file could not sign, and nothing would be lost.
    Ledger(key).begin()
    keyfile.save(key)
    result = _about(output, key)
    output.show("", f"  next: lifeboat key show {args.key} --public FILE, and docs/keys.md")
    output.result(result)
    return EXIT_OK


def _free(path: Path) -> Path:
    """Where a private key file can be written. Raises LifeboatError key-exists."""
    path = Path(os.path.realpath(path.parent), path.name)
    for taken in (path, path.parent / (path.name + ".used")):
        if os.path.lexists(taken):
            raise LifeboatError(
                "key-exists",
                f"{taken}: is there already, and is left as it is",
                "choose another name",
            )
    return path


def _demo(args: argparse.Namespace, output: Output) -> int:
    paths = demo_keys.files(args.folder)
    output.show(*(f"{path}: for tries only, everybody knows it" for path in paths))
    output.result({"keys": [str(path) for path in paths]})
    return EXIT_OK


def _show(args: argparse.Namespace, output: Output) -> int:
    found = keyfile.read(args.key)
    if isinstance(found, PrivateKey):
        public, result = found.public, _about(output, found)
    else:
        public = found
        _rows(
            output,
            [
                ("key", public.id.hex()),
                ("kind", f"{public.parameters.lms}, {public.parameters.lmots}"),
                ("signature", f"{public.parameters.signature_size} bytes"),
                ("public key", str(args.key)),
            ],
        )
        result = {"key": str(args.key), **describe(public)}
    if args.public:
        _write_public(args.public, public)
        output.show(f"wrote {args.public}, {len(public.raw)} bytes")
    output.result({**result, "public": public.raw.hex()})
    return EXIT_OK


def _write_public(path: Path, key: PublicKey) -> None:
    size = len(key.raw)
    if path.is_file() and path.stat().st_size == size and files.read(path, size)[0] == key.raw:
        return
    files.create(path, key.raw, 0o644)


def _split(args: argparse.Namespace, output: Output) -> int:
    path = _free(args.new)
    if not path.parent.is_dir():
        raise LifeboatError("key-write", f"{path.parent}: no such folder", "make it first")
    key = keyfile.load(args.key)
    # In this order: cut short in between, the one-time keys are nobody's, not of both.
    given = Ledger(key).cut(args.count)
    try:
        keyfile.save(keyfile.part(key, path, given))
    except LifeboatError as error:
        error.hint += f"; the {args.count} one-time keys that were to go there are lost"
        raise
    result = _about(output, key)
    output.show(
        "",
        f"wrote {args.new}: one-time keys {given.start} to {given.stop - 1}, which {args.key} "
        "has no longer",
        f"  next: move it to the other machine, and there: lifeboat key move {path.name} --skip 0",
    )
    output.result({**result, "new": str(path), "given": [given.start, given.stop]})
    return EXIT_OK


def _move(args: argparse.Namespace, output: Output) -> int:
    key = keyfile.load(args.key)
    ledger = Ledger(key)
    standing = ledger.look()
    chosen = ledger.after(standing, args.skip, args.count)
    for warning in standing.warnings:
        output.warning(warning)
    stakes = [
        f"{args.key}: key {key.public.id.hex()}; of its one-time keys the first that is not known "
        f"to be used is {standing.next}, and {args.skip} are left out",
        f"this machine is going to sign with one-time keys {chosen.start} to {chosen.stop - 1}",
        "nobody else may have used one of these, nor use one from now on: no other machine, no "
        "copy of the key file, none from a backup, none that was split off",
        "whoever has two signatures by the same one-time key can sign what he likes",
    ]
    consent.confirm(stakes, args.yes)
    ledger.move(args.skip, args.count)
    output.result(_about(output, key))
    return EXIT_OK


def _set(args: argparse.Namespace, output: Output) -> int:
    keys = KeySet.make(
        args.serial, [Listed(keyfile.load_public(path), roles) for path, roles in args.keys]
    )
    for one in keys.keys:
        keyfile.check_fits(one.key.parameters)
    try:
        base_files.replace(args.output, keys.pack())
    except OSError as error:
        raise files.unwritable(args.output, error) from None
    line = f'KEYS = bytes.fromhex("{keys.pack().hex()}")'
    _rows(
        output,
        [
            ("serial", str(keys.serial)),
            *(
                (
                    f"key {one.key.id.hex()}",
                    f"{', '.join(one.role_names)}; {one.key.parameters.lms}",
                )
                for one in keys.keys
            ),
        ],
    )
    output.show(f"wrote {args.output}; in board.py:", "", line)
    output.result({"file": str(args.output), **describe_set(keys), "python": line})
    return EXIT_OK
