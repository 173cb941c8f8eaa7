"""The flow at power-on: S1 inspect, S2 check, S3 create, S4 recover; one verdict.

A board is a module or object with

    PRODUCT       text, as in the images made for it
    BLOCK_SIZE    bytes; format.md section 1
    UNSIGNED      True: code runs that nobody signed
    REGION_LBAS   LBAs where regions may start that neither a GPT nor the disk's end tells
    start()       begin what takes time, such as the disks' spin-up; does not wait
    flash()       the code flash, a block device
    disks()       the disks, block devices with a name, not yet initialised
    retained()    a bytearray that survives a soft reset, or None
"""

from errno import EIO
from time import ticks_diff, ticks_ms

from micropython import const

from .blockdev import Scratch
from .checking import check, choose_home, is_own, survey
from .codeflash import CodeFlash
from .creating import create, generation_for, mend
from .errors import LifeboatError
from .inspecting import Inspection, inspect
from .manifest import ROMFS
from .recovery import act, assess, bad_copies
from .region import UNIT
from .report import RESCUE, RUN, RUN_DEGRADED, Report, runs

# A board that has no room for the journal leaves it out of its manifest.
try:
    from .journal import record
except ImportError:
    record = None

# How often damaged code waits for a disk that is not ready: three times the ten seconds of the
# AHCI driver are the 30 s within which drives are ready (ATA8-ACS, power-on).
_PATIENCE = const(3)

# Set for a person's session, with the host tools or with lifeboat.partitioning: the scrubber keeps
# off until the next reset.
attended = False

_last = None


def report():
    """Return the Report of the last power-on, or None."""
    return _last


def start(board):
    """Return the verdict's Report: the stored one after a soft reset, else from power_on().

    A soft reset restarts the interpreter only. Not inspecting again keeps tools that soft-reset
    the board on every connect from waiting.
    """
    global _last
    try:
        kept = _kept(board)
    except Exception:  # noqa: BLE001 - then all is found out anew
        kept = None
    if not kept:
        return power_on(board)
    _last = kept
    # The application wants to find its disks as after a power-on.
    try:
        board.start()
    except Exception as error:  # noqa: BLE001 - I6
        kept.reason("disks-failed", "", repr(error))
    print(kept.line())
    return kept


def _kept(board):
    import machine

    area = board.retained()
    return Report.kept(area) if area and machine.reset_cause() == machine.SOFT_RESET else None


def power_on(board):
    """Inspect, recover, back up; print and return the Report. Never raises."""
    global _last
    _last = result = Report()
    began = ticks_ms()
    session = _Session(board, result)
    try:
        session.run()
    except Exception as error:  # noqa: BLE001 - whatever happens here, there is a verdict
        # I6: what goes wrong beside code that was found intact does not keep it from running.
        intact = session.found and session.found.intact
        result.data["verdict"] = RUN_DEGRADED if intact else RESCUE
        result.reason("internal", "", repr(error))
    # Last of all: until it is there, the scrubber keeps off the disks.
    result.data["ms"]["total"] = ticks_diff(ticks_ms(), began)
    try:
        result.show()
    except Exception as error:  # noqa: BLE001 - too little memory, perhaps
        print("[lifeboat]", result.verdict, repr(error))
    try:
        area = board.retained()
        if area:
            result.keep(area)
    except Exception as error:  # noqa: BLE001 - the report is kept for comfort only
        print("[lifeboat] report not kept:", repr(error))
    return result


def segments(board):
    """Yield (name, kind, size, data) for each segment of the code in flash.

    data() returns its bytes: a view of memory-mapped flash, else a copy in RAM. For use after a
    verdict that runs; raises LifeboatError or OSError as the manifest and the driver do, and
    LifeboatError(flash-changed) when this is not the code that the verdict is about.
    """
    flash = CodeFlash(board.flash(), board.BLOCK_SIZE)
    manifest = flash.manifest()[0]
    if _last and _last.data["build"] != manifest.build_name:
        raise LifeboatError("flash-changed", manifest.build_name)
    for name, kind, offset, size in manifest.segments:
        yield name, kind, size, lambda offset=offset, size=size: flash.map(offset, size)


def mount(board):
    """Mount every ROMFS segment as /NAME; the first one becomes current and importable."""
    import os
    import sys

    import vfs

    first = True
    for name, kind, _, data in segments(board):
        if kind != ROMFS:
            continue
        path = "/" + name
        vfs.mount(vfs.VfsRom(data()), path)
        if first:
            os.chdir(path)
            sys.path.insert(0, path)
            first = False


# One power-on. What the four steps hand to each other, and the report they fill.
class _Session:
    def __init__(self, board, result):
        self.board = board
        self.report = result
        self.flash = None
        self.found = None
        self.members = []
        self.scratch = None

    def run(self):
        board, data = self.board, self.report.data
        if getattr(board, "UNSIGNED", False) is not True:
            self.report.reason("policy")
            return
        self._disks(lambda: board.start())
        found = self.found = self._inspect()
        if found is None:
            return
        mark = ticks_ms()
        self._find_members(found)
        plan = None
        # Whole code of a newer format is not damage: a person has to decide about it.
        if found.damaged and found.code != "manifest-version":
            plan = self._recover(found)
        now = ticks_ms()
        data["ms"]["recover"] = ticks_diff(now, mark)
        if found.intact:
            self._describe(found.manifest)
            try:
                self._back_up(found.manifest, plan)
            except Exception as error:  # noqa: BLE001 - I6: intact code runs
                self.report.reason("internal", "backup", repr(error))
        if not found.intact:
            if found.code:
                self.report.reason(found.code, "flash", found.detail)
            if data["lost"] or (not found.manifest and found.code != "manifest-version"):
                self.report.reason("block-lost", "flash", "no backup" if not data["lost"] else "")
        data["ms"]["backup"] = ticks_diff(ticks_ms(), now)
        self._finish(found)
        if record:
            try:
                record(self.members, self.report)
            except Exception as error:  # noqa: BLE001 - I6: what can't be noted happened all the same
                self.report.reason("internal", "journal", repr(error))
        data["disk_writes"] = sum(m.region.writes for m in self.members if m.region)

    # S1
    def _inspect(self):
        data = self.report.data
        mark = ticks_ms()
        try:
            self.flash = CodeFlash(self.board.flash(), self.board.BLOCK_SIZE)
            self.scratch = Scratch(self.flash.block_size)
            found = inspect(self.flash, self.board.PRODUCT)
        except OSError as error:
            self.report.reason("flash-failed", "flash", str(error.errno))
            return None
        data["ms"]["inspect"] = ticks_diff(ticks_ms(), mark)
        data["manifest"] = found.manifest_state
        bad = list(found.bad)
        if found.manifest_state != "ok":
            bad.append(self.flash.manifest_block)
        data["bad"] = runs(bad)
        if found.manifest:
            self._describe(found.manifest)
        return found

    def _describe(self, manifest):
        self.report.data.update(
            {
                "product": manifest.product,
                "version": manifest.version,
                "build": manifest.build_name,
                "blocks": manifest.block_count,
            }
        )

    def _find_members(self, found):
        # A small heap has room for a block as long as it is in one piece.
        if found.damaged:
            self.scratch.get()
        disks = self._disks(lambda: list(self.board.disks())) or ()
        tries = 1 if found.intact else _PATIENCE
        self.members = survey(disks, self.board.REGION_LBAS, self.report, tries)
        choose_home(self.members, found.manifest and found.manifest.build, self.report)

    # What a board does for its disks can fail in any way; the flash may be healthy all the same.
    def _disks(self, call):
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - I6
            self.report.reason("disks-failed", "", repr(error))

    # S4. Makes found tell what the flash holds afterwards.
    def _recover(self, found):
        report, flash = self.report, self.flash
        plan = assess(flash, found, self.members, self.board.PRODUCT, self.scratch)
        if plan is None:
            return None
        if plan.manifest is not found.manifest and not plan.lost:
            if plan.older:
                report.reason("older-build", "flash", plan.manifest.version)
            report.data["bad"] = runs(plan.bad + [flash.manifest_block])
        if plan.lost:
            report.data["lost"] = runs(plan.lost)
            return None
        try:
            act(flash, plan, self.scratch, report)
        except LifeboatError as error:
            report.data["lost"] = runs(plan.lost)
            if not plan.lost:
                report.reason(error.code, "flash", error.detail)
        except OSError as error:
            report.reason("flash-failed", "flash", str(error.errno))
        else:
            found.code = None
            found.manifest, found.bad = plan.manifest, []
            if plan.manifest_copy:
                found.manifest_state = "ok"
            return plan
        self._inspect_again()
        return None

    # After trouble with the flash: what it holds now decides, not what was found before.
    def _inspect_again(self):
        try:
            now = inspect(self.flash, self.board.PRODUCT)
        except OSError as error:
            now = Inspection()
            now.code, now.detail = "flash-failed", str(error.errno)
        found = self.found
        found.manifest, found.manifest_state = now.manifest, now.manifest_state
        found.code, found.detail, found.bad = now.code, now.detail, now.bad

    # S2 and S3, and the copies that S4 found bad.
    def _back_up(self, manifest, plan):
        check(self.members, manifest)
        broken = []
        for copy, block in bad_copies(plan, self.scratch) if plan else ():
            self.report.reason("copy-bad", copy.member.name, "block %d" % block)
            args = self.flash, manifest, copy, block, self.scratch.get()
            self._attempt(copy.member, self._mended(copy.member), "stale", mend, *args)
            if copy.member.state == "stale":
                broken.append(copy)
        # A backup with a block that can't be rewritten is none: another slot's turn.
        behind = [m for m in self.members if m.home and m.state not in ("level", "mended")]
        # A wrong guess would cost another controller its backups.
        if behind and not is_own(self.members, manifest.build):
            self.report.reason("set-unclear")
            for member in behind:
                member.state = "foreign"
        for member in behind:
            self._attempt(member, "created", "stale", self._create, member, manifest)
        for copy in broken:
            member = copy.member
            if member.state == "created" and member.newest_slot != copy.slot:
                self._attempt(member, "created", "created", member.region.clear_commit, copy.slot)
        for member in self.members:
            if member.home and member.region.bad_copies:
                self.report.reason("header-bad", member.name)
                unit = bytearray(UNIT)
                mend_header = member.region.mend_header
                self._attempt(member, self._mended(member), member.state, mend_header, unit)

    # The state of a member after mending: without a backup of the code it stays stale.
    @staticmethod
    def _mended(member):
        return "mended" if member.state == "level" else member.state

    def _create(self, member, manifest):
        generation = generation_for(self.members, manifest)
        create(self.flash, manifest, member, generation, self.scratch.get())

    # What fails on one member is reported, and the others still get their turn.
    def _attempt(self, member, done, failed, action, *args):
        if not member.home or not self.found.intact:
            return
        try:
            action(*args)
            member.state = done
        except LifeboatError as error:
            member.state = failed
            self.report.reason(error.code, member.name, error.detail)
            if error.code == "flash-changed":
                self._inspect_again()
        except OSError as error:
            member.state = failed
            member.io_error(error)
            if error.errno != EIO:
                self.scratch.drop()

    def _finish(self, found):
        data = self.report.data
        data["erases"] = self.flash.erases
        here = []
        for member in self.members:
            generation = member.newest.generation if member.newest else None
            here.append({"disk": member.name, "state": member.state, "generation": generation})
        data["members"] = here + data["members"]
        if not found.intact:
            return
        if found.manifest_state != "ok":
            self.report.reason(found.code or "manifest-padding", "flash", found.detail)
        data["verdict"] = RUN
        if not any(m.state in ("level", "created", "mended") for m in self.members):
            data["verdict"] = RUN_DEGRADED
            self.report.reason("backup-none")
