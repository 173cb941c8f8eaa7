"""`lifeboat image sign`: put the owner's signature into an image."""

from __future__ import annotations

import argparse
from pathlib import Path

from lifeboat_host.base.errors import EXIT_OK
from lifeboat_host.commands import options, signing
from lifeboat_host.model import image
from lifeboat_host.signing import keyfile
from lifeboat_host.ui.output import Output

_DESCRIPTION = """\
Signs the manifest of an image, and with it every block of the code. An image that is signed
already gets the new signature in place of the old one.
"""

_EXAMPLES = """\
examples:
  lifeboat image sign code.img --key owner.key
  lifeboat image sign code.img --key owner.key -o signed.img --keys set2.keys
  lifeboat image sign code.img --signer 'ask-hsm --slot 3' --public hsm.pub
"""


def add(actions: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the action to the parser of `lifeboat image`."""
    parser = actions.add_parser(
        "sign",
        parents=[common],
        help="sign an image",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("image", type=Path, help="image file")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write it there (default: into IMAGE)"
    )
    add_keys(parser)
    signing.add(parser, "--key", required=True)
    parser.set_defaults(run=_run)


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Add the option that has an image bring a key set."""
    parser.add_argument(
        "--keys",
        type=Path,
        metavar="SET",
        help="key set that it brings to boards (lifeboat key set)",
    )


def _run(args: argparse.Namespace, output: Output) -> int:
    who = signing.signer(args)
    assert who  # the options are required
    keys = keyfile.load_set(args.keys) if args.keys else None
    target = args.output or args.image
    with image.Image(args.image) as file:
        manifest = image.sign(file, target, who, keys=keys)
    told = signing.tell(output, who)
    output.show(f"wrote {target}: {manifest.product} {manifest.version}, build {manifest.build}")
    output.result({"image": str(target), "build": manifest.build_id.hex(), "signing": told})
    return EXIT_OK
