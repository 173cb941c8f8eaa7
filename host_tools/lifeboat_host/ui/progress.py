"""A progress bar with the look of mpremote's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

_WIDTH = 20


class _Bar(ProgressColumn):
    def render(self, task: Task) -> Text:
        done = int(_WIDTH * task.completed // task.total) if task.total else 0
        return Text(f"[{'#' * done}{'-' * (_WIDTH - done)}]")


@contextmanager
def bar(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function to call with (done, total); nothing is drawn unless on a terminal."""
    columns = (TextColumn(" ... {task.description} {task.percentage:3.0f}%"), _Bar())
    enabled = console.is_terminal and not console.quiet
    with Progress(*columns, console=console, transient=True, disable=not enabled) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
