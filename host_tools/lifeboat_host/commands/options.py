"""Command-line arguments that several commands share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.qemu import board_spec

_DIGITS = 4  # of a build id: fewer may be meant as a version
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def number(text: str) -> int:
    """A count or size: decimal or 0x..., with K, M, G or T for powers of 1024."""
    unit = text[-1:].upper()
    digits, unit = (text[:-1], unit) if unit in "KMGT" and unit else (text, "")
    try:
        value = int(digits, 0) * _UNITS[unit]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number like 32M or 0x1000") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is negative")
    return value


def common() -> argparse.ArgumentParser:
    """Parent parser of every command."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--quiet", action="store_true", help="no progress, no tables")
    return parser


def add_flash(parser: argparse.ArgumentParser, product: bool) -> None:
    """Options that say what code flash is meant: a board's, or these numbers."""
    group = parser.add_argument_group("code flash", "a known board's, or its numbers")
    group.add_argument("--board", help=f"board id (default {board_spec.DEFAULT_BOARD})")
    if product:
        group.add_argument("--product", help="which product the code is for")
    group.add_argument("--flash-size", type=number, metavar="N", help="bytes, such as 32M")
    group.add_argument("--block-size", type=number, metavar="N", help="bytes, such as 256K")


def add_openmetrics(parser: argparse.ArgumentParser) -> None:
    """Add the option by which a command tells a monitoring system, args.openmetrics."""
    parser.add_argument(
        "--openmetrics", metavar="FILE", help="for a monitoring system; - is standard output"
    )


def add_policy(parser: argparse.ArgumentParser, flag: str) -> None:
    """Add the option that chooses a QEMU board's policy, args.policy."""
    parser.add_argument(
        flag,
        action="store_const",
        dest="policy",
        const=board_spec.SIGNED,
        default=board_spec.UNSIGNED,
        help="with the boot stage that runs only what the demo's keys signed",
    )


def flash_numbers(args: argparse.Namespace) -> tuple[str, int, int]:
    """(product, flash size, block size): given, or the board's."""
    product = getattr(args, "product", None)
    given = (args.flash_size, args.block_size) + ((product,) if hasattr(args, "product") else ())
    if all(given):
        return product or "", args.flash_size, args.block_size
    try:
        spec = board_spec.load(args.board or board_spec.DEFAULT_BOARD)
    except LifeboatError as error:
        error.hint = f"{error.hint}; or give --product, --flash-size and --block-size"
        raise
    return (
        product or spec.product,
        args.flash_size or spec.flash_size,
        args.block_size or spec.block_size,
    )


def means(wanted: str, version: str, build: str) -> bool:
    """Whether a person who says `wanted` means this build, by its version or by the first digits
    of its id."""
    return version == wanted or (len(wanted) >= _DIGITS and build.startswith(wanted.lower()))
