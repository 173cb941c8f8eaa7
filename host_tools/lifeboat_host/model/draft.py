"""Manifests that get a signature: what is signed, by whom, and how large the whole will be."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lifeboat_host.base.crc import crc32
from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.model.formats import (
    EXTENSION_KEYS,
    MANIFEST,
    MANIFEST_LIMIT,
    MINOR,
    SIGNATURE_HSS,
    SIGNED_MAX,
    Manifest,
    pack_extension,
)
from lifeboat_host.model.keyset import KeySet, PublicKey


@dataclass(frozen=True)
class Signed:
    """What was signed with. left: one-time keys, None where nobody here knows."""

    index: int
    left: int | None = None
    warnings: Sequence[LifeboatError] = field(default_factory=tuple)


class Signer(Protocol):
    """Signs with one key. last: of the newest signature."""

    public: PublicKey
    last: Signed | None

    def sign(self, message: bytes) -> bytes:
        """An LMS signature that was verified, of the size that `public` tells beforehand."""


@dataclass(frozen=True)
class Draft:
    """A manifest that waits for its signature. body: all that stands before it."""

    body: bytes
    key: PublicKey

    @property
    def size(self) -> int:
        """Bytes of the whole, once it is signed."""
        return len(self.body) + _signature_size(self.key) + 4

    def signed(self, signer: Signer) -> bytes:
        """The whole manifest. Raises what signer.sign() raises."""
        data = self.body + self.key.id + signer.sign(self.body)
        return data + crc32(data).to_bytes(4, "little")


def _signature_size(key: PublicKey) -> int:
    return len(key.id) + key.parameters.signature_size


def draft(manifest: Manifest, key: PublicKey, keys: KeySet | None = None) -> Draft:
    """A manifest with a new signature, in place of the one that it has.

    keys: the key set that it brings from now on; None: that of the manifest stays.
    Raises LifeboatError: manifest-version, manifest-size, keyset-signer.
    """
    if manifest.read_only:
        raise LifeboatError(
            "manifest-version",
            "manifest: it has a feature that forbids this version to write it",
            "sign it with a newer lifeboat",
        )
    brought = keys or manifest.key_set
    if brought and not brought.key(key.id, "code"):
        raise LifeboatError(
            "keyset-signer",
            f"key {key.id.hex()} signs a build that brings key set {brought.serial}, in which it "
            "has no role code: every board refuses that set",
            "put the signing key into the new set, too; a later set leaves it out (docs/keys.md)",
        )
    parts = _parts(manifest)
    if keys:
        others = (raw for kind, raw in _extensions(parts[1]) if kind != EXTENSION_KEYS)
        parts = parts[0], b"".join(others) + pack_extension(EXTENSION_KEYS, keys.pack())
    size = _signature_size(key)
    if len(parts[1]) + size > SIGNED_MAX:
        raise LifeboatError(
            "manifest-size",
            f"extensions of {len(parts[1])} bytes and a signature of {size} bytes: "
            f"a manifest has room for {SIGNED_MAX}",
            "sign with a key whose signatures are smaller",
        )
    total = sum(map(len, parts)) + size + 4
    if total > MANIFEST_LIMIT:
        raise LifeboatError(
            "manifest-size",
            f"the signed manifest takes {total} bytes, the limit is {MANIFEST_LIMIT}",
            "build the image with a larger block size: --block-size",
        )
    body = bytearray(b"".join(parts))
    for name, value in {
        "minor": max(manifest.minor, MINOR),
        "total_size": total,
        "signature_type": SIGNATURE_HSS,
        "signature_size": size,
        "extension_size": len(parts[1]),
        "manifest_blocks": -(-total // manifest.block_size),
    }.items():
        ((at, width),) = ((at, width) for at, width, wanted in MANIFEST.fields if wanted == name)
        body[at : at + width] = value.to_bytes(width, "little")
    return Draft(bytes(body), key)


def _parts(manifest: Manifest) -> tuple[bytes, bytes]:
    """What stands before the extensions, and the extensions."""
    body = manifest.signed_bytes
    size = sum(8 + len(content) + -len(content) % 4 for _, content in manifest.extensions)
    return body[: len(body) - size], body[len(body) - size :]


def _extensions(data: bytes) -> list[tuple[int, bytes]]:
    """(type, all bytes) of each; the manifest was parsed, so its sizes are right."""
    found = []
    while data:
        kind, _, size = struct.unpack_from("<HHI", data)
        end = 8 + size + -size % 4
        found.append((kind, data[:end]))
        data = data[end:]
    return found
