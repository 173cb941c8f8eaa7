"""A power-on while a new build is tried: program it, count its starts, go back.

The trial's record, not the manifest in flash, says what the flash is meant to hold. It turns round
once: forward to the new build, then back to the old one.
"""

from binascii import hexlify
from errno import EIO

from micropython import const

from . import poweron, running
from . import trial as trials
from .errors import LifeboatError
from .inspecting import damaged_blocks
from .members import LEVEL, copies
from .recovery import Plan, act, assess, manifest_copy_of

# How often programming begins in one direction.
_BEGINNINGS = const(3)

# How often it is planned again after copies turned out to be wrong on the way.
_PLANS = const(4)


class PowerOn(poweron.PowerOn):
    """A power-on that knows of trials; without one it is as any other."""

    trial = None
    trying = False  # whether the build that will run is not settled
    repairs = 0

    # S4 of a trial: what its record wants in place of what the manifest in flash wants.
    def recover(self):
        found = self.found
        self.trial = trial = trials.Trial(self.trust.memory)
        if self.flash and trial.open and found.why != "policy":
            if found.why != "manifest-version" and not (
                found.manifest and found.manifest.read_only
            ):
                try:
                    return self._go_on()
                except LifeboatError as error:  # the memory takes no record: go on without it
                    self._blame("memory-failed", error)
                    self._inspect()
        if self.flash and found.damaged and not found.intact and not self.unlimited:
            if getattr(self.board, "REPAIR", "") == "ask":
                return self._ask()
        return super().recover()

    # Say what a repair would do, and leave it to a person, who comes with unlimited.
    def _ask(self):
        plan = assess(self.flash, self.found, self.members, self.trust, self.scratch)
        if not plan or plan.lost:
            return super().recover()  # which finds the same, and tells it
        self._tell_bad(plan.manifest, plan.bad)
        told = "%d blocks of %s" % (len(plan.bad), plan.manifest.version)
        self.report.reason("repair-asked", "flash", told)
        return None

    def finish(self, manifest, plan):
        if not self.trying:
            super().finish(manifest, plan)
            try:
                if not self._accept_offer(manifest):
                    return
                self.trial = trials.Trial(self.trust.memory)
                self._go_on()
            except LifeboatError as error:
                self._blame("memory-failed", error)
            if not self.trying or not self.found.intact:
                return
            self.report.describe(self.found.manifest)
        self._start()

    # Returns the plan of another recovery, or None.
    def _go_on(self):
        trial, report, found = self.trial, self.report, self.found
        self.watch.limited = False  # all of both builds is read
        if self.unlimited:
            trial.begun = 0
        if found.intact and found.manifest.build not in (trial.build, trial.old):
            # A person has programmed other code meanwhile.
            trial.end(trials.DROPPED, "flash-changed")
            report.reason("trial-dropped", "flash", trial.version)
            return super().recover()
        self.trying = True
        if trial.state == trials.TRYING:
            why = self._why_not() or self._reach(trial.build)
            if not why:
                return None
            if why == "trial-waits":
                report.reason(why, "flash", trial.version)
                return None
            trial.turn(why)
        why = self._reach(trial.old)
        if not why:
            self._come_back()
        else:
            report.reason("trial-stuck", "flash", "%s, %s" % (trial.version, trial.old_version))
            report.reason(why, "flash")
        return None

    def _why_not(self):
        trial = self.trial
        if trial.starts >= trial.limit:
            return "trial-starts"
        if trial.starts and not running.attended and _barked(self.board):
            return "trial-watchdog"
        return ""

    # Make the flash hold a build of the trial; returns why it can't, "" when it does.
    def _reach(self, build):
        why = ""
        for _ in range(_PLANS):
            try:
                why = self._program(build)
                break
            except LifeboatError as error:
                why = error.code
                if why == "block-lost":
                    continue  # its sources are known to be wrong now
                if why.startswith("memory"):
                    raise
                self._blame(why, error)
            except OSError as error:
                why = "flash-failed"
                self._blame(why, error)
            break
        if self.flash.erases:
            self._inspect()
        if not why and not (self.found.intact and self.found.manifest.build == build):
            why = "flash-verify"
        return why

    def _program(self, build):
        trial, flash, found, trust = self.trial, self.flash, self.found, self.trust
        forward = build == trial.build
        manifest = self._manifest(build)
        if not manifest:
            away = not any(member.readable and member.own for member in self.members)
            return "trial-waits" if forward and away and found.intact else "build-none"
        here = self._here(manifest)
        bad = damaged_blocks(flash, manifest)
        if here and not bad:
            return ""
        if trial.begun >= _BEGINNINGS:
            return "trial-limit"
        if not trust.leaves_memory(manifest):
            return "memory-place"
        copy = None if here else manifest_copy_of(self.members, manifest)
        if not here and not copy:
            return "build-none"
        plan = self._plan(manifest, bad, copy)
        if plan.complete(self.scratch, False).lost:
            return "read-limit" if self.scratch.spent else "block-lost"
        # Nothing is begun without a way back, nor with a build of which no disk has all.
        if forward and not trial.begun and not self._both(manifest):
            return "return-none"
        trial.note(begun=trial.begun + 1)
        self.scratch.left = None  # what was found is read once more
        act(flash, plan, self.scratch, self, trust.memory)
        return ""

    # Whether the flash holds a manifest. A power cut within its program leaves flash with error
    # correction a unit that can't be read until it is erased.
    def _here(self, manifest):
        try:
            return self.flash.holds(manifest)
        except OSError as error:
            if error.errno != EIO:
                raise
            return False

    # From the flash, or a copy or candidate of the own set.
    def _manifest(self, build):
        trials.take(self.members, build)
        found = self.found.manifest
        if found and found.build == build:
            return found
        for copy in copies(self.members):
            if copy.member.own and copy.commit and copy.commit.build == build:
                manifest = copy.load(self.trust)
                if manifest:
                    return manifest
        return None

    def _plan(self, manifest, blocks, copy):
        plan = Plan(manifest, blocks, copy, self.members, self.trust, True)
        plan.good = manifest.right
        return plan

    # Whether copies have every block of the new build, and of the one to come back to.
    def _both(self, new):
        old = self._manifest(self.trial.old)
        for manifest in new, old:
            if not manifest or not manifest_copy_of(self.members, manifest):
                return False
            plan = self._plan(manifest, range(manifest.block_count), None)
            if plan.complete(self.scratch, False).lost:
                return False
        return True

    # What recovery.act() tells: blocks that change with the build are no damage.
    def repaired(self, block, disk):
        self.repairs += 1

    def reason(self, code, where="", detail=""):
        self.report.reason(code, where, detail)

    def _come_back(self):
        trial, report = self.trial, self.report
        why = trial.why
        trial.end(trials.RETURNED if trial.starts else trials.DROPPED, why)
        report.reason("trial-back", "flash", "%s: %s" % (trial.version, why))
        report.data["trial"] = trial.describe()
        report.tell("taken-back", why, trial.version, trial.starts, self.repairs)
        self.trying = False

    # The new build is about to run. The start counts before it: a build that hangs the board has
    # had one.
    def _start(self):
        trial, report, manifest = self.trial, self.report, self.found.manifest
        for member in self.members:
            if member.writable and any(copy.holds(manifest) for copy in member.copies):
                member.backup = LEVEL
        if trial.state != trials.TRYING or manifest.build != trial.build:
            self._tell("back" if trial.state != trials.TRYING else "trying")
            return
        try:
            if not running.attended:
                trial.note(starts=trial.starts + 1)
        except LifeboatError as error:
            self._blame("memory-failed", error)
        report.reason("trial-open", "flash", trial.version)
        self._tell("trying")
        if hasattr(self.board, "watchdog"):
            report.attempt("internal", "watchdog", self.board.watchdog, self.board.TRIAL_MS)

    def _tell(self, word):
        trial, report = self.trial, self.report
        report.data["trial"] = trial.describe()
        report.tell("trial", word, trial.version, trial.starts, self.repairs)

    # A candidate that nobody asked for only offers itself; a board may take those that its owner
    # signed, with a counter that was neither reached nor tried. Returns whether it did.
    def _accept_offer(self, manifest):
        trust, trial = self.trust, self.trial
        owner = trust.owner
        if trial.state == trials.RETURNED and trial.old == manifest.build:
            self.report.data["trial"] = trial.describe()
        but = [manifest.build] + trust.memory.rejected
        for new, copy in trials.offers(self.members, trust, but):
            counter = new.security_counter
            if (
                owner
                and getattr(self.board, "OFFLINE_UPDATE", False)
                and counter > max(owner.counter, trial.counter)
                and not running.attended
            ):
                trial.begin(self.board, new, manifest)
                return True
            told = "%s %s" % (new.version, hexlify(new.build).decode()[:12])
            self.report.reason("update-offered", copy.member.name, told)
        return False


# Whether a watchdog has reset the board.
def _barked(board):
    try:
        if hasattr(board, "barked"):
            return board.barked()
        import machine

        return machine.reset_cause() == machine.WDT_RESET
    except Exception:  # noqa: BLE001 - whatever a board does: then the starts count
        return False
