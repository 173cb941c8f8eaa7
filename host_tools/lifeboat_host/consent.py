"""Asking a person before something is changed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lifeboat_host.errors import LifeboatError


def confirm(stakes: Sequence[str], yes: bool) -> None:
    """Show what will happen and have `yes` typed, unless yes=True.

    Raises LifeboatError consent.
    """
    if not yes and ask([*stakes, "Go on? Type yes: "]).lower() != "yes":
        raise LifeboatError("consent", "not confirmed, nothing was changed")


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
    print("\n".join(lines), end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
