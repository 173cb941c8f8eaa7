"""Mutated records of fakes.scenarios; arguments: how many of each kind."""

import sys

from fakes.rng import Rng
from fakes.scenarios import PARTS, backed_up, mutated

media = backed_up()
for part in PARTS:
    rng = Rng(part)
    count = int(sys.argv[1])
    ran = 0
    for i in range(count):
        ran += mutated(media, part, rng, fix=i % 4 != 0, damaged=i % 2 == 1).runs
    print("garbage", part, count, ran)
