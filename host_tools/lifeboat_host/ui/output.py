"""Where the commands print: for people, or one JSON object for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook
from rich.segment import Segment

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.base.text import clean
from lifeboat_host.ui import progress

SCHEMA = 1  # of the JSON; higher when something that was there changes or goes


class _Clean:
    """Something to print, with every text of it cleaned; styles are not text, and stay."""

    def __init__(self, item: ConsoleRenderable) -> None:
        self._item = item

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        for text, style, control in console.render(self._item, options):
            yield Segment(text if control else clean(text), style, control)


class _CleanAll(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Clean(item) for item in renderables]


class Output:
    """json: print results as JSON only. quiet: print nothing but results for programs."""

    def __init__(self, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.console = Console(quiet=json or quiet, highlight=False, soft_wrap=True)
        self.console.push_render_hook(_CleanAll())

    @property
    def ascii_only(self) -> bool:
        return plain(self.console)

    def show(self, *what: RenderableType) -> None:
        """For people; markup is not interpreted."""
        for item in what:
            self.console.print(item, markup=False)

    def result(self, value: dict[str, Any]) -> None:
        """For programs: docs/schema.json says what each command gives."""
        if self.json:
            print(json.dumps({"schema": SCHEMA, **value}, indent=2))

    def bar(self, what: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """A progress bar; see progress.bar()."""
        return progress.bar(self.console, what)

    def warning(self, about: LifeboatError) -> None:
        """What a person should know though it went well; programs find it in the result."""
        if not self.json:
            print(clean(f"lifeboat: warning: {about.message}"), file=sys.stderr)
            print(clean(f"  next: {about.hint}"), file=sys.stderr)

    def failure(self, error: LifeboatError) -> None:
        if self.json:
            print(json.dumps({"schema": SCHEMA, "error": error.to_json()}, indent=2))
            return
        print(clean(f"lifeboat: {error.message}"), file=sys.stderr)
        if error.hint:
            print(clean(f"  next: {error.hint}"), file=sys.stderr)


def plain(console: Console) -> bool:
    """Whether to draw with ASCII characters only."""
    return "NO_COLOR" in os.environ or not console.encoding.lower().startswith("utf")
