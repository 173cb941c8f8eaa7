"""Media as lifeboat of each format version leaves them; every later version reads them.

The files do not change any more once a release has written that version. `make.py` says, in plain
struct code, what is in them; it is no test's source of expected values.

No imports of the host tools or the firmware here: both floors load these.
"""

import base64
import json
import zlib
from pathlib import Path

VERSIONS = ("1.0", "1.1", "1.2")
BLOCK = 4096
PRODUCT = "sim"
CODE_BLOCKS = 6
SECTOR = 512

_FOLDER = Path(__file__).resolve().parent


def _load(version):
    return json.loads((_FOLDER / ("%s.json" % version)).read_text())


def _unpack(text):
    return zlib.decompress(base64.b64decode(text))


def image(version):
    """The whole code flash: 9 blocks of 4096 bytes, since 1.2 17 blocks with a memory."""
    return _unpack(_load(version)["image"])


def disk(version):
    """(number of 512-byte sectors, {LBA: content of a sector that is not zero})."""
    saved = _load(version)["disk"]
    sectors = {}
    for first, text in saved["runs"]:
        data = _unpack(text)
        for at in range(0, len(data), SECTOR):
            sectors[first + at // SECTOR] = data[at : at + SECTOR]
    return saved["sectors"], sectors
