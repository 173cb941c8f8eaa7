"""What lifeboat found and did: for console, application, journal and the next soft reset."""

import json
from binascii import crc32, hexlify
from struct import pack_into, unpack_from

from micropython import const

# What people read is an extra.
try:
    from .advice import tell
except ImportError:
    tell = None

RUN = "RUN"
RUN_DEGRADED = "RUN_DEGRADED"
RESCUE = "RESCUE"

_MAGIC = b"LBRP"
_HEAD = const(12)  # magic, length, CRC-32 of the text
_MOST = const(32)  # entries of a list, so that garbage on disks can't fill the heap
_DETAIL = const(64)

# The last bytes of the retained RAM are the scrubber's.
TAIL = const(64)


# Add [first, count] to a list of ranges, joined with the last one where they touch. A list that is
# full has its last range stretched: it covers what was found, and intact blocks between.
def _add(ranges, first, count, *key):
    key = list(key)
    full = len(ranges) == _MOST
    if ranges and ranges[-1][2:] == key:
        start, before = ranges[-1][:2]
        if full or start + before == first:
            low = min(start, first)
            ranges[-1][:2] = low, max(start + before, first + count) - low
            return
    if not full:
        ranges.append([first, count] + key)


def empty():
    """Return the data of a report of which nothing is known yet."""
    return {
        "report": 2,
        "verdict": RESCUE,
        "reasons": [],
        "trust": "unsigned",
        "console": "open",
        "product": None,
        "version": None,
        "build": None,
        "build_id": None,
        "blocks": 0,
        "bad": [],
        "repaired": [],
        "lost": [],
        "manifest": "bad",
        "memory": "none",
        "set": None,
        "erases": 0,
        "disk_writes": 0,
        "members": [],
        "ms": {},
    }


class Report:
    """The report of format.md section 4; data holds its keys.

    Each finding is told once, when it is made, in the order of events. code: a key of
    advice.ADVICE; where: "", "flash" or a disk's name; blocks: a range [first, first + count).
    events: what the journal is told, (event, code, where, first, count) in order.
    """

    def __init__(self, data=None):
        self.events = []
        self.data = data = data or empty()
        # Not only in data, which an application may do with what it likes.
        self.verdict, self.build_id = data["verdict"], data["build_id"]

    def judge(self, verdict):
        """Set the verdict: RUN, RUN_DEGRADED or RESCUE."""
        self.verdict = self.data["verdict"] = verdict

    def describe(self, manifest):
        """Tell whose the code in flash is."""
        self.build_id = build_id = hexlify(manifest.build).decode()
        self.data.update(
            product=manifest.product,
            version=manifest.version,
            build=build_id[:12],
            build_id=build_id,
            blocks=manifest.block_count,
        )

    @property
    def runs(self):
        """Whether verified code may run."""
        return self.verdict != RESCUE

    def tell(self, event, code, where, first=0, count=0):
        """Tell the journal what happened (format.md section 5).

        Bounded for each kind: many damaged blocks must not hide what became of them. Blocks that
        follow each other become one event.
        """
        events = self.events
        if count and events and events[-1][:3] == (event, code, where):
            start, before = events[-1][3:]
            if start + before == first:
                events[-1] = event, code, where, start, before + count
                return
        if sum([e[0] == event for e in events]) < 2 * _MOST:
            events.append((event, code, where, first, count))

    def reason(self, code, where="", detail=""):
        """Tell what was not put right."""
        reasons = self.data["reasons"]
        entry = [code, str(where)[:_DETAIL], str(detail)[:_DETAIL]]
        # Every slot of every disk may have a bad record: they leave room for what matters more.
        most = _MOST // 2 if code.startswith("commit-") else _MOST
        if where in ("", "flash"):
            most = 2 * _MOST
        if entry not in reasons and len(reasons) < most:
            reasons.append(entry)
            self.tell("reason", code, entry[1])

    def attempt(self, code, where, action, *args):
        """Return what action(*args) returns; tell what goes wrong with it, and go on."""
        try:
            return action(*args)
        except Exception as error:  # noqa: BLE001 - I6
            self.reason(code, where, repr(error))

    def found(self, first, count):
        """Tell damaged blocks of the code flash."""
        _add(self.data["bad"], first, count)
        self.tell("found", "", "flash", first, count)

    def lost(self, first, count):
        """Tell damaged blocks of the code flash of which there is no good copy."""
        _add(self.data["lost"], first, count)
        self.tell("lost", "", "flash", first, count)

    def repaired(self, block, disk):
        """Tell that a block was written into flash from a disk, and read back."""
        _add(self.data["repaired"], block, 1, disk)
        self.tell("repaired", "", disk, block, 1)

    def missing(self, index, members):
        """Tell that member index of a set of so many is absent."""
        self.data["members"].append({"disk": None, "state": "missing", "generation": None})
        self.reason("member-missing", "member %d/%d" % (index + 1, members))

    def line(self):
        """Return the machine-readable line."""
        return "lifeboat: " + json.dumps(self.data)

    def show(self):
        """Print the report: for people what needs their attention, then the line for machines."""
        if tell:
            tell(self.data)
        print(self.line())

    def keep(self, area):
        """Store the report in RAM that survives a soft reset; too long a one is shortened.

        A report that is too long even so is not stored, and the area is marked as empty before
        anything else, so that no earlier one is taken for it.
        """
        if not area:
            return
        area[:4] = bytes(4)
        room = len(area) - _HEAD - TAIL
        text = json.dumps(self.data).encode()
        if len(text) > room:
            short = dict(self.data, bad=[], repaired=[], lost=[], reasons=[], short=True)
            text = json.dumps(short).encode()
        if len(text) <= room:
            area[_HEAD : _HEAD + len(text)] = text
            pack_into("<II", area, 4, len(text), crc32(text))
            area[:4] = _MAGIC

    @classmethod
    def kept(cls, area):
        """Return the report stored by keep(), or None.

        Code that was running could write there, too: a report whose shape is not that of this
        version is none.
        """
        if not area or bytes(area[:4]) != _MAGIC:
            return None
        length, crc = unpack_from("<II", area, 4)
        text = bytes(memoryview(area)[_HEAD:-TAIL][:length])
        if crc32(text) != crc:
            return None
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("verdict") not in (RUN, RUN_DEGRADED, RESCUE):
            return None
        for key, value in empty().items():
            found = data.get(key, ())
            kind = type(found)
            # What may be null is text, if it is there.
            if kind is not type(value) and (value is not None or kind is not str):
                return None
            kinds = [str if key == "reasons" else int] * 2
            for entry in found if key in ("bad", "lost", "repaired", "reasons") else ():
                if type(entry) is not list or list(map(type, entry[:2])) != kinds:
                    return None
        return cls(data)
