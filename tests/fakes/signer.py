"""An owner for tests: LMS keys of fixed seeds, key sets, and signed manifests.

Signatures are pyhsslms's. In tests a one-time key signs many messages; nowhere else may it.
"""

import hashlib
import struct
from functools import lru_cache
from unittest import mock

from pyhsslms import pyhsslms

from fakes import board as sim
from fakes import forgery

CODE, UNLOCK, KEYS = 1, 2, 4
ALL = CODE | UNLOCK | KEYS

M24_H5, M24_H10, M32_H5 = 10, 11, 5
N24_W4, N32_W8 = 7, 4


class Key:
    """A private key made of two texts."""

    def __init__(self, seed, tree_id, lms, ots):
        n = 24 if lms >= 10 else 32
        types = pyhsslms.u32(lms), pyhsslms.u32(ots)
        seeds = [hashlib.sha256(text.encode()).digest() for text in (seed, tree_id)]
        self._private = pyhsslms.LmsPrivateKey(*types, seeds[0][:n], seeds[1][:16])
        self.public = self._private.publicKey().serialize()
        self.id = hashlib.sha256(self.public).digest()[:8]

    def sign(self, message, leaf=0):
        """Return the signature of a message by a leaf; the same ones always give the same."""
        seed = hashlib.sha256(self.id + bytes(message)).digest()
        self._private.q = leaf
        self._private.ots_priv[leaf]._signatures_remaining = 1
        with mock.patch.object(pyhsslms, "randBytes", lambda n: seed[:n]):
            return self._private.sign(bytes(message))

    def manifest(self, raw, keys=None, counter=0):
        """Return a manifest without signature as one that this key signed.

        keys: a key set that it brings; counter: its security counter.
        """
        return signed(raw, self.sign, self.id, keys, counter)

    def image(self, image, keys=None, counter=0):
        """Return an image for a SimBoard with its manifest signed."""
        _, raw = forgery.parts(image)
        raw = self.manifest(raw, keys, counter)
        return bytes(image[: -sim.ERASE]) + forgery.pad(raw, sim.ERASE, b"\xff")


@lru_cache(None)
def key(name, lms=M24_H5, ots=N24_W4):
    """Return the key of that number, which takes a moment only once."""
    return Key(f"seed {name}", f"I {name}", lms, ots)


@lru_cache(None)
def demo_key(name):
    """Return the key "code" or "unlock" of boards/policies/signed."""
    texts = (f"lifeboat demo key, {part}: {name}" for part in ("seed", "I"))
    return Key(*texts, M24_H10, N24_W4)


def signed(raw, sign, name, keys=None, counter=0):
    """Return a manifest with whatever sign(message) returns as its signature by key id name."""
    raw = bytearray(raw[:-4])
    raw[9] = 2
    struct.pack_into("<I", raw, 32, counter)
    if keys is not None:
        raw += struct.pack("<HHI", 1, 0, len(keys)) + keys + bytes(-len(keys) % 4)
        struct.pack_into("<I", raw, 36, 8 + len(keys) + -len(keys) % 4)
    size = 8 + len(sign(b""))
    struct.pack_into("<I", raw, 12, len(raw) + size + 4)
    struct.pack_into("<HI", raw, 26, 1, size)
    raw += name + sign(raw)
    return bytes(raw) + struct.pack("<I", sim.crc32(raw))


def key_set(serial, *keys):
    """Return a key set; keys: (roles, Key) or (roles, public key)."""
    raw = struct.pack("<IB3x", serial, len(keys))
    for roles, one in keys:
        raw += struct.pack("<BB56s", roles, 0, getattr(one, "public", one))
    return raw
