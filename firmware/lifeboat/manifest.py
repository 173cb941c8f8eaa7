"""The manifest: which bytes the embedded code consists of. Format: format.md section 2."""

from binascii import hexlify
from hashlib import sha256
from struct import calcsize, unpack_from

from micropython import const

from .errors import LifeboatError
from .kernels import crc32

# format.md section 2: magic major minor header_size total_size block_size block_count
# segment_count signature_type signature_size security_counter - product version -
HEADER = "<8sBBHIIIHHII4x32s24s32x"
SEGMENT = "<24sIII12x"  # name kind offset size -

_HEADER_SIZE = calcsize(HEADER)
_SEGMENT_SIZE = calcsize(SEGMENT)

MAX_SIZE = const(65536)
ROMFS = const(2)
_MAGIC = b"LBMANIF\n"
_MAJOR = const(1)
_PIECE = const(4096)
_MAX_SEGMENTS = const(64)


def _text(field):
    text = field.rstrip(b"\0")
    if not text or b"\0" in text:
        raise LifeboatError("manifest-field", "text")
    try:
        return str(text, "utf-8")
    except UnicodeError:
        raise LifeboatError("manifest-field", "text") from None


class Manifest:
    """A manifest that keeps every rule of its format.

    raw: the bytes, total_size of them, kept, not copied. Raises LifeboatError with one of
    the manifest-* codes.
    """

    def __init__(self, raw):
        total = self._size(raw)
        if total != len(raw):
            raise LifeboatError("manifest-size")
        view = memoryview(raw)
        if crc32(view[: total - 4]) != unpack_from("<I", raw, total - 4)[0]:
            raise LifeboatError("manifest-crc")
        # Only now: a damaged version number is damage, a whole manifest of another one is not.
        if raw[8] != _MAJOR:
            raise LifeboatError("manifest-version", str(raw[8]))
        (
            _,
            _,
            _,
            header_size,
            _,
            self.block_size,
            self.block_count,
            segments,
            signature_type,
            signature_size,
            self.security_counter,
            product,
            version,
        ) = unpack_from(HEADER, raw, 0)
        crcs = header_size + segments * _SEGMENT_SIZE
        body = crcs + self.block_count * 36
        if (
            header_size != _HEADER_SIZE
            or total != body + signature_size + 4
            or total > self.block_size
        ):
            raise LifeboatError("manifest-size")
        if (
            self.block_size % 4096
            or not self.block_count
            or not 0 < segments <= _MAX_SEGMENTS
            or (signature_type == 0 and signature_size)
        ):
            raise LifeboatError("manifest-field", "header")
        self.raw = view
        self.product = _text(product)
        self.version = _text(version)
        self.segments = self._segments(header_size, segments)
        self.build = sha256(view[:body]).digest()
        self._crcs = crcs
        self._digests = crcs + self.block_count * 4

    # Checks just enough to believe total_size, and returns it.
    @staticmethod
    def _size(head):
        if len(head) < _HEADER_SIZE or bytes(head[:8]) != _MAGIC:
            raise LifeboatError("manifest-magic")
        size = unpack_from("<I", head, 12)[0]
        if not _HEADER_SIZE <= size <= MAX_SIZE:
            raise LifeboatError("manifest-size", str(size))
        return size

    @classmethod
    def load(cls, read, room):
        """Read a manifest with read(offset, buffer); offsets and lengths are whole 4096s.

        room: bytes there are to read, a multiple of 4096; a longer manifest raises
        LifeboatError(manifest-size) before anything beyond is read.
        """
        head = bytearray(_PIECE)
        read(0, head)
        size = cls._size(head)
        if size > room:
            raise LifeboatError("manifest-size", str(size))
        if size <= _PIECE:
            return cls(bytes(memoryview(head)[:size]))  # not the whole piece: it stays
        raw = bytearray((size + _PIECE - 1) // _PIECE * _PIECE)
        raw[:_PIECE] = head
        read(_PIECE, memoryview(raw)[_PIECE:])
        return cls(memoryview(raw)[:size])

    def _segments(self, offset, count):
        segments = []
        names = set()
        end = 0
        for i in range(count):
            at = offset + i * _SEGMENT_SIZE
            name, kind, start, size = unpack_from(SEGMENT, self.raw, at)
            name = _text(name)
            if name in names or start % 16 or start < end or not size:
                raise LifeboatError("manifest-field", name)
            names.add(name)
            end = start + size
            segments.append((name, kind, start, size))
        if end > self.block_count * self.block_size:
            raise LifeboatError("manifest-field", "segment beyond the last block")
        return segments

    def crc(self, block):
        """Return the CRC-32 that a block must have."""
        return unpack_from("<I", self.raw, self._crcs + 4 * block)[0]

    def crc_matches(self, block, data):
        """Return whether data has the CRC-32 that a block must have."""
        return crc32(data) == self.crc(block)

    def matches(self, block, data):
        """Return whether data has the SHA-256 that a block must have."""
        at = self._digests + 32 * block
        return sha256(data).digest() == self.raw[at : at + 32]

    @property
    def build_name(self):
        """The first 12 hex digits of the build id, as people see it."""
        return hexlify(self.build[:6]).decode()

    def accept(self, product, block_size, manifest_block):
        """Raise LifeboatError unless this is code for the board with these numbers."""
        if self.product != product:
            raise LifeboatError("manifest-product", self.product)
        if self.block_size != block_size or self.block_count > manifest_block:
            raise LifeboatError("manifest-board", "%d x %d" % (self.block_count, self.block_size))
