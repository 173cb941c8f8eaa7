"""What the scrubber does about backup copies: half of the patrol."""

from errno import EIO
from hashlib import sha256

from micropython import const

from .creating import write_blocks
from .errors import LifeboatError
from .kernels import crc32

try:
    from .parity import Parity
except ImportError:
    Parity = None

# The policies. What a repair is followed by, or that there is none: then the next power-on heals.
REPAIR = "repair"
RESTART = "restart"
REPORT = "report"

_UNIT = const(4096)
_TRIES = const(3)  # how often a block is mended until the next reset
_KEYS = const(64)  # blocks of which that is known


def is_right(manifest, block, feed, pieces, flash):
    """Generator; returns whether a block has both sums of the manifest.

    feed(offset, n, crc, digest) reads n bytes from offset on, continues the CRC-32 and updates the
    digest; pieces: see Scrubber.pieces().
    """
    crc, digest = 0, sha256()

    def act(offset, n):
        nonlocal crc
        crc = feed(offset, n, crc, digest)

    yield from pieces(flash, manifest.block_size, act)
    return crc == manifest.crc(block) and digest.digest() == manifest.digest(block)


def of_flash(flash, block):
    """Return a feed of a block of the code flash."""

    def feed(offset, n, crc, digest):
        return flash.crc(block, offset, n, crc, digest)

    return feed


def of_copy(copy, block, block_size, buf):
    """Return a feed of a block of a backup copy; buf: scratch of at least a piece."""
    region = copy.member.region
    at = region.block_at(copy.slot, block, block_size)

    def feed(offset, n, crc, digest):
        piece = buf[:n]
        region.read(at + offset, piece)
        digest.update(piece)
        return crc32(piece, crc)

    return feed


def as_source(read):
    """Return a source of write_blocks() whose faults are not those of the copy's disk."""

    def source(block, buf, offset):
        try:
            read(block, buf, offset)
        except OSError as error:
            raise LifeboatError("copy-bad", "its source fails: %s" % error.errno) from None

    return source


def _reader(copy, block_size):
    region = copy.member.region

    def read(block, buf, offset):
        region.read(region.block_at(copy.slot, block, block_size) + offset, buf)

    return read


class CopyPatrol:
    """See patrol.Patrol."""

    # Policy, and an end to what does not help: the next power-on tries again.
    def _may_mend(self, key):
        if len(self._tries) >= _KEYS:
            self._tries.clear()
        tries = self._tries[key] = self._tries.get(key, 0) + 1
        return self._scrubber.policy != REPORT and tries <= _TRIES

    def _give_up(self, key):
        self._tries[key] = _TRIES

    # Whether a block has both sums right, at a second look at the latest: what only was read badly
    # is not to be erased, or torn by a power cut while it is written again.
    def _is_right(self, manifest, block, feed, flash):
        for _ in range(2):
            try:
                if (yield from is_right(manifest, block, feed, self._scrubber.pieces, flash)):
                    return True
            except OSError as error:
                if error.errno != EIO:
                    raise
        return False

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
            member.tell(error.code, error.detail)
        except OSError as error:
            member.io_error(error)

    # A sector that can't be read is as bad as one with other content: writing it may cure it.
    def _copy_is_right(self, copy, manifest, block):
        feed = of_copy(copy, block, manifest.block_size, self._buf)
        return self._is_right(manifest, block, feed, False)

    # Returns whether it is right now.
    def _look_at_block(self, copy, manifest, block):
        if (yield from self._copy_is_right(copy, manifest, block)):
            return True
        name = copy.member.name
        key = name, copy.slot, block
        self._suspect(copy, block)
        self.findings.once(key, "found", "", name, block, 1)
        if not copy.member.writable or copy.commit.read_only or not self._may_mend(key):
            return False
        source = yield from self._source(copy, manifest, block)
        if source is None:
            member = copy.member
            member.tell("block-lost", str(block))
            self.findings.once(("lost",) + key, "lost", "", name, block, 1)
            return False
        yield from write_blocks(manifest, copy, (block,), source, self._buf[:_UNIT])
        self.findings.over(key)
        self.findings.tell("mended", "", name, block, 1)
        return True

    def _suspect(self, copy, block):
        unit = self.manifest.block_count + 1
        for other, manifest in self._copies:
            if other is copy:
                self._scrubber.suspect(unit + block + 1)
            unit += manifest.block_count + 1

    # What has a block, as a source of write_blocks(). What fails meanwhile is none.
    def _source(self, copy, manifest, block):
        if manifest is self.manifest:
            try:
                feed = of_flash(self._flash, block)
                if (yield from self._is_right(manifest, block, feed, True)):
                    return as_source(self._flash.read)
            except OSError as error:
                self._failed(error)
        for other, its in self._copies:
            if other is copy or its.build != manifest.build or not other.member.readable:
                continue
            try:
                right = yield from self._copy_is_right(other, manifest, block)
            except OSError as error:
                other.member.io_error(error)
                continue
            if right:
                return as_source(_reader(other, manifest.block_size))
        return None

    # Parity of the code that runs: it is made where there is room for it, and again when it rots.
    def _look_at_parity(self):
        for copy, manifest in self._copies if Parity else ():
            member = copy.member
            if manifest is self.manifest and member.readable and not copy.commit.read_only:
                try:
                    yield from self._tend(member, Parity(copy, manifest))
                except LifeboatError as error:
                    if error.code != "flash-changed":  # the flash is looked at by others
                        member.tell(error.code, error.detail)
                except OSError as error:
                    member.io_error(error)

    def _tend(self, member, parity):
        parity.load()
        yield False
        if parity.sums:
            if (yield from parity.verify(self._buf[:_UNIT])):
                return
            member.tell("parity-bad")
        wanted = parity.room and not parity.newer
        if wanted and member.writable and self._may_mend((member.name, "parity")):
            bad = parity.sums
            yield from parity.make(self._flash, self._buf[:_UNIT])
            if bad:
                self.findings.tell("mended", "parity", member.name, 0, 0)

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
        member.tell("header-bad")
        if member.writable and self._may_mend((member.name, "header")):
            region.mend_header(member.unit.get())
            self.findings.tell("mended", "", member.name, 0, 0)
            yield False

    def _look_at_records(self, copy, manifest):
        member, slot = copy.member, copy.slot
        for _ in range(2):
            if (yield from self._records_good(member, slot, manifest)):
                return
        member.tell("copy-bad", "records of slot %d" % slot)
        if not member.writable or copy.commit.read_only:
            return
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
        if not (yield from self._manifest_good(region, slot, manifest)):
            raise LifeboatError("disk-lies", "slot %d" % slot)
        region.write_commit(slot, manifest, copy.commit.generation, unit)
        self.findings.tell("mended", "", member.name, 0, 0)

    def _records_good(self, member, slot, manifest):
        try:
            if not member.region.commit(slot, member.unit.get()).describes(manifest):
                return False
            yield False
            return (yield from self._manifest_good(member.region, slot, manifest))
        except LifeboatError:
            return False
        except OSError as error:
            if error.errno != EIO:
                raise
            return False

    def _manifest_good(self, region, slot, manifest):
        raw, crc = manifest.raw, 0
        at = region.manifest_at(slot)

        def act(offset, n):
            nonlocal crc
            piece = self._buf[:n]
            region.read(at + offset, piece)
            crc = crc32(piece[: len(raw) - offset], crc)

        yield from self._scrubber.pieces(False, len(raw) + -len(raw) % _UNIT, act)
        return crc == crc32(raw)
