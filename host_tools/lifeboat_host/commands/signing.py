"""Options of all commands that sign: who does it; and what is told afterwards."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lifeboat_host.model.draft import Signer
from lifeboat_host.signing import keyfile
from lifeboat_host.signing.signers import CommandSigner, KeySigner
from lifeboat_host.ui.output import Output


def add(parser: argparse.ArgumentParser, flag: str, required: bool = False) -> None:
    """Add the options. flag: the one that takes a private key file."""
    group = parser.add_argument_group("signing", "who signs: a private key file, or a command")
    who = group.add_mutually_exclusive_group(required=required)
    who.add_argument(
        flag, type=Path, dest="private_key", metavar="KEY", help="private key file of lifeboat key"
    )
    who.add_argument(
        "--signer",
        metavar="COMMAND",
        help="it gets the bytes on standard input and returns the raw signature; needs --public",
    )
    group.add_argument(
        "--public", type=Path, metavar="FILE", help="public key that the command signs with"
    )
    parser.set_defaults(wrong_usage=parser.error)


def signer(args: argparse.Namespace) -> Signer | None:
    """Who is to sign; None: nobody. Ends the program when the options make no sense together."""
    if (args.signer is None) != (args.public is None):
        args.wrong_usage("--signer COMMAND and --public FILE belong together")
    if args.private_key:
        return KeySigner(args.private_key)
    if args.signer is not None:
        return CommandSigner(args.signer, keyfile.load_public(args.public))
    return None


def tell(output: Output, who: Signer | None) -> dict[str, Any] | None:
    """Say what the last signature was made with; the same for --json, None when there is none."""
    signed = who.last if who else None
    if who is None or signed is None:
        return None
    left = "" if signed.left is None else f"; {signed.left} are left"
    output.show(f"signed by key {who.public.id.hex()} with its one-time key {signed.index}{left}")
    for warning in signed.warnings:
        output.warning(warning)
    return {
        "key": who.public.id.hex(),
        "one_time_key": signed.index,
        "left": signed.left,
        "warnings": [warning.to_json() for warning in signed.warnings],
    }
