"""Public keys, key ids and key sets (docs/format.md, section 7).

Written from that page alone. Nothing here computes a signature: signing/ does.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from lifeboat_host.base.errors import LifeboatError

ROLES = {"code": 1, "unlock": 2, "keys": 4}
KEYS_MAX = 4  # in a key set
ID_SIZE = 8

_HEAD = 8  # of a key set
_ENTRY = 58
_KEY_FIELD = 56  # room for a key in an entry
SIZES = tuple(_HEAD + _ENTRY * count for count in range(1, KEYS_MAX + 1))  # bytes of key sets
_LMS_FIRST = {32: 5, 24: 10}  # bytes of a hash -> type code of the lowest tree
_LMOTS_FIRST = {32: 1, 24: 5}  # bytes of a hash -> type code of the narrowest digit
_HEIGHTS = (5, 10, 15, 20, 25)
_WIDTHS = (1, 2, 4, 8)
_HSS_ONE_LEVEL = struct.pack(">I", 1)  # before a key; before a signature the number is one less


@dataclass(frozen=True)
class Parameters:
    """The parameter set of an LMS key: bytes of a hash, height of the tree, width of a digit."""

    n: int
    height: int
    width: int

    @property
    def lms(self) -> str:
        return f"LMS_SHA256_M{self.n}_H{self.height}"

    @property
    def lmots(self) -> str:
        return f"LMOTS_SHA256_N{self.n}_W{self.width}"

    @property
    def codes(self) -> bytes:
        """Both type codes, as they stand in a public key."""
        lms = _LMS_FIRST[self.n] + _HEIGHTS.index(self.height)
        return struct.pack(">II", lms, _LMOTS_FIRST[self.n] + _WIDTHS.index(self.width))

    @property
    def chains(self) -> int:
        """`p` of RFC 8554, appendix B: digits of the hash and of its checksum."""
        digits = 8 * self.n // self.width
        checksum = ((1 << self.width) - 1) * digits
        return digits + -(-checksum.bit_length() // self.width)

    @property
    def one_time_keys(self) -> int:
        return 1 << self.height

    @property
    def signature_size(self) -> int:
        """Bytes of an LMS signature, without HSS's number of levels."""
        return 12 + self.n * (self.chains + 1) + self.n * self.height

    @classmethod
    def parse(cls, codes: bytes) -> Parameters | None:
        """What the type codes at the start of a public key mean; None: not known here."""
        lms, lmots = struct.unpack(">II", codes)
        for n, first in _LMS_FIRST.items():
            height, width = lms - first, lmots - _LMOTS_FIRST[n]
            if 0 <= height < len(_HEIGHTS) and 0 <= width < len(_WIDTHS):
                return cls(n, _HEIGHTS[height], _WIDTHS[width])
        return None


@dataclass(frozen=True)
class PublicKey:
    """An LMS public key. raw: its bytes of RFC 8554, section 5.3."""

    raw: bytes
    parameters: Parameters

    @property
    def id(self) -> bytes:
        return hashlib.sha256(self.raw).digest()[:ID_SIZE]

    @property
    def tree_id(self) -> bytes:
        """`I` of the RFC."""
        return self.raw[8:24]

    @property
    def root(self) -> bytes:
        return self.raw[24:]

    @classmethod
    def parse(cls, data: bytes) -> PublicKey:
        """The key in exactly these bytes; HSS's encoding of one tree is taken, too.

        Raises LifeboatError key-form.
        """
        raw = data[4:] if data[:4] == _HSS_ONE_LEVEL else data
        parameters = Parameters.parse(raw[:8]) if len(raw) >= 8 else None
        if parameters is None:
            raise LifeboatError(
                "key-form",
                "not a public key that boards know",
                "boards take LMS keys of one tree with SHA-256 or SHA-256/192 (docs/keys.md)",
            )
        if len(raw) != 24 + parameters.n:
            raise LifeboatError(
                "key-form",
                f"a public key of {parameters.lms} has {24 + parameters.n} bytes, "
                f"here are {len(raw)}",
            )
        return cls(bytes(raw), parameters)


def plain_signature(signature: bytes, parameters: Parameters) -> bytes:
    """An LMS signature without the number of levels that HSS puts before it."""
    if len(signature) == parameters.signature_size + 4 and not any(signature[:4]):
        return signature[4:]
    return signature


def signature_kind(signature: bytes) -> tuple[Parameters, int] | None:
    """(parameters, number of the one-time key) that a signature claims; None: it is none.

    With HSS's number of levels, or without.
    """
    for start in (0, 4):
        plain = signature[start:]
        if len(plain) < 12:
            return None
        index, lmots = struct.unpack_from(">II", plain)
        for n, first in _LMOTS_FIRST.items():
            if not 0 <= lmots - first < len(_WIDTHS):
                continue
            # The chains do not depend on the height; where they end stands the tree's type.
            at = 8 + n * (Parameters(n, _HEIGHTS[0], _WIDTHS[lmots - first]).chains + 1)
            found = (
                Parameters.parse(plain[at : at + 4] + plain[4:8]) if at + 4 < len(plain) else None
            )
            if found and plain_signature(signature, found) == plain:
                if len(plain) == found.signature_size:
                    return found, index
    return None


@dataclass(frozen=True)
class Listed:
    """A key of a set. roles: bits; those that are not known here give nothing."""

    key: PublicKey
    roles: int

    @property
    def role_names(self) -> list[str]:
        return [name for name, bit in ROLES.items() if self.roles & bit]


@dataclass(frozen=True)
class KeySet:
    """Which keys a board obeys, and for what; a set with a higher serial replaces it."""

    serial: int
    keys: tuple[Listed, ...]

    def key(self, key_id: bytes, role: str) -> PublicKey | None:
        """The key of that id, if it has the role."""
        for one in self.keys:
            if one.key.id == key_id and one.roles & ROLES[role]:
                return one.key
        return None

    def pack(self) -> bytes:
        """Its bytes."""
        return struct.pack("<IB3x", self.serial, len(self.keys)) + b"".join(
            struct.pack(f"<BB{_KEY_FIELD}s", one.roles, 0, one.key.raw) for one in self.keys
        )

    @classmethod
    def make(cls, serial: int, keys: Iterable[Listed]) -> KeySet:
        """A set that keeps the rules. Raises LifeboatError keyset-form."""
        found = cls(serial, tuple(keys))
        if not 0 <= serial <= 0xFFFFFFFF:
            raise _broken(f"serial {serial} does not fit 4 bytes")
        if not 1 <= len(found.keys) <= KEYS_MAX:
            raise _broken(f"{len(found.keys)} keys, 1 to {KEYS_MAX} are allowed")
        if len({one.key.id for one in found.keys}) != len(found.keys):
            raise _broken("a key is there twice")
        if not all(0 < one.roles <= 0xFF for one in found.keys):
            raise _broken("a key has no role")
        if not any(one.roles & ROLES["code"] for one in found.keys):
            raise _broken("no key has the role code: nothing could be signed")
        return found

    @classmethod
    def parse(cls, data: bytes) -> KeySet:
        """The set at the start of `data`; what stands behind it is not looked at.

        Raises LifeboatError keyset-form.
        """
        if len(data) < _HEAD:
            raise _broken(f"{len(data)} bytes, its head alone has {_HEAD}")
        serial, count = struct.unpack_from("<IB", data)
        if len(data) < _HEAD + _ENTRY * count:
            raise _broken(f"{len(data)} bytes, {count} keys take {_HEAD + _ENTRY * count}")
        return cls.make(
            serial,
            (
                _listed(data[at : at + _ENTRY])
                for at in range(_HEAD, _HEAD + _ENTRY * count, _ENTRY)
            ),
        )


def _listed(entry: bytes) -> Listed:
    field = entry[2:]
    parameters = Parameters.parse(field[:8])
    if parameters is None:
        raise _broken("a key of a kind that is not known")
    size = 24 + parameters.n
    if any(field[size:]):
        raise _broken("bytes behind a key")
    return Listed(PublicKey(bytes(field[:size]), parameters), entry[0])


def _broken(why: str) -> LifeboatError:
    return LifeboatError("keyset-form", f"not a key set: {why}")
