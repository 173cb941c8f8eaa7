"""Where the commands print: for people, or one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console, RenderableType

from lifeboat_host import picture, progress
from lifeboat_host.errors import LifeboatError


class Output:
    """json: print results as JSON only. quiet: print nothing but results for programs."""

    def __init__(self, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.console = Console(quiet=json or quiet, highlight=False, soft_wrap=True)

    @property
    def ascii_only(self) -> bool:
        return picture.plain(self.console)

    def show(self, *what: RenderableType) -> None:
        """For people; markup is not interpreted."""
        for item in what:
            self.console.print(item, markup=False)

    def result(self, value: dict[str, Any]) -> None:
        """For programs."""
        if self.json:
            print(json.dumps(value, indent=2))

    def bar(self, what: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """A progress bar; see progress.bar()."""
        return progress.bar(self.console, what)

    def failure(self, error: LifeboatError) -> None:
        if self.json:
            print(json.dumps({"error": error.to_json()}, indent=2))
            return
        print(f"lifeboat: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  next: {error.hint}", file=sys.stderr)
