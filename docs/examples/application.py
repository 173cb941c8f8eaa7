"""An application that lends lifeboat a few milliseconds now and then, and hears what it finds.

As main.py of a board: the boot stage has inspected the code, and `board` is its board.py.
"""

import asyncio

import board

import lifeboat
from lifeboat.scrub import REPAIR, Scrubber


def changed(names):
    """Blocks of these segments were repaired under a program that may use them."""
    print("repaired while we ran:", names)


async def tell():
    while True:
        report = lifeboat.report()
        for code, where, detail in report.data["reasons"]:
            print(code, where, detail)
        await asyncio.sleep(3600)


async def main():
    scrubber = Scrubber(board, policy=REPAIR, on_change=changed)
    asyncio.create_task(scrubber.run(step_ms=5, period_ms=100))
    asyncio.create_task(tell())
    while True:  # what the application is for
        await asyncio.sleep_ms(100)


if __name__ == "__main__":
    asyncio.run(main())
