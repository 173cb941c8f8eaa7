"""The console of a board that opens only for a signed answer (docs/format.md, section 7)."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import serial

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.model.reasons import ADVICE

LOCKED, OPEN = "lifeboat-locked: ", "lifeboat-open: "
_MAGIC = b"LBUNLOCK"
_SIZE = 45
_UID_MAX = 32
_LINE_MAX = 8192  # of the console; longer ones are no status lines
_KNOCK_S = 0.1  # how often to ask for the status line: a board that starts waits 0.25 s
_SOON_S = 1  # within which a board answers whose application has ended
_READ_S = 0.05
_WRITE_S = 30
_VERIFY_S = 120  # for the board to look at a signature


@dataclass(frozen=True)
class Challenge:
    """What an answer signs. uid: of the board; number: of the answer."""

    raw: bytes
    uid: bytes
    number: int

    @classmethod
    def parse(cls, raw: bytes) -> Challenge:
        """Only what is a challenge is signed: a key that unlocks is not to sign anything else.

        Raises LifeboatError lock-challenge.
        """
        size = raw[8] if len(raw) == _SIZE else 0
        uid, rest = raw[9 : 9 + size], raw[9 + size : 9 + _UID_MAX]
        if raw[:8] != _MAGIC or not 1 <= size <= _UID_MAX or any(rest):
            raise LifeboatError(
                "lock-challenge",
                "this is no challenge of a locked board",
                'copy all 90 hex digits after "challenge" of the board\'s status line',
            )
        return cls(raw, uid, int.from_bytes(raw[41:], "little"))

    @property
    def board(self) -> str:
        """The board's id, for people."""
        text = self.uid.decode("ascii", "replace")
        return f"{self.uid.hex()} ({text})" if text.isprintable() else self.uid.hex()


def answer(key_id: bytes, signature: bytes) -> str:
    """The line that is the answer."""
    return f"unlock {key_id.hex()} {base64.b64encode(signature).decode()}"


@dataclass(frozen=True)
class Status:
    """What a locked board says. keys: ids of those that may answer; refused: why not."""

    verdict: str | None
    challenge: Challenge | None
    keys: tuple[str, ...]
    refused: str | None
    why: str | None


def parse_status(line: str) -> Status | None:
    """The status in a line of the console, or None when it is another line, or an odd one."""
    if not line.startswith(LOCKED):
        return None
    try:
        told = json.loads(line[len(LOCKED) :])
        challenge = told.get("challenge")
        return Status(
            _text(told.get("verdict")),
            Challenge.parse(bytes.fromhex(challenge)) if challenge else None,
            tuple(str(key) for key in told.get("key") or ()),
            _text(told.get("refused")),
            _text(told.get("why")),
        )
    except (ValueError, TypeError, AttributeError, RecursionError, LifeboatError):
        return None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)[:64]


class LockedConsole(AbstractContextManager["LockedConsole"]):
    """A serial line to a locked board. Raises LifeboatError: link-open, link-closed."""

    def __init__(self, port: str) -> None:
        self.port = port
        try:
            self._serial = serial.serial_for_url(
                port, baudrate=115200, timeout=_READ_S, write_timeout=_WRITE_S
            )
        except (OSError, ValueError) as error:  # SerialException is an OSError
            raise LifeboatError(
                "link-open",
                f"{port}: the port cannot be opened: {error}",
                "is another program using it? end it there, or check --port",
            ) from None
        self._pending = b""

    def __exit__(self, *_: object) -> None:
        self._serial.close()

    def ask(self, timeout: float, waiting: Callable[[], None]) -> Status:
        """The board's challenge. It answers once its application ends, or while it starts:
        waiting() is called when it does not at once.

        Raises LifeboatError lock-silent.
        """
        began = time.monotonic()
        end = began + timeout
        knocked, told = 0.0, False
        while time.monotonic() < end:
            if time.monotonic() - knocked > _KNOCK_S:
                if not told and time.monotonic() - began > _SOON_S:
                    waiting()
                    told = True
                self._write(b"\r")
                knocked = time.monotonic()
            status = self._status()
            if status and not status.refused:
                return status
        raise LifeboatError(
            "lock-silent",
            f"{self.port}: no challenge came within {timeout:.0f} s",
            "is the console locked (lifeboat status)? if its application runs, reset the board "
            "while this command waits",
        )

    def give(self, line: str) -> None:
        """Give the answer. Raises LifeboatError lock-refused, lock-silent."""
        self._write(b"\r" + line.encode("ascii") + b"\r")
        end = time.monotonic() + _VERIFY_S
        while time.monotonic() < end:
            said = self._line()
            if said and said.startswith(OPEN):
                return
            status = parse_status(said) if said else None
            if status and status.refused:
                raise LifeboatError(
                    "lock-refused",
                    f"{self.port}: the board refused the answer: {status.refused}",
                    ADVICE.get(status.refused, "reset the board and try again"),
                )
        raise LifeboatError(
            "lock-silent",
            f"{self.port}: the board did not say whether it is open",
            "run the command again: it makes a new answer",
        )

    def _status(self) -> Status | None:
        line = self._line()
        return parse_status(line) if line else None

    # The next whole line that came, or None.
    def _line(self) -> str | None:
        if b"\n" not in self._pending:
            try:
                self._pending += self._serial.read(max(1, self._serial.in_waiting))
            except OSError:
                raise self._gone() from None
        line, found, rest = self._pending.partition(b"\n")
        if not found:
            self._pending = self._pending[-_LINE_MAX:]
            return None
        self._pending = rest
        return line.decode("utf-8", "replace").strip()

    def _write(self, data: bytes) -> None:
        try:
            self._serial.write(data)
        except OSError:
            raise self._gone() from None

    def _gone(self) -> LifeboatError:
        return LifeboatError(
            "link-closed", f"{self.port}: the connection has gone", "check cable and power"
        )
