"""Other code than what is in flash: a build that the disks hold, or offer.

    >>> import board
    >>> from lifeboat import update
    >>> update.rollback(board)              # which builds are here
    >>> update.rollback(board, "1.0")       # or the first digits of a build id
    >>> update.accept(board, "2.0")         # try what a disk offers

Then reset the board. New builds from other sources: stage.py.
"""

from binascii import hexlify

from micropython import const

from . import running, trial
from .blockdev import Scratch
from .checking import choose_own
from .codeflash import CodeFlash
from .errors import LifeboatError
from .inspecting import damaged_blocks, inspect
from .members import copies, survey
from .recovery import Plan, act, manifest_copy_of
from .report import Report
from .trust import Trust

_DIGITS = const(4)


class Session:
    """The devices of a board: its flash, what it trusts, and the members of its own set."""

    def __init__(self, board, disks):
        self.board = board
        self._flash = flash = CodeFlash(board.flash(), board.BLOCK_SIZE)
        self._trust = trust = Trust(board, flash).recall()
        self._scratch = Scratch(flash.block_size)
        owner = trust.owner
        if owner.vague if owner else getattr(board, "UNSIGNED", False) is not True:
            raise LifeboatError("policy")
        if trial.Trial(trust.memory).open:
            raise LifeboatError("trial-open")
        self.report = Report()
        self._members = survey(disks or list(board.disks()), board.REGION_LBAS, self.report)
        choose_own(self._members, trust, self.report)

    def try_next(self, new, starts):
        """Let the next power-on begin the trial of a manifest's build."""
        # What the scrubber wrote into the memory meanwhile is not in what was read before.
        trust = Trust(self.board, self._flash).recall()
        now = self._flash.manifest(trust)[0]
        memory = trust.memory
        if not (trust.remembers and memory.writable and trust.declares_memory(now)):
            raise LifeboatError("memory-none")
        trial.Trial(memory).begin(self.board, new, now, starts)
        trial.staging = False
        self._forget_report()
        if running.report:  # a scrubber begins again, with this memory
            running.report = Report(running.report.data)

    # Not even a soft reset is to believe the last verdict.
    def _forget_report(self):
        area = self.board.retained()
        if area:
            area[:4] = bytes(4)


class Update(Session):
    """The code in flash, and the builds that copies of the own set hold. For a person's session.

    board: as for boot.power_on(), its disks started; disks: those to use, default all. manifest:
    the trusted one in flash, or None. Raises LifeboatError, OSError as the flash driver does.
    """

    def __init__(self, board, disks=None):
        # No scrubber may believe the last verdict from here on.
        running.attended = True
        super().__init__(board, disks)
        self.manifest, self._bad = None, ()
        try:
            found = inspect(self._flash, self._trust)
            self.manifest, self._bad = found.manifest, found.bad
        except LifeboatError as error:
            if error.code == "manifest-version":
                raise
        if self.manifest and self.manifest.read_only:
            raise LifeboatError("manifest-version")

    def builds(self):
        """Yield (Manifest, Copy) of each build in a copy that may run here, the newest first."""
        found, seen = [], []
        for copy in copies(self._members):
            if copy.member.own and copy.commit:
                found.append((self._trust.rank(copy.commit), -len(found), copy))
        for _, _, copy in sorted(found, reverse=True):
            if copy.commit.build not in seen:
                manifest = copy.load(self._trust)
                if manifest and self._trust.leaves_memory(manifest):
                    seen.append(manifest.build)
                    yield manifest, copy

    def offers(self):
        """Yield (Manifest, Copy) of each build that a candidate holds whole, whoever made it."""
        seen = []
        for manifest, copy in trial.offers(self._members, self._trust, seen):
            seen.append(manifest.build)
            yield manifest, copy

    def known(self, manifest):
        """Return whether a build has run here."""
        return self._trust.memory.age(manifest.build) >= 0

    def rollback(self, build):
        """Make the flash hold a build; return (Manifest, how many blocks were written).

        build: its id, or so much of the beginning that it is the only one. Nothing is written
        unless every block is in flash or in a copy, and what is overwritten is in a copy, too: so
        the next power-on after a power cut restores what was here before. Order: blocks, then
        the manifest; see recovery.act().
        """
        manifest, copy = _only(self.builds(), build)
        flash, trust, scratch = self._flash, self._trust, self._scratch
        bad = damaged_blocks(flash, manifest)
        plan = Plan(manifest, bad, copy, self._members, trust, True)
        plan.good = manifest.right
        if plan.complete(scratch, False).lost:
            raise LifeboatError("block-lost", str(plan.lost[0]))
        self._keep(bad)
        if flash.holds(manifest):
            plan.manifest_copy = None
        self._forget_report()
        act(flash, plan, scratch, self.report, trust.memory)
        return manifest, len(bad)

    def accept(self, build, starts=None):
        """Let the next power-on try a build that a candidate holds; return its Manifest.

        build, starts: as for rollback() and Stage.arm(). Every block is read. A person's word:
        that it was rejected before does not matter.
        """
        manifest, _ = _only(self.offers(), build)
        if not self.manifest or self._bad:
            raise LifeboatError("return-none")
        for copy in trial.take(self._members, manifest.build):
            if trial.whole(copy, manifest, self._scratch):
                self.try_next(manifest, starts)
                return manifest
        raise LifeboatError("block-lost", manifest.version)

    # Make sure that copies have what is about to be overwritten, unless that is lost already.
    def _keep(self, blocks):
        now, scratch = self.manifest, self._scratch
        if not now:
            return
        kept = Plan(now, self._bad, None, self._members, self._trust, True)
        kept.good = now.right
        if kept.complete(scratch, False).lost:
            return
        kept.bad = [block for block in blocks if block < now.block_count]
        if not manifest_copy_of(self._members, now) or kept.complete(scratch, False).lost:
            raise LifeboatError("return-none")


# The one of some (Manifest, Copy) whose build id begins so.
def _only(found, build):
    fitting = [one for one in found if one[0].build.startswith(build)]
    if len(fitting) != 1:
        raise LifeboatError("build-none", "more than one" if fitting else "")
    return fitting[0]


# Print some of an Update's builds; the id of the one that is meant, a version or the first digits
# of an id, so many that nobody means a version.
def _chosen(update, found, wanted):
    fitting = []
    for manifest, copy in found:
        told = hexlify(manifest.build).decode()
        here = update.manifest and update.manifest.build == manifest.build
        note = "in flash" if here else "" if update.known(manifest) else "never ran here"
        print(manifest.version, told[:12], copy.member.name, note)
        begins = wanted and len(wanted) >= _DIGITS and told.startswith(wanted.lower())
        if begins or manifest.version == wanted:
            fitting.append(manifest.build)
    if wanted and len(fitting) != 1:
        raise LifeboatError("build-none", wanted)
    return fitting[0] if wanted else None


def rollback(board, wanted=None):
    """Print the builds that are here; with `wanted`, make the flash hold that one.

    wanted: a version, or the first digits of a build id, four or more. Reset the board then.
    Raises LifeboatError, OSError as the flash driver does.
    """
    board.start()
    update = Update(board)
    build = _chosen(update, update.builds(), wanted)
    if not build:
        print("to go back to one: rollback(board, 'its version or first digits')")
        return
    manifest, count = update.rollback(build)
    print("%s is in flash, %d blocks were written; reset the board" % (manifest.version, count))


def accept(board, wanted=None):
    """Print the builds that the disks offer; with `wanted`, as for rollback(), try that one."""
    board.start()
    update = Update(board)
    build = _chosen(update, update.offers(), wanted)
    if not build:
        print("to try one: accept(board, 'its version or first digits')")
        return
    print("%s is tried at the next power-on; reset the board" % update.accept(build).version)
