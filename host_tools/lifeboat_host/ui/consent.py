"""What a person is asked before something is changed, and told when that is cut short."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.text import clean


def confirm(stakes: Sequence[str], yes: bool) -> None:
    """Show what will happen and have `yes` typed, unless yes=True.

    Raises LifeboatError consent.
    """
    if not yes and ask([*stakes, "Go on? Type yes: "]).lower() != "yes":
        raise LifeboatError("consent", "not confirmed, nothing was changed")


@contextmanager
def writing(next_step: str) -> Iterator[None]:
    """While a disk is being changed: an error, and Ctrl-C, has this next step in its hint."""
    try:
        yield
    except LifeboatError as error:
        error.hint = f"{error.hint}; {next_step}".lstrip("; ")
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(next_step) from None


def ask(lines: Sequence[str]) -> str:
    """What a person types after these lines; the last one is the prompt.

    On standard error, so that results on standard output stay clean. Raises LifeboatError consent
    when nobody is there.
    """
    if not sys.stdin.isatty():
        raise LifeboatError(
            "consent",
            "this needs a person's consent, and standard input is no terminal; "
            "nothing was changed",
            "run it in a terminal, or give --yes",
        )
    print(clean("\n".join(lines)), end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
