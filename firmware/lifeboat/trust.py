"""The one door to a manifest that anything acts on, and what may come from the disks (I9)."""

from . import running
from .blockdev import INIT, Checked, Window, geometry
from .errors import LifeboatError
from .manifest import limit, load
from .memory import Memory

# An extra: boards that run what nobody signed do without.
try:
    from .owner import Owner
except ImportError:
    Owner = None


class Trust:
    """What this board believes, and whom.

    board: as for boot.power_on(); flash: its CodeFlash, None when it failed; memory: its Memory,
    none before recall(); mirrors: blocks of the code flash that it takes; owner: its Owner, None
    on an unsigned board.
    """

    def __init__(self, board, flash):
        self._board = board
        self.flash = flash
        self._blocks = flash.blocks if flash else 0
        self.mirrors = 0
        self.memory = Memory(None)
        self.owner = None

    def recall(self):
        """Read the memory, and let all know where the regions lie; return this.

        It is not there for code to run: whatever a board's own device for it does is its `why`.
        """
        try:
            self._recall()
        except Exception:  # noqa: BLE001 - I6
            self.memory.why = "memory-failed"
        # A board with keys whose boot stage lacks the extra fails here, and runs nothing.
        if getattr(self._board, "KEYS", b""):
            self.owner = Owner(self._board, self.memory, self.flash)
        running.places = self.memory.places
        return self

    def _recall(self):
        board, flash = self._board, self.flash
        page = flash.page
        if hasattr(board, "memory"):
            dev = board.memory()
            if dev:
                dev = Checked(dev)
                page = max(256, dev.program_size)
                dev.ioctl(INIT, 0)
                dev = Window(dev, 0, geometry(dev)[0] // 2 * 2)
        else:
            dev = flash.memory()
            if dev:
                self.mirrors = flash.mirror_blocks
        self.memory = Memory(dev, page, bytes(board.uid()) if hasattr(board, "uid") else b"")

    def load(self, read, room, head):
        """Return the Manifest that read(start, view) gives, if it is for this board.

        room: bytes there are; no more than a manifest for this board can have is read or
        allocated; head: scratch of 4096 bytes. Raises LifeboatError(manifest-*), OSError as read
        does.
        """
        manifest = load(read, min(room, limit(self._blocks)), head)
        self.accept(manifest)
        return manifest

    def accept(self, manifest):
        """Raise LifeboatError unless this is code for this board."""
        if manifest.product != self._board.PRODUCT:
            raise LifeboatError("manifest-product", manifest.product)
        code, size = manifest.block_count, manifest.block_size
        used = code + manifest.manifest_blocks + manifest.memory_blocks
        if size != self._board.BLOCK_SIZE or used > self._blocks:
            raise LifeboatError("manifest-board", "%d x %d" % (code, size))
        if self.owner:
            self.owner.accept(manifest)

    @property
    def remembers(self):
        """Whether the memory knows an own set: then it decides, not the disks."""
        return self.memory.set_id is not None

    def declares_memory(self, manifest):
        """Return whether the memory is where this manifest leaves room for it."""
        if self.mirrors:
            return manifest.memory_blocks == self.mirrors
        return self.memory.state != "none"

    def leaves_memory(self, manifest):
        """Return whether the code of a manifest may stand beside the memory that is alive here."""
        alive = self.mirrors and self.memory.state == "ok"
        return not alive or manifest.memory_blocks == self.mirrors

    def may_restore(self, build, own):
        """Return whether a build that flash does not name may come back from the disks.

        own: whether the copy lies in the own set. Without a memory of builds there is but one
        set here, and it is believed. So is what the owner signed; accept() sees to that.
        """
        memory = self.memory
        if build in memory.rejected:
            return False
        if not memory.builds:
            return own
        age = memory.age(build)
        # The bytes of the build that ran last are right, whoever kept them.
        return age == len(memory.builds) - 1 or own and (age >= 0 or self.owner is not None)

    def rank(self, commit):
        """Return a key that orders copies by age, the newest highest."""
        return self.memory.age(commit.build), commit.order
