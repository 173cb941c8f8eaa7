"""The power-cut sweep of fakes.scenarios; one line per scenario, with the cuts it survived."""

from fakes.scenarios import SCENARIOS, sweep

for scenario in SCENARIOS:
    _, operations = scenario.undisturbed()
    cuts = 0
    # CPython runs all eight combinations.
    for torn, keep in ((False, "none"), (False, "last"), (True, "all"), (True, "random")):
        cuts += sweep(scenario, torn, keep)
    print("sweep", scenario.name, operations, cuts)
