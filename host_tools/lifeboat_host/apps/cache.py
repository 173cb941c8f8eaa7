# A read cache with a latency monitor: what clients read often comes from memory.
# mypy: ignore-errors
import asyncio
import random
from time import ticks_diff, ticks_us

_PAGE = 4096  # bytes
_PAGES = 64
_READS = 200  # between two reports
_HOT = 48  # pages that most reads go to
_PAUSE_S = 10


class Cache:
    """The least recently used page makes room. hits, misses: how many; *_us: time in them."""

    def __init__(self, disk):
        self._disk = disk
        self._sectors = _PAGE // disk.ioctl(5, 0)
        self._pages = {}  # page number -> bytes, oldest use first
        self.pages = disk.ioctl(4, 0) // self._sectors
        self.hits = self.misses = self.hit_us = self.miss_us = 0

    def read(self, page):
        start = ticks_us()
        data = self._pages.pop(page, None)
        if data is None:
            data = bytearray(_PAGE)
            self._disk.readblocks(page * self._sectors, data)
            if len(self._pages) >= _PAGES:
                self._pages.pop(next(iter(self._pages)))
            self.misses += 1
            self.miss_us += ticks_diff(ticks_us(), start)
        else:
            self.hits += 1
            self.hit_us += ticks_diff(ticks_us(), start)
        self._pages[page] = data
        return data


async def serve(disk):
    """Play a client: most reads go to a few hot pages, some anywhere."""
    cache = Cache(disk)
    while True:
        try:
            for _ in range(_READS):
                span = _HOT if random.getrandbits(3) else min(cache.pages, 1 << 20)
                cache.read(random.randrange(span))
                await asyncio.sleep(0)
        except OSError as error:
            print("app: cache", disk.name, "read error:", error)
        reads = cache.hits + cache.misses
        share = 100 * cache.hits // max(reads, 1)
        memory_us = cache.hit_us // max(cache.hits, 1)
        disk_us = cache.miss_us // max(cache.misses, 1)
        print(f"app: cache {disk.name}: {reads} reads, {share} % from memory;", end=" ")
        print(f"memory {memory_us} us, disk {disk_us} us")
        await asyncio.sleep(_PAUSE_S)


async def run(disks):
    if not disks:
        print("app: cache: no disk to serve")
    await asyncio.gather(*[serve(disk) for disk in disks])
