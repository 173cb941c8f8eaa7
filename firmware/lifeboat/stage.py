"""A new build goes onto the disks while the old one runs, block by block, from any source.

    >>> import board
    >>> from lifeboat.stage import from_image
    >>> from_image(board, "/sd/new.img")    # then reset the board

For what comes in another way, over a network say: Stage.
"""

from micropython import const

from . import running, trial
from .blockdev import COUNT, SIZE
from .codeflash import CodeFlash
from .creating import mend_from_flash, victims, write_blocks
from .errors import LifeboatError
from .manifest import Manifest
from .members import FREE, copies
from .trust import Trust
from .update import Session

_EIO = const(5)
_PIECE = const(16384)


class Stage(Session):
    """Puts a new build on the disks beside the code that runs: a candidate, until it is tried.

    board: as for boot.power_on(), its disks started; raw: the manifest of the new build; disks:
    those to use, default all. again: take a build that was rejected before, a person said so.

        stage = Stage(board, raw)
        for _ in stage.gather():          # what is here already: a block of work each time
            await asyncio.sleep(0)
        for block in stage.needed:        # in any order
            stage.put(block, data)
        stage.commit()
        stage.arm()                       # then reset the board

    What was put stays over a power cut: the next Stage of the same build goes on. The slot of the
    code that runs is never given up, and no other slot before that copy was read and is whole.
    Needs the memory of one block. version: of the new build; names: of the disks.

    LifeboatError: manifest-*, signature-* and counter-low as for any manifest; memory-none,
    memory-place; trial-open; stage-same, it runs already; build-rejected; stage-room, no disk has
    room. digest-wrong: put() got other bytes; stage-blocks: commit() before all were put.
    """

    def __init__(self, board, raw, disks=None, again=False):
        super().__init__(board, disks)
        trust, flash = self._trust, self._flash
        memory = trust.memory
        self._new = new = Manifest(bytes(raw))
        trust.accept(new)
        self._now = now = flash.manifest(trust)[0]
        if not (trust.remembers and memory.writable and trust.declares_memory(now)):
            raise LifeboatError("memory-none")
        if not trust.leaves_memory(new):
            raise LifeboatError("memory-place")
        if new.read_only:
            raise LifeboatError("manifest-version")
        if new.build == now.build:
            raise LifeboatError("stage-same", new.version)
        if new.build in memory.rejected and not again:
            raise LifeboatError("build-rejected", new.version)
        self.version = new.version
        # Read back into other memory than that of the source: another disk still wants it.
        self._piece = memoryview(bytearray(min(_PIECE, new.block_size)))
        trial.staging = True
        self._slots = []  # (Copy, a byte for each block that it is known to hold)
        self._resumed = []  # Copies that were begun before
        for member in self._members:
            if member.writable:
                self._on(member, self._open, member)
        self._any()

    @property
    def names(self):
        """The disks that the candidate goes to."""
        return [copy.member.name for copy, _ in self._slots]

    @property
    def needed(self):
        """The blocks that are on some disk not yet."""
        return [
            block
            for block in range(self._new.block_count)
            if not all(have[block] for _, have in self._slots)
        ]

    # What fails on one disk does not keep the others from it.
    def _on(self, member, action, *args):
        running.disk_calls += 1
        try:
            return action(*args)
        except LifeboatError as error:
            member.tell(error.code, error.detail)
        except OSError as error:
            member.io_error(error)
        finally:
            running.disk_calls -= 1
        self._slots = [slot for slot in self._slots if slot[0].member is not member]
        return None

    def _any(self):
        if not self._slots:
            trial.staging = False
            raise LifeboatError(
                "stage-room", " ".join([r[0] for r in self.report.data["reasons"]])
            )

    # Find room on a member. Order: its record, if there is one, goes first, and is gone on the
    # medium before anything else of the slot changes.
    def _open(self, member):
        new, region, unit = self._new, member.region, member.unit.get()
        if not region.fits(*new.sizes):
            raise LifeboatError("slot-small", "%d bytes" % region.slot_size)
        free = [copy for copy in member.copies if copy.kind == FREE]
        for copy in free:
            if region.holds_manifest(copy.slot, new, unit):
                self._slots.append((copy, bytearray(new.block_count)))
                self._resumed.append(copy)
                return
        if not free:
            self._see_whole(member)
        for slot in victims(member, self._trust, self._scratch):
            copy = member.copies[slot]
            if not copy.claims(self._now):
                break
        else:
            raise LifeboatError("stage-room")
        region.check(unit)
        copy.kind, copy.commit = FREE, None
        region.clear_commit(slot)
        region.write_manifest(slot, new, unit)
        region.flush()
        if not region.holds_manifest(slot, new, unit):
            raise LifeboatError("disk-lies", "slot %d" % slot)
        self._slots.append((copy, bytearray(new.block_count)))

    # Before an older copy goes, that of the code that runs is whole.
    def _see_whole(self, member):
        now, scratch = self._now, self._scratch
        for copy in member.copies:
            if copy.holds(now):
                for block in range(now.block_count):
                    if not copy.read(block, scratch, now.right):
                        mend_from_flash(self._flash, now, copy, block, scratch.get())
                        copy.bad.discard(block)
                return
        raise LifeboatError("backup-none")

    def gather(self):
        """Generator: take what is here already, in flash, in copies or from before a power cut; a
        block of work after each yield."""
        new, now, scratch = self._new, self._now, self._scratch
        blocks = range(new.block_count)
        for copy, have in self._slots:
            if copy in self._resumed:
                for block in blocks:
                    have[block] = have[block] or self._reads(copy, block)
                    yield block
        for block in blocks:
            if block < now.block_count and now.digest(block) == new.digest(block):
                if self._lacks(block):
                    try:
                        self._flash.read(block, scratch.get())
                        self._store(block, scratch.get())
                    except OSError as error:
                        if error.errno != _EIO:
                            raise
                    yield block
        others = [copy for copy, _ in self._slots]
        for copy in copies(self._members):
            if copy.commit and copy.member.own and not copy.claims(now):
                manifest = copy.load(self._trust)
                for block in range(min(manifest.block_count, len(blocks)) if manifest else 0):
                    if manifest.digest(block) == new.digest(block):
                        self._take(copy, block)
                        yield block
        for copy in others:  # one disk may have what another one lacks
            for block in blocks:
                if any(c is copy and have[block] for c, have in self._slots):
                    self._take(copy, block)
                    yield block
        self._any()

    def _reads(self, copy, block):
        running.disk_calls += 1
        try:
            return copy.read(block, self._scratch, self._new.right)
        finally:
            running.disk_calls -= 1

    def _take(self, copy, block):
        if self._lacks(block) and self._reads(copy, block):
            self._store(block, self._scratch.get())

    def _lacks(self, block):
        return not all(have[block] for _, have in self._slots)

    def _store(self, block, data):
        if len(data) != self._new.block_size or not self._new.right(block, data):
            return False
        for copy, have in list(self._slots):
            if not have[block]:
                copy.bad.discard(block)
                self._on(copy.member, self._write, copy, have, block, data)
        return True

    def _write(self, copy, have, block, data):
        def source(_, buf, offset):
            buf[:] = data[offset : offset + len(buf)]

        for _ in write_blocks(self._new, copy, (block,), source, self._piece):
            pass
        have[block] = 1

    def put(self, block, data):
        """Write a block of the new build on every disk that lacks it, and read it back.

        data: its bytes. Others are refused, LifeboatError(digest-wrong), and nothing is written.
        """
        if not 0 <= block < self._new.block_count or not self._store(block, memoryview(data)):
            raise LifeboatError("digest-wrong", str(block))
        self._any()

    def commit(self):
        """Make it a candidate on every disk that has all of it; return the names of these.

        A candidate changes nothing yet: it is offered, until arm() or a person says more.
        """
        for slot in list(self._slots):
            copy, have = slot
            if all(have):
                self._on(copy.member, self._seal, copy)
            else:
                self._slots.remove(slot)
                copy.member.tell("stage-blocks")
        if not self._slots:
            raise LifeboatError("stage-blocks")
        return self.names

    def _seal(self, copy):
        region, unit = copy.member.region, copy.member.unit.get()
        region.check(unit)
        if not region.holds_manifest(copy.slot, self._new, unit):
            raise LifeboatError("disk-lies", "slot %d" % copy.slot)
        region.write_commit(copy.slot, self._new, 1, unit, trial.CANDIDATE)

    def arm(self, starts=None):
        """Let the next power-on try the candidate; reset the board then.

        starts: how often it may begin to run before it is confirmed, 1 to 255; default: the
        board's TRIAL_STARTS, or 3.
        """
        self.try_next(self._new, starts)


class _Image:
    """A block device out of a file that is read only."""

    def __init__(self, file, size):
        self._file = file
        self._size = size
        self._count = file.seek(0, 2) // size

    def readblocks(self, block, buf, offset=0):
        self._file.seek(block * self._size + offset)
        if self._file.readinto(buf) != len(buf):
            raise OSError(_EIO)

    def ioctl(self, op, _):
        return {COUNT: self._count, SIZE: self._size}.get(op)


def from_image(board, path, starts=None):
    """Stage an image, as `lifeboat image build` makes it, and let the next power-on try it.

    path: of the file; starts: as for Stage.arm(). Prints how far it is. Raises what Stage does;
    OSError as the file does.
    """
    with open(path, "rb") as file:
        image = CodeFlash(_Image(file, board.BLOCK_SIZE), board.BLOCK_SIZE)
        stage = Stage(board, image.manifest(Trust(board, image))[0].raw)
        for _ in stage.gather():
            pass
        needed = stage.needed
        buf = memoryview(bytearray(board.BLOCK_SIZE))
        for done, block in enumerate(needed):
            image.read(block, buf)
            stage.put(block, buf)
            print("%d of %d blocks" % (done + 1, len(needed)), end="\r")
    print(stage.version, "is on", ", ".join(stage.commit()))
    stage.arm(starts)
    print("it is tried at the next power-on; reset the board")
