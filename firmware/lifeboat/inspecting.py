"""S1: is any part of the embedded code in flash damaged?"""

from errno import EIO


class Inspection:
    """What an inspection found.

    manifest: the trusted Manifest in flash, or None; manifest_state: ok, padding or bad;
    why: the code that says why it is bad, with detail; bad: numbers of the damaged blocks,
    ascending.
    """

    def __init__(self, why=None, detail=""):
        self.manifest = None
        self.manifest_state = "bad"
        self.why = why
        self.detail = detail
        self.bad = []

    @property
    def intact(self):
        """Whether the code may run: all blocks right, under a trusted manifest."""
        return self.manifest is not None and not self.bad

    @property
    def damaged(self):
        """Whether there is something to repair. Whole code of a newer format is not damage, and
        what must not be written is not repaired: a person has to decide about them."""
        if self.why in ("manifest-version", "policy") or (
            self.manifest and self.manifest.read_only
        ):
            return False
        return not self.intact or self.manifest_state != "ok"


def damaged_blocks(flash, manifest, blocks=None):
    """Return the numbers of the blocks that are not the manifest's.

    blocks: which to look at, default all. A block that reads with EIO is damaged: an erase may
    cure what error correction could not. Raises other OSErrors of the flash driver.
    """
    if blocks is None:
        blocks = range(manifest.block_count)
    crc, want = flash.crc, manifest.crc
    bad = []
    for i in blocks:
        try:
            if crc(i) == want(i):
                continue
        except OSError as error:
            if error.errno != EIO:
                raise
        bad.append(i)
    return flash.look(manifest, blocks, bad) if flash.look else bad


def inspect(flash, trust):
    """Inspect all embedded code.

    Raises LifeboatError with why no manifest in flash can be trusted, OSError as the driver does.
    """
    found = Inspection()
    found.manifest, blank = flash.manifest(trust)
    found.manifest_state = "ok" if blank else "padding"
    found.bad = damaged_blocks(flash, found.manifest)
    return found
