"""S1: is any part of the embedded code in flash damaged?"""

from errno import EIO

from .errors import LifeboatError


class Inspection:
    """What an inspection found.

    manifest: the trusted Manifest in flash, or None; manifest_state: ok, padding or bad;
    code: why it is bad; bad: numbers of the damaged blocks, ascending.
    """

    def __init__(self):
        self.manifest = None
        self.manifest_state = "bad"
        self.code = None
        self.detail = ""
        self.bad = []

    @property
    def intact(self):
        """Whether the code may run: all blocks right, under a trusted manifest."""
        return self.manifest is not None and not self.bad

    @property
    def damaged(self):
        """Whether there is something to repair."""
        return not self.intact or self.manifest_state != "ok"


def damaged_blocks(flash, manifest, blocks=None):
    """Return the numbers of the blocks whose CRC-32 is not the manifest's.

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
    return bad


def inspect(flash, product):
    """Inspect all embedded code; raises OSError as the flash driver does."""
    found = Inspection()
    try:
        manifest, blank = flash.manifest()
        manifest.accept(product, flash.block_size, flash.manifest_block)
    except LifeboatError as error:
        found.code, found.detail = error.code, error.detail
        return found
    except OSError as error:
        if error.errno != EIO:
            raise
        found.code, found.detail = "flash-failed", "manifest"
        return found
    found.manifest = manifest
    found.manifest_state = "ok" if blank else "padding"
    found.bad = damaged_blocks(flash, manifest)
    return found
