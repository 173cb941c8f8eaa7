"""Inspection during operation: code flash and backup copies, a bounded step at a time.

    scrubber = Scrubber(board, policy=REPAIR, on_change=reload)
    asyncio.create_task(scrubber.run(step_ms=5, period_ms=100))

or call scrubber.step(5) now and then, or give scrubber.tick to a timer.

Each pass looks at every block of the code flash, at the manifest and the memory, and at every
block of every backup copy on every member. A pass goes on after a warm reset where it was; after a
cold one it begins at a random block, so that short uptimes cover everything, too.
"""

import os
from time import ticks_diff, ticks_ms, ticks_us

from micropython import const

from . import running, scrub_state
from .errors import LifeboatError
from .operation import free
from .patrol import Patrol
from .patrol_copies import REPAIR, REPORT, RESTART  # noqa: F401 - for who imports this
from .report import RESCUE

_LEAST = const(4096)  # bytes of a piece
_MOST = {True: const(65536), False: const(16384)}  # of flash, of a disk


class Scrubber:
    """Looks for damage while the application runs, and mends it.

    board: as for boot.power_on(), whose verdict must allow to run; policy: REPAIR, RESTART
    (repair, then reset the board) or REPORT (only tell). on_change(names) is called after a repair
    with the names of the segments in the repaired block; changed collects them until the
    application clears it. start: the unit to begin at when RAM has forgotten, None: any. Raises
    LifeboatError when the code in flash is not what was found at power-on, OSError as the flash
    driver does. Nothing else here raises, but the first step after a power_on() without a reset,
    which begins anew: what goes wrong is in the report.
    """

    def __init__(self, board, policy=REPAIR, on_change=None, start=None):
        self.policy = policy
        self.changed = set()
        self.deferred = self.steps = 0
        self._on_change = on_change
        self._board = board
        self._start = start
        self._buf = memoryview(bytearray(_MOST[False]))
        self._busy = False
        self._budget = 0  # us
        self._bytes = self._spent = 0  # looked at so far; us
        self._clock = 0  # ms, of which ticks would lose count in days
        self._born = self._ticks = ticks_ms()
        self._begin()

    def _begin(self):
        report = running.report
        if report is None or report.verdict == RESCUE:
            raise LifeboatError("flash-changed", "no verified code runs")
        self._sizes = {True: _LEAST, False: _LEAST}  # of a piece: of flash, of a disk
        self._costs = {True: 0, False: 0}  # of the last piece, in us
        self._full = None  # when by _clock the last full pass ended
        self._suspects = []
        self._position = self.passes = 0
        self._patrol = Patrol(self, self._board, report, self._buf)
        self._left = self._patrol.units
        self._restore()
        self._work = self._passes()
        self._report = report

    # --- for the application ---------------------------------------------------------------

    def step(self, ms):
        """Go on for about ms milliseconds; returns False when another step is under way, a
        power-on, a person's session, or a call of the application to a disk.

        It ends before a piece that would not fit any more. Repairing a block of flash is one
        piece, as long as the chip needs for an erase and the programming.
        """
        if self._busy or not free():
            return False
        self._busy = True
        self._budget = 1000 * ms
        self._clock += max(0, ticks_diff(ticks_ms(), self._ticks))
        self._ticks = ticks_ms()
        start = ticks_us()
        try:
            # power_on() ran since the last step: the disks were restarted, and a slot may hold
            # another copy. Begin again.
            if running.report is not self._report:
                self._begin()
            while running.report is self._report:
                kind = self._next()
                spent = ticks_diff(ticks_us(), start)
                if spent + self._costs.get(kind, 0) >= self._budget:
                    break
        finally:
            self._busy = False
            self._spent += ticks_diff(ticks_us(), start)
            self.steps += 1
        self._patrol.reject_late(self._born + self._clock)
        return True

    def tick(self, _=None, ms=5):
        """step() for a timer's callback; it waits for another time while the disks are in use."""
        if not self.step(ms):
            self.deferred += 1

    async def run(self, step_ms=5, period_ms=100):
        """Take a step every period_ms, for ever: a task for asyncio."""
        import asyncio

        while True:
            began = ticks_ms()
            self.step(step_ms)
            rest = period_ms - ticks_diff(ticks_ms(), began)
            await asyncio.sleep(max(rest, 0) / 1000)

    def status(self):
        """Return how far it is, as a dict.

        position, units: of the pass; age_s: since the last full pass ended, None when there was
        none; bound_s: within how many seconds damage is found at the present pace, one full
        pass; stale: members without the backup of the code that runs.
        """
        age = self._age()
        return {
            "policy": self.policy,
            "position": self._position,
            "units": self._patrol.units,
            "passes": self.passes,
            "age_s": None if age is None else age / 1000,
            "bound_s": self._bound(),
            "steps": self.steps,
            "step_ms": self._spent / 1000 / self.steps if self.steps else 0,
            "deferred": self.deferred,
            "suspects": len(self._suspects),
            "stale": self._patrol.stale(),
        }

    # --- for the patrol --------------------------------------------------------------------

    def pieces(self, flash, size, act):
        """Generator: call act(offset, n) for pieces of so many bytes that fit a step."""
        offset = 0
        while offset < size:
            piece = min(self._sizes[flash], size - offset)
            start = ticks_us()
            act(offset, piece)
            self._account(flash, start, piece)
            offset += piece
            yield flash

    # Note the time that the piece has taken, choose the size of the next one of its kind.
    def _account(self, flash, start, size):
        cost = self._costs[flash] = ticks_diff(ticks_us(), start)
        self._bytes += size
        if size == self._sizes[flash]:
            if cost > self._budget // 4 and size > _LEAST:
                self._sizes[flash] = size // 2
                self._costs[flash] = cost // 2
            elif cost < self._budget // 16 and size < _MOST[flash]:
                self._sizes[flash] = size * 2
                self._costs[flash] = cost * 2

    def suspect(self, unit):
        """Look at a unit first in the next pass."""
        if unit not in self._suspects and len(self._suspects) < scrub_state.SUSPECTS:
            self._suspects.append(unit)

    def altered(self, names):
        """Segments were changed by a repair: tell the application."""
        self.changed.update(names)
        if names and self.policy == REPAIR and self._on_change:
            self._on_change(names)

    @property
    def uptime_s(self):
        """Seconds since power-on, of which ticks would lose count."""
        return (self._born + self._clock) // 1000

    # --- the passes ------------------------------------------------------------------------

    # Take one piece of work. Returns what kind it was: True for flash, False for disk.
    def _next(self):
        try:
            return next(self._work)
        except Exception:  # noqa: BLE001 - Ctrl-C has ended it, or the heap was full
            self._work = self._passes()

    def _passes(self):
        patrol = self._patrol
        yield from patrol.begin()
        while True:
            again, self._suspects = self._suspects, []
            for unit in again:
                yield from patrol.look(unit)
            while self._left:
                yield from patrol.look(self._position)
                self._position = (self._position + 1) % patrol.units
                self._left -= 1
                self._save()
            self.passes += 1
            self._full = self._clock
            self._left = patrol.units
            self._save()
            yield from patrol.end()

    # --- what survives a warm reset --------------------------------------------------------

    def _age(self):
        return None if self._full is None else self._clock - self._full

    # At the pace since power-on; before there is one, what was the pace before the warm reset.
    def _bound(self):
        if self._bytes and self.steps > 1:
            return self._patrol.total_bytes * self._clock / self._bytes / 1000
        return self._last_bound

    def _save(self):
        area = self._board.retained()
        if area:
            scrub_state.save(
                area, self._patrol.manifest.build[:8], self._patrol.units, self._left,
                self._position, self._age(), self.passes, self._bound(), self._suspects
            )  # fmt: skip

    # Go on where it was; from a random unit when RAM has forgotten, or holds what can't be.
    def _restore(self):
        area = self._board.retained()
        state = area and scrub_state.load(area)
        self._last_bound = None
        if state and state[:2] == (self._patrol.manifest.build[:8], self._patrol.units):
            _, _, self._left, self._position, age, self.passes, self._last_bound, suspects = state
            self._full = None if age is None else -age
            self._suspects = suspects
        else:
            start = _random() if self._start is None else self._start
            self._position = start % self._patrol.units


# Any number: from the hardware's source where the port has one, else from the clock.
def _random():
    if hasattr(os, "urandom"):
        return int.from_bytes(os.urandom(4), "little")
    return ticks_us()
