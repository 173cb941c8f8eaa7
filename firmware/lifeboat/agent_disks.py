"""The disks of the board over the line, and what its memory knows of them: half of the agent.

All of it is for a person's partitioning session.
"""

from binascii import hexlify, unhexlify

from micropython import const

from . import running
from .blockdev import INIT, SYNC, Checked, Window, geometry
from .checking import choose_own
from .codeflash import CodeFlash
from .errors import LifeboatError
from .line import FRAME, FRAMES
from .members import OURS, disk_error, survey
from .report import Report
from .trust import Trust

_MOST = const(16384)  # bytes of a parcel, in a heap that may be small
_LOOK = const(16384)  # bytes that are looked at at once


class DiskAgent:
    """What the host tools read and write of disks; see agent.Agent."""

    def __init__(self, board, line):
        self._board = board
        self._line = line
        self._devices = self._opened = None
        self._disks = {}
        self._windows = {}

    # Made on first use: a board whose flash has failed is to be asked for its report.
    @property
    def _flash(self):
        if self._opened is None:
            self._opened = CodeFlash(self._board.flash(), self._board.BLOCK_SIZE)
        return self._opened

    # The memory is read anew each time: a power-on may have written it.
    def _trusted(self):
        return Trust(self._board, self._flash).recall()

    # To start a board's disks anew would take them from under those who use them already.
    def _attached(self):
        if self._devices is None:
            self._board.start()
            self._devices = list(self._board.disks())
        return self._devices

    def disks(self):
        """The disks, each with its size or why there is none."""
        self._disks = {}
        self._windows = {}
        answer = []
        for i, dev in enumerate(self._attached()):
            disk = Checked(dev, "disk%d" % i)
            about = {"disk": disk.name}
            try:
                disk.ioctl(INIT, 0)
                about["sectors"], about["lba_size"] = geometry(disk)
                self._disks[disk.name] = disk
                for key in ("model", "serial"):
                    about[key] = str(getattr(dev, key, ""))
            except OSError as error:
                about["error"] = disk_error(error)
            answer.append(about)
        return answer

    def disk_allow(self, name, ranges):
        """Let disk_write() write to these ranges, [first LBA, sectors] each, and nowhere else."""
        disk = self._disks[name]
        self._windows[name] = [(lba, Window(disk, lba, count)) for lba, count in ranges]

    def disk_read(self, name, lba, sectors):
        """Send sectors as frames."""
        disk = self._disks[name]
        lba_size = geometry(disk)[1]
        buf = memoryview(bytearray(FRAME))
        zeros = bytes(FRAME)
        under_way = 0
        while sectors:
            count = min(sectors, FRAME // lba_size)
            piece = buf[: count * lba_size]
            self._answering(disk.readblocks, lba, piece)
            self._line.send(piece, zeros[: len(piece)])
            under_way += 1
            if under_way == FRAMES:
                self._line.acknowledged(1)
                under_way -= 1
            lba += count
            sectors -= count
        self._line.acknowledged(under_way)

    def disk_write(self, name, lba):
        """Receive sectors as parcels, whose numbers count from lba, and write them."""
        buf = memoryview(bytearray(_MOST))
        while True:
            offset, size = self._line.parcel(buf)
            if size == 0:
                return
            if size is None:
                self._line.write(b"~")
                continue
            self._answering(self._write, name, lba + offset, buf[:size])
            self._line.write(b"=")

    def _write(self, name, lba, data):
        for first, window in self._windows.get(name, ()):
            end = first + window.count
            if first <= lba and lba + len(data) // window.size <= end:
                return window.writeblocks(lba - first, data)
        self._fail("disk-in-use", "nobody allowed LBA %d" % lba)

    def disk_flush(self, name):
        """Wait until all that was written is on the medium."""
        self._disks[name].ioctl(SYNC, 0)

    def disk_first_nonzero(self, name, lba, sectors):
        """The first LBA in [lba, lba + sectors) that is not all zero, or None."""
        disk = self._disks[name]
        lba_size = geometry(disk)[1]
        buf = memoryview(bytearray(_LOOK))
        zeros = bytes(_LOOK)
        at, end = lba, lba + sectors
        while at < end:  # MicroPython's range() takes no numbers as large as an LBA may be
            piece = buf[: min(_LOOK, (end - at) * lba_size)]
            disk.readblocks(at, piece)
            if piece != zeros[: len(piece)]:
                while piece[:lba_size] == zeros[:lba_size]:
                    piece = piece[lba_size:]
                    at += 1
                return at
            at += _LOOK // lba_size
        return None

    # The memory

    # Also whether the manifest in flash leaves room for the memory; None: there is no manifest.
    def _remembering(self):
        trust = self._trusted()
        try:
            manifest, _ = self._flash.manifest(trust)
        except LifeboatError:
            return trust, None
        return trust, trust.declares_memory(manifest)

    def memory(self):
        """What the controller remembers; blocks: of the code flash that it takes."""
        trust, declared = self._remembering()
        memory = trust.memory
        state, why = memory.state, memory.why
        if declared is False:  # as at a power-on
            state, why = ("ok", "memory-place") if state == "ok" else ("none", "memory-none")
        return {
            "state": state,
            "why": why,
            "blocks": trust.mirrors,
            "set": memory.set_id and hexed(memory.set_id),
            "members": [
                {
                    "region": hexed(region),
                    "lba": lba,
                    "sectors": n,
                    "index": i,
                    "disk": _text(name),
                }
                for _, region, lba, n, _, i, _, name in memory.members
            ],
            "builds": [
                {"build": hexed(b), "counter": c, "version": _text(v)} for b, c, v in memory.builds
            ],
            "rejected": [hexed(build) for build in memory.rejected],
            "failed": [[block, memory.failed[block]] for block in memory.failed],
            "counter": trust.owner.counter if trust.owner else memory.counter,
            "owner": trust.owner and trust.owner.describe(),
            "damaged": memory.damaged or memory.lost_records,
        }

    def remember(self, set_id, gone=(), lbas=()):
        """Write into the memory which regions of a set, 32 hex digits, are the controller's own:
        those on its disks now, and those of disks that are not here. Then as memory().

        gone: ids of regions that were removed; lbas: where else regions may start. When none is
        left no set is remembered. Only the memory is written.
        """
        trust, declared = self._remembering()
        memory = trust.memory
        if memory.state == "none":
            raise LifeboatError(memory.why or "memory-none")
        if trust.mirrors and not declared:
            raise LifeboatError("memory-place")
        set_id = unhexlify(set_id)
        lbas = tuple(self._board.REGION_LBAS) + tuple(lbas)
        members = survey(self._attached(), lbas, Report())
        choose_own(members, trust, Report(), set_id)
        places = [m.region.entry + (m.name.encode(),) for m in members if m.reach == OURS]
        if memory.set_id == set_id:
            taken = [place[5] for place in places]
            places += [place for place in memory.members if place[5] not in taken]
        elif not places:
            raise LifeboatError("set-other", hexed(set_id))
        places = [place for place in places if hexed(place[1]) not in gone]
        if [place[:7] for place in places] != [member[:7] for member in memory.members]:
            memory.remember_set(places)
        running.places = memory.places
        return self.memory()

    # The line

    @staticmethod
    def _fail(code, detail):
        raise LifeboatError(code, detail)

    # Call something in the middle of an exchange; when it fails the host hears of it first.
    def _answering(self, action, *args):
        try:
            return action(*args)
        except Exception:
            self._line.write(b"!")
            raise


# What the memory keeps for people: what is no text is shown as well as it can be.
def _text(raw):
    raw = raw.split(b"\0")[0]
    try:
        return raw.decode()
    except UnicodeError:
        return "".join(chr(c) if 32 <= c < 127 else "?" for c in raw)


def hexed(data):
    """Return bytes as the protocol tells them."""
    return hexlify(data).decode()
