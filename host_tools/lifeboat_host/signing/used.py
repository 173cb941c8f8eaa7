"""Which one-time keys of a private key were used: written down before each signature, twice.

A one-time key that signs twice is given away: whoever has both signatures can sign what he likes.
So the numbers of used ones stand in two files, to which lines are only added:

- the *journal*, beside the private key file: `<key file>.used`. It goes where the key goes, and it
  comes back with it from a backup.
- the *record*, on this machine: `$XDG_STATE_HOME/lifeboat/keys/<key id>-<first one-time key>`.
  It stays where it is, so that a key file or a journal that came back from a backup is noticed.

A line has fields between blanks. The last one is the CRC-32 of what stands before it:

    use INDEX TIME SHA-256-OF-WHAT-WAS-SIGNED CRC-32
    range FIRST END TIME KEY-ID MACHINE CRC-32

`range`: from now on only the one-time keys FIRST to END-1 may be used with this key file, on this
machine. Each line only takes away: the next one-time key is never lower than a line says, and the
last one never higher. So the files can be read together, in any order, and whichever of them
takes more away counts.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from lifeboat_host.base import files as base_files
from lifeboat_host.base.crc import crc32
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.signing import files
from lifeboat_host.signing.keyfile import PrivateKey

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_MACHINE_ID = Path("/etc/machine-id")
_UNKNOWN = "-"  # instead of a machine, where it has no id
_LIMIT = 16 << 20  # bytes of a log: 32768 lines take a quarter of it
_LOCK_S = 30
_LOW_SHARE, _LOW_COUNT = 10, 16  # few are left: at most a tenth, or so many


def state_folder() -> Path:
    """Where the records are. Raises LifeboatError key-write when there is no such place."""
    given = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(given):  # as the XDG specification wants it
        try:
            given = str(Path.home() / ".local" / "state")
        except RuntimeError:
            raise LifeboatError(
                "key-write", "this user has no home folder", "set XDG_STATE_HOME"
            ) from None
    return Path(given, "lifeboat", "keys")


@dataclass
class _Log:
    """What one of the files says.

    next: the lowest that may be used. damaged: lines at the end that can't be read. machine: of
    the last range.
    """

    next: int
    end: int
    damaged: int = 0
    machine: str | None = None


@dataclass(frozen=True)
class Standing:
    """What both files say together.

    next, end: the one-time keys that are left are next to end-1. foreign: why this machine may not
    use them, None when it may. warnings: what a person should know, but need not stop for.
    """

    next: int
    end: int
    foreign: LifeboatError | None = None
    warnings: list[LifeboatError] = field(default_factory=list)

    @property
    def left(self) -> int:
        return max(0, self.end - self.next)


class Ledger:
    """The journal and the record of a private key."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = key
        self._id = key.public.id.hex()
        self.journal = key.path.with_name(key.path.name + ".used")
        self.record = state_folder() / f"{self._id}-{key.first}"

    def look(self) -> Standing:
        """What is left; nothing is written. Raises LifeboatError: key-read, key-journal."""
        found = (
            self._parse(path, files.read(path, _LIMIT)[0]) if path.exists() else None
            for path in (self.journal, self.record)
        )
        return self._counted(self._standing(*found))

    def begin(self) -> None:
        """Make the record of a new key. Raises LifeboatError: key-write, key-busy."""
        files.make_folders(self.record.parent)
        with self._locked(self.record) as (record,):
            line = _sealed(self._range(self._key.first, self._key.end))
            files.append(record, self.record, line)

    def reserve(self, message: bytes) -> tuple[int, Standing]:
        """Use up a one-time key: (its number, what is left then).

        When this returns, its number is on both media. Whatever happens next, it is never given
        out again. Raises LifeboatError: key-elsewhere, key-exhausted, key-busy, key-journal,
        key-write.
        """
        digest = hashlib.sha256(message).hexdigest()
        with self._open() as (journal, record):
            standing = self._usable(journal, record)
            index = standing.next
            self._add(journal, record, f"use {index} {_now()} {digest}")
        return index, self._counted(Standing(index + 1, standing.end, None, standing.warnings))

    def cut(self, count: int) -> range:
        """Give away the last `count` of the one-time keys that are left; which ones these are.

        Raises LifeboatError: key-count, and what reserve() raises.
        """
        with self._open() as (journal, record):
            standing = self._usable(journal, record)
            if not 0 < count < standing.left:
                raise LifeboatError(
                    "key-count",
                    f"{self._key.path}: {standing.left} one-time keys are left, of which "
                    f"1 to {standing.left - 1} can be given away, not {count}",
                )
            end = standing.end - count
            self._add(journal, record, self._range(self._key.first, end))
        return range(end, standing.end)

    def move(self, skip: int, count: int | None) -> range:
        """Begin a record on this machine, `skip` one-time keys after those known to be used.

        count: how many this machine may use; None: all that are left. Which ones these are.
        Raises LifeboatError: key-count, key-busy, key-journal, key-write.
        """
        files.make_folders(self.record.parent)
        with self._locked(self.journal, self.record) as (journal, record):
            chosen = self.after(self._both(journal, record), skip, count)
            self._add(journal, record, self._range(chosen.start, chosen.stop))
        return chosen

    def after(self, standing: Standing, skip: int, count: int | None) -> range:
        """The one-time keys that move() would choose. Raises LifeboatError key-count."""
        first = standing.next + skip
        end = standing.end if count is None else min(standing.end, first + count)
        if skip < 0 or first >= end:
            raise LifeboatError(
                "key-count",
                f"{self._key.path}: nothing is left to use: {standing.left} one-time keys are "
                f"not known to be used, and {skip} of them are to be left out",
                "make a new key: lifeboat key new",
            )
        return range(first, end)

    # --- both files -------------------------------------------------------------------------

    @contextmanager
    def _locked(self, *paths: Path) -> Iterator[list[int]]:
        """Handles of the files, made when they are not there; nobody else has them meanwhile.

        Everybody takes the journal first, so that two never wait for each other.
        """
        with ExitStack() as stack:
            handles = []
            for path in paths:
                handle = files.open_log(path)
                stack.callback(os.close, handle)  # which ends the lock
                _lock(handle, path)
                handles.append(handle)
            yield handles

    @contextmanager
    def _open(self) -> Iterator[list[int]]:
        foreign = self.look().foreign
        if foreign:  # without a journal made where there was none
            raise foreign
        with self._locked(self.journal, self.record) as handles:
            yield handles

    def _both(self, journal: int, record: int) -> Standing:
        found = (
            self._parse(path, _content(handle))
            for handle, path in ((journal, self.journal), (record, self.record))
        )
        return self._standing(*found)

    def _usable(self, journal: int, record: int) -> Standing:
        standing = self._both(journal, record)
        if standing.foreign:
            raise standing.foreign
        if not standing.left:
            raise LifeboatError(
                "key-exhausted",
                f"{self._key.path}: all its one-time keys are used",
                "sign with another key of the set, and bring a new set (docs/keys.md)",
            )
        return standing

    def _add(self, journal: int, record: int, text: str) -> None:
        """Write a line into both files.

        The journal first. Power lost, or killed,
        - before the journal's line is on the medium: it is not there, or it is torn, and then it
          counts as one that was used. Nothing was signed;
        - between the two: the journal is one line ahead of the record. It counts, and again
          nothing was signed: a one-time key is lost;
        - after both: the number counts whether the signature was made or not.
        In the other order the record would be ahead after a crash. That is what a journal looks
        like which came back from a backup, and a person would be told so for nothing.
        """
        for handle, path in ((journal, self.journal), (record, self.record)):
            files.append(handle, path, _sealed(text))

    def _range(self, first: int, end: int) -> str:
        return f"range {first} {end} {_now()} {self._id} {self._machine()}"

    def _machine(self) -> str:
        """A mark of this machine, which tells nobody its id."""
        try:
            machine = _MACHINE_ID.read_bytes().strip()
        except OSError:
            machine = b""
        if not machine:
            return _UNKNOWN
        return hashlib.sha256(b"lifeboat " + self._key.public.id + machine).hexdigest()[:16]

    # --- what they say ----------------------------------------------------------------------

    def _parse(self, path: Path, content: bytes) -> _Log:
        """What a file says. Raises LifeboatError key-journal."""
        log = _Log(self._key.first, self._key.end)
        lines = content.split(b"\n")
        for line in lines if lines[-1] else lines[:-1]:
            text, _, crc = line.rpartition(b" ")
            if crc != b"%08x" % crc32(text):
                # Torn by a crash, or rotten: nobody knows which one it was, but it was one.
                log.damaged += 1
                log.next += 1
                continue
            self._apply(log, path, text.decode("ascii", "replace").split(" "))
        return log

    def _apply(self, log: _Log, path: Path, fields: list[str]) -> None:
        try:
            log.damaged = 0  # a later line says what they said, or more
            if fields[0] == "use" and len(fields) == 4:
                log.next = max(log.next, int(fields[1]) + 1)
                return
            if fields[0] == "range" and len(fields) == 6:
                log.next, log.end = max(log.next, int(fields[1])), min(log.end, int(fields[2]))
                log.machine = fields[5]
                if fields[4] == self._id:
                    return
        except ValueError:
            pass
        raise LifeboatError(
            "key-journal",
            f"{path}: it is of another key, or of a newer lifeboat",
            f"it belongs to the key file whose one-time keys it lists; this one is {self._id}",
        )

    def _standing(self, journal: _Log | None, record: _Log | None) -> Standing:
        journal = journal or _Log(self._key.first, self._key.end)
        foreign = self._foreign(journal, record)
        record = record or _Log(self._key.first, self._key.end)
        both = Standing(max(journal.next, record.next), min(journal.end, record.end))
        warnings = self._damage(journal, self.journal) + self._damage(record, self.record)
        if foreign is None:
            warnings += self._rewound(journal, record)
        return Standing(both.next, both.end, foreign, warnings)

    def _foreign(self, journal: _Log, record: _Log | None) -> LifeboatError | None:
        if record is None or record.machine is None:
            return self._elsewhere("this machine has no record of what it signed")
        for log, what in (
            (record, "the record of what it signed was copied from another machine"),
            (journal, "it was moved to another machine"),
        ):
            if (
                log.machine not in (None, _UNKNOWN, self._machine())
                and self._machine() != _UNKNOWN
            ):
                return self._elsewhere(what)
        return None

    def _elsewhere(self, why: str) -> LifeboatError:
        return LifeboatError(
            "key-elsewhere",
            f"{self._key.path}: {why}, so nobody here knows which one-time keys are used",
            "on the machine that has the record: `lifeboat key split` gives this machine one-time "
            "keys of its own; here, for a key file that `split` made, or when that machine is "
            "lost: `lifeboat key move`",
        )

    def _damage(self, log: _Log, path: Path) -> list[LifeboatError]:
        if not log.damaged:
            return []
        return [
            LifeboatError(
                "key-torn",
                f"{path}: {log.damaged} lines at its end are damaged; each counts as a used "
                "one-time key",
                "nothing, if signing was cut short here; else see what is wrong with that disk",
            )
        ]

    def _rewound(self, journal: _Log, record: _Log) -> list[LifeboatError]:
        if journal.next < record.next or journal.end > record.end:
            behind = self.journal
            why = "the key file or its journal came back from a backup, or is a copy"
        elif record.next < journal.next - 1:
            behind, why = self.record, "it came back from a backup, or signing was cut short twice"
        else:
            return []
        return [
            LifeboatError(
                "key-rewound",
                f"{behind} tells of fewer used one-time keys than the other one of its two files: "
                f"{why}; what the other one says counts",
                "nothing, if only this file came back; if both did, leave out what may be used: "
                "lifeboat key move --skip",
            )
        ]

    def _counted(self, standing: Standing) -> Standing:
        """The same, with a warning when few are left."""
        total = self._key.end - self._key.first
        if standing.foreign or standing.left > max(_LOW_COUNT, total // _LOW_SHARE):
            return standing
        low = LifeboatError(
            "key-low",
            f"{self._key.path}: {standing.left} of {total} one-time keys are left",
            "make the next key, and bring it in a new key set while this one can still sign "
            "(docs/keys.md)",
        )
        return replace(standing, warnings=[*standing.warnings, low])


def _sealed(text: str) -> str:
    return f"{text} {crc32(text.encode('ascii')):08x}"


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _content(handle: int) -> bytes:
    found = b""
    while part := base_files.read_at(handle, _LIMIT, len(found)):
        found += part
    return found


def _lock(handle: int, path: Path) -> None:
    """Wait for the other signer. Raises LifeboatError key-busy."""
    if fcntl is None:
        raise LifeboatError(
            "key-system",
            f"{path}: this system has no locks that keep two signers apart",
            "sign on Linux or macOS, or with a signer of your own: docs/keys.md",
        )
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise LifeboatError(
                    "key-busy",
                    f"{path}: somebody else has had it locked for {_LOCK_S} seconds",
                    "see who signs with this key now, and try again",
                ) from None
            time.sleep(0.02)
        except OSError as error:
            raise files.unwritable(path, error) from None
