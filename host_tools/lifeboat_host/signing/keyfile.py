"""Private key files: made once, read by their owner only, never changed.

JSON. Beside the secret `seed` they hold the leaves of the tree, which are public: computing them
takes long. Which one-time keys were used does not stand here, but in the ledger (used.py).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lifeboat_host.base.errors import LifeboatError
from lifeboat_host.model.formats import SIGNED_MAX
from lifeboat_host.model.keyset import ID_SIZE, SIZES, KeySet, Parameters, PublicKey
from lifeboat_host.signing import files, lms

DEFAULT = Parameters(n=24, height=10, width=4)
HEIGHTS = (5, 10, 15)  # of keys that are made here

_FORMAT = "lifeboat private key"
_VERSION = 1
_LIMIT = 2 << 20  # bytes of a file: leaves of height 15 take 1.4 MB


@dataclass(frozen=True)
class PrivateKey:
    """A private key. It may use its one-time keys `first` to `end` - 1."""

    path: Path
    public: PublicKey
    first: int
    end: int
    seed: bytes = field(repr=False)
    leaves: tuple[bytes, ...] = field(repr=False)

    def tree(self) -> lms.Tree:
        """Its tree, after a check that file and public key belong together.

        Raises LifeboatError key-damaged.
        """
        parameters, tree_id = self.public.parameters, self.public.tree_id
        tree = lms.Tree(parameters, tree_id, self.leaves)
        own = lms.leaf(parameters, tree_id, self.seed, self.first)
        if tree.root != self.public.root or own != self.leaves[self.first]:
            raise self.damaged("its parts do not belong together")
        return tree

    def damaged(self, why: str) -> LifeboatError:
        return LifeboatError(
            "key-damaged",
            f"{self.path}: {why}; no signature was given out",
            "take this key file from a backup, and leave its journal (.used) as it is",
        )


def make(
    path: Path, parameters: Parameters, progress: Callable[[int, int], None] | None = None
) -> PrivateKey:
    """A new private key, not saved yet. Raises LifeboatError: key-height, key-large."""
    check(parameters)
    seed = secrets.token_bytes(parameters.n)
    tree_id = secrets.token_bytes(lms.TREE_ID_SIZE)
    leaves = lms.leaves(parameters, tree_id, seed, progress)
    public = lms.public_key(parameters, tree_id, lms.Tree(parameters, tree_id, leaves))
    return PrivateKey(path, public, 0, parameters.one_time_keys, seed, tuple(leaves))


def check(parameters: Parameters) -> None:
    """Whether such a key can be made here. Raises LifeboatError: key-height, key-large."""
    if parameters.height not in HEIGHTS:
        raise LifeboatError(
            "key-height",
            f"a tree of height {parameters.height} would have to be computed whole",
            "heights 5, 10 and 15 can be made here; for more signatures let an external signer "
            "hold the key (docs/keys.md)",
        )
    check_fits(parameters)


def check_fits(parameters: Parameters) -> None:
    """Whether a manifest has room for such a signature. Raises LifeboatError key-large."""
    size = ID_SIZE + parameters.signature_size
    if size > SIGNED_MAX:
        raise LifeboatError(
            "key-large",
            f"a signature of {parameters.lms} with {parameters.lmots} takes {size} bytes, "
            f"a manifest has room for {SIGNED_MAX}",
            "take a wider digit: W2, W4 or W8",
        )


def save(key: PrivateKey) -> None:
    """Write its file, which must not be there yet. Raises LifeboatError: key-exists, key-write."""
    parameters = key.public.parameters
    text = json.dumps(
        {
            "format": _FORMAT,
            "version": _VERSION,
            "keep": "secret; the file beside it whose name ends in .used belongs to it",
            "parameters": [parameters.lms, parameters.lmots],
            "public": key.public.raw.hex(),
            "first": key.first,
            "end": key.end,
            "seed": key.seed.hex(),
            "leaves": base64.b64encode(b"".join(key.leaves)).decode("ascii"),
        },
        indent=1,
    )
    files.create(key.path, text.encode("ascii") + b"\n")


def part(key: PrivateKey, path: Path, chosen: range) -> PrivateKey:
    """The same key, with these one-time keys only, for another file."""
    return replace(key, path=path, first=chosen.start, end=chosen.stop)


def load(path: Path) -> PrivateKey:
    """The private key in a file.

    Raises LifeboatError: key-read, key-mode, key-form, key-version.
    """
    found = read(path)
    if isinstance(found, PrivateKey):
        return found
    raise LifeboatError(
        "key-form",
        f"{path}: a public key can't sign",
        "name the private key file; or who else signs: --signer COMMAND --public FILE",
    )


def load_public(path: Path) -> PublicKey:
    """The public key in a file, alone or of a private key. Raises as load() does."""
    found = read(path)
    return found.public if isinstance(found, PrivateKey) else found


def load_set(path: Path) -> KeySet:
    """The key set in a file. Raises LifeboatError: key-read, keyset-form."""
    content, _ = files.read(path, _LIMIT)
    return _set_in(content, path)


def load_keys(path: Path, role: str) -> list[PublicKey]:
    """The keys in a file: of a key set those with that role; else the one of load_public().

    Raises LifeboatError: keyset-form, and what load() raises.
    """
    content, _ = files.read(path, _LIMIT)
    if len(content) not in SIZES:  # no other key file has one of these
        return [load_public(path)]
    found = _set_in(content, path)
    return [one.key for one in found.keys if found.key(one.key.id, role)]


def read(path: Path) -> PrivateKey | PublicKey:
    """The key in a file: private, or public. Raises as load() does."""
    # The journal lies beside the file itself, whatever links lead there.
    path = Path(os.path.realpath(path))
    content, mode = files.read(path, _LIMIT)
    return _key_in(content, mode, path)


def _key_in(content: bytes, mode: int, path: Path) -> PrivateKey | PublicKey:
    if content[:1] != b"{":
        try:
            return PublicKey.parse(content)
        except LifeboatError as error:
            raise error.located(f"{path}: neither a private nor a public key") from None
    if mode & 0o077:
        raise LifeboatError(
            "key-mode",
            f"{path}: others than its owner may read or write this private key (mode {mode:03o})",
            f"if nobody else had it: chmod 600 {path}",
        )
    try:
        return _private(json.loads(content), path)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise LifeboatError(
            "key-form",
            f"{path}: not a private key of lifeboat, or damaged",
            "take it from a backup, and leave its journal (.used) as it is",
        ) from None


def _set_in(content: bytes, path: Path) -> KeySet:
    try:
        found = KeySet.parse(content)
    except LifeboatError as error:
        raise error.located(str(path)) from None
    if len(content) != len(found.pack()):
        raise LifeboatError("keyset-form", f"{path}: not a key set: bytes behind it")
    return found


def _private(fields: Any, path: Path) -> PrivateKey:
    """Raises ValueError, TypeError or KeyError for what is no private key."""
    if fields["format"] != _FORMAT:
        raise ValueError
    if fields["version"] != _VERSION:
        raise LifeboatError(
            "key-version",
            f"{path}: version {str(fields['version'])[:20]} of private key files, this tool "
            f"knows {_VERSION}",
            "use a newer lifeboat",
        )
    try:
        public = PublicKey.parse(bytes.fromhex(fields["public"]))
        joined = base64.b64decode(fields["leaves"], validate=True)
    except (LifeboatError, binascii.Error):
        raise ValueError from None
    n, count = public.parameters.n, public.parameters.one_time_keys
    seed = bytes.fromhex(fields["seed"])
    first, end = fields["first"], fields["end"]
    if type(first) is not int or type(end) is not int or not 0 <= first < end <= count:
        raise ValueError
    if len(seed) != n or len(joined) != n * count:
        raise ValueError
    leaves = tuple(joined[at : at + n] for at in range(0, len(joined), n))
    return PrivateKey(path, public, first, end, seed, leaves)
