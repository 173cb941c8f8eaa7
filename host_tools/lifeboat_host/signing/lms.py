"""LMS trees and signatures, by pyhsslms: the only module that calls it.

pyhsslms's own private keys compute the whole tree whenever they are loaded, and note used one-time
keys in a file that a crash can leave behind. So only its one-time signatures and its verification
are used here. The leaves of a tree are public, and are kept with the key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from pyhsslms import pyhsslms

from lifeboat_host.model.keyset import Parameters, PublicKey, plain_signature

TREE_ID_SIZE = 16


def _lmots(
    parameters: Parameters, tree_id: bytes, seed: bytes, index: int
) -> pyhsslms.LmotsPrivateKey:
    return pyhsslms.LmotsPrivateKey(tree_id, pyhsslms.u32(index), seed, parameters.codes[4:])


def _node(
    parameters: Parameters, tree_id: bytes, number: int, domain: bytes, data: bytes
) -> bytes:
    """A node of the tree, RFC 8554, section 5.3; the root is number 1."""
    head = tree_id + number.to_bytes(4, "big") + domain
    return hashlib.sha256(head + data).digest()[: parameters.n]


def leaf(parameters: Parameters, tree_id: bytes, seed: bytes, index: int) -> bytes:
    """The node of the tree that stands for a one-time key."""
    public = _lmots(parameters, tree_id, seed, index).publicKey().K
    number = parameters.one_time_keys + index
    return _node(parameters, tree_id, number, pyhsslms.D_LEAF, public)


def leaves(
    parameters: Parameters,
    tree_id: bytes,
    seed: bytes,
    progress: Callable[[int, int], None] | None = None,
) -> list[bytes]:
    """All leaves: what takes long when a key is made."""
    found = []
    for index in range(parameters.one_time_keys):
        found.append(leaf(parameters, tree_id, seed, index))
        if progress:
            progress(index + 1, parameters.one_time_keys)
    return found


class Tree:
    """The nodes of a tree over these leaves; public, all of it."""

    def __init__(self, parameters: Parameters, tree_id: bytes, found: Sequence[bytes]) -> None:
        count = parameters.one_time_keys
        self._nodes = [b""] * count + list(found)  # by number; 0 is not used
        for number in reversed(range(1, count)):
            pair = self._nodes[2 * number] + self._nodes[2 * number + 1]
            self._nodes[number] = _node(parameters, tree_id, number, pyhsslms.D_INTR, pair)

    @property
    def root(self) -> bytes:
        return self._nodes[1]

    def path(self, index: int) -> bytes:
        """What leads a verifier from a leaf to the root: the neighbours on the way."""
        number = len(self._nodes) // 2 + index
        found = b""
        while number > 1:
            found += self._nodes[number ^ 1]
            number //= 2
        return found


def public_key(parameters: Parameters, tree_id: bytes, tree: Tree) -> PublicKey:
    """The public key of a tree."""
    return PublicKey(parameters.codes + tree_id + tree.root, parameters)


def sign(key: PublicKey, seed: bytes, tree: Tree, index: int, message: bytes) -> bytes:
    """Sign with a one-time key. Whoever calls this has made sure that it was never used."""
    one_time = _lmots(key.parameters, key.tree_id, seed, index).sign(message)
    return bytes(index.to_bytes(4, "big") + one_time + key.parameters.codes[:4] + tree.path(index))


def verify(key: PublicKey, signature: bytes, message: bytes) -> bool:
    """Whether the key signed the message. HSS's encoding of one tree is taken, too.

    pyhsslms does not hold the type of the one-time signature against the key's, so that is done
    here, and the size, before it sees a byte.
    """
    parameters = key.parameters
    signature = plain_signature(signature, parameters)
    if len(signature) != parameters.signature_size:
        return False
    path_at = len(signature) - parameters.height * parameters.n
    if signature[path_at - 4 : path_at] + signature[4:8] != parameters.codes:
        return False
    if int.from_bytes(signature[:4], "big") >= parameters.one_time_keys:
        return False
    return bool(pyhsslms.LmsPublicKey.deserialize(key.raw).verify(bytes(message), signature))
