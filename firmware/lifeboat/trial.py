"""The trial of a new build: its record in the memory (format.md section 6), confirm and reject.

    >>> import lifeboat
    >>> lifeboat.confirm()          # the new code is good: it stays
    >>> lifeboat.reject("no link")  # it is not: the board resets, and the old code is back

A new build is a candidate on the disks until it is confirmed: only the memory makes it count.
"""

from binascii import hexlify
from struct import pack, unpack_from

from micropython import const

from . import running
from .blockdev import Scratch
from .checking import choose_own
from .codeflash import CodeFlash
from .creating import generation_for
from .errors import LifeboatError
from .members import COMMITTED, FREE, copies, survey
from .report import Report
from .trust import Trust

try:
    from .journal import Log
except ImportError:
    Log = None

# format.md section 6: state starts limit begun counter build old version old_version why
_RECORD = const("<BBBBI32s32s24s24s16s")
_KIND = const(9)
_COUNTER = const(6)
_REJECTED = const(4)

# States. Up to BACK the trial is open.
_NONE = const(0)
TRYING = const(1)
BACK = const(2)
CONFIRMED = const(3)
RETURNED = const(4)
DROPPED = const(5)
_WORDS = ("none", "trying", "back", "confirmed", "returned", "dropped")

_STARTS = const(3)
CANDIDATE = b"LBCANDID"  # the magic of its record

# While a new build is being staged its slot is not for anybody else.
staging = False


def is_open(memory):
    """Return whether no slot may be given up: a build is staged, or tried."""
    return staging or Trial(memory).open


class Trial:
    """The newest trial that the memory knows of.

    state: one of the constants here; starts: how often the new build began to run unconfirmed, of
    limit; begun: how often programming began in this direction; build, version: what is tried,
    counter: its security counter; old, old_version: what comes back; why: the reason code with
    which it was turned round or ended. Changes are written at once, and raise what Memory.add()
    does.
    """

    def __init__(self, memory):
        self._memory = memory
        raw = b""
        records = memory.live
        for i in sorted(records):
            if records[i][0] == _KIND:
                raw = records[i][8:]
        raw += bytes(240)  # the memory keeps records without the zeros at their ends
        (
            self.state, self.starts, self.limit, self.begun, self.counter, self.build, self.old,
            version, old_version, why,
        ) = unpack_from(_RECORD, raw)  # fmt: skip
        if self.state > DROPPED:
            self.state = _NONE
        self.version, self.old_version, self.why = map(_plain, (version, old_version, why))

    @property
    def open(self):
        """Whether it is under way: the record, not the manifest, says what flash is to hold."""
        return _NONE < self.state <= BACK

    def begin(self, board, new, old, starts=None):
        """Write that a manifest's build is tried from the next power-on on, in place of old's.

        starts: how often it may begin to run, None: what the board says.
        """
        limit = starts or getattr(board, "TRIAL_STARTS", _STARTS)
        self.build, self.version, self.counter = new.build, new.version, new.security_counter
        self.old, self.old_version = old.build, old.version
        self.note(state=TRYING, starts=0, limit=limit, begun=0, why="")

    def note(self, **changes):
        """Write a changed record. One record is one step: a power cut leaves it or the last."""
        now = {
            "state": self.state, "starts": self.starts, "limit": self.limit,
            "begun": self.begun, "why": self.why,
        }  # fmt: skip
        now.update(changes)
        raw = pack(
            _RECORD, now["state"], now["starts"], now["limit"], now["begun"], self.counter,
            self.build, self.old, self.version.encode(), self.old_version.encode(),
            now["why"].encode(),
        )  # fmt: skip
        self._memory.add([(_KIND, (raw,))])
        for name in now:
            setattr(self, name, now[name])

    def turn(self, why):
        """Write that the old build comes back, and why."""
        self.note(state=BACK, begun=0, why=why)

    def end(self, state, why):
        """Write that it has ended. Before it, what came back is rejected: not tried again unasked.

        A power cut between leaves a rejected build that is on its way back.
        """
        if state == RETURNED and self.starts:
            self._memory.add([(_REJECTED, (self.build,))])
        self.note(state=state, why=why)

    def describe(self):
        """Return it for the report."""
        return {
            "state": _WORDS[self.state],
            "build": hexlify(self.build).decode()[:12],
            "version": self.version,
            "old": hexlify(self.old).decode()[:12],
            "old_version": self.old_version,
            "starts": self.starts,
            "limit": self.limit,
            "why": self.why,
        }


# What stands in the memory was a text when it was written; who writes the flash may write more.
def _plain(raw):
    return "".join([chr(c) if 32 <= c < 127 else "?" for c in raw.rstrip(b"\0")])


def candidates(members):
    """Yield (Copy, its record) of every slot of the own set in which a candidate stands."""
    for copy in copies(members):
        member = copy.member
        if member.own and copy.kind == FREE and copy.magic == CANDIDATE:
            try:
                found = member.attempt(
                    member.region.commit, copy.slot, member.unit.get(), CANDIDATE
                )
            except LifeboatError:
                continue
            if found:
                yield copy, found


def take(members, build):
    """Let candidates of a build count as copies until the next survey; return those."""
    taken = []
    for copy, record in candidates(members):
        if record.build == build:
            copy.kind, copy.commit = COMMITTED, record
            taken.append(copy)
    return taken


def offers(members, trust, but):
    """Yield (trusted Manifest, Copy) of the candidates that may be tried here; they stay what
    they are. but: build ids that are not looked at."""
    for copy, record in candidates(members):
        if record.build not in but:
            copy.kind, copy.commit = COMMITTED, record
            manifest = copy.load(trust)
            copy.kind, copy.commit = FREE, None
            if manifest and trust.leaves_memory(manifest):
                yield manifest, copy


def whole(copy, manifest, scratch):
    """Return whether a Copy has just this manifest and, by both sums, every block of it."""
    return copy.holds(manifest) and all(
        copy.read(block, scratch, manifest.right) for block in range(manifest.block_count)
    )


def _opened(board):
    if board is None:
        import board
    flash = CodeFlash(board.flash(), board.BLOCK_SIZE)
    trust = Trust(board, flash).recall()
    trial = Trial(trust.memory)
    manifest = flash.manifest(trust)[0]
    if manifest.build != trial.build:
        raise LifeboatError("trial-none")
    return board, flash, trust, trial, manifest


def confirm(board=None):
    """Let the build that is tried stay; return its version. For the application.

    board: the one of the boot stage when left out. Its candidate becomes the backup on each member
    that holds it whole: every block is read, so this takes as long as a backup does. Again is no
    error. Raises LifeboatError: trial-none, nothing is tried; backup-none, no member holds it
    whole, and the trial goes on; memory-failed.

    Order: one record of the memory ends the trial; the members' records follow, and what a power
    cut leaves of them to be done is done by the next power-on.
    """
    board, flash, trust, trial, manifest = _opened(board)
    memory = trust.memory
    if trial.state == CONFIRMED:
        return manifest.version
    if trial.state != TRYING:
        raise LifeboatError("trial-none")
    scratch, found = Scratch(flash.block_size), Report()
    running.disk_calls += 1  # nobody else's disks until this has ended
    try:
        members = survey(list(board.disks()), board.REGION_LBAS, found)
        choose_own(members, trust, found)
        generation = generation_for(members, manifest, trust)
        good = [
            copy
            for copy in take(members, trial.build)
            if copy.member.writable and whole(copy, manifest, scratch)
        ]
        if not good:
            raise LifeboatError("backup-none")
        trial.end(CONFIRMED, "")
        found.attempt("internal", "watchdog", lambda: board.watchdog(0))
        for copy in good:
            member = copy.member
            try:
                member.attempt(
                    member.region.write_commit, copy.slot, manifest, generation, member.unit.get()
                )
            except LifeboatError as error:
                member.tell(error.code)
        memory.remember_build(manifest.build, trial.counter, manifest.version.encode())
        if trust.owner and trial.counter > memory.counter:
            memory.add([(_COUNTER, (trial.counter,))])
        _tell(trial, members)
    finally:
        running.disk_calls -= 1
    return manifest.version


def turn_back(board, reason):
    """Let the next power-on bring the old build back; as reject(), without the reset."""
    _, _, _, trial, _ = _opened(board)
    if trial.state != TRYING:
        raise LifeboatError("trial-none")
    trial.turn("".join([c for c in reason if " " <= c < "\x7f"])[:16] or "rejected")
    print("lifeboat-trial: rejected", trial.version)


def reject(reason="", board=None):
    """Say that the build that is tried is no good, and reset: the old one comes back.

    reason: text, up to 16 bytes of it are kept. Raises LifeboatError(trial-none, memory-failed).
    """
    import machine

    turn_back(board, reason)
    machine.reset()


# Tell console, report and journals that it is confirmed. A scrubber begins again, with the memory
# as it is now: that is what a new report means to it.
def _tell(trial, members):
    print("lifeboat-trial: confirmed", trial.version)
    report = running.report
    if not report:
        return
    data = report.data
    data["trial"] = trial.describe()
    data["reasons"] = [reason for reason in data["reasons"] if reason[0] != "trial-open"]
    running.report = report = Report(data)
    if Log:
        told = "trial", "confirmed", trial.version, trial.starts, 0
        for _ in Log(members, report).tell([told]):
            pass
