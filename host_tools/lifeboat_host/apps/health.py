# A health monitor: asks each disk who it is and reads samples all over it.
# mypy: ignore-errors
import asyncio
from time import ticks_diff, ticks_us

_SAMPLES = 32  # sectors, evenly spread
_SLOW_US = 500000
_PAUSE_S = 10


def sample(disk, buf):
    """Read the samples; (errors, slowest read in microseconds)."""
    step = disk.ioctl(4, 0) // _SAMPLES
    errors = slowest = 0
    for i in range(_SAMPLES):
        start = ticks_us()
        try:
            disk.readblocks(i * step, buf)
        except OSError:
            errors += 1
        slowest = max(slowest, ticks_diff(ticks_us(), start))
    return errors, slowest


async def watch(disk):
    buf = bytearray(disk.ioctl(5, 0))
    while True:
        errors, slowest = sample(disk, buf)
        grade = "failing" if errors else "slow" if slowest > _SLOW_US else "good"
        print(f"app: health {disk.name}: {grade}, {disk.model} {disk.serial};", end=" ")
        print(f"{_SAMPLES} samples, {errors} errors, slowest {slowest} us")
        await asyncio.sleep(_PAUSE_S)


async def run(disks):
    if not disks:
        print("app: health: no disk to watch")
    await asyncio.gather(*[watch(disk) for disk in disks])
