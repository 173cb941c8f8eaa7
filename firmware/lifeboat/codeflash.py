"""The code flash as blocks of format.md section 1."""

from struct import unpack_from

from micropython import const

from .blockdev import INIT, Checked, Window, geometry
from .errors import LifeboatError
from .kernels import blank, crc32

_CHUNK = const(65536)  # a call of a serial flash's driver costs as much as thousands of bytes
_LOOK = const(256)
_RECORDS = const(64)  # of a mirror of the memory
# The same everywhere.
_EIO = const(5)
_EINVAL = const(22)
_EROFS = const(30)


class CodeFlash:
    """Block-wise access to the code flash; the only way lifeboat reads and writes it.

    dev: block device whose block is the erase size; block_size: bytes, a multiple of it.
    Raises OSError as the driver does, OSError(EINVAL) when the sizes do not fit.
    view: view(offset, length) of a flash that is mapped into memory, else None. erases: blocks
    erased so far, those that were seen to be erased. look: None, or
    look(manifest, blocks, bad) of an Owner to whom CRC-32 is not enough: bad with what it finds.
    """

    look = None

    def __init__(self, dev, block_size):
        dev = Checked(dev)
        self.page = max(256, dev.program_size)
        dev.ioctl(INIT, 0)
        count, erase_size = geometry(dev)
        if block_size % 4096 or block_size % erase_size or count * erase_size % block_size:
            raise OSError(_EINVAL)
        self._dev = Window(dev, 0, count)
        self.view = self._dev.view if self._dev.mapped else None
        self._buf = None
        self._per_block = block_size // erase_size
        self.block_size = block_size
        self.blocks = count // self._per_block
        self.manifest_block = self.blocks - 1
        # Of the memory: two mirrors of the fewest that hold their records.
        self.mirror_blocks = (_RECORDS * self.page + block_size - 1) // block_size * 2
        self.erases = 0

    def memory(self):
        """Return the blocks of the memory's mirrors as a device, None when there is no room."""
        count, n = self.mirror_blocks, self._per_block
        first = self.manifest_block - count
        return Window(self._dev, first * n, count * n) if first > 0 else None

    def map(self, offset, size):
        """Return flash bytes [offset, offset + size): a view where mapped, else a copy in RAM."""
        if self.view:
            return self.view(offset, size)
        buf = bytearray(size)
        self.read(0, buf, offset)
        return buf

    def read(self, block, buf, offset=0):
        """Read len(buf) bytes of a block, from offset on."""
        erase_size = self._dev.size
        offset += block * self.block_size
        self._dev.readblocks(offset // erase_size, buf, offset % erase_size)

    def crc(self, block, offset=0, size=None, crc=0, digest=None):
        """Return the CRC-32 of a block, or of size bytes of it from offset on, continued.

        digest: a hash object that is to get the same bytes.
        """
        start, size = block * self.block_size + offset, size or self.block_size
        if self.view and not digest:
            return crc32(self.view(start, size), crc)
        for piece in self._pieces(start, start + size):
            crc = crc32(piece, crc)
            if digest:
                digest.update(piece)
        return crc

    # Flash bytes [start, end): as they are where mapped, else through one buffer, which stays: a
    # new one for each block would soon fill a small heap.
    def _pieces(self, start, end):
        if self.view:
            yield self.view(start, end - start)
            return
        if self._buf is None:
            self._buf = memoryview(bytearray(min(_CHUNK, self.block_size)))
        buf = self._buf
        for offset in range(start, end, len(buf)):
            piece = buf[: end - offset]
            self.read(0, piece, offset)
            yield piece

    # The parts of a manifest: (where in flash, where in the manifest, how long). Its first block
    # is the last of the flash, and comes last; further ones end before the memory.
    def _parts(self, manifest):
        b, own = self.block_size, manifest.manifest_blocks
        for i in range(1, own + 1):
            at = i % own * b
            block = self.manifest_block - own + i
            if at:
                block -= manifest.memory_blocks
            yield block * b, at, min(b, len(manifest.raw) - at)

    def manifest(self, trust):
        """Return (the trusted Manifest in flash, whether blank bytes follow it).

        Raises LifeboatError as Trust.load() does.
        """
        b, last = self.block_size, self.manifest_block

        def read(start, view):
            if start < b:
                self.read(last, view[start:b], start)
            if len(view) > b:
                # Where it goes on is told in its header.
                memory, own = unpack_from("<HH", view, 104)
                first = last - memory - own + 1
                if first < 0 or len(view) > own * b:
                    raise LifeboatError("manifest-size")
                self.read(first, view[b:])

        manifest = trust.load(read, self.blocks * b, memoryview(bytearray(4096)))
        return manifest, self._blank_after(manifest)

    def _blank_after(self, manifest):
        for start, _, size in self._parts(manifest):
            for piece in self._pieces(start + size, start + self.block_size):
                if not blank(piece):
                    return False
        return True

    def holds(self, manifest):
        """Return whether flash holds just this manifest, and blank bytes after it."""
        for start, at, size in self._parts(manifest):
            for piece in self._pieces(start, start + size):
                if piece != manifest.raw[at : at + len(piece)]:
                    return False
                at += len(piece)
        return self._blank_after(manifest)

    def program(self, manifest, block, data):
        """Replace a block by these bytes, which must be the manifest's (I1), and read it back.

        Raises LifeboatError(digest-wrong) before the flash is touched, LifeboatError(flash-locked)
        or LifeboatError(flash-verify) after it. Power cut: the block is torn, and found damaged by
        the next inspection.
        """
        if len(data) != self.block_size or not manifest.right(block, data):
            raise LifeboatError("digest-wrong", str(block))
        self.erase(block, data)
        if self.crc(block) != manifest.crc(block):
            raise LifeboatError("flash-verify", str(block))

    def program_manifest(self, manifest):
        """Write a manifest, its first block last, and read it back; as program()."""
        for start, at, size in self._parts(manifest):
            self.erase(start // self.block_size, manifest.raw[at : at + size])
        if not self.holds(manifest):
            raise LifeboatError("flash-verify", "manifest")

    def erase(self, block, data=b""):
        """Erase a block and program data at its start; without data it is a drill.

        An erase counts only when it took place: a chip that is write-protected may ignore the
        command.
        """
        first = block * self._per_block
        try:
            before = self._look(block)
        except OSError as error:
            if error.errno != _EIO:  # an erase may cure it
                raise
            before = None
        try:
            self._dev.erase_blocks(first, self._per_block)
        except OSError as error:
            if error.errno == _EROFS:
                raise LifeboatError("flash-locked", "%d, %s" % (block, error.args[-1])) from None
            raise
        after = self._look(block)
        if after == before and not blank(after):
            raise LifeboatError("flash-locked", str(block))
        self.erases += 1
        if data:
            self._dev.writeblocks(first, data, 0)

    def _look(self, block):
        look = bytearray(_LOOK)
        self.read(block, memoryview(look))
        return look
