"""The manifest: which bytes the embedded code consists of. Format: format.md section 2."""

from hashlib import sha256
from struct import unpack_from

from micropython import const

from .errors import LifeboatError
from .kernels import crc32

# format.md section 2: magic major minor header_size total_size block_size block_count
# segment_count signature_type signature_size security_counter extension_size product version
# incompat ro_compat memory_blocks manifest_blocks
_HEADER = const("<8sBBHIIIHHIII32s24sIIHH")
_SEGMENT = const("<24sIII")  # name kind offset size

_HEADER_SIZE = const(128)
_SEGMENT_SIZE = const(48)

_MAX_SIZE = const(1048576)
_MAJOR = const(1)
_PIECE = const(4096)
_MAX_SEGMENTS = const(64)
_MAX_REST = const(8192)  # extensions and signature
# All that does not grow with the number of blocks, and what rounds up.
_MOST = const(128 + 64 * 48 + 8192 + 4 + 4095)


def text(field, code):
    """Return the text of a field; raises LifeboatError(code) when it breaks a rule for texts."""
    raw = field.rstrip(b"\0")
    last = 0
    for c in raw:  # of bytes: to make a character of each costs thousands of instructions
        # Control characters; the ones above 0x7F are two bytes.
        if c < 32 or c == 127 or last == 0xC2 and c < 0xA0:
            raw = b""
        last = c
    try:
        if raw:
            return str(raw, "utf-8")
    except UnicodeError:
        pass
    raise LifeboatError(code)


def limit(blocks):
    """Return the most bytes, in whole 4096s, of a manifest for a flash of so many blocks."""
    return min(_MOST + 36 * blocks & -_PIECE, _MAX_SIZE)


# Checks just enough to believe total_size, and returns it.
def _size(head, most=_MAX_SIZE):
    if bytes(head[:8]) != b"LBMANIF\n" or len(head) < _HEADER_SIZE:
        raise LifeboatError("manifest-magic")
    size = unpack_from("<I", head, 12)[0]
    if not _HEADER_SIZE <= size <= most:
        raise LifeboatError("manifest-size")
    return size


def load(read, room, head):
    """Return the Manifest that read() gives.

    read(start, view) fills a memoryview with the first bytes there are; those before start are
    there already. Both are whole 4096s. room: bytes there are to read, a multiple of 4096; a
    longer manifest raises LifeboatError(manifest-size) before anything beyond is read. head:
    scratch of 4096 bytes.
    """
    head[0] = 0  # a disk that leaves it alone is found out
    read(0, head)
    size = _size(head, room)
    if size <= _PIECE:
        return Manifest(bytes(head[:size]))  # not the whole piece: it stays
    raw = memoryview(bytearray(size + _PIECE - 1 & -_PIECE))
    raw[:_PIECE] = head
    read(_PIECE, raw)
    return Manifest(raw[:size])


class Manifest:
    """A manifest that keeps every rule of its format.

    raw: the bytes, kept, not copied; sizes: how many they are, block_size, block_count. build: the
    build id. read_only: what it describes may run, but neither be repaired nor backed up by this
    version. memory_blocks, manifest_blocks: how many blocks of the flash these take. end: where
    the signature begins. Raises LifeboatError with one of the manifest-* codes.
    """

    def __init__(self, raw):
        total = _size(raw)
        if total != len(raw):
            raise LifeboatError("manifest-size")
        self.raw = raw = memoryview(raw)
        if crc32(raw[:-4]) != unpack_from("<I", raw, total - 4)[0]:
            raise LifeboatError("manifest-crc")
        (
            _, major, minor, header_size, _, block_size, block_count, segments,
            signature_type, signature_size, self.security_counter, extensions, product, version,
            incompat, self.read_only, self.memory_blocks, own_blocks,
        ) = unpack_from(_HEADER, raw)  # fmt: skip
        # Only now: a damaged version number is damage, a whole manifest of another one is not.
        if major != _MAJOR or incompat:
            raise LifeboatError("manifest-version", str(major))
        self._crcs = crcs = _HEADER_SIZE + segments * _SEGMENT_SIZE
        self._digests = crcs + block_count * 4
        body = crcs + block_count * 36
        self.manifest_blocks = own_blocks = own_blocks or 1
        if (
            header_size != _HEADER_SIZE
            or total != body + extensions + signature_size + 4
            or extensions + signature_size > _MAX_REST
            or not (own_blocks - 1) * block_size < total <= own_blocks * block_size
        ):
            raise LifeboatError("manifest-size")
        if (
            block_size % _PIECE
            or not block_count
            or not 0 < segments <= _MAX_SEGMENTS
            or signature_type != (signature_size > 0)
            or self.memory_blocks % 2
            or extensions % 4
        ):
            raise LifeboatError("manifest-field")
        self.block_size = block_size
        self.block_count = block_count
        self.sizes = total, block_size, block_count
        self.end = end = body + extensions
        self._check_extensions(body, end)
        self.product = text(product, "manifest-field")
        self.version = text(version, "manifest-field")
        self.segments = self._segments()
        # The same code signed in another way, or not at all, is the same build.
        head = bytearray(raw[:32])
        if minor >= 2:
            head[12:16] = bytes(4)  # total_size
            head[26:32] = bytes(6)  # signature_type, signature_size
        digest = sha256(head)
        digest.update(raw[32:end])
        self.build = digest.digest()

    # An extension that must be known makes this a manifest of a newer format: the only one that
    # there is, a key set, need not be (owner.py reads it).
    def _check_extensions(self, at, end):
        while at != end:
            if end - at < 8:
                raise LifeboatError("manifest-field")
            _, flags, size = unpack_from("<HHI", self.raw, at)
            if flags & 1:
                raise LifeboatError("manifest-version")
            at += 8 + (size + 3 & -4)

    # (name, kind, first byte, size) of all.
    def _segments(self):
        found, names, end = [], [], 0
        for at in range(_HEADER_SIZE, self._crcs, _SEGMENT_SIZE):
            name, kind, start, size = unpack_from(_SEGMENT, self.raw, at)
            name = text(name, "manifest-field")
            if name in names or start % 16 or start < end or not size:
                raise LifeboatError("manifest-field", name)
            names.append(name)
            end = start + size
            found.append((name, kind, start, size))
        if end > self.block_count * self.block_size:
            raise LifeboatError("manifest-field", name)
        return found

    def crc(self, block):
        """Return the CRC-32 that a block must have."""
        return unpack_from("<I", self.raw, self._crcs + 4 * block)[0]

    def crc_matches(self, block, data):
        """Return whether data has the CRC-32 that a block must have."""
        return crc32(data) == self.crc(block)

    def digest(self, block):
        """Return the SHA-256 that a block must have."""
        at = self._digests + 32 * block
        return bytes(self.raw[at : at + 32])

    def right(self, block, data):
        """Return whether data is the block, by both sums: only then good bytes may go for it."""
        return self.crc_matches(block, data) and sha256(data).digest() == self.digest(block)
