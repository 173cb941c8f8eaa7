"""Inspection during operation."""

from typing import Any, Callable

from lifeboat import Board

REPAIR: int
RESTART: int
REPORT: int

class Scrubber:
    """Looks at code flash and backup copies a few milliseconds at a time, and repairs."""

    policy: int
    deferred: int
    steps: int
    def __init__(
        self,
        board: Board,
        policy: int = ...,
        on_change: Callable[[set[str]], Any] | None = None,
        start: Any = None,
    ) -> None: ...
    def step(self, ms: int) -> Any: ...
    def tick(self, _: Any = None, ms: int = 5) -> Any: ...
    async def run(self, step_ms: int = 5, period_ms: int = 100) -> None: ...
    def status(self) -> dict[str, Any]: ...
