"""I5 on the board: garbage in region, manifest or both gives a verdict each time."""

import random

import pytest


def fill(kind, size, rng):
    return {"zeros": bytes(size), "ones": b"\xff" * size, "random": rng.randbytes(size)}[kind]


@pytest.mark.parametrize("where", ["region", "manifest", "both"])
@pytest.mark.parametrize("kind", ["zeros", "ones", "random"])
def test_garbage_gives_a_verdict(rig8, kind, where):
    rng = random.Random(kind)
    if where != "manifest":
        for drive in rig8.drives:
            start, end = rig8.region_range(drive)
            with open(drive, "r+b") as f:
                for unit in (start, start + 4096, start + 8192, end - 8192, end - 4096):
                    f.seek(unit)
                    f.write(fill(kind, 4096, rng))
    if where != "region":
        rig8.damage((rig8.manifest_at, fill(kind, rig8.spec.block_size, rng)))
    before = rig8.hashes()
    report, _ = rig8.power_on()
    assert "internal" not in [r[0] for r in report["reasons"]]
    want = {"region": "RUN_DEGRADED", "manifest": "RUN", "both": "RESCUE"}[where]
    assert report["verdict"] == want
    if where != "manifest":
        assert rig8.hashes() == before
