"""Power cuts at every device operation of a scenario, and again in the power-on that follows.

A scenario runs once. At each of its operations the state is taken that a power cut before it
leaves, and one for each way in which it can be torn, all for each fate of what the disks had not
flushed: the cut points. Equal states are judged once. To judge is to power on and to ask the
oracle; that power-on is traced alike, which gives the second cuts.
"""

from __future__ import annotations

import contextlib
import io
from typing import NamedTuple
from unittest import mock

import machine as mcu

import lifeboat
from fakes.rng import Rng
from lifeboat import running, trial
from sim import oracle
from sim.machine import Machine, Trace, flashes
from sim.power import Power, PowerCut


class Reset(BaseException):
    """The board resets itself."""


class Tally(NamedTuple):
    """How many cut points were planned, were reached, and passed; the states that were judged."""

    planned: int = 0
    reached: int = 0
    passed: int = 0
    states: int = 0

    def __add__(self, other):
        return Tally(*map(sum, zip(self, other)))


class Failed(AssertionError):
    """A cut that was not survived; point: its name, board: with the state that it left."""

    def __init__(self, point, board, why):
        super().__init__(f"power cut {point}: {why}")
        self.point = point
        self.board = board


def name_of(point):
    return ".".join(map(str, point))


class Sweep:
    """The cuts of one scenario.

    board: at its start, alone in its use of the devices; act(board): the scenario; rules: an
    oracle.Rules; first, second: at most about so many cut points are looked at, and second ones,
    evenly chosen; 0: none, None: all. point: the name of the only cut to make, "" for all.
    """

    def __init__(self, board, act, rules, first=None, second=0, point=""):
        self._act = act
        self._board = board
        self._rules = rules
        self._first = first
        self._second = second
        self._points = point.split("/") if point else []
        self._held = [oracle.whole_copies(disk) for disk in board.drives]
        self._machine = Machine(board)
        self._start = self._machine.state()
        self._seen = {}
        self.tally = Tally()

    def run(self):
        """Make all cuts; return the Tally. Raises Failed at the first that is not survived."""
        with _quiet():
            points = self._play(lambda number: False, lambda point, state: None).points
            every = 1 if self._first is None or self._points else -(-points // self._first)
            planned = range(every // 2, points, every)
            found = []
            traced = self._play(planned.__contains__, lambda *left: found.append(left))
            assert points == traced.points, "the scenario takes another way each time"
            if self._points:
                planned = self._points[:1]
                found = [left for left in found if name_of(left[0]) == self._points[0]]
                assert found, f"no cut point {self._points[0]}"
            self.tally += Tally(planned=len(planned))
            second = self._second
            if second:  # every so many, as if each next power-on had as many points
                distinct = len({state.key() for _, state in found})
                second = -(-distinct * points // second)
            elif second is None:
                second = 1
            for point, state in found:
                self._look(name_of(point), state, second)
        assert self.tally.planned == self.tally.reached == self.tally.passed, self.tally
        return self.tally

    def live(self, point):
        """Run the scenario with a supply that fails at a point; return the state that is left."""
        operation, shape, keep = point
        seed = f"{operation}/{None if shape == 'before' else shape}"
        with _quiet():
            self._begin(self._start)
            power = _Seeded(operation, False if shape == "before" else shape, seed)
            self._board.supply(power)
            try:
                self._act(self._board)
            except PowerCut:
                pass
            assert power.off, f"no operation {operation}"
            return self._machine.state(keep, seed)

    def points(self):
        """Return all first cut points with their states."""
        found = []
        with _quiet():
            self._play(lambda number: True, lambda *left: found.append(left))
        return found

    # Put the machine into a state; of its RAM nothing is left.
    def _begin(self, state):
        board = self._board
        self._machine.put(state)
        board.kept = bytearray(2048)
        running.attended = trial.staging = False
        running.disk_calls = 0
        for flash in flashes(board):
            flash.rng = Rng(0)

    def _play(self, wanted, found):
        self._begin(self._start)
        trace = Trace(self._machine, found, wanted)
        self._board.supply(trace)
        with contextlib.suppress(Reset):
            self._act(self._board)
        return trace

    # A cut point is reached: judge its state, unless an equal one was.
    def _look(self, name, state, second):
        key = state.key()
        if key not in self._seen or second and not self._seen[key]:
            self._seen[key] = second
            self._judge(name, state, second)
            self.tally += Tally(states=1)
        self.tally += Tally(reached=1, passed=1)

    def _judge(self, name, state, second):
        board, rules = self._board, self._rules
        self._begin(state)
        found = []
        supply = Power()
        if second and len(self._points) != 1:
            offset = 0 if self._points else Rng(name).below(second)
            every = 1 if self._points else second
            supply = Trace(
                self._machine, lambda *left: found.append(left), lambda n: n % every == offset
            )
        board.supply(supply)
        try:
            oracle.before(rules, board, self._held)
            report = lifeboat.power_on(board)
            oracle.after(rules, board, report, self._held)
            for disk in board.drives:
                assert not disk.cache or disk.lies, f"{disk.name}: writes that were not flushed"
            unstable = any(flash.marginal for flash in flashes(board))
            board.kept = bytearray(2048)
            board.supply(Power())
            report = lifeboat.power_on(board)
            oracle.after(rules, board, report, self._held)
            steady = rules.steady and not unstable
            assert not steady or not board.power.log, f"then it writes: {board.power.log[:4]}"
        except Exception as error:
            self._machine.put(state)
            raise Failed(name, board, repr(error)) from error
        if len(self._points) > 1:
            found = [left for left in found if name_of(left[0]) == self._points[1]]
            assert found, f"no second cut point {self._points[1]}"
        self.tally += Tally(planned=len(found))
        for point, left in found:
            self._look(f"{name}/{name_of(point)}", left, 0)


class _Seeded(Power):
    """A supply whose torn operation is drawn as Trace draws it."""

    def __init__(self, cut_at, torn, seed):
        super().__init__(cut_at, torn)
        self._seed = seed

    def operation(self, device, name, where, data=None):
        if self.count + 1 == self.cut_at:
            device.rng = Rng(self._seed)
        super().operation(device, name, where, data)


# What a board prints is of no use here, it does not leave by a reset, and plain kernels are slow.
@contextlib.contextmanager
def _quiet():
    def reset():
        raise Reset

    with (
        mock.patch.object(mcu, "reset", reset, create=True),
        mock.patch("lifeboat.evidence.compare", compare),
        mock.patch("lifeboat.parity.xor", xor),
        contextlib.redirect_stdout(_Nowhere()),
    ):
        yield
    running.attended = trial.staging = False


def xor(buf, other):
    """Do what the kernel of that name does, many bytes at once."""
    both = int.from_bytes(buf, "little") ^ int.from_bytes(other[: len(buf)], "little")
    buf[:] = both.to_bytes(len(buf), "little")


def compare(was, right, counts):
    """Do what the kernel of that name does, many bytes at once."""
    if was == right:
        return
    a, b = int.from_bytes(was, "little"), int.from_bytes(right, "little")
    counts[0] += bin(a & ~b).count("1")
    counts[1] += bin(b & ~a).count("1")
    wrong = [x for x, y in zip(was, right) if x != y]
    counts[2] += len(wrong)
    counts[3] += wrong.count(0xFF)


class _Nowhere(io.TextIOBase):
    def write(self, text):
        return len(text)
