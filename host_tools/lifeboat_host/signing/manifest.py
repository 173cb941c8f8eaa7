"""Whether a manifest is signed, and by whom."""

from __future__ import annotations

from lifeboat_host.model.formats import Manifest
from lifeboat_host.model.keyset import PublicKey
from lifeboat_host.signing import lms

OK, NONE, UNKNOWN, BAD = "ok", "signature-none", "key-unknown", "signature-bad"


def verdict(manifest: Manifest, keys: list[PublicKey]) -> str:
    """Whether one of these keys signed it; else the code that a board would report."""
    if not manifest.signature:
        return NONE
    key = next((key for key in keys if key.id == manifest.key_id), None)
    if key is None:
        return UNKNOWN
    good = lms.verify(key, manifest.signature[len(key.id) :], manifest.signed_bytes)
    return OK if good else BAD
