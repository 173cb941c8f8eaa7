"""The keys of boards/policies/signed: for tries and tests. Everybody knows them."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from lifeboat_host.model.draft import Signed
from lifeboat_host.model.keyset import Parameters
from lifeboat_host.signing import keyfile, lms
from lifeboat_host.signing.keyfile import PrivateKey
from lifeboat_host.signing.used import Ledger

CODE, UNLOCK = "code", "unlock"
_PARAMETERS = Parameters(24, 10, 4)


def _bytes(part: str, name: str) -> bytes:
    return hashlib.sha256(f"lifeboat demo key, {part}: {name}".encode("ascii")).digest()


@cache
def key(name: str, path: Path = Path("demo.key")) -> PrivateKey:
    """The key CODE or UNLOCK, as if its file were there. To compute it takes seconds."""
    seed, tree_id = _bytes("seed", name)[: _PARAMETERS.n], _bytes("I", name)[: lms.TREE_ID_SIZE]
    leaves = lms.leaves(_PARAMETERS, tree_id, seed)
    public = lms.public_key(_PARAMETERS, tree_id, lms.Tree(_PARAMETERS, tree_id, leaves))
    return PrivateKey(path, public, 0, _PARAMETERS.one_time_keys, seed, tuple(leaves))


def files(folder: Path) -> list[Path]:
    """The key files code.key and unlock.key in a folder, made where they are not there yet.

    Raises LifeboatError: key-write, key-busy.
    """
    found = []
    for name in (CODE, UNLOCK):
        path = folder / f"{name}.key"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            one = key(name, path)
            Ledger(one).begin()
            keyfile.save(one)
        found.append(path)
    return found


class DemoSigner:
    """Signs with always the same one-time key: here is nothing that could become known."""

    def __init__(self, name: str) -> None:
        self._key = key(name)
        self.public = self._key.public
        self.last: Signed | None = None

    def sign(self, message: bytes) -> bytes:
        """The signature of a message."""
        one = self._key
        self.last = Signed(0)
        return lms.sign(one.public, one.seed, one.tree(), 0, message)
