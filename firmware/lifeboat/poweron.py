"""One power-on: inspect, remember, survey, recover, learn, back up, note."""

from binascii import hexlify
from time import ticks_diff, ticks_ms

from micropython import const

from . import blockdev, checking, codeflash, creating, members, records, recovery, running
from .errors import LifeboatError
from .inspecting import Inspection, inspect
from .report import RUN, RUN_DEGRADED
from .trust import Trust

# A board that has no room for the journal leaves it out of its manifest.
try:
    from .journal import record
except ImportError:
    record = None

# How often damaged code waits for a disk that is not ready: three times the ten seconds of the
# AHCI driver are the 30 s within which drives are ready (ATA8-ACS, power-on).
_PATIENCE = const(3)

# How often recovery plans again after copies turned out to be wrong on the way.
_PLANS = const(4)

# What is read of copies before RESCUE, in units of members x code (I11).
_READS = const(4)


class PowerOn:
    """One power-on: steps that hand on what they found, ended by a note that always runs.

    Where new builds are tried, trying.PowerOn has recover() and finish() of its own.
    """

    def __init__(self, board, report, adopt, unlimited):
        self.board = board
        self.report = report
        self.adopt = adopt
        self.unlimited = unlimited
        self.flash = self.members = None
        self.trust = Trust(board, None)
        self.found = Inspection()
        self.watch = members.Watch()
        self.clear = False  # whether the own set is known
        self._no_backup = False
        self._generation = None

    def run(self):
        report = self.report
        # I6: what goes wrong beside code that was found intact does not keep it from running. I13:
        # what went wrong is told on every disk that works.
        report.attempt("internal", "", self._steps)
        if self.members is None:
            report.attempt("internal", "disks", self._survey)
        if not self.flash:  # who rules is told all the same
            report.attempt("internal", "", self.trust.recall)
        self._judge()
        if self.trust.owner:
            report.attempt("internal", "", self.trust.owner.end, self)
        if record and self.members:
            report.attempt("internal", "journal", record, self.members, report)
            for member in self.members:
                if member.region:
                    report.data["disk_writes"] += member.region.disk.writes

    def _steps(self):
        report, board = self.report, self.board
        # What a board does for its disks can fail in any way; the flash may be healthy all the
        # same.
        report.attempt("disks-failed", "", lambda: board.start())
        self._mark = ticks_ms()
        self._inspect()
        self._time("inspect")
        found = self.found
        report.data["why"] = found.why
        report.data["manifest"] = found.manifest_state
        if found.manifest:
            report.describe(found.manifest)
        self._remember(found.manifest)
        self._survey()
        plan = self.recover()
        found = self.found
        self._tell_bad(found.manifest, found.bad)
        self._time("recover")
        if found.intact:
            report.describe(found.manifest)
            report.attempt("internal", "backup", self.finish, found.manifest, plan)
        self._time("backup")

    def _time(self, name):
        now = ticks_ms()
        self.report.data["ms"][name] = ticks_diff(now, self._mark)
        self._mark = now

    # S1, and after trouble with the flash: what it holds now decides, not what was found before.
    def _inspect(self):
        try:
            if not self.flash:
                self._open()
            self.found = inspect(self.flash, self.trust)
        except (LifeboatError, OSError) as error:
            code = getattr(error, "code", "flash-failed")
            self.found = Inspection(code, error.args and error.args[-1])

    def _open(self):
        board = self.board
        self.flash = flash = codeflash.CodeFlash(board.flash(), board.BLOCK_SIZE)
        self.scratch = blockdev.Scratch(flash.block_size)
        self.trust = trust = Trust(board, flash).recall()
        owner = trust.owner
        if owner.vague if owner else getattr(board, "UNSIGNED", False) is not True:
            raise LifeboatError("policy")

    # Tell the damage, once: what is not as the build wants it that the flash is meant to hold.
    def _tell_bad(self, manifest, bad):
        report, found = self.report, self.found
        if report.data["bad"] or not self.flash or found.why == "policy":
            return
        for block in bad:
            report.found(block, 1)
        if found.manifest_state != "ok" or manifest is not found.manifest:
            report.found(self.flash.manifest_block, 1)

    # What the controller remembers. An image that leaves no room for the memory has none; what is
    # in its place then is not touched.
    def _remember(self, manifest):
        report, memory = self.report, self.trust.memory
        if manifest and not self.trust.declares_memory(manifest):
            memory.writable = False
            if memory.state == "ok":
                report.reason("memory-place", "flash")
            elif memory.state != "none":
                memory.state, memory.why = "none", "memory-none"
        if memory.why and self.flash:
            report.reason(memory.why)
        if memory.lost_records:
            report.reason("memory-damaged")
        if self.unlimited or self.adopt:
            self._memorize(memory.forget_failures)

    # Write something into the memory. It is not there for code to run; what fails is told.
    def _memorize(self, write, *args):
        try:
            if self.trust.memory.writable:
                write(*args)
        except (LifeboatError, OSError) as error:
            self._blame("memory-failed", error)

    # code: of an OSError.
    def _blame(self, code, error):
        self.report.reason(getattr(error, "code", code), "flash", error.args[-1])

    # S2: whose the disks are.
    def _survey(self):
        report, board, found = self.report, self.board, self.found
        # Take the block buffer now: later the heap is fragmented and no free piece is large
        # enough.
        if found.damaged and self.flash:
            self.scratch.get()
        disks = report.attempt("disks-failed", "", lambda: list(board.disks())) or ()
        self.watch.limited = found.intact
        tries = 1 if found.intact else _PATIENCE
        self.members = members.survey(disks, board.REGION_LBAS, report, tries, self.watch)
        flash = self.flash
        if flash and not self.unlimited:  # I11
            readable = 0
            for member in self.members:
                readable += member.readable
            self.scratch.left = _READS * max(readable, 1) * flash.blocks * flash.block_size
        self.clear = checking.choose_own(self.members, self.trust, report, self.adopt)

    def recover(self):
        """S4. Returns the Plan that was carried out, or None."""
        report, flash, found = self.report, self.flash, self.found
        if not (found.damaged and flash):
            return None
        scratch = self.scratch
        for _ in range(_PLANS):
            try:
                plan = recovery.assess(flash, found, self.members, self.trust, scratch)
                if scratch.spent:
                    report.reason("read-limit")
                if plan is None or plan.lost:
                    break
                self._tell_bad(plan.manifest, plan.bad)
                if scratch.left is not None:  # what was found is read once more
                    scratch.left = max(scratch.left, len(plan.bad) * flash.block_size)
                recovery.act(flash, plan, scratch, report, self.trust.memory)
            except (LifeboatError, OSError) as error:
                if getattr(error, "code", "") == "block-lost":
                    continue  # its sources are known to be wrong now
                self._blame("flash-failed", error)
                self._inspect()
                return None
            if plan.older:
                report.reason(plan.older, "flash", plan.manifest.version)
            if plan.manifest_copy:
                found.manifest_state = "ok"
            found.manifest, found.bad, found.why = plan.manifest, [], None
            return plan
        self._tell_bad(found.manifest, found.bad)
        self._no_backup = plan is None
        for block in plan.lost if plan else ():
            report.lost(block, 1)
        if flash.erases:
            self._inspect()

    def finish(self, manifest, plan):
        """The own set and the build are learned from intact code only, and the backup is made of
        nothing else."""
        self.scratch.left, self.watch.limited = None, True
        self._learn(manifest)
        checking.check(self.members, manifest, self.trust)
        self._back_up(manifest, plan)

    # The set first: a memory that has begun knows one.
    def _learn(self, manifest):
        report, trust, adopt = self.report, self.trust, self.adopt
        memory = trust.memory
        if memory.damaged and memory.writable:
            self._memorize(memory.heal)
            if memory.damaged:
                report.reason("memory-failed", "flash")
        if not trust.declares_memory(manifest):
            return
        ours = [m for m in self.members if m.reach >= (members.CLAIMED if adopt else members.OURS)]
        if self.clear and ours and (adopt or not trust.remembers):
            self._memorize(
                memory.remember_set, [m.region.entry + (m.name.encode(),) for m in ours]
            )
            if memory.set_id == ours[0].region.set_id:
                report.tell("adopted", "", ours[0].name, len(ours))
                report.reason("adopted", "", hexlify(memory.set_id).decode())
                running.places = memory.places
        # A newer record makes a build that was put back newer than what ran in between.
        if trust.remembers and (not memory.builds or memory.builds[-1][0] != manifest.build):
            counter, version = manifest.security_counter, manifest.version.encode()
            self._memorize(memory.remember_build, manifest.build, counter, version)

    # S3: what backup_plan() says. First the copies that S4 found bad are mended.
    def _back_up(self, manifest, plan):
        clear = self.clear and not manifest.read_only
        bad = recovery.bad_copies(plan, self.scratch) if plan and clear else ()
        broken = []
        for _, member, item in creating.backup_plan(self.members, bad, (), clear) if bad else ():
            copy, block = item
            member.tell("copy-bad", "block %d" % block)
            args = self.flash, manifest, copy, block, self.scratch.get()
            if not self._mended(member, creating.mend_from_flash, *args):
                broken.append(item)
        for action, member, worthless in creating.backup_plan(self.members, (), broken, clear):
            if action == creating.HEADER:
                member.tell("header-bad")
                self._mended(member, member.region.mend_header, bytearray(records.UNIT))
            elif self._attempt(member, self._create, member, manifest):
                member.backup = members.CREATED
                self._attempt(member, _clear, worthless)
            elif worthless:
                member.backup = members.BEHIND

    # Without a backup of the code a member stays stale, whatever was mended.
    def _mended(self, member, *mend):
        done = self._attempt(member, *mend)
        if done:
            self.report.tell("mended", "", member.name)
            if member.backup == members.LEVEL:
                member.backup = members.MENDED
        return done

    def _create(self, member, manifest):
        # One for all: to find it reads the manifests of all slots, at the worst.
        generation = self._generation = self._generation or creating.generation_for(
            self.members, manifest, self.trust
        )
        args = member, generation, self.trust, self.scratch
        try:
            for _ in creating.create(self.flash, manifest, *args):
                if member.disk.slow:
                    raise OSError
        except OSError:
            if member.disk.slow:  # now or within a piece; the scrubber has the time
                raise LifeboatError("backup-late") from None
            raise
        self.report.tell("created", "", member.name, generation, manifest.block_count)

    # Returns whether it was done. What fails on one member is reported, and the others still get
    # their turn.
    def _attempt(self, member, action, *args):
        try:
            if member.writable and self.found.intact:
                action(*args)
                return True
        except LifeboatError as error:
            member.tell(error.code, error.detail)
            if error.code == "flash-changed":
                self._inspect()
        except OSError as error:
            member.io_error(error)
            if not member.readable:
                self.scratch.drop()
        return False

    # The verdict, from what is known now.
    def _judge(self):
        found, report, memory = self.found, self.report, self.trust.memory
        data, here = report.data, self.members or ()
        if self.flash:
            data["erases"] = self.flash.erases
        data["members"] = [
            {"disk": m.name, "state": m.state, "generation": m.generation} for m in here
        ] + data["members"]
        data["memory"] = memory.state
        data["set"] = memory.set_id and hexlify(memory.set_id).decode()
        if found.intact:
            if found.manifest_state != "ok":
                report.reason(found.why or "manifest-padding", "flash", found.detail)
            if any(m.state in (members.LEVEL, members.CREATED, members.MENDED) for m in here):
                report.judge(RUN)
            else:
                report.judge(RUN_DEGRADED)
                report.reason("backup-none")
            return
        if found.why:
            report.reason(found.why, "" if found.why == "policy" else "flash", found.detail)
        if data["lost"] or self._no_backup:
            report.reason("block-lost", "flash", "" if data["lost"] else "no backup")
            # Code that disks hold and that never ran here is told, not restored.
            for copy in members.copies(here) if memory.builds else ():
                if copy.commit and memory.age(copy.commit.build) < 0:
                    report.reason("build-unknown")


# Free the slots of copies that could not be mended, unless the new copy took them.
def _clear(worthless):
    for copy in worthless:
        if copy.bad:
            copy.member.region.clear_commit(copy.slot)
            copy.commit, copy.kind = None, members.FREE
