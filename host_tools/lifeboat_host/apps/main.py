# A storage controller's embedded code: two applications that share the board's disks.
# mypy: ignore-errors
import asyncio

import board
import cache
import health


def ready(disks):
    """The disks that answer."""
    answering = []
    for disk in disks:
        try:
            disk.ioctl(1, 0)
            answering.append(disk)
        except OSError as error:
            print("app: disk", disk.name, "does not answer:", error)
    return answering


async def main():
    disks = ready(board.disks())
    await asyncio.gather(cache.run(disks), health.run(disks))


asyncio.run(main())
