"""The firmware's flow in MicroPython itself: power-ons, power cuts, garbage, driver contracts."""

from fakes import scenarios

from .floor import run

GARBAGE = 200


def of(lines, kind):
    return [line.split()[1:] for line in lines if line.split()[:1] == [kind]]


def test_backup_repair_restore_and_failing_disks_in_several_geometries():
    lines = run("flow.py")
    assert len(of(lines, "flow")) == 5
    for what in ("partition ok", "memory ok", "exceptions ok", "soft reset ok"):
        assert what in lines


def test_every_power_cut_is_survived():
    sweeps = of(run("sweep.py"), "sweep")
    assert [name for name, _, _ in sweeps] == [s.name for s in scenarios.SCENARIOS]
    for name, operations, cuts in sweeps:
        # Each operation, twice before it and twice half-way; and MicroPython sends the same
        # commands as CPython.
        assert int(cuts) == 4 * int(operations), name
        (scenario,) = [s for s in scenarios.SCENARIOS if s.name == name]
        assert int(operations) == scenario.undisturbed()[1]


def test_garbage_gives_a_verdict():
    for part, count, ran in of(run("garbage.py", str(GARBAGE)), "garbage"):
        assert int(count) == GARBAGE and int(ran) > 0, part


def test_the_fakes_pass_the_conformance_suite():
    lines = run("drivers.py")
    passed = [line for line in lines if line.endswith("checks passed")]
    assert len(passed) == 4
