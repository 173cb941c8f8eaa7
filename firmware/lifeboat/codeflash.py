"""The code flash as blocks of format.md section 1."""

from errno import EINVAL

from micropython import const

from .blockdev import INIT, Checked, Window, geometry
from .errors import LifeboatError
from .kernels import blank, crc32
from .manifest import Manifest

_CHUNK = const(65536)  # a call of a serial flash's driver costs as much as thousands of bytes


class CodeFlash:
    """Block-wise access to the code flash; the only way lifeboat reads and writes it.

    dev: block device whose block is the erase size; block_size: bytes, a multiple of it.
    Raises OSError as the driver does, OSError(EINVAL) when the sizes do not fit.
    """

    def __init__(self, dev, block_size):
        dev = Checked(dev)
        dev.ioctl(INIT, 0)
        count, erase_size = geometry(dev)
        if block_size % 4096 or block_size % erase_size or count * erase_size % block_size:
            raise OSError(EINVAL)
        self._dev = Window(dev, 0, count)
        self._mapped = self._dev.mapped
        self._buf = None
        self._per_block = block_size // erase_size
        self.block_size = block_size
        self.manifest_block = count // self._per_block - 1

    @property
    def erases(self):
        """Erase operations so far, in blocks."""
        return self._dev.erases // self._per_block

    def map(self, offset, size):
        """Return flash bytes [offset, offset + size): a view where mapped, else a copy in RAM."""
        if self._mapped:
            return self._dev.view(offset, size)
        buf = bytearray(size)
        self._read(offset, memoryview(buf))
        return buf

    def _read(self, offset, buf):
        erase_size = self._dev.size
        self._dev.readblocks(offset // erase_size, buf, offset % erase_size)

    def read(self, block, buf, offset=0):
        """Read len(buf) bytes of a block, from offset on."""
        self._read(block * self.block_size + offset, buf)

    def crc(self, block, offset=0, size=None, crc=0):
        """Return the CRC-32 of a block, or of size bytes of it from offset on, continued."""
        start, size = block * self.block_size + offset, size or self.block_size
        if self._mapped:
            return crc32(self._dev.view(start, size), crc)
        for piece in self._pieces(start, start + size):
            crc = crc32(piece, crc)
        return crc

    # Read flash bytes [start, end) through one buffer, which stays: a new one for each block would
    # soon fill a small heap.
    def _pieces(self, start, end):
        if self._buf is None:
            self._buf = memoryview(bytearray(min(_CHUNK, self.block_size)))
        buf = self._buf
        for offset in range(start, end, len(buf)):
            piece = buf[: end - offset]
            self._read(offset, piece)
            yield piece

    def manifest(self):
        """Return (the Manifest in the manifest block, whether blank bytes follow it).

        Raises LifeboatError as Manifest does.
        """
        start = self.manifest_block * self.block_size
        manifest = Manifest.load(
            lambda offset, buf: self._read(start + offset, buf), self.block_size
        )
        rest = start + len(manifest.raw)
        end = start + self.block_size
        if self._mapped:
            return manifest, blank(self._dev.view(rest, end - rest))
        return manifest, all(blank(piece) for piece in self._pieces(rest, end))

    def holds(self, manifest):
        """Return whether the manifest block holds just this manifest, and blank bytes after it."""
        try:
            now, blank = self.manifest()
        except LifeboatError:
            return False
        return blank and now.raw == manifest.raw

    def replace(self, block, data):
        """Erase a block and program data at its start; what follows stays erased.

        Power cut: the block is torn, and found damaged by the next inspection.
        """
        first = block * self._per_block
        self._dev.erase_blocks(first, self._per_block)
        self._dev.writeblocks(first, data, 0)
