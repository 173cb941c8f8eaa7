"""The controller's memory: what it knows itself, where no disk can write (format.md section 6)."""

from struct import pack, unpack_from

from micropython import const

from .errors import LifeboatError
from .kernels import blank, crc32

# magic major minor header_size epoch page_size mirror_size incompat ro_compat uid_size uid
_HEADER = const("<8sBBHIIIIIB32s")
# By kind: set_id region_id first_lba sectors lba_size index count name; set_id count zeros crc;
# build_id counter version; build_id; block count; counter; keys, lock and trial as they are
_KINDS = ("", "<16s16sQQIHH24s", "<16sHHI", "<32sI24s", "<32s", "<II", "<I") + ("<240s",) * 3
_EIO = const(5)
_SIZE = const(256)  # of the header and of a record
_PAGES = const(64)  # of a mirror that are used
_MOST = const(56)  # live records: the other pages are there so that not every append erases
_LARGEST = const(16)  # set
_KEPT = const(8)  # builds, and rejected builds
_RESIDUE = const(0x2144DF1C)  # CRC-32 of anything that ends with its own CRC-32

_MEMBER = const(1)
_SET = const(2)
_BUILD = const(3)
_FAILED = const(5)
_COUNTER = const(6)
_NEWEST = const(9)  # of the kinds that are known

# Where in a record ends what it is about, by kind: a newer one about the same replaces it.
_ABOUT = const(b"\xff\x08\x08\x28\x28\x0c\x08\x08\x08\x08")


# The records that still mean something, of live ones and newer ones. A record is the bytes 4 to
# 252 of its page, without most zeros at its end; its number is its key, not what is in it.
def _living(live, records):
    live = dict(live)
    members = []  # since the last record of another kind
    for i in sorted(records):
        record = records[i]
        kind = record[0]
        if kind == _MEMBER:
            members.append(i)
            continue
        mine, members = members, []
        if kind == _SET:
            set_id, count, _, crc = unpack_from(_KINDS[_SET], record, 8)
            sums, mine = 0, mine[len(mine) - count :]
            for j in mine:
                if records[j][8:24] == set_id:
                    count, sums = count - 1, crc32(records[j][8:88] + bytes(160), sums)
            if sums != crc or count or len(mine) > _LARGEST:
                continue
        end = _ABOUT[kind] if kind <= _NEWEST else _SIZE
        if kind == _FAILED and record[8:12] == b"\xff\xff\xff\xff":
            end = 8
        others = []
        for j in sorted(live):
            other = live[j]
            if other[0] == kind or other[0] < kind == _SET:
                if other[8:end] == record[8:end]:
                    del live[j]
                else:
                    others.append(j)
        if len(others) == _KEPT and kind < _FAILED:
            del live[others[0]]
        for j in mine if kind == _SET else ():
            live[j] = records[j]
        live[i] = record
    return live


# The live records without counts of 0, which are as none: a log that is written anew has none.
def _worth(live):
    return {i: live[i] for i in live if live[i][0] != _FAILED or any(live[i][12:16])}


class Memory:
    """Two mirrors of a header and a log of records each.

    dev: a Window over just the mirrors, or None; page: bytes that are programmed at once; uid: the
    board's own id. All is read at once, nothing is raised.

    state     "ok", "empty" (both mirrors are blank), "lost" (neither can be read) or "none"
    why       reason code when there is something to tell, else None
    writable  False: every change is refused; a device that takes no record sets it, too
    damaged   a mirror lacks something that heal() brings back; lost_records: both lack a record
    set_id    of the own set, or None
    members   tuples (set id, region id, first LBA, sectors, sector size, index, count, name)
    places    the first four of each
    builds    tuples (build id, counter, version) of known builds, the newest last
    rejected  build ids; failed: how often the repair of a block was tried in vain, by block
    counter   the least security counter that is allowed
    live      number -> record, of all that still mean something

    Texts are bytes, with zeros at their end. A change holds once its record stands in one mirror.
    LifeboatError(memory-none, memory-failed, memory-full): nothing has changed.
    """

    def __init__(self, dev, page=256, uid=b""):
        self._dev, self._page = dev, page
        self._uid = uid[:32]
        self._epoch, self._out = 0, False  # _out: a mirror took something not; it is left alone
        self.state, self.why = "none", "memory-none"
        self.writable = self.lost_records = False
        self._learn({})
        self._bytes = dev.count // 2 * dev.size if dev else 0
        if self._bytes < _PAGES * page:
            return
        self._buf = memoryview(bytearray(_SIZE if page > _SIZE else 8 * _SIZE))
        self.writable, self.why = True, None
        try:
            for _ in self.verify():
                pass
            if self._epoch:
                self.state, self.why = "ok", None
            elif self._blank(0) and self._blank(1):
                self.state = "empty"
            else:
                self.state, self.why = "lost", self.why or "memory-lost"
        except (LifeboatError, OSError, MemoryError) as error:
            self.why, self.writable = getattr(error, "code", "memory-failed"), False

    # Make what is known from the live records.
    def _learn(self, live):
        self.live = live
        known = [[], [], [], [], [], [], []]
        for i in sorted(live):
            kind = live[i][0]
            if kind <= _COUNTER:
                fields = unpack_from(_KINDS[kind], live[i], 8)
                known[kind].append(fields if len(fields) != 1 else fields[0])
        _, self.members, _, self.builds, self.rejected, failed, counter = known
        self.failed = {block: count for block, count in failed if count}
        self.counter = sum(counter)  # of one at most
        self.places = tuple([member[:4] for member in self.members])
        self.set_id = self.places[0][0] if self.places else None

    @property
    def damaged(self):
        return self._epoch > 0 and (0 in self._end or any(self._lack))

    def _at(self, transfer, m, p, buf):
        at = m * self._bytes + p * self._page
        transfer(at // self._dev.size, buf, at % self._dev.size)

    # The first bytes of a page, some small ones at once. What can't be read is zeros: no record.
    def _read(self, m, p):
        n = len(self._buf) // _SIZE
        if self._have != (m, p // n):
            self._have = m, p // n
            try:
                self._at(self._dev.readblocks, m, p // n * n, self._buf)
            except OSError as error:
                self._have = None
                if error.errno != _EIO:
                    raise
                if n > 1:
                    self._buf = self._buf[:_SIZE]
                    return self._read(m, p)
                self._buf[:] = bytes(_SIZE)
        p = p % n * _SIZE
        return self._buf[p : p + _SIZE]

    def _blank(self, m):
        return all(blank(self._read(m, p)) for p in range(_PAGES))

    # The epoch in the header of a mirror, 0 when it does not count.
    def _head(self, m):
        view = self._read(m, 0)
        magic, major, _, size, epoch, page, got, bad, ro, n, uid = unpack_from(_HEADER, view)
        if magic != b"LBMEMORY" or crc32(view) != _RESIDUE:
            return 0
        if major != 1 or bad:
            raise LifeboatError("memory-version", major)
        if (size, page, got) != (_SIZE, self._page, self._bytes) or n > 32:
            epoch = 0
        if not epoch or epoch >> 31:
            return 0
        if self._uid and uid[:n] != self._uid:
            self.why = "memory-cloned"
            return 0
        if ro:
            self.writable = False
        return epoch

    def verify(self):
        """Read and compare both mirrors, a page after each yield. What is known stays known."""
        known, records, numbers = self.live, {}, (set(), set())
        self._have = None
        end = [0, 0]  # the page of a mirror that is written next; 0: it does not count
        epochs = self._head(0), self._head(1)
        epoch = max(epochs)
        for m in (0, 1):
            if not epoch or epochs[m] != epoch:
                continue
            gap, end[m] = 0, 1
            for p in range(1, _PAGES):
                yield
                if self._out or self.live is not known:
                    return  # changed meanwhile
                view = self._read(m, p)
                gap = gap + 1 if blank(view) else 0
                if gap > 1:
                    break
                if gap:
                    continue
                end[m] = p + 2  # a page is left out after a torn one
                magic, number = unpack_from("<4s4xI", view)
                if magic == b"LBMR" and crc32(view) == _RESIDUE and 0 < number < 65536:
                    # The later one counts: a torn one may have become readable.
                    records[number] = bytes(view[4:252]).rstrip(b"\0") + bytes(88)
                    numbers[m].add(number)
                    end[m] = p + 1
        # Numbers have no gaps. But what a power cut left of a set may be in one mirror only.
        if all(end) and len(records) < max(0, 0, *records):
            self.lost_records = True
        if epoch in (0, self._epoch):
            records.update(known)  # what rotted since is in RAM
        self._epoch = epoch or self._epoch
        self._top = max(0, 0, *records)
        self._end, live = end, _living({}, records)
        self._learn(live)
        self._lack = [{i: live[i] for i in live if i not in n} for n in numbers]

    # Program the first bytes of a page; whether it holds them now.
    def _put(self, m, p, head):
        head = (head + bytes(_SIZE))[:252]
        head += pack("<I", crc32(head))
        try:
            self._at(self._dev.writeblocks, m, p, head + b"\xff" * (self._page - _SIZE))
        except OSError:
            pass  # what counts is what it holds
        self._have = None
        return self._read(m, p) == head

    # Write records to a mirror, epoch: anew; whether that succeeded. Else it is left alone.
    def _write(self, m, records, epoch=0):
        try:
            if epoch:
                n = self._dev.count // 2
                if self.state != "ok":  # an old header must not be able to come back
                    self._dev.erase_blocks(n, n)
                self._dev.erase_blocks(m * n, n)
                self._have = None
                self._end[m] = 1 if self._blank(m) else 0
            for i in sorted(records):
                head = b"LBMR" + records[i][:4] + pack("<I", i) + records[i][8:]
                for p in range(self._end[m] or _PAGES, _PAGES, 2):
                    if blank(self._read(m, p)):
                        if self._put(m, p, head):
                            break
                        if blank(self._read(m, p)):
                            raise OSError  # two such pages would end the log at the next power-on
                else:
                    raise OSError
                self._end[m] = p + 1
            self._lack[m] = {}
            if not epoch:
                return True
            # A header that can't be read back may count one day: no more for the old epoch then.
            self.writable = self._epoch == epoch
            uid, size = self._uid, self._bytes
            head = b"LBMEMORY", 1, 2, _SIZE, epoch, self._page, size, 0, 0, len(uid), uid
            if self._put(m, 0, pack(_HEADER, *head)):
                self.writable = True
                return True
        except OSError:
            pass
        self._end[m], self._out = 0, True
        return False

    # Write both mirrors anew, each while the other holds all that lives; whether one was written.
    def _renew(self, live):
        begun, end, lack = self.state == "ok", self._end, self._lack
        keep = 0 if begun and (lack[1] or not end[1]) else 1
        if begun and (self._out or not end[keep] or lack[keep]):
            return False
        old, live = _worth(live), {}
        for i in sorted(old):
            live[len(live) + 1] = old[i]
        epoch = self._epoch + 1
        for m in (1 - keep, keep):
            if self._write(m, live, epoch):
                self._epoch, self._top = epoch, len(live)
                self._learn(live)
            elif begun:
                break
        return self._epoch == epoch

    def heal(self):
        """Append what a mirror lacks, or write both anew. `damaged` stays where that fails."""
        if self.damaged and self.writable and not self._out:
            for m in (0, 1):
                if 0 < self._end[m] <= _PAGES - len(self._lack[m]):
                    self._write(m, self._lack[m])
            if self.damaged:
                self._renew(self.live)

    def add(self, records):
        """Add records: tuples (kind, fields of the payload)."""
        if self.state == "none" or self.state != "ok" and records[-1][0] != _SET:
            raise LifeboatError("memory-none")
        if self.writable:
            self.heal()
            new, top = {}, self._top
            for kind, fields in records:
                top += 1
                new[top] = pack("<B7x", kind) + pack(_KINDS[kind], *fields) + bytes(88)
            live = _living(self.live, new)
            if len(_worth(live)) > max(_MOST, len(self.live)):
                raise LifeboatError("memory-full", top)
            if self.state == "ok" and (self._out or max(self._end) + len(new) <= _PAGES):
                if self._write(0, new) | self._write(1, new):
                    self._top = top
                    return self._learn(live)
            elif self._renew(live):
                self.state, self.why = "ok", None
                return
            self.writable = False
        raise LifeboatError("memory-failed")

    def remember_set(self, members):
        """Replace the own set, []: there is none; begins the memory when there is none yet."""
        n, crc, records = len(members), 0, []
        if n > _LARGEST:
            raise LifeboatError("memory-full", n)
        for member in members:
            records.append((_MEMBER, member))
            crc = crc32(pack(_KINDS[_MEMBER], *member) + bytes(160), crc)
        set_id = members[0][0] if n else b""
        self.add(records + [(_SET, (set_id, n, 0, crc))])

    def remember_build(self, *build):
        """Make a build, (id, counter, version), the newest of those that are known."""
        self.add([(_BUILD, build)])

    def count_failure(self, block, count):
        """Say how often the repair of a block was tried in vain."""
        self.add([(_FAILED, (block, count))])

    def forget_failures(self):
        """Begin to count from 0 again."""
        if self.failed:
            self.add([(_FAILED, (0xFFFFFFFF, 0))])

    def age(self, build):
        """Return the place of a build among those known, oldest first; -1: unknown."""
        for i, known in enumerate(self.builds):
            if known[0] == build:
                return i
        return -1
