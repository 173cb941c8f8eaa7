"""What the scrubber looks at, and what it does about damage: the units of a pass.

Units: the blocks of the code in flash, the manifest, and of each backup copy first its records and
then its blocks. Each look is a generator that yields after every piece of work what kind it was:
True for flash, False for disk.
"""

from binascii import hexlify
from errno import EIO

import machine
import micropython

from . import running
from .blockdev import Scratch
from .checking import check, choose_own
from .codeflash import CodeFlash
from .creating import create, generation_for
from .errors import LifeboatError
from .members import CREATED, LEVEL, copies, survey
from .operation import Findings, Operation, free
from .patrol_copies import RESTART, CopyPatrol, of_flash
from .recovery import Plan, act, manifest_copy_of
from .trust import Trust

try:
    from .journal import Log
except ImportError:
    Log = None
try:
    from . import trial
except ImportError:
    trial = None
try:
    from .evidence import Keeper
except ImportError:
    Keeper = None


class Patrol(CopyPatrol):
    """scrubber: whose pieces(), policy, suspect() and altered() it uses; buf: a disk's piece."""

    def __init__(self, scrubber, board, report, buf):
        self._scrubber = scrubber
        self._board = board
        self._buf = buf
        self._report = report
        self._flash = flash = CodeFlash(board.flash(), board.BLOCK_SIZE)
        self._trust = trust = Trust(board, flash).recall()
        self._memory = trust.memory
        self.manifest = flash.manifest(trust)[0]
        build = hexlify(self.manifest.build).decode()
        if report.build_id != build:
            raise LifeboatError("flash-changed", build[:12])
        if not trust.declares_memory(self.manifest):
            self._memory.writable = False
        self.findings = Operation(report)
        self._scratch = Scratch(flash.block_size)
        try:
            disks = list(board.disks())
        except Exception as error:  # noqa: BLE001 - the flash is looked at all the same
            self.findings.reason("disks-failed", "", repr(error))
            disks = ()
        self._members = survey(disks, board.REGION_LBAS, self.findings)
        self._clear = choose_own(self._members, trust, Findings())
        check(self._members, self.manifest, trust)
        self._log = Log(self._members, self.findings) if Log else None
        self._keeper = Keeper(flash, "scrub", self.manifest) if Keeper else None
        self._copies = self._find_copies()
        self._pending = self._source_name = None
        self._scheduled = False
        self._tries = {}  # what was mended: how often
        # A confirmation makes the scrubber begin again, without one.
        tried = trial and trial.Trial(self._memory).open
        self._deadline = getattr(board, "TRIAL_MS", None) if tried else None

    # Backup copies as (Copy, Manifest): of the code that runs, and of older known code for this
    # board.
    def _find_copies(self):
        found = []
        known = [self.manifest]
        for copy in copies(self._members):
            if not copy.member.own:
                continue
            manifest = [m for m in known if copy.claims(m)]
            if not manifest:
                its = copy.load(self._trust)
                if not its or not self._trust.may_restore(its.build, True):
                    continue
                manifest = [its]
                known.append(its)
            found.append((copy, manifest[0]))
        return found

    @property
    def units(self):
        """How many units a pass has."""
        return sum([m.block_count + 1 for _, m in self._copies], self.manifest.block_count + 1)

    @property
    def total_bytes(self):
        """How much a pass reads."""
        size = self._flash.block_size
        return sum([m.block_count * m.block_size for _, m in self._copies],
                   (self.manifest.block_count + 1) * size)  # fmt: skip

    def stale(self):
        """Return the names of own members without the backup of the code that runs."""
        return [m.name for m in self._members if m.writable and m.state == "stale"]

    def look(self, unit):
        """Look at one unit. What goes wrong with it does not end the patrol."""
        return self._guarded(self._look(unit))

    def begin(self):
        """What comes before the first pass: the memory, and backups that the power-on left out."""
        yield from self._guarded(self._memory_work())
        for member in self._members:
            behind = member.writable and member.backup not in (LEVEL, CREATED)
            idle = not (trial and trial.is_open(self._memory))
            if self._clear and behind and idle and not self.manifest.read_only:
                if self._may_mend((member.name, "backup")):
                    yield from self._guarded(self._create(member))
        yield from self._guarded(self._look_at_parity())

    def reject_late(self, uptime_ms):
        """Send a build back that is tried and was not confirmed within the board's TRIAL_MS."""
        if self._deadline and uptime_ms > self._deadline:
            self._deadline = None
            try:
                trial.reject("trial-late", self._board)
            except LifeboatError:
                pass  # it is on its way back already, or the memory takes no record

    def end(self):
        """What comes after a pass: the memory's two mirrors are compared, and one heals the other;
        parity is read."""
        yield from self._guarded(self._memory_work())
        yield from self._guarded(self._look_at_parity())

    def _guarded(self, work):
        try:
            yield from work
        except Exception as error:  # noqa: BLE001 - the application goes on
            self._failed(error)
        yield from self._note()
        yield False

    # What went wrong with the flash, or in here.
    def _failed(self, error):
        if isinstance(error, OSError):
            self.findings.reason("flash-failed", "flash", error.args and error.args[-1])
        elif not isinstance(error, LifeboatError):
            self.findings.reason("internal", "scrub", repr(error))
        elif error.code == "block-lost":
            self.findings.lost(int(error.detail), 1)
        else:
            self.findings.reason(error.code, "flash", error.detail)

    # Tell the journals; what can't be told has happened all the same.
    def _note(self):
        news = list(self.findings.news)
        if not news:
            return
        try:
            if self._log:
                yield from self._log.tell(news, self._scrubber.uptime_s)
            area = self._board.retained()
            if area:
                self._report.keep(area)
        except Exception as error:  # noqa: BLE001 - too little memory, perhaps
            self.findings.reason("internal", "journal", repr(error))
        del self.findings.news[: len(news)]

    def _look(self, unit):
        blocks = self.manifest.block_count
        if unit <= blocks:
            yield from self._look_at_flash(unit)
            return
        unit -= blocks + 1
        for copy, manifest in self._copies:
            if unit <= manifest.block_count:
                if copy.member.readable:
                    yield from self._look_at_copy(copy, manifest, unit - 1)
                return
            unit -= manifest.block_count + 1

    def _memory_work(self):
        memory = self._memory
        if memory.state != "ok":
            return
        yield from memory.verify()
        if memory.damaged and memory.writable and self._may_mend("memory"):
            memory.heal()
            if not memory.damaged:
                self.findings.tell("mended", "", "memory", 0, 0)

    # --- flash -----------------------------------------------------------------------------

    def _look_at_flash(self, block):
        if block == self.manifest.block_count:
            number = self._flash.manifest_block
            right = self._manifest_is_right()
        else:
            number = block
            right = self._is_right(self.manifest, block, of_flash(self._flash, block), True)
        if (yield from right):
            return
        self._scrubber.suspect(block)
        key = "flash", number
        self.findings.once(key, "found", "", "flash", number, 1)
        yield from self._note()
        if self.manifest.read_only or not self._may_mend(key):
            return
        # A scheduled callback keeps all others away: none of them runs code out of the chip
        # while it is in program mode. In a callback of a timer it has to wait for its turn.
        self._pending = number
        while self._pending is not None:
            self._scheduled = True
            try:
                micropython.schedule(self._repair, number)
            except RuntimeError:  # too many are waiting
                self._scheduled = False
            yield True
            while self._scheduled:
                yield True
        if self._source_name:
            yield from self._after_repair(number, self._source_name)
        else:
            self._give_up(key)  # what failed is the next power-on's, which counts it

    # The manifest's blocks hold its bytes and blank ones after them.
    def _manifest_is_right(self):
        for _ in range(2):
            try:
                if self._flash.holds(self.manifest):
                    return True
            except OSError as error:
                if error.errno != EIO:
                    raise
            yield True
        return False

    # Sets _source_name to the name of the disk that it was repaired from, or None. While others
    # work with the disks or the flash, it is put off.
    def _repair(self, number):
        try:
            away = not free() or running.report is not self._report
            if self._pending == number and not away:
                self._source_name = self._pending = None
                self._source_name = self._repaired_from(number)
        except Exception as error:  # noqa: BLE001 - what is left of it is found again
            self._failed(error)
        finally:
            self._scheduled = False

    def _repaired_from(self, number):
        if number == self._flash.manifest_block:
            copy = manifest_copy_of(self._members, self.manifest)
            if not copy:
                raise LifeboatError("manifest-padding")
            plan = Plan(self.manifest, [], copy, self._members, self._trust)
        else:
            plan = Plan(self.manifest, [number], None, self._members, self._trust)
            if plan.complete(self._scratch, True).lost:
                raise LifeboatError("block-lost", str(number))
            copy = plan.sources[number]
        act(self._flash, plan, self._scratch, Findings(), self._memory)
        return copy.member.name

    def _after_repair(self, number, disk):
        self.findings.over(("flash", number))
        self.findings.tell("repaired", "", disk, number, 1)
        size = self._flash.block_size
        names = [
            name
            for name, _, offset, length in self.manifest.segments
            if offset < (number + 1) * size and number * size < offset + length
        ]
        for name in names:
            self.findings.tell("changed", self._scrubber.policy, name, number, 1)
        yield from self._note()
        if self._keeper:
            session = self._report.data.get("session", 0)
            yield from self._keeper.write(self._members, session, self._buf)
        if names and self._scrubber.policy == RESTART:
            machine.reset()
        self._scrubber.altered(names)

    # A backup that the power-on had no time for: a block is a piece.
    def _create(self, member):
        try:
            generation = generation_for(self._members, self.manifest, self._trust)
            args = member, generation, self._trust, self._scratch
            yield from create(self._flash, self.manifest, *args)
        except LifeboatError as error:
            member.tell(error.code, error.detail)
        except OSError as error:
            member.io_error(error)
        else:
            member.backup = CREATED
            count = self.manifest.block_count
            self.findings.tell("created", "", member.name, generation, count)
        finally:
            self._copies = self._find_copies()
