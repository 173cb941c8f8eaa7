"""MicroPython decides about signatures and key sets as CPython does, and as the vectors say."""

import json
from pathlib import Path

from fakes import signer
from fakes.rng import Rng

from .floor import run

GOLDEN = Path(__file__).parents[1] / "golden" / "lms.json"


def cases():
    """Return [((kind, *bytes), what MicroPython prints)]."""
    found = []
    for vector in json.loads(GOLDEN.read_text()):
        if "SHA-256/192" in vector["name"]:
            args = [bytes.fromhex(vector[name]) for name in ("public", "signature", "message")]
            found.append((("verify", *args), "True"))
    rng = Rng(5)
    for tree, ots in [(10, 5), (10, 6), (10, 7), (10, 8), (5, 1), (5, 2), (5, 3), (5, 4)]:
        key = signer.key(7, tree, ots)
        signature = key.sign(b"message", 9)
        found.append((("verify", key.public, signature, b"message"), "True"))
        found.append((("verify", key.public, signature, b"massage"), "False"))
        for _ in range(3):
            forged = bytearray(signature)
            forged[rng.below(len(forged))] ^= 1 << rng.below(8)
            found.append((("verify", key.public, forged, b"message"), "False"))
        found.append((("verify", key.public, signature[:-1], b"message"), "False"))
        found.append((("verify", key.public[:-1], signature, b"message"), "False"))
    for size in (0, 3, 7, 8, 48):
        found.append((("shape", bytes(size)), "None"))
        found.append((("verify", bytes(size), b"", b""), "False"))
    good = signer.key_set(3, (signer.ALL, signer.key(7)), (2, signer.key(7, 5, 4)))
    found.append((("set", good), "3 2"))
    found.append((("set", good + bytes(20)), "3 2"))
    for bad in [good[:size] for size in (0, 4, 7, 8, 60, len(good) - 1)]:
        found.append((("set", bad), "None"))
    return found


def test_micropython_decides_alike(tmp_path):
    made = cases()
    path = tmp_path / "cases.json"
    path.write_text(json.dumps([[c[0], *[bytes(a).hex() for a in c[1:]]] for c, _ in made]))
    assert run("owner.py", str(path)) == [want for _, want in made]
