"""A locked board on standard input and output, by the firmware's own lock.

argv: how often it opens.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import cpython_floor  # noqa: E402 - the path to it is set above

cpython_floor.install()

from fakes import board as sim  # noqa: E402
from fakes import forgery, signer  # noqa: E402
from lifeboat import lock  # noqa: E402

A, U = signer.key(1), signer.key(3)
board = sim.SimBoard(bytearray(A.image(forgery.image(1, "1.0"))), members=1, journal=4)
board.UNSIGNED, board.LOCKED = False, True
board.KEYS = signer.key_set(1, (signer.CODE | signer.KEYS, A), (signer.UNLOCK, U))
board.uid = lambda: b"unit-0001"

for _ in range(int(sys.argv[1])):
    assert lock.serve(board)
