"""Inspection during operation: code flash and backup copies, a bounded step at a time.

    scrubber = Scrubber(board, policy=REPAIR, on_change=reload)
    asyncio.create_task(scrubber.run(step_ms=5, period_ms=100))

or call scrubber.step(5) now and then, or give scrubber.tick to a timer.

Each pass looks at every block of the code flash, at the manifest, and at every block of every
backup copy on every member. A pass goes on after a warm reset where it was; after a cold one it
begins at a random block, so that short uptimes cover everything, too.
"""

import os
from errno import EIO
from struct import calcsize, pack_into, unpack_from
from time import ticks_diff, ticks_ms, ticks_us

import machine
import micropython
from micropython import const

from . import boot
from .blockdev import Scratch, UserArea
from .checking import check, choose_home, survey
from .codeflash import CodeFlash
from .errors import LifeboatError
from .kernels import crc32
from .recovery import Copy, Plan, act, manifest_copy_of, repair_plan
from .report import RESCUE, TAIL

# The policies. What a repair is followed by, or that there is none: then the next power-on heals.
REPAIR = "repair"
RESTART = "restart"
REPORT = "report"

_LEAST = const(4096)  # bytes of a piece
_MOST = {True: const(65536), False: const(16384)}  # of flash, of a disk
_SUSPECTS = const(6)
_TRIES = const(3)
_TOLD = const(16)
_NONE = const(0xFFFFFFFF)

# At the end of the retained RAM: magic, build, units, how many of them are left in this pass,
# position, age of the last full pass in ms, passes, suspects; then the CRC-32.
_STATE = "<4s8sIIIII6I"
_MAGIC = b"LBSC"
_CRC = calcsize(_STATE)


class _Mute:
    def reason(self, *args):
        pass

    missing = repaired = reason


class Scrubber:
    """Looks for damage while the application runs, and mends it.

    board: as for boot.power_on(), whose verdict must allow to run; policy: REPAIR, RESTART
    (repair, then reset the board) or REPORT (only tell). on_change(names) is called after a repair
    with the names of the segments in the repaired block; changed collects them until the
    application clears it. Raises LifeboatError when the code in flash is not what was found at
    power-on, OSError as the flash driver does. Nothing else here raises, but the first step after
    a power_on() without a reset, which begins anew: what goes wrong is in the report.
    """

    def __init__(self, board, policy=REPAIR, on_change=None):
        self.policy = policy
        self.changed = set()
        self.deferred = self.steps = 0
        self._on_change = on_change
        self._board = board
        self._buf = memoryview(bytearray(_MOST[False]))
        self._busy = False
        self._budget = 0
        self._bytes = self._spent = 0
        self._clock = 0  # ms, of which ticks would lose count in days
        self._ticks = ticks_ms()
        self._begin()

    def _begin(self):
        board, report = self._board, boot.report()
        if report is None or report.verdict == RESCUE:
            raise LifeboatError("flash-changed", "no verified code runs")
        self._flash = CodeFlash(board.flash(), board.BLOCK_SIZE)
        self._manifest = self._flash.manifest()[0]
        if self._manifest.build_name != report.data["build"]:
            raise LifeboatError("flash-changed", self._manifest.build_name)
        self._scratch = Scratch(self._flash.block_size)
        self._manifest_crc = self._blank_after(self._manifest.raw)
        self._members = survey(list(board.disks()), board.REGION_LBAS, report)
        choose_home(self._members, self._manifest.build, _Mute())
        check(self._members, self._manifest)
        self._log = None
        if boot.record:
            from .journal import Log

            self._log = Log(self._members, report)
        self._copies = self._find_copies()
        self._sizes = {True: _LEAST, False: _LEAST}  # of a piece: of flash, of a disk
        self._costs = {True: 0, False: 0}  # of the last piece, in us
        self._full = None  # when by _clock the last full pass ended
        self._pending = self._last = None
        self._scheduled = False
        self._news = []  # what the journals are to be told
        self._open = set()  # what was told and lasts: it is not told again
        self._tries = {}  # what was mended: how often
        self._suspects = []
        self._position = self.passes = 0
        self._restore()
        self._work = self._patrol()
        self._report = report

    # --- for the application ---------------------------------------------------------------

    def step(self, ms):
        """Go on for about ms milliseconds; returns False when another step is under way, a
        power-on, or a person's session.

        It ends before a piece that would not fit any more. Repairing a block of flash is one
        piece, as long as the chip needs for an erase and the programming.
        """
        # A power-on has its report from its beginning, and how long it took at its end.
        if self._busy or boot.attended or "total" not in boot.report().data["ms"]:
            return False
        self._busy = True
        self._budget = 1000 * ms
        self._clock += max(0, ticks_diff(ticks_ms(), self._ticks))
        self._ticks = ticks_ms()
        start = ticks_us()
        try:
            # It has started the disks anew, and may have used the slot of a copy for another.
            if boot.report() is not self._report:
                self._begin()
            while boot.report() is self._report:
                kind = self._next()
                spent = ticks_diff(ticks_us(), start)
                if spent + self._costs.get(kind, 0) >= self._budget:
                    break
        finally:
            self._busy = False
            self._spent += ticks_diff(ticks_us(), start)
            self.steps += 1
        return True

    def tick(self, _=None, ms=5):
        """step() for a timer's callback; it waits for another time while the disks are in use."""
        if UserArea.busy or not self.step(ms):
            self.deferred += 1

    async def run(self, step_ms=5, period_ms=100):
        """Take a step every period_ms, for ever: a task for asyncio."""
        import asyncio

        while True:
            began = ticks_ms()
            self.step(step_ms)
            rest = period_ms - ticks_diff(ticks_ms(), began)
            await asyncio.sleep(max(rest, 0) / 1000)

    def status(self):
        """Return how far it is, as a dict.

        position, units: of the pass; age_s: since the last full pass ended, None when there was
        none; bound_s: within how many seconds damage is found at the present pace, one full
        pass; stale: members without the backup of the code that runs.
        """
        bound = None
        if self._bytes and self.steps > 1:
            bound = self._total_bytes() * self._clock / self._bytes / 1000
        age = self._age()
        return {
            "policy": self.policy,
            "position": self._position,
            "units": self._units(),
            "passes": self.passes,
            "age_s": None if age is None else age / 1000,
            "bound_s": bound,
            "steps": self.steps,
            "step_ms": self._spent / 1000 / self.steps if self.steps else 0,
            "deferred": self.deferred,
            "suspects": len(self._suspects),
            "stale": [m.name for m in self._members if m.home and m.state == "stale"],
        }

    # --- the patrol ------------------------------------------------------------------------

    # Backup copies as (Copy, Manifest): of the code that runs, and of older code for this board. A
    # forged manifest may claim blocks of gigabytes, with which no pass would end.
    def _find_copies(self):
        copies = []
        known = [self._manifest]
        for member in self._members:
            for slot, commit in enumerate(member.records):
                if not (commit and member.home):
                    continue
                manifest = [m for m in known if commit.describes(m)]
                try:
                    if not manifest:
                        manifest = [member.region.manifest(slot)]
                        manifest[0].accept(
                            self._board.PRODUCT, self._flash.block_size, self._flash.manifest_block
                        )
                        known += manifest
                except (LifeboatError, MemoryError):
                    continue
                except OSError as error:
                    member.io_error(error)
                    continue
                if commit.describes(manifest[0]):
                    copies.append((Copy(member, slot), manifest[0]))
        return copies

    # Units of a pass: the blocks of flash, the manifest block, and of each copy first its records
    # and then its blocks.
    def _units(self):
        return sum([m.block_count + 1 for _, m in self._copies], self._manifest.block_count + 1)

    def _total_bytes(self):
        size = self._flash.block_size
        return sum([m.block_count * m.block_size for _, m in self._copies],
                   (self._manifest.block_count + 1) * size)  # fmt: skip

    # Take one piece of work. Returns what kind it was: True for flash, False for disk.
    def _next(self):
        try:
            return next(self._work)
        except StopIteration:  # Ctrl-C has ended it
            self._work = self._patrol()

    def _patrol(self):
        while True:
            again, self._suspects = self._suspects, []
            for unit in again:
                yield from self._try(unit)
            while self._left:
                yield from self._try(self._position)
                self._position = (self._position + 1) % self._units()
                self._left -= 1
                self._save()
            self.passes += 1
            self._full = self._clock
            self._left = self._units()
            self._save()

    # What goes wrong with one unit does not keep the others from being looked at.
    def _try(self, unit):
        try:
            yield from self._look(unit)
        except Exception as error:  # noqa: BLE001 - the application goes on
            self._failed(error)
        yield from self._note()
        yield False

    def _look(self, unit):
        blocks = self._manifest.block_count
        if unit <= blocks:
            yield from self._look_at_flash(unit)
            return
        unit -= blocks + 1
        for copy, manifest in self._copies:
            if unit <= manifest.block_count:
                if copy.member.home:
                    yield from self._look_at_copy(copy, manifest, unit - 1)
                return
            unit -= manifest.block_count + 1

    # Note the time that the piece has taken, choose the size of the next one of its kind.
    def _account(self, flash, start, size):
        cost = self._costs[flash] = ticks_diff(ticks_us(), start)
        self._bytes += size
        if size == self._sizes[flash]:
            if cost > self._budget // 4 and size > _LEAST:
                self._sizes[flash] = size // 2
                self._costs[flash] = cost // 2
            elif cost < self._budget // 16 and size < _MOST[flash]:
                self._sizes[flash] = size * 2
                self._costs[flash] = cost * 2

    # CRC-32 of size bytes, a piece at a time; read(offset, size, crc) goes on with one.
    def _sum(self, flash, size, read):
        crc = offset = 0
        while offset < size:
            piece = min(self._sizes[flash], size - offset)
            start = ticks_us()
            crc = read(offset, piece, crc)
            self._account(flash, start, piece)
            offset += piece
            yield flash
        return crc

    def _flash_sum(self, block):
        def read(offset, size, crc):
            return self._flash.crc(block, offset, size, crc)

        return (yield from self._sum(True, self._flash.block_size, read))

    # CRC-32 of a block with these bytes at its start and blank ones after them.
    def _blank_after(self, raw):
        crc = crc32(raw)
        for at in range(len(raw), self._flash.block_size, _LEAST):
            crc = crc32(b"\xff" * min(_LEAST, self._flash.block_size - at), crc)
        return crc

    # Whether a sum comes to this CRC-32, at a second look at the latest: what only was read badly
    # is not to be erased, or torn by a power cut while it is written again.
    def _is_right(self, want, summing, *args):
        for _ in range(2):
            try:
                if (yield from summing(*args)) == want:
                    return True
            except OSError as error:
                if error.errno != EIO:
                    raise
        return False

    # --- flash -----------------------------------------------------------------------------

    def _look_at_flash(self, block):
        last = block == self._manifest.block_count
        number = self._flash.manifest_block if last else block
        want = self._manifest_crc if last else self._manifest.crc(block)
        if (yield from self._is_right(want, self._flash_sum, number)):
            return
        self._suspect(block)
        self._found(("flash", number), "flash", number)
        yield from self._note()
        if not self._may_mend(("flash", number)):
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
        if self._last:
            yield from self._after_repair(number, self._last)

    # Sets _last to the name of the disk that it was repaired from, or None. While others work with
    # the disks or the flash, it is put off.
    def _repair(self, number):
        try:
            away = UserArea.busy or boot.attended or boot.report() is not self._report
            if self._pending == number and not away:
                self._last = self._pending = None
                self._last = self._repaired_from(number)
        except Exception as error:  # noqa: BLE001 - what is left of it is found again
            self._failed(error)
        finally:
            self._scheduled = False

    def _repaired_from(self, number):
        if number == self._flash.manifest_block:
            plan = Plan(self._manifest, [], manifest_copy_of(self._members, self._manifest))
            if not plan.manifest_copy:
                raise LifeboatError("manifest-padding")
            source = plan.manifest_copy
        else:
            plan = repair_plan(self._manifest, [number], self._members, self._scratch)
            if plan.lost:
                raise LifeboatError("block-lost", str(number))
            source = plan.sources[number]
        act(self._flash, plan, self._scratch, _Mute())
        return source.member.name

    # Policy, and an end to what does not help: the next power-on tries again.
    def _may_mend(self, key):
        tries = self._tries[key] = self._tries.get(key, 0) + 1
        return self.policy != REPORT and tries <= _TRIES

    def _after_repair(self, number, disk):
        self._done(("flash", number), "repaired", disk, number)
        size = self._flash.block_size
        names = [
            name
            for name, _, offset, length in self._manifest.segments
            if offset < (number + 1) * size and number * size < offset + length
        ]
        for name in names:
            self._tell("changed", self.policy, name, number, 1)
        self.changed.update(names)
        yield from self._note()
        if names and self.policy == RESTART:
            machine.reset()
        elif names and self._on_change:
            self._on_change(names)

    # --- copies ----------------------------------------------------------------------------

    # block -1: the records of the slot and the region's header.
    def _look_at_copy(self, copy, manifest, block):
        member = copy.member
        try:
            if block < 0:
                yield from self._look_at_header(member.region, member)
                yield from self._look_at_records(copy, manifest)
            else:
                yield from self._look_at_block(copy, manifest, block)
        except LifeboatError as error:
            self._reason(error.code, member.name, error.detail)
        except OSError as error:
            member.io_error(error)
            self._reason("disk-failed", member.name, str(error.errno))

    # Returns whether it is right now.
    def _look_at_block(self, copy, manifest, block):
        if (yield from self._copy_is_right(copy, manifest, block)):
            return True
        key = copy.member.name, copy.slot, block
        self._suspect_copy(copy, block)
        self._found(key, copy.member.name, block)
        return self._may_mend(key) and (yield from self._mend(copy, manifest, block, key))

    # A sector that can't be read is as bad as one with other content: writing it may cure it.
    def _copy_is_right(self, copy, manifest, block):
        region, size = copy.member.region, manifest.block_size
        at = region.block_at(copy.slot, block, size)
        return self._reads_as(manifest.crc(block), region, at, size)

    def _reads_as(self, want, region, at, size):
        def read(offset, length, crc):
            piece = self._buf[:length]
            region.read(at + offset, piece)
            return crc32(piece[: size - offset], crc)

        return self._is_right(want, self._sum, False, size + -size % _LEAST, read)

    # Write a damaged block of a copy again, from the flash or from another copy that has it right.
    # A power cut tears a block that was bad already (I2).
    def _mend(self, copy, manifest, block, key):
        source = yield from self._source(copy, manifest, block)
        if source is None:
            self._lost(copy.member.name, block)
            return False
        region = copy.member.region
        at = region.block_at(copy.slot, block, manifest.block_size)
        region.check(copy.member.unit.get())

        def write(offset, size, crc):
            piece = self._buf[:size]
            try:
                source(offset, piece)
            except OSError as error:  # not a fault of the copy's disk
                raise LifeboatError("copy-bad", "its source fails: %s" % error.errno) from None
            region.write(at + offset, piece)
            return crc32(piece, crc)

        yield from self._sum(False, manifest.block_size, write)
        region.flush()
        yield False
        # A disk that leaves the buffer alone is not to pass for one that gives what was written.
        for at in range(0, len(self._buf), 512):
            self._buf[at] ^= 0xFF
        if not (yield from self._copy_is_right(copy, manifest, block)):
            self._reason("disk-lies", copy.member.name, "block %d" % block)
            return False
        self._done(key, "mended", copy.member.name, block)
        return True

    # Where to read a block from: source(offset, piece). What fails meanwhile is no source.
    def _source(self, copy, manifest, block):
        if manifest is self._manifest:
            try:
                if (yield from self._is_right(manifest.crc(block), self._flash_sum, block)):
                    return lambda offset, piece: self._flash.read(block, piece, offset)
            except OSError as error:
                self._failed(error)
        for other, its in self._copies:
            if other is copy or its.build != manifest.build or not other.member.home:
                continue
            try:
                right = yield from self._copy_is_right(other, manifest, block)
            except OSError as error:
                other.member.io_error(error)
                continue
            if right:
                region = other.member.region
                at = region.block_at(other.slot, block, manifest.block_size)
                return lambda offset, piece: region.read(at + offset, piece)
        return None

    def _look_at_header(self, region, member):
        region.bad_copies = []
        for offset in region.copies:
            for _ in range(2):
                good = region.is_good(offset, member.unit.get())
                yield False
                if good:
                    break
            else:
                region.bad_copies.append(offset)
        if not region.bad_copies:
            return
        region.check(member.unit.get())
        self._reason("header-bad", member.name, "")
        if self._may_mend((member.name, "header")):
            region.mend_header(member.unit.get())
            self._tell("mended", "", member.name, 0, 0)
            yield False

    def _look_at_records(self, copy, manifest):
        member, slot = copy.member, copy.slot
        for _ in range(2):
            if (yield from self._records_good(member, slot, manifest)):
                return
        self._reason("copy-bad", member.name, "records of slot %d" % slot)
        if not self._may_mend((member.name, slot, -1)):
            return
        # The slot counts as free now. It is committed again when all of its blocks are right, so
        # a power cut leaves a free slot or a whole copy.
        for block in range(manifest.block_count):
            if not (yield from self._look_at_block(copy, manifest, block)):
                return
        region, unit = member.region, member.unit.get()
        region.check(unit)
        region.write_manifest(slot, manifest, unit)
        region.flush()
        yield False
        if (yield from self._manifest_good(region, slot, manifest)):
            region.write_commit(slot, manifest, member.records[slot].generation, unit)
            self._tell("mended", "", member.name, 0, 0)
        else:
            self._reason("disk-lies", member.name, "slot %d" % slot)

    def _records_good(self, member, slot, manifest):
        try:
            if not member.region.commit(slot, member.unit.get()).describes(manifest):
                return False
        except LifeboatError:
            return False
        except OSError as error:
            if error.errno != EIO:
                raise
            return False
        yield False
        return (yield from self._manifest_good(member.region, slot, manifest))

    def _manifest_good(self, region, slot, manifest):
        raw = manifest.raw
        return self._reads_as(crc32(raw), region, region.manifest_at(slot), len(raw))

    # --- memory ----------------------------------------------------------------------------

    def _suspect(self, unit):
        if unit not in self._suspects and len(self._suspects) < _SUSPECTS:
            self._suspects.append(unit)

    def _suspect_copy(self, copy, block):
        unit = self._manifest.block_count + 1
        for other, manifest in self._copies:
            if other is copy:
                self._suspect(unit + block + 1)
            unit += manifest.block_count + 1

    def _tell(self, *entry):
        told = self._report.data.setdefault("operation", [])
        told.append(list(entry))
        del told[:-_TOLD]
        self._news.append(entry)

    # Tell the journals; what can't be told has happened all the same.
    def _note(self):
        if not self._news:
            return
        try:
            if self._log:
                yield from self._log.tell(self._news)
            area = self._board.retained()
            if area:
                self._report.keep(area)
        except Exception as error:  # noqa: BLE001 - too little memory, perhaps
            self._report.reason("internal", "journal", repr(error))
        self._news = []

    # What lasts is told once.
    def _once(self, key, *entry):
        if key not in self._open:
            self._open.add(key)
            self._tell(*entry)

    def _found(self, key, where, number):
        self._once(key, "found", "", where, number, 1)

    # What went wrong with the flash, or in here.
    def _failed(self, error):
        if isinstance(error, OSError):
            self._reason("flash-failed", "flash", str(error.errno))
        elif not isinstance(error, LifeboatError):
            self._reason("internal", "scrub", repr(error))
        elif error.code == "block-lost":
            self._lost("flash", int(error.detail))
        else:
            self._reason(error.code, "flash", error.detail)

    # A block without any good copy.
    def _lost(self, where, number):
        self._report.reason("block-lost", where, str(number))
        self._once(("lost", where, number), "lost", "", where, number, 1)

    def _done(self, key, event, disk, number):
        self._open.discard(key)
        self._tell(event, "", disk, number, 1)

    def _reason(self, code, where, detail):
        self._report.reason(code, where, detail)
        self._once((code, where, detail), "reason", code, where, 0, 0)

    def _age(self):
        return None if self._full is None else self._clock - self._full

    def _save(self):
        area = self._board.retained()
        if not area:
            return
        state = memoryview(area)[-TAIL:]
        suspects = (self._suspects + [_NONE] * _SUSPECTS)[:_SUSPECTS]
        age = self._age()
        pack_into(
            _STATE, state, 0, _MAGIC, self._manifest.build[:8], self._units(), self._left,
            self._position, _NONE if age is None else min(age, _NONE - 1), self.passes, *suspects
        )  # fmt: skip
        pack_into("<I", state, _CRC, crc32(state[:_CRC]))

    # Go on where it was; from a random unit when RAM has forgotten.
    def _restore(self):
        area = self._board.retained()
        state = bytes(memoryview(area)[-TAIL:]) if area else bytes(TAIL)
        magic, build, of, left, position, age, passes, *suspects = unpack_from(_STATE, state, 0)
        units = self._left = self._units()
        if (
            magic == _MAGIC
            and build == self._manifest.build[:8]
            and of == units
            and crc32(state[:_CRC]) == unpack_from("<I", state, _CRC)[0]
        ):
            self._position = position
            self._left = left
            self.passes = passes
            self._full = None if age == _NONE else -age
            self._suspects = [unit for unit in suspects if unit < units]
        else:
            self._position = _random() % units


# Any number: from the hardware's source where the port has one, else from the clock.
def _random():
    if hasattr(os, "urandom"):
        return int.from_bytes(os.urandom(4), "little")
    return ticks_us()
