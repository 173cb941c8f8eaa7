"""S2: which disks are members, and which of them hold the backup of a given build."""

from errno import EIO, ETIMEDOUT

from . import region as regions
from .blockdev import INIT, Checked, Scratch
from .errors import LifeboatError


def disk_error(error):
    """Return the reason code for an OSError of a disk."""
    return "disk-timeout" if error.errno == ETIMEDOUT else "disk-failed"


class Member:
    """A disk as the policy sees it.

    state: one of format.md section 4; region: its Region or None; newest: the newest commit
    record, whose manifest may still be bad; newer_format: slots of a format that this lifeboat
    does not know and must not overwrite; unreadable: slots whose record can't be read; unit: a
    Scratch of one unit, the same for all, since a small heap has few places for one. A disk
    that failed once is not asked again.
    """

    def __init__(self, disk, report, unit):
        self.disk = disk
        self.unit = unit
        self.name = disk.name
        self.region = None
        self.state = "no-region"
        self.newest = None
        self.newest_slot = None
        self.records = []
        self.newer_format = []
        self.unreadable = []
        self._report = report

    @property
    def usable(self):
        """Whether it may be read."""
        return self.region is not None and self.state != "failed"

    @property
    def home(self):
        """Whether it may also be written."""
        return self.usable and self.state != "foreign"

    def holds(self, build):
        """Return whether a commit record is of this build."""
        return any(r and r.build == build for r in self.records)

    def fail(self, error):
        """Note that the disk gave an OSError, and leave it alone from now on."""
        self.unit.drop()
        self.state = "failed"
        self._report.reason(disk_error(error), self.name, str(error.errno))

    def io_error(self, error):
        """Note an OSError of one read: a bad sector leaves the disk in use, all else does not."""
        if error.errno == EIO:
            self._report.reason("disk-failed", self.name, str(EIO))
        else:
            self.fail(error)

    def open(self, lbas, tries):
        """Find the region and read its commit records; tries: how often to wait for the disk."""
        try:
            while tries > 1 and not self._ready():
                tries -= 1
            self.disk.ioctl(INIT, 0)
            self.region = regions.find(self.disk, lbas, self.unit.get())
            if self.region:
                self.scan()
        except LifeboatError as error:
            self._report.reason(error.code, self.name, error.detail)
        except OSError as error:
            self.fail(error)

    def _ready(self):
        try:
            self.disk.ioctl(INIT, 0)
        except OSError as error:
            if error.errno == ETIMEDOUT:
                return False
            raise
        return True

    def scan(self):
        """Read the commit records: records[slot] is a Commit or None. Raises OSError."""
        self.state = "stale"
        self.records = []
        self.newest = None
        unit = self.unit.get()
        for slot in range(self.region.slots):
            commit = None
            try:
                commit = self.region.commit(slot, unit)
            except LifeboatError as error:
                if error.code != "commit-magic":
                    self._report.reason(error.code, self.name, "slot %d" % slot)
                if error.code == "commit-version":
                    self.newer_format.append(slot)
            except OSError as error:
                if error.errno != EIO:
                    raise
                self.unreadable.append(slot)
                self.io_error(error)
            self.records.append(commit)
            if commit and (not self.newest or commit.generation > self.newest.generation):
                self.newest = commit
                self.newest_slot = slot


def survey(disks, lbas, report, tries=1):
    """Open every disk; return the list of Members, in the order of the disks.

    tries: how often to wait for a disk that is not ready. Intact code waits once; without a
    disk damaged code is lost, and a large disk may need several times its driver's patience
    to spin up.
    """
    unit = Scratch(regions.UNIT)
    members = []
    for i, disk in enumerate(disks):
        member = Member(Checked(disk, "disk%d" % i), report, unit)
        member.open(lbas, tries)
        members.append(member)
    return members


def choose_home(members, build, report):
    """Mark as foreign all members that are not of the controller's own set.

    A disk from another controller may be attached, and the controller keeps no name of its
    own set. Its set is the one that holds the build in flash (None when that is unknown),
    else the one with most members here, else the one with the newest copy, else the first.
    """
    sets = {}
    for member in members:
        if member.usable:
            sets.setdefault(member.region.set_id, []).append(member)
    best = own = None
    for member in members:
        same = member.usable and sets.pop(member.region.set_id, None)
        if same:
            rank = (
                any(m.holds(build) for m in same),
                len(same),
                max(m.newest.generation if m.newest else 0 for m in same),
            )
            if best is None or rank > best:
                best, own = rank, same
    if own is None:
        return
    for member in members:
        if member.usable and member not in own:
            member.state = "foreign"
    _report_missing(members, own[0].region, report)


def is_own(members, build):
    """Return whether the home members are of the controller's own set beyond doubt.

    They are when no other set is here, or when only they hold this build.
    """
    others = [m for m in members if m.usable and not m.home]
    return not others or (
        any(m.holds(build) for m in members if m.home) and not any(m.holds(build) for m in others)
    )


# A failed disk whose region could not be read may be any of those that seem to be missing.
def _report_missing(members, region, report):
    unread = sum(member.state == "failed" and member.region is None for member in members)
    here = [m.region.member for m in members if m.region and m.region.set_id == region.set_id]
    missing = [index for index in range(region.members) if index not in here]
    for index in missing[unread:]:
        report.missing(index, region.members)


def check(members, manifest):
    """Set the state of every home member that holds the backup of this manifest to level.

    Reads one manifest per member and no block.
    """
    for member in members:
        if not (member.home and member.newest):
            continue
        # The same build signed anew has a copy of the same generation.
        for slot, commit in enumerate(member.records):
            if (
                commit
                and commit.generation == member.newest.generation
                and commit.describes(manifest)
                and _holds(member, slot, manifest)
            ):
                member.newest, member.newest_slot = commit, slot
                member.state = "level"
                break


def _holds(member, slot, manifest):
    try:
        return member.region.holds_manifest(slot, manifest, member.unit.get())
    except OSError as error:
        member.io_error(error)
        return False
