"""LMS verification: published vectors, another implementation's signatures, and forgeries."""

import hashlib
import json
from pathlib import Path

import pytest
from pyhsslms import pyhsslms

from fakes import signer
from fakes.rng import Rng
from lifeboat import lms

VECTORS = {
    v["name"]: [bytes.fromhex(v[k]) for k in ("public", "message", "signature")]
    for v in json.loads((Path(__file__).parents[1] / "golden" / "lms.json").read_text())
}
SETS = [(5, ots) for ots in range(1, 5)] + [(10, ots) for ots in range(5, 9)]
MESSAGE = b"LBMANIF\n and more"


def trees(name):
    """Return what each tree of a vector signs: (public key, message, signature) of single trees.

    In HSS a tree signs the public key of the next one (RFC 8554, section 6.2).
    """
    public, message, signature = VECTORS[name]
    levels, key = int.from_bytes(public[:4], "big"), public[4:]
    rest, found = signature[4:], []
    for _ in range(levels - 1):
        size = pyhsslms.LmsSignature.sizeof(rest)
        following = rest[size : size + pyhsslms.LmsPublicKey.sizeof(rest[size:])]
        found.append((key, following, rest[:size]))
        rest, key = rest[size + len(following) :], following
    return [*found, (key, message, rest)]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("RFC 8554, appendix F, test case 1", 2),
        ("RFC 8554, appendix F, test case 2", 2),
        ("RFC 9858, SHA-256/192", 1),
    ],
)
def test_published_vectors(name, count):
    found = trees(name)
    assert len(found) == count
    for public, message, signature in found:
        assert lms.verify(public, signature, message)
        assert not lms.verify(public, signature, message + b"\0")


@pytest.mark.parametrize("name", [n for n in VECTORS if "SHAKE" in n])
def test_shake_is_not_known(name):
    [(public, message, signature)] = trees(name)
    assert lms.shape(public) is None
    assert not lms.verify(public, signature, message)


def test_hss_of_one_level_is_one_tree():
    public, message, signature = VECTORS["RFC 9858, SHA-256/192"]
    assert public[:4] == b"\0\0\0\1" and signature[:4] == bytes(4)
    assert lms.verify(public, signature, message)
    assert lms.verify(public[4:], signature, message)
    assert lms.verify(public, signature[4:], message)


def test_hss_of_two_levels_is_refused():
    assert not lms.verify(*[VECTORS["RFC 8554, appendix F, test case 1"][i] for i in (0, 2, 1)])


@pytest.mark.parametrize(("tree", "ots"), SETS)
def test_signatures_of_another_implementation(tree, ots):
    key = signer.key(7, tree, ots)
    other = signer.key(8, tree, ots)
    assert len(key.sign(MESSAGE)) == lms.shape(key.public)[-1]
    for leaf in (0, 1, 30, 31):
        signature = key.sign(MESSAGE, leaf)
        assert lms.verify(key.public, signature, MESSAGE)
        assert not lms.verify(other.public, signature, MESSAGE)


@pytest.mark.parametrize("height", [5, 10, 15, 20, 25])
@pytest.mark.parametrize("first", [5, 10])
def test_the_sizes_of_all_trees(first, height):
    """NIST SP 800-208, tables 1 to 4: n, w, p, ls, h and the size of a signature."""
    n = 32 if first == 5 else 24
    ls = {32: (7, 6, 4, 0), 24: (8, 5 + 1, 4, 0)}[n]
    p = {32: (265, 133, 67, 34), 24: (200, 101, 51, 26)}[n]
    for i in range(4):
        ots = i + (1 if n == 32 else 5)
        tree = first + height // 5 - 1
        public = pyhsslms.u32(tree) + pyhsslms.u32(ots) + bytes(16 + n)
        size = 4 + 4 + n * (p[i] + 1) + 4 + n * height
        assert lms.shape(public) == (n, 2**i, p[i], ls[i], height, size)


def test_a_high_tree_is_walked_to_its_root():
    """A path of 15 nodes made here by section 5.3's own words, around one leaf of a real tree."""
    key = signer.key(9)
    small = key.sign(MESSAGE, 3)
    ots_end = 4 + 4 + 24 * 52
    ots = small[:ots_end]
    key_id = key.public[8:24]
    leaf = 0x2A17
    # The candidate key of the one-time signature, as pyhsslms computes it for this leaf.
    ots = pyhsslms.u32(leaf) + ots[4:]
    parsed = pyhsslms.LmotsSignature.deserialize(ots[4:])
    candidate = parsed.buildPublic(key_id, pyhsslms.u32(leaf), MESSAGE)
    node = leaf + 2**15
    value = hashlib.sha256(key_id + pyhsslms.u32(node) + b"\x82\x82" + candidate).digest()[:24]
    path = []
    for i in range(15):
        other = hashlib.sha256(b"%d" % i).digest()[:24]
        path.append(other)
        pair = other + value if node % 2 else value + other
        node //= 2
        value = hashlib.sha256(key_id + pyhsslms.u32(node) + b"\x83\x83" + pair).digest()[:24]
    public = pyhsslms.u32(12) + key.public[4:8] + key_id + value
    signature = ots + pyhsslms.u32(12) + b"".join(path)
    assert lms.verify(public, signature, MESSAGE)
    assert not lms.verify(public, pyhsslms.u32(leaf ^ 1) + signature[4:], MESSAGE)


@pytest.mark.parametrize(("tree", "ots"), SETS)
def test_a_changed_byte_is_a_forgery(tree, ots):
    key = signer.key(7, tree, ots)
    signature = key.sign(MESSAGE, 5)
    rng = Rng(tree * 100 + ots)
    # Every field: q, type, C, chains, type, path; and anywhere.
    for at in [0, 3, 4, 7, 8, 40, len(signature) - 1] + [
        rng.below(len(signature)) for _ in range(12)
    ]:
        forged = bytearray(signature)
        forged[at] ^= 1 << rng.below(8)
        assert not lms.verify(key.public, forged, MESSAGE), at


def test_a_changed_key_verifies_nothing():
    key = signer.key(7)
    signature = key.sign(MESSAGE)
    for at in range(len(key.public)):
        public = bytearray(key.public)
        public[at] ^= 1
        assert not lms.verify(public, signature, MESSAGE)


def test_sizes_that_do_not_fit_are_refused():
    key = signer.key(7)
    signature = key.sign(MESSAGE)
    for size in (0, 1, 3, 4, 8, 47, len(signature) - 1):
        assert not lms.verify(key.public, signature[:size], MESSAGE)
    assert not lms.verify(key.public, signature + b"\0", MESSAGE)
    assert not lms.verify(key.public, b"\0\0\0\1" + signature, MESSAGE)
    for size in range(len(key.public)):
        assert not lms.verify(key.public[:size], signature, MESSAGE)
    assert not lms.verify(key.public + b"\0", signature, MESSAGE)


def test_types_that_do_not_go_together_are_refused():
    """NIST SP 800-208 has one hash for tree and leaves."""
    for tree in range(17):
        for ots in range(18):
            public = pyhsslms.u32(tree) + pyhsslms.u32(ots)
            good = 5 <= tree <= 9 and 1 <= ots <= 4 or 10 <= tree <= 14 and 5 <= ots <= 8
            sizes = [n for n in (24, 32) if lms.shape(public + bytes(16 + n))]
            assert sizes == ([32 if tree < 10 else 24] if good else [])


def test_a_signature_of_another_type_of_the_same_size_is_refused():
    """The types in the signature must be the key's."""
    key = signer.key(7)
    signature = bytearray(key.sign(MESSAGE))
    for at in (7, len(signature) - 5 * 24 - 1):
        forged = bytearray(signature)
        forged[at] += 1
        assert not lms.verify(key.public, forged, MESSAGE)


def test_garbage_is_refused():
    rng = Rng(11)
    key = signer.key(7)
    size = len(key.sign(b""))
    for _ in range(50):
        assert not lms.verify(key.public, rng.bytes(size), MESSAGE)
        assert not lms.verify(rng.bytes(48), rng.bytes(rng.below(3000)), MESSAGE)
