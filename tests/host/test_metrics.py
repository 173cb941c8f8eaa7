"""What boards tell, in the hands of the real Prometheus: its checker, its exporter, itself."""

import contextlib
import dataclasses
import json
import re
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from layouts import disk_file
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from fakes import board as sim
from fakes import scenarios
from lifeboat_host.base import tree
from lifeboat_host.disk.disk import Disk
from lifeboat_host.model import journal, region
from lifeboat_host.ui import metrics

CONTRIB = tree.root() / "host_tools" / "contrib" / "prometheus"
RULES = CONTRIB / "lifeboat.rules.yml"

REPORT = {
    "verdict": "RUN_DEGRADED", "reasons": [["backup-none", "", ""], ["disk-slow", "sata0", ""]],
    "build": "b", "blocks": 64, "bad": [[3, 2], [9, 1]], "repaired": [[3, 2, "sata0"]],
    "lost": [[9, 1]], "erases": 2, "disk_writes": 7, "members": [],
    "ms": {"inspect": 250, "total": 1000, "odd": "x"},
}  # fmt: skip
STATUS = {
    "product": 'a "board"\n', "code": {"bad": [9]}, "report": REPORT,
    "members": [
        {"disk": "sata0", "state": "level", "copies": [{"generation": 4}, {"generation": 5}]},
        {"disk": "sata1", "state": "stale", "copies": []},
    ],
    "scrub": {"units": 99, "left": 9, "passes": 3, "age_ms": 1500, "bound_s": 60},
}  # fmt: skip


def values(text):
    """{(sample, labels): value}, as another implementation reads it."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_status_is_told_as_numbers():
    found = values(metrics.text(metrics.of_status(STATUS)).decode())
    board = ("board", STATUS["product"])

    def value(name, **labels):
        return found[name, tuple(sorted((board, *labels.items())))]

    assert value("lifeboat_up") == 1
    assert value("lifeboat_verdict", verdict="RUN_DEGRADED") == 1
    assert value("lifeboat_verdict", verdict="RUN") == 0
    assert [value("lifeboat_blocks", state=s) for s in ("damaged", "repaired", "lost")] == [
        3,
        2,
        1,
    ]
    assert value("lifeboat_backup_level", disk="sata0") == 1
    assert value("lifeboat_backup_level", disk="sata1") == 0
    assert value("lifeboat_backup_generation", disk="sata0") == 5
    assert value("lifeboat_reason", code="disk-slow") == 1
    assert value("lifeboat_power_on_erases") == 2
    assert value("lifeboat_power_on_seconds", phase="inspect") == 0.25
    assert value("lifeboat_code_intact") == 0
    assert value("lifeboat_scrub_passes_total") == 3
    assert value("lifeboat_scrub_age_seconds") == 1.5
    assert value("lifeboat_scrub_bound_seconds") == 60


def test_a_scrubber_that_has_ended_no_pass_has_no_age_and_one_that_is_not_there_nothing():
    young = {"units": 9, "left": 9, "passes": 0, "age_ms": None, "bound_s": None}
    found = values(metrics.text(metrics.of_status({**STATUS, "scrub": young})).decode())
    names = {name for name, _ in found if "scrub" in name}
    assert names == {"lifeboat_scrub_passes_total"}
    found = values(metrics.text(metrics.of_status({**STATUS, "scrub": None})).decode())
    assert not any("scrub" in name for name, _ in found)


@pytest.fixture(scope="module")
def member(tmp_path_factory):
    """The disk of a simulated board that repaired two blocks, one of them twice."""
    import lifeboat

    board = sim.SimBoard(bytearray(scenarios.NEW), members=1, journal=4)
    for blocks in ((), (1,), (1, 3)):
        for block in blocks:
            board.nor.data[block * 4096] ^= 1
        with contextlib.redirect_stdout(None):
            lifeboat.power_on(board)
    path = tmp_path_factory.mktemp("member") / "disk.img"
    disk_file(path, board.drives[0])
    return path


def test_a_log_is_told_as_numbers(member):
    with Disk(member) as disk:
        (history,) = journal.by_set([journal.read(disk, region.find(disk).header)])
    found = values(metrics.text(metrics.of_histories([history])).decode())
    name = ("set", history.set_id.hex())
    assert found["lifeboat_repairs_total", (("blocks", "1-1"), name)] == 2
    assert found["lifeboat_repairs_total", (("blocks", "3-3"), name)] == 1
    assert found["lifeboat_blocks_repaired_again", (name,)] == 1
    assert found["lifeboat_blocks_damaged", (name,)] == 0
    assert found["lifeboat_last_verdict", (name, ("verdict", "RUN"))] == 1
    # Made in the first of three told sessions.
    assert found["lifeboat_backup_age_sessions", (("disk", "disk0"), name)] == 2


@pytest.mark.parametrize("clock", [0, 1_000_000])
def test_the_age_of_a_backup_is_told_where_the_board_has_a_clock(member, clock):
    with Disk(member) as disk:
        (history,) = journal.by_set([journal.read(disk, region.find(disk).header)])
    for session in history.sessions:
        for event in session.events:
            time = clock and clock + session.number
            event.entry = dataclasses.replace(event.entry, time=time)
    found = values(metrics.text(metrics.of_histories([history])).decode())
    made = [value for (key, _), value in found.items() if "backup_created" in key]
    assert made == ([1_000_001] if clock else [])


def test_standard_output_has_the_metrics_alone(member, lifeboat):
    code, out, _ = lifeboat("log", member, "--openmetrics", "-")
    assert code == 0 and values(out)
    assert out.startswith("# ") and out.endswith("# EOF\n")


def test_a_folder_that_is_not_there_is_an_error(member, lifeboat, tmp_path):
    code, out, _ = lifeboat("log", member, "--json", "--openmetrics", tmp_path / "no" / "x.prom")
    assert code == 1 and "metrics-write" in out


def all_names():
    text = metrics.text([*metrics.of_status(STATUS), *metrics.of_histories([])]).decode()
    return set(re.findall(r"^# TYPE (lifeboat_\w+) ", text, re.M))


def test_the_page_lists_all_names():
    page = (tree.root() / "docs" / "operations.md").read_text()
    rows = set(re.findall(r"^\| `(lifeboat_\w+?)(?:_total)?(?:\{[^`]*\})?` \|", page, re.M))
    assert rows == all_names()


def test_rules_and_dashboard_use_names_that_exist():
    known = all_names()
    for path in (RULES, CONTRIB / "dashboard.json"):
        names = set(re.findall(r"\blifeboat_[a-z_]+", path.read_text()))
        assert names and {name.removesuffix("_total") for name in names} <= known
    json.loads((CONTRIB / "dashboard.json").read_text())


# --- with the real ones --------------------------------------------------------------------


def tool(name):
    path = tree.cache() / "monitoring" / "usr" / "bin" / name
    if not path.exists():
        pytest.skip(f"no {path}: ./lifeboat test fetches it")
    return str(path)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def get(url, until):
    """What is served there, once until(text) holds."""
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                text = answer.read().decode()
            if until(text):
                return text
        except OSError:
            pass
        assert time.monotonic() < deadline, f"{url} does not say what it should"
        time.sleep(0.1)


@contextlib.contextmanager
def running(*command):
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def test_promtool_takes_the_rules():
    done = subprocess.run(
        [tool("promtool"), "check", "rules", RULES], capture_output=True, text=True, check=False
    )
    count = RULES.read_text().count("- alert: ")
    found = f"{count} rules found"
    assert done.returncode == 0 and found in done.stdout, done.stdout + done.stderr


def test_promtool_takes_the_metrics(member, lifeboat):
    _, text, _ = lifeboat("log", member, "--openmetrics", "-")
    text += metrics.text(metrics.of_status(STATUS)).decode()
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"],
        input=text.replace("# EOF\n", ""), capture_output=True, text=True, check=False,
    )  # fmt: skip
    # It parses them; that counters have _total in their TYPE line is OpenMetrics's way.
    assert "error while linting" not in done.stderr and done.returncode in (0, 3), done.stderr


def test_an_exporter_serves_them_and_prometheus_alerts(member, lifeboat, tmp_path):
    exporter, prometheus = tool("prometheus-node-exporter"), tool("prometheus")
    folder = tmp_path / "textfile"
    folder.mkdir()
    assert lifeboat("log", member, "--quiet", "--openmetrics", folder / "lifeboat.prom")[0] == 0
    metrics.write(str(folder / "lifeboat-status.prom"), metrics.of_status(STATUS))
    port, own = free_port(), free_port()
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: ['{RULES}']\n"
        "scrape_configs:\n  - job_name: node\n    static_configs:\n"
        f"      - targets: ['127.0.0.1:{port}']\n"
    )
    with running(
        exporter, "--collector.disable-defaults", "--collector.textfile",
        f"--collector.textfile.directory={folder}", f"--web.listen-address=127.0.0.1:{port}",
    ):  # fmt: skip
        said = get(
            f"http://127.0.0.1:{port}/metrics", lambda text: "lifeboat_repairs_total" in text
        )
        assert "node_textfile_scrape_error 0" in said and "lifeboat_verdict{" in said
        with running(
            prometheus, f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{own}", "--log.level=error",
        ):  # fmt: skip
            get(
                f"http://127.0.0.1:{own}/api/v1/alerts",
                lambda text: (
                    {"LifeboatFlashWearsOut", "LifeboatBlocksLost"}
                    <= {a["labels"]["alertname"] for a in json.loads(text)["data"]["alerts"]}
                ),
            )


def test_files_are_whole_at_any_time(tmp_path, monkeypatch):
    """node_exporter may read while we write: the old one stays until the new one is there."""
    path = tmp_path / "lifeboat.prom"
    metrics.write(str(path), metrics.of_status(STATUS))
    before = path.read_bytes()
    import os

    def stop(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", stop)
    with contextlib.suppress(Exception):
        metrics.write(str(path), [])
    assert path.read_bytes() == before and [p.name for p in Path(tmp_path).iterdir()] == [
        path.name
    ]
