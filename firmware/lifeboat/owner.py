"""What a board's owner signed: keys, the least counter, and how they change (format.md 7)."""

from binascii import hexlify
from hashlib import sha256
from struct import unpack_from

from micropython import const

from .errors import LifeboatError
from .lms import shape, verify

# Roles of a key.
CODE = const(1)
UNLOCK = const(2)
_KEYS = const(4)

_HEAD = const(8)  # of a key set
_ENTRY = const(58)
_MOST = const(4)
_EXTENSION = const(1)
_ID = const(8)

# Kinds of records of the memory.
_COUNTER_RECORD = const(6)
_KEYS_RECORD = const(7)
LOCK_RECORD = const(8)

LOCKED = const(1)  # a flag of the lock record

_NOT_OURS = ("signature-none", "signature-bad", "key-unknown", "key-revoked", "counter-low")
_KEPT = const(128)  # signatures whose verdict is known


class KeySet:
    """Keys with roles. raw: its bytes, more may follow; ValueError when they break a rule."""

    def __init__(self, raw):
        if len(raw) < _HEAD:
            raise ValueError
        self.serial, count = unpack_from("<IB", raw)
        self.keys = {}  # id -> (roles, key)
        size = _HEAD + _ENTRY * count
        if not 0 < count <= _MOST or len(raw) < size:
            raise ValueError
        self.raw = raw = bytes(raw[:size])
        roles = 0
        for at in range(_HEAD, size, _ENTRY):
            key = raw[at + 2 : at + _ENTRY]
            if not shape(key):
                key = key[:48]
            if not shape(key) or any(raw[at + 2 + len(key) : at + _ENTRY]) or not raw[at]:
                raise ValueError
            self.keys[sha256(key).digest()[:_ID]] = raw[at], key
            roles |= raw[at]
        if len(self.keys) != count or not roles & CODE:
            raise ValueError

    def key(self, name, role):
        """Return the key of an id, when it has the role; else None."""
        roles, key = self.keys.get(bytes(name), (0, None))
        return key if roles & role else None

    @property
    def opens(self):
        """The ids of those that open a console."""
        return [name for name in self.keys if self.key(name, UNLOCK)]


def _parsed(raw):
    try:
        return KeySet(raw)
    except ValueError:
        return None


# The key set that a manifest brings, or None.
def _brought(manifest):
    raw = manifest.raw
    at = manifest.end - unpack_from("<I", raw, 36)[0]
    while at < manifest.end:
        kind, _, size = unpack_from("<HHI", raw, at)
        if kind == _EXTENSION:
            return _parsed(raw[at + 8 : at + 8 + size])
        at += 8 + (size + 3 & -4)
    return None


# A manifest of a format that is not known can't be verified. It is no reason to stop: somebody who
# writes the flash could stop the board for good with one block.
def _guard(flash, paranoid):
    read = flash.manifest

    def manifest(trust):
        try:
            return read(trust)
        except LifeboatError as error:
            if error.code != "manifest-version":
                raise
        raise LifeboatError("signature-bad", "of a newer format")

    flash.manifest = manifest
    if paranoid:
        flash.look = lambda manifest, blocks, bad: [
            i for i in blocks if i in bad or not hashed(flash, i, manifest)
        ]


def hashed(flash, block, manifest):
    """Return whether a block has the SHA-256 of the manifest: for a board that is paranoid."""
    digest = sha256()
    flash.crc(block, digest=digest)
    return digest.digest() == manifest.digest(block)


# Whether a member has a copy of this code, every block of it right: looked at once a build.
def _backed(power_on, manifest):
    if any(code == "flash-changed" for code, _, _ in power_on.report.data["reasons"]):
        return False
    for member in power_on.members:
        for copy in member.copies if member.writable else ():
            if copy.claims(manifest) and all(
                copy.read(i, power_on.scratch, manifest.right) for i in range(manifest.block_count)
            ):
                return True
    return False


class Owner:
    """Decides which manifests the board's owner stands behind.

    board, beside what boot.power_on() says:

        KEYS         a key set, format.md section 7
        PARANOID     True: every block is hashed at every power-on
        MIN_COUNTER  the least security counter, whatever the memory says
        LOCKED       True: the console is locked, whatever the memory says
        fuses()      (counter, SHA-256 of a key set or b"") from one-time-programmable memory
        burn(counter, digest)
                     make them what fuses() returns

    All but KEYS may be absent. memory: the board's; flash: its CodeFlash. vague: nothing may run,
    since KEYS or fuses() can't be used, or the board is UNSIGNED all the same; counter: the least
    that is allowed; keys: the KeySet that rules, or None: then nothing is accepted but a manifest
    with the one of fuses().
    """

    def __init__(self, board, memory, flash):
        self._board = board
        self._memory = memory
        self._seen = {}  # sum of a build and its signature -> whether it is right
        self._digest = b""
        self._paranoid = getattr(board, "PARANOID", False)
        if flash:
            _guard(flash, self._paranoid)
        self._own = own = _parsed(board.KEYS)
        self._stored = stored = _parsed(self._last(_KEYS_RECORD))
        found = [stored, own]
        self.counter = max(getattr(board, "MIN_COUNTER", 0), memory.counter)
        self.vague = not own or getattr(board, "UNSIGNED", False)
        fused = hasattr(board, "fuses")
        if fused:
            try:
                counter, self._digest = board.fuses()
                self.counter = max(self.counter, counter)
            except Exception:  # noqa: BLE001 - without it nobody knows what is allowed
                self.vague = True
        # Whoever writes the flash writes the memory, too. What it says of keys counts when fuses
        # say the same, or where somebody who writes the flash gets past a power-on anyway.
        alone = not self._digest and (fused or self._paranoid)
        if alone or own and stored and own.serial >= stored.serial:
            found.reverse()
        self._changes = hasattr(board, "burn") if fused else not self._paranoid
        self.keys = None
        for keys in found:
            if keys and self._digest in (b"", sha256(keys.raw).digest()):
                self.keys = keys
                break

    @property
    def serial(self):
        """Of the key set that rules, or None."""
        return self.keys.serial if self.keys else None

    @property
    def locked(self):
        """Whether the console opens only for a signed answer."""
        return getattr(self._board, "LOCKED", False) or self.flags & LOCKED > 0

    @property
    def answers(self):
        """How many answers were accepted."""
        return self._lock[0]

    @property
    def flags(self):
        """What the memory says of the lock."""
        return self._lock[1]

    @property
    def _lock(self):
        return unpack_from("<II", self._last(LOCK_RECORD) or bytes(8))

    # The payload of the newest record of a kind.
    def _last(self, kind):
        records = self._memory.live
        found = [i for i in records if records[i][0] == kind]
        return records[max(found)][8:] if found else b""

    def describe(self):
        """Return who rules here, for the host tools."""
        found = self.keys.keys if self.keys else {}
        return {
            "serial": self.serial,
            "keys": [[hexlify(name).decode(), found[name][0]] for name in found],
            "locked": self.locked,
            "answers": self.answers,
        }

    def accept(self, manifest):
        """Raise LifeboatError unless a key that rules signed this, and it is not too old."""
        if self.vague:
            raise LifeboatError("policy")
        keys = self.keys
        if not keys:
            keys = _brought(manifest)
            if not keys or sha256(keys.raw).digest() != self._digest:
                raise LifeboatError("key-unknown")
        raw, end = manifest.raw, manifest.end
        signature = raw[end:-4]
        if not len(signature):
            raise LifeboatError("signature-none")
        name = bytes(signature[:_ID])
        key = keys.key(name, CODE)
        if not key:
            # A memory that could not be read may hold it: no reason to erase anything.
            if self._memory.why == "memory-failed":
                raise LifeboatError("policy")
            revoked = self._own.key(name, CODE) and keys is not self._own
            raise LifeboatError("key-revoked" if revoked else "key-unknown")
        if manifest.security_counter < self.counter:
            raise LifeboatError("counter-low", str(manifest.security_counter))
        # The build id is a sum of all that is signed. What is wrong is known, too: hostile copies
        # are looked at more than once.
        seen = sha256(manifest.build)
        seen.update(signature)
        seen = seen.digest()
        if seen not in self._seen:
            if len(self._seen) == _KEPT:
                self._seen = {}
            self._seen[seen] = verify(key, signature[_ID:], raw[:end])
        if not self._seen[seen]:
            raise LifeboatError("signature-bad")
        self.keys = keys

    def end(self, power_on):
        """Let what the manifest in flash brings come into force once its code was found intact and
        has a whole backup; tell the report of a PowerOn what rules here.

        Order: first what can't be taken back. A power cut between leaves fuses that allow this
        very manifest, and the next power-on goes on here.
        """
        report = power_on.report
        try:
            if power_on.found.intact and report.runs and not getattr(power_on, "trying", False):
                self._settle(power_on)
        except LifeboatError as error:
            report.reason(error.code, "flash", error.detail)
        except Exception as error:  # noqa: BLE001 - whatever a board does to burn a fuse
            report.reason("fuses-failed", "flash", repr(error))
        # What was in the flash is told though it is gone: somebody put it there.
        why = report.data.get("why")
        if report.runs and why in _NOT_OURS:
            report.reason(why, "flash", "was replaced")
        report.data.update(
            trust="paranoid" if self._paranoid else "signed",
            counter=self.counter,
            keys=self.serial,
            console="locked" if self.locked else "open",
        )

    def _settle(self, power_on):
        manifest, report, memory = power_on.found.manifest, power_on.report, self._memory
        burn = getattr(self._board, "burn", None)
        keeps = memory.state == "ok" and memory.writable
        counter, keys, new = manifest.security_counter, self.keys, _brought(manifest)
        rises = counter > self.counter and (burn or keeps)
        changes = new and new.serial > keys.serial
        if changes and not (self._changes and (burn or keeps)):
            raise LifeboatError("keys-refused", "nothing here could keep them")
        if (rises or changes) and not _backed(power_on, manifest):
            return
        if rises:
            if burn:
                burn(counter, self._digest)
            self.counter = counter
            report.tell("counter", "", "", counter)
        if keeps and self.counter > memory.counter:
            memory.add([(_COUNTER_RECORD, (self.counter,))])
        if changes:
            name = manifest.raw[manifest.end : manifest.end + _ID]
            opens = new.opens or not self.locked
            if not (keys.key(name, _KEYS) and new.key(name, CODE) and opens):
                raise LifeboatError("keys-refused", str(new.serial))
            if burn:
                self._digest = sha256(new.raw).digest()
                burn(self.counter, self._digest)
            self.keys = new
            report.tell("keys", "", "", new.serial, len(new.keys))
        if keeps and self.keys not in (self._own, self._stored):
            memory.add([(_KEYS_RECORD, (self.keys.raw,))])
            self._stored = self.keys
