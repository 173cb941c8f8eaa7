"""Other code than what is in flash: a person goes back to a build of which a copy is here.

    >>> import board
    >>> from lifeboat import update
    >>> update.rollback(board)              # which builds are here
    >>> update.rollback(board, "1.0")       # or the first digits of a build id

Then reset the board.
"""

from binascii import hexlify

from micropython import const

from . import running
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


class Update:
    """The code in flash, and the builds that copies of the own set hold. For a person's session.

    board: as for boot.power_on(), its disks started; disks: those to use, default all. manifest:
    the trusted one in flash, or None. Raises LifeboatError, OSError as the flash driver does.
    """

    def __init__(self, board, disks=None):
        # Neither a scrubber nor a soft reset may believe the last verdict from here on.
        running.attended = True
        self._area = board.retained()
        self._flash = flash = CodeFlash(board.flash(), board.BLOCK_SIZE)
        self._trust = trust = Trust(board, flash).recall()
        self._scratch = Scratch(flash.block_size)
        owner = trust.owner
        if owner.vague if owner else getattr(board, "UNSIGNED", False) is not True:
            raise LifeboatError("policy")
        self.report = Report()
        self._members = survey(disks or list(board.disks()), board.REGION_LBAS, self.report)
        choose_own(self._members, trust, self.report)
        self.manifest, self._bad = None, ()
        try:
            found = inspect(flash, trust)
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
        chosen = None
        for found in self.builds():
            if found[0].build.startswith(build):
                if chosen:
                    raise LifeboatError("build-none", "more than one")
                chosen = found
        if not chosen:
            raise LifeboatError("build-none")
        manifest, copy = chosen
        flash, trust, scratch = self._flash, self._trust, self._scratch
        bad = damaged_blocks(flash, manifest)
        plan = Plan(manifest, bad, copy, self._members, trust, True)
        plan.good = manifest.right
        if plan.complete(scratch, False).lost:
            raise LifeboatError("block-lost", str(plan.lost[0]))
        self._keep(bad)
        if flash.holds(manifest):
            plan.manifest_copy = None
        if self._area:
            self._area[:4] = bytes(4)
        act(flash, plan, scratch, self.report, trust.memory)
        return manifest, len(bad)

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


# Whether these are digits of an id, and so many that nobody means a version.
def _begins(told, digits):
    return len(digits) >= _DIGITS and told.startswith(digits.lower())


def rollback(board, wanted=None):
    """Print the builds that are here; with `wanted`, make the flash hold that one.

    wanted: a version, or the first digits of a build id, four or more. Reset the board then.
    Raises LifeboatError, OSError as the flash driver does.
    """
    board.start()
    update = Update(board)
    fitting = []
    for manifest, copy in update.builds():
        told = hexlify(manifest.build).decode()
        here = update.manifest and update.manifest.build == manifest.build
        note = "in flash" if here else "" if update.known(manifest) else "never ran here"
        print(manifest.version, told[:12], copy.member.name, note)
        if wanted and (manifest.version == wanted or _begins(told, wanted)):
            fitting.append(manifest.build)
    if not wanted:
        print("to go back to one: rollback(board, 'its version or first digits')")
        return
    if len(fitting) != 1:
        raise LifeboatError("build-none", wanted)
    manifest, count = update.rollback(fitting[0])
    print("%s is in flash, %d blocks were written; reset the board" % (manifest.version, count))
