"""`lifeboat lock` and `lifeboat unlock`: the console of a signed board."""

from __future__ import annotations

import argparse

from lifeboat_host.base.errors import EXIT_OK, LifeboatError
from lifeboat_host.board import remembered
from lifeboat_host.board.locked import Challenge, LockedConsole, Status, answer
from lifeboat_host.commands import options, provision, signing
from lifeboat_host.model.keyset import ROLES
from lifeboat_host.qemu.background import default_port
from lifeboat_host.ui import consent
from lifeboat_host.ui.output import Output

_LOCK = """\
Closes the console of a signed board, from its next reset on: no REPL, no raw REPL, no Ctrl-C, and
so none of these tools, until `lifeboat unlock` gives a signed answer. One of the board's keys must
have the role unlock. A board with LOCKED in its board.py is locked without this.
"""

_LOCK_EXAMPLES = """\
examples:
  lifeboat lock              says what it means, and asks
  lifeboat lock --off        the console stays open after the next reset

exit codes: 0 done; 1 otherwise
"""

_UNLOCK = """\
Opens the console of a locked board until its next reset. The board tells a challenge, a key with
the role unlock signs it, and the board takes this answer once. An application that runs keeps the
console for itself: reset the board while this command waits.
"""

_UNLOCK_EXAMPLES = """\
examples:
  lifeboat unlock --key unlock.key
  lifeboat unlock --signer 'ask-the-service unlock' --public unlock.pub
  lifeboat unlock --key unlock.key --challenge 4c42...    prints the line to be sent to the board

exit codes: 0 the console is open, or the line was printed; 1 otherwise
"""


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add both commands to the parser."""
    lock = commands.add_parser(
        "lock",
        parents=[common],
        help="close a signed board's console, but for a signed answer",
        description=_LOCK,
        epilog=_LOCK_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    provision.add_port(lock)
    lock.add_argument("--off", action="store_true", help="leave it open from now on")
    lock.add_argument("--yes", action="store_true", help="do not ask")
    lock.set_defaults(run=_lock)
    unlock = commands.add_parser(
        "unlock",
        parents=[common],
        help="open a locked console until the board's next reset",
        description=_UNLOCK,
        epilog=_UNLOCK_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    provision.add_port(unlock)
    unlock.add_argument(
        "--challenge", metavar="HEX", help="of a board that is elsewhere: print the answer only"
    )
    unlock.add_argument(
        "--timeout",
        type=options.number,
        default=60,
        metavar="SECONDS",
        help="how long to wait for the board's challenge (default 60)",
    )
    signing.add(unlock, "--key", required=True)
    unlock.set_defaults(run=_unlock)


def _lock(args: argparse.Namespace, output: Output) -> int:
    with provision.connected(args) as agent:
        owner = remembered.read(agent).owner
        if owner is None:
            raise LifeboatError(
                "lock-keyless",
                "the board has no keys: nothing could open its console again",
                "a board is locked when its boot stage holds keys (docs/porting.md)",
            )
        able = [key for key, roles in owner.keys if roles & ROLES["unlock"]]
        if not args.off:
            stakes = [
                "From the next reset on the board's console has no REPL, no Ctrl-C, and answers",
                f"none of these tools. Keys that open it: {', '.join(able) or 'NONE'}.",
                "Without one of them nobody does.",
            ]
            consent.confirm(stakes, args.yes)
        found = remembered.parsed(agent.call("lock", not args.off))
        locked = found.owner is not None and found.owner.locked
        output.show(
            "the console is locked from the next reset on" if locked else "the console stays open"
        )
        if args.off and locked:
            output.show("LOCKED in the boot stage's board.py keeps it locked all the same")
        output.result({**provision.about_board(agent), "locked": locked, "keys": able})
    return EXIT_OK


def _unlock(args: argparse.Namespace, output: Output) -> int:
    signer = signing.signer(args)
    assert signer is not None  # the options are required
    name = signer.public.id
    if args.challenge is not None:
        challenge = Challenge.parse(_unhex(args.challenge))
        line = answer(name, signer.sign(challenge.raw))
        if not output.json:
            print(line)
        output.result({"board": challenge.uid.hex(), "number": challenge.number, "answer": line})
        return EXIT_OK
    with LockedConsole(args.port or default_port()) as console:
        status = console.ask(
            args.timeout,
            lambda: output.show(
                f"{console.port}: no challenge yet; if the application runs, reset the board now"
            ),
        )
        challenge = _challenge(status, name.hex())
        output.show(f"board {challenge.board}, answer number {challenge.number}")
        console.give(answer(name, signer.sign(challenge.raw)))
        signed = signing.tell(output, signer)
        output.show(f"{console.port}: the console is open until the board's next reset")
        output.result(
            {
                "port": console.port,
                "board": challenge.uid.hex(),
                "number": challenge.number,
                "signed": signed,
            }
        )
    return EXIT_OK


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text.strip().strip('"'))
    except ValueError:
        return b""


# Before a one-time key is spent: can the answer open anything?
def _challenge(status: Status, key: str) -> Challenge:
    if status.challenge is None:
        raise LifeboatError(
            "lock-dead",
            f"the board tells no challenge: {status.why or 'no reason given'}",
            "docs/operations.md has the codes; a board without its flash has to be replaced",
        )
    if key not in status.keys:
        raise LifeboatError(
            "lock-key",
            f"key {key} does not open this board",
            f"keys that do: {', '.join(status.keys) or 'none'}",
        )
    return status.challenge
