"""The line to a board: mpremote's serial transport, with an end to every wait.

    with Link("/dev/ttyACM0") as link:
        print(link.exec("print(1 + 1)"))

Nothing here resets the board: what it did and knows is what one wants to look at.
"""

from __future__ import annotations

import ast
import os
import struct
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import serial
from mpremote.transport import TransportError
from mpremote.transport_serial import SerialTransport

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.board.locked import LOCKED
from lifeboat_host.model.report import parse_line

_POLL_S = 0.5  # how long one read of the port waits
_WRITE_S = 10  # until the other side must have taken what was written
_CONNECT_S = 30
_ATTEMPT_S = 2  # and twice as long with every attempt, up to
_LONGEST_S = 8
_SETTLE_S = 0.2  # of silence: the board has nothing more to say
_NOISE_S = 2  # for which we listen to a board that does not stop talking
_COME_BACK_S = 20  # for a USB port to be there again after a reset
_END = b"\x04"
_BUSY_HINT = "is another program using it? end mpremote or `lifeboat` there, or check --port"


class _Timeout(Exception):
    """A deadline has passed."""


class _Wire:
    """A serial port that is read to a deadline; what mpremote's transport reads and writes."""

    def __init__(self, port: serial.Serial) -> None:
        port.write_timeout = _WRITE_S
        self._port = port
        self._pending = b""
        self.deadline = 0.0
        self.locked = False  # whether it said that it opens only for a signed answer

    def read(self, size: int = 1) -> bytes:
        """Exactly `size` bytes. Raises _Timeout."""
        while len(self._pending) < size:
            self._fill()
        data, self._pending = self._pending[:size], self._pending[size:]
        return data

    def read_until(self, ending: bytes) -> bytes:
        """What comes up to and including `ending`. Raises _Timeout."""
        searched = 0
        while True:
            at = self._pending.find(ending, searched)
            if at >= 0:
                return self.read(at + len(ending))
            searched = max(0, len(self._pending) - len(ending))
            self._fill()

    def _fill(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise _Timeout
        self._wait(min(left, _POLL_S))
        self._pending += self._port.read(max(1, self._port.in_waiting))

    def _wait(self, timeout: float) -> None:
        if self._port.timeout != timeout:  # to set it costs several system calls
            self._port.timeout = timeout

    def inWaiting(self) -> int:  # noqa: N802 - the name that mpremote calls
        return len(self._pending) + int(self._port.in_waiting)

    def write(self, data: bytes) -> None:
        self._port.write(data)

    def settle(self) -> None:
        """Throw away what comes until nothing does, or until it seems not to stop."""
        end = min(self.deadline, time.monotonic() + _NOISE_S)
        self._pending = said = b""
        self._wait(_SETTLE_S)
        while time.monotonic() < end:
            more = self._port.read(max(1, self._port.in_waiting))
            if not more:
                return
            said = said[-len(LOCKED) :] + more
            self.locked = self.locked or LOCKED.encode("ascii") in said

    def close(self) -> None:
        self._port.close()


# All that mpremote waits for ends at the wire's deadline, whatever its version would do.
class _Transport(SerialTransport):  # type: ignore[misc]
    def read_until(self, _: int, ending: bytes, **__: Any) -> bytes:
        return bytes(self.serial.read_until(ending))


class Link(AbstractContextManager["Link"]):
    """A board's raw REPL. Use as a context manager; entering it interrupts the application.

    port: a serial port or a pty. Timeouts are in seconds and include everything.
    Raises LifeboatError: link-open; link-locked; link-closed (the port has gone); link-timeout;
    link-garbled; link-device (an exception on the board: its traceback); no-agent.
    """

    def __init__(self, port: str, timeout: float = _CONNECT_S) -> None:
        self.port = port
        self._timeout = timeout
        self._transport: SerialTransport | None = None
        self._wire: _Wire
        self._in_step = False  # the board waits for code
        self._busy = False  # code that was begun has not ended, as far as we know

    def __enter__(self) -> Link:  # noqa: PYI034 (Self is not in Python 3.9)
        self._open()
        try:
            self._get_in_step(self._timeout)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the board at its friendly prompt; after a reset, its application alone."""
        if self._transport:
            try:
                if self._in_step:
                    self._transport.exit_raw_repl()
                elif self._busy:
                    self._wire.write(b"\r\x03")
            except OSError:
                pass  # it has gone
        self._close()

    # Run code

    def exec(self, code: str, timeout: float = 10) -> str:
        """What the code prints."""
        end = time.monotonic() + timeout
        self.begin(code, timeout)
        return self.end(end - time.monotonic())

    def eval(self, expression: str, timeout: float = 10) -> Any:
        """The value of an expression that is a Python literal."""
        text = self.exec(f"print(repr({expression}))", timeout)
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            raise self.garbled(text[:80]) from None

    def begin(self, code: str, timeout: float = 10) -> None:
        """Start code that speaks with us: read() and write() are the other end of it."""
        if not self._in_step:
            self._get_in_step(timeout)
        self._in_step, self._busy = False, True
        with self._guarded(timeout) as transport:
            transport.exec_raw_no_follow(code)

    def read(self, size: int, timeout: float) -> bytes:
        """Exactly `size` bytes that the running code writes."""
        with self._guarded(timeout):
            return self._wire.read(size)

    def write(self, data: bytes) -> None:
        """Bytes for the running code; 0x03 among them would interrupt it."""
        with self._guarded(_WRITE_S):
            self._wire.write(data)

    def end(self, timeout: float) -> str:
        """Wait for the end of code that was begun; what it printed and nobody read."""
        with self._guarded(timeout):
            out = self._wire.read_until(_END)[:-1]
        self._ended(timeout)
        return out.decode(errors="replace").replace("\r\n", "\n")

    # The code has ended. Raises what it ended with.
    def _ended(self, timeout: float) -> None:
        with self._guarded(timeout):
            error = self._wire.read_until(_END)[:-1]
        self._in_step, self._busy = True, False
        if error:
            traceback = error.decode(errors="replace").replace("\r\n", "\n").strip()
            raise LifeboatError(
                "link-device",
                f"{self.port}: {traceback}",
                "reset the board and try again; if it comes back, report it with this text",
            )

    def answer(self, timeout: float, wanted: bytes) -> bytes:
        """The next byte that the running code writes: one of `wanted`, and no end of the code."""
        said = self.read(1, timeout)
        if said in wanted:
            return said
        if said == _END:
            self._ended(timeout)
        raise self.garbled(f"{said!r} instead of one of {wanted!r}")

    # Reset

    def reset(self, timeout: float) -> dict[str, Any]:
        """Reset the board; the report of the power-on that follows. Its application runs then."""
        deadline = time.monotonic() + timeout
        self.begin("import machine; machine.reset()")
        self._busy = False
        try:
            return self._report_line(deadline)
        except LifeboatError as error:
            if error.code != "link-closed":
                raise
        # A USB port goes with its board, and the line with the report was said meanwhile.
        self._open_again(min(deadline, time.monotonic() + _COME_BACK_S))
        text = self.exec(
            "import lifeboat; print(lifeboat.report().line())", deadline - time.monotonic()
        )
        found = parse_line(text)
        if found is None:
            raise self.garbled(text[:80])
        return found

    def line(self, timeout: float) -> str:
        """The next line that the running application prints."""
        with self._guarded(timeout):
            return self._wire.read_until(b"\n").decode(errors="replace")

    def _report_line(self, deadline: float) -> dict[str, Any]:
        while True:
            found = parse_line(self.line(deadline - time.monotonic()))
            if found:
                return found

    def _open_again(self, deadline: float) -> None:
        while True:
            time.sleep(_POLL_S)
            try:
                return self._open()
            except LifeboatError:
                if time.monotonic() > deadline:
                    raise self._closed() from None

    # The port

    def _open(self) -> None:
        try:
            transport = _Transport(self.port, timeout=_POLL_S)
        except (TransportError, OSError):
            missing = not Path(self.port).exists() and "://" not in self.port
            what = "there is no such port" if missing else "the port cannot be opened"
            raise LifeboatError("link-open", f"{self.port}: {what}", _BUSY_HINT) from None
        transport.serial = self._wire = _Wire(transport.serial)
        self._transport = transport

    def _close(self) -> None:
        self._in_step = self._busy = False
        if self._transport:
            self._transport = None
            try:
                self._wire.close()
            except OSError:
                pass  # it has gone

    # Whatever the board is doing, saying or has left half said: the raw REPL afterwards. It may
    # be starting, when it does not listen, or busy with a binary exchange that was broken off:
    # it throws away what comes then, until nothing does. So a slow one needs longer pauses.
    def _get_in_step(self, timeout: float) -> None:
        with self._guarded(timeout) as transport:
            end, attempt = self._wire.deadline, _ATTEMPT_S
            while not self._in_step:
                self._wire.deadline = end
                self._wire.write(b"\r\x03\x03")
                self._wire.settle()
                if self._wire.locked:
                    raise LifeboatError(
                        "link-locked",
                        f"{self.port}: the board's console is locked",
                        "open it until the next reset: lifeboat unlock --key KEY",
                    )
                try:
                    self._wire.deadline = min(end, time.monotonic() + attempt)
                    self._in_step = self._answers(transport)
                except (_Timeout, TransportError, struct.error):
                    if time.monotonic() >= end:
                        raise _Timeout from None
                    attempt = min(2 * attempt, _LONGEST_S)

    # Whether what comes is the answer to what was asked, and not to something earlier.
    def _answers(self, transport: SerialTransport) -> bool:
        token = os.urandom(4).hex()
        transport.use_raw_paste = True
        transport.enter_raw_repl(soft_reset=False)
        transport.exec_raw_no_follow(f"print('{token}')")
        said = self._wire.read_until(_END + _END)
        return said == token.encode() + b"\r\n" + _END + _END

    # One place turns all that can go wrong on the line into our errors.
    @contextmanager
    def _guarded(self, timeout: float) -> Iterator[SerialTransport]:
        if not self._transport:
            raise self._closed()
        self._wire.deadline = time.monotonic() + timeout
        try:
            yield self._transport
        except (_Timeout, serial.SerialTimeoutException):
            raise LifeboatError(
                "link-timeout",
                f"{self.port}: no answer from the board within {max(timeout, 0):.0f} s",
                "try again; if it stays so, reset the board and look at its console",
            ) from None
        except OSError:  # SerialException is one, too
            self._close()
            raise self._closed() from None
        except (TransportError, struct.error, ValueError) as error:
            raise self.garbled(str(error)) from None

    def garbled(self, what: str) -> LifeboatError:
        """The error for an answer that nobody expects; the next call gets in step again."""
        self._in_step, self._busy = False, True
        return LifeboatError(
            "link-garbled",
            f"{self.port}: unexpected answer: {what!r}",
            "try again; if it stays so, look at the board's console",
        )

    def _closed(self) -> LifeboatError:
        return LifeboatError(
            "link-closed",
            f"{self.port}: the connection has gone",
            "check cable and power, then run the command again: it goes on where it was",
        )
