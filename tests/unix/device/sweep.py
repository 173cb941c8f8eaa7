"""The power-cut sweep of fakes.scenarios; one line per scenario, with the cuts it survived.

Argument: 1 for all cuts, 2 for every other one and so on, else 1.
"""

import sys

from fakes.scenarios import SCENARIOS, sweep

# CPython runs all eight combinations.
WAYS = ((False, "none"), (False, "last"), (True, "all"), (True, "random"))

step = int(sys.argv[1]) if sys.argv[1:] else 1
for scenario in SCENARIOS:
    _, operations = scenario.undisturbed()
    cuts = 0
    for i, (torn, keep) in enumerate(WAYS):
        # Each way begins at another cut.
        first = 1 + i % min(step, operations)
        cuts += sweep(scenario, torn, keep, range(first, operations + 1, step))
    print("sweep", scenario.name, operations, cuts)
