"""What happened at power-on: for the console, the application, and the next soft reset."""

import json
from binascii import crc32
from struct import pack_into, unpack_from

from micropython import const

from .errors import ADVICE

RUN = "RUN"
RUN_DEGRADED = "RUN_DEGRADED"
RESCUE = "RESCUE"

_MAGIC = b"LBRP"
_HEAD = const(12)  # magic, length, CRC-32 of the text
_MAX_REASONS = const(32)

# The last bytes of the retained RAM are the scrubber's.
TAIL = const(64)


def runs(numbers):
    """Return ascending numbers as a list of [first, count]."""
    out = []
    for n in numbers:
        if out and out[-1][0] + out[-1][1] == n:
            out[-1][1] += 1
        else:
            out.append([n, 1])
    return out


# Texts from manifests are untrusted: they must not look like a line of their own.
def _tell(text):
    print("[lifeboat] " + "".join(c if " " <= c != "\x7f" else "?" for c in text))


class Report:
    """The report of format.md section 4; data holds its keys."""

    def __init__(self, data=None):
        self.data = data or {
            "verdict": RESCUE,
            "reasons": [],
            "trust": "unsigned",
            "product": None,
            "version": None,
            "build": None,
            "blocks": 0,
            "bad": [],
            "repaired": [],
            "lost": [],
            "manifest": "bad",
            "erases": 0,
            "disk_writes": 0,
            "members": [],
            "ms": {},
        }

    @property
    def verdict(self):
        """RUN, RUN_DEGRADED or RESCUE."""
        return self.data["verdict"]

    @property
    def runs(self):
        """Whether verified code may run."""
        return self.verdict != RESCUE

    def reason(self, code, where="", detail=""):
        """Add a finding that was not put right; code: a key of errors.ADVICE."""
        reasons = self.data["reasons"]
        entry = [code, str(where), str(detail)]
        # Garbage on disks is told up to a limit, which must not hide what is wrong with the flash.
        if entry not in reasons and (len(reasons) < _MAX_REASONS or where in ("", "flash")):
            reasons.append(entry)

    def missing(self, index, members):
        """Note that member index of a set is absent."""
        self.data["members"].append({"disk": None, "state": "missing", "generation": None})
        self.reason("member-missing", "member %d/%d" % (index + 1, members))

    def repaired(self, block, disk):
        """Note that a block was written into flash from a disk."""
        done = self.data["repaired"]
        if done and done[-1][0] + done[-1][1] == block and done[-1][2] == disk:
            done[-1][1] += 1
        else:
            done.append([block, 1, disk])

    def line(self):
        """Return the machine-readable line."""
        return "lifeboat: " + json.dumps(self.data)

    def show(self):
        """Print the report: for people what needs their attention, then the line for machines."""
        data = self.data
        for code, where, detail in data["reasons"]:
            _tell("%s %s: %s" % (code, (where + " " + detail).strip(), ADVICE.get(code, "?")))
        _tell(
            "%s: %s %s, %d bad, %d erased, %s ms"
            % (
                data["verdict"],
                data["product"] or "no code",
                data["version"] or "",
                sum(n for _, n in data["bad"]),
                data["erases"],
                data["ms"].get("total"),
            )
        )
        print(self.line())

    def keep(self, area):
        """Store the report in RAM that survives a soft reset; too long a one is shortened.

        One that is too long even then leaves none, so that no earlier one is taken for it.
        """
        area[:4] = bytes(4)
        text = json.dumps(self.data).encode()
        if _HEAD + len(text) > len(area) - TAIL:
            short = dict(self.data)
            short.update({"bad": [], "repaired": [], "lost": [], "reasons": [], "short": True})
            text = json.dumps(short).encode()
        if _HEAD + len(text) > len(area) - TAIL:
            return
        area[_HEAD : _HEAD + len(text)] = text
        pack_into("<II", area, 4, len(text), crc32(text))
        area[:4] = _MAGIC

    @classmethod
    def kept(cls, area):
        """Return the report stored by keep(), or None."""
        if bytes(area[:4]) != _MAGIC:
            return None
        length, crc = unpack_from("<II", area, 4)
        if length > len(area) - _HEAD - TAIL:
            return None
        text = bytes(area[_HEAD : _HEAD + length])
        return cls(json.loads(text)) if crc32(text) == crc else None
