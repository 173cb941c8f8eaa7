"""The member disks, and the copies in the slots of their regions."""

from errno import ETIMEDOUT
from time import ticks_diff, ticks_ms

from micropython import const

from . import region as regions
from . import running
from .blockdev import INIT, Checked, Scratch
from .errors import LifeboatError

# What a slot holds. _NEWER: a format that this lifeboat does not know and must not overwrite.
FREE = const(0)
COMMITTED = const(1)
_NEWER = const(2)
_UNREADABLE = const(3)

# How far a member may be used, in ascending order: from _FOREIGN on it is read, from NEW on it is
# of the own set, OURS is also written.
_NO_REGION = const(0)
FAILED = const(1)
_FOREIGN = const(2)
NEW = const(3)
CLAIMED = const(4)
OURS = const(5)
_STATES = ("no-region", "failed", "foreign", "new", "claimed")

# The backup of the code in flash on a member that is OURS.
BEHIND = "stale"
LEVEL = "level"
CREATED = "created"
MENDED = "mended"

# While intact code waits, a disk may be slower than these, a command or a byte, by so much in all.
# A command that was begun takes its driver's patience, up to 5 s more.
_COMMAND_MS = const(100)
_BYTES_MS = const(256)  # bytes a millisecond
_DISK_MS = const(4000)
_ALL_MS = const(12000)

_INIT = (INIT, 0)
_EIO = const(5)
_EOPNOTSUPP = const(95)
_SLOW = const("slow")


def disk_error(error):
    """Return the reason code for an OSError of a disk."""
    code = error.errno
    if code == ETIMEDOUT:
        return "disk-timeout"
    return "disk-refused" if code == _EOPNOTSUPP else "disk-failed"


class Watch:
    """How long disks keep the board waiting for nothing; limited: whether intact code waits."""

    limited = False
    late = 0  # ms, of all disks


class _WatchedDisk(Checked):
    _late = 0

    @property
    def slow(self):
        """Whether it has used up its time, or all have used up theirs."""
        watch = self.watch
        return watch.limited and (self._late > _DISK_MS or watch.late > _ALL_MS)

    def _call(self, method, args):
        if self.watch.limited and self.slow:
            raise OSError(ETIMEDOUT, _SLOW)
        began = ticks_ms()
        try:
            return Checked._call(self, method, args)
        finally:
            late = ticks_diff(ticks_ms(), began)
            # A disk that spins up has its driver's bound for that.
            if late > _COMMAND_MS and args != _INIT:
                late -= _COMMAND_MS
                if args and method != "ioctl":
                    late = max(late - len(args[1]) // _BYTES_MS, 0)
                self._late += late
                self.watch.late += late


class Copy:
    """A slot of a member: what it holds, and its blocks.

    kind: FREE, COMMITTED, _NEWER or _UNREADABLE; commit: its record, when it is COMMITTED, whose
    manifest may still be bad; bad: blocks of it that were seen not to be right. magic: of what was
    no such record.
    """

    magic = b""

    def __init__(self, member, slot, unit):
        self.member = member
        self.slot = slot
        self.commit = None
        self.bad = set()
        self.kind = FREE
        try:
            self.commit = member.region.commit(slot, unit)
            self.kind = COMMITTED
        except LifeboatError as error:
            if error.code == "commit-version":
                self.kind = _NEWER
            if error.code != "commit-magic":
                member.tell(error.code, "slot %d" % slot)
            self.magic = bytes(unit[:8])
        except OSError as error:
            if error.errno != _EIO:
                raise
            self.kind = _UNREADABLE
            member.io_error(error)

    def load(self, trust):
        """Return the trusted Manifest of a committed copy, or None."""
        member, region = self.member, self.member.region
        if self.kind != COMMITTED or not member.readable:
            return None
        at = region.manifest_at(self.slot)

        def read(start, view):
            region.read(at + start, view[start:])

        try:
            manifest = member.attempt(trust.load, read, region.area, member.unit.get())
        except LifeboatError as error:
            if error.code == "manifest-version":
                self.kind = _NEWER
            return None
        except MemoryError:
            manifest = None
        if manifest:
            return manifest if self.commit.describes(manifest) else None
        self.kind = _UNREADABLE
        return None

    def claims(self, manifest):
        """Return whether its record says that it is a copy with this manifest."""
        return self.kind == COMMITTED and self.commit.describes(manifest)

    def holds(self, manifest):
        """Return whether it is a committed copy with just this manifest."""
        member = self.member
        return (
            self.claims(manifest)
            and member.readable
            and member.attempt(
                member.region.holds_manifest, self.slot, manifest, member.unit.get()
            )
        )

    def read(self, block, scratch, good):
        """Read a block; return whether good(block, data) holds. A failing disk is dropped."""
        member, region = self.member, self.member.region
        if not member.readable or block in self.bad:
            return False
        buf = scratch.take()
        if buf is None:
            return False
        at = region.block_at(self.slot, block, len(buf))
        if at + len(buf) > region.slot_at(self.slot + 1):
            return False
        if member.attempt(region.read, at, buf) is False:
            if not member.readable:
                scratch.drop()
            return False
        return good(block, buf)


class Member:
    """A disk as the policy sees it.

    reach: how far it may be used; backup: what is known of its backup of the code in flash;
    region: its Region or None; copies: a Copy for each slot; unit: a Scratch of one unit, the
    same for all, since a small heap has few places for one. A disk that failed once is not asked
    again.
    """

    region = None
    reach = _NO_REGION
    backup = BEHIND

    def __init__(self, disk, findings, unit, lbas, tries):
        self.disk = disk
        self.name = disk.name
        self.unit = unit
        self.copies = []
        self._findings = findings
        try:
            while True:
                try:
                    disk.ioctl(*_INIT)
                    break
                except OSError as error:
                    tries -= 1
                    if error.errno != ETIMEDOUT or not tries:
                        raise
            if disk.note:
                self.tell("disk-limited", disk.note)
            self.region = region = regions.find(disk, lbas, unit.get(), running.places)
            if region:
                self.reach = _FOREIGN
                for slot in range(region.slots):
                    self.copies.append(Copy(self, slot, unit.get()))
        except LifeboatError as error:
            self.tell(error.code, error.detail)
        except OSError as error:
            self.io_error(error)

    @property
    def readable(self):
        """Whether it may be read."""
        return self.reach >= _FOREIGN

    @property
    def writable(self):
        """Whether it may also be written."""
        return self.reach == OURS and not self.region.read_only

    @property
    def own(self):
        """Whether it is of the controller's own set."""
        return self.reach >= NEW

    @property
    def state(self):
        """Its state in the report (format.md section 4)."""
        return self.backup if self.reach == OURS else _STATES[self.reach]

    @property
    def generation(self):
        """The highest generation of its commit records, or None: for people."""
        newest = None
        for copy in self.copies:
            if copy.commit:
                newest = max(copy.commit.generation, newest or 0)
        return newest

    def tell(self, code, detail=""):
        """Tell a finding about this disk."""
        self._findings.reason(code, self.name, detail)

    def io_error(self, error):
        """Note an OSError: a bad sector leaves a disk with a region in use, all else does not."""
        failed = error.errno != _EIO or not self.readable
        if failed:
            self.unit.drop()
            self.reach = FAILED
        # Refused by the watch; a command that its driver gave up is a timeout like any other.
        late = _SLOW in error.args
        self.tell("disk-slow" if late else disk_error(error), error.args[-1])

    def attempt(self, call, *args):
        """Return what a call that uses the disk returns, False when the disk fails."""
        try:
            return call(*args)
        except OSError as error:
            self.io_error(error)
            return False


def copies(members):
    """Yield every Copy of every member that may be read: the only loop over slots."""
    for member in members:
        if member.readable:
            yield from member.copies


def survey(disks, lbas, findings, tries=1, watch=Watch()):  # noqa: B008 - it is never limited
    """Open every disk; return the list of Members, in the order of the disks.

    tries: how often to wait for a disk that is not ready. Intact code waits once; without a
    disk damaged code is lost, and a large disk may need several times its driver's patience
    to spin up.
    """
    unit = Scratch(regions.UNIT)
    members = []
    for i, dev in enumerate(disks):
        disk = _WatchedDisk(dev, "disk%d" % i)
        disk.watch = watch
        members.append(Member(disk, findings, unit, lbas, tries))
    return members
