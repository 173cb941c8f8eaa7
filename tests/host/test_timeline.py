"""timeline.py: pictures that stand alone, hold every event and can be read."""

import re
from xml.etree import ElementTree

import pytest

from lifeboat_host.model import journal
from lifeboat_host.model.formats import Entry, RegionHeader
from lifeboat_host.ui import log_chart, log_page

HEADER = RegionHeader(512, bytes(range(16)), bytes(16), 8, 8000, 0, 1, 2, 1 << 20)
NAMESPACE = "http://www.w3.org/2000/svg"


def history(*entries, disk="disk0.img"):
    """entries: (session, phase, event, code, where, first, count)"""
    told = tuple(
        Entry(number, session, 1763640000 + 86400 * session, 400 + session, *rest)
        for number, (session, *rest) in enumerate(entries, 1)
    )
    return journal.merge([journal.Journal(disk, HEADER, 32, 1, (), told)])


def boot(session, verdict="RUN", version="1.0", cycles=0):
    return session, 0, "power-on", verdict, version, cycles, 0


TOLD = history(
    boot(1, cycles=3),
    (1, 0, "adopted", "", "sata0", 2, 0),
    (1, 0, "created", "", "sata0", 1, 30),
    boot(2, cycles=15),
    (2, 0, "found", "", "flash", 7, 1),
    (2, 0, "repaired", "", "sata0", 7, 1),
    (2, 0, "reason", "member-missing", "member 2/2", 0, 0),
    (2, 1, "found", "", "flash", 7, 2),
    (2, 1, "repaired", "", "sata0", 7, 2),
    (2, 1, "changed", "restart", "app", 7, 2),
    (2, 1, "mended", "", "sata1", 3, 1),
    (2, 1, "mended", "", "sata1", 0, 0),
    boot(3, "RUN_DEGRADED", "1.1", 17),
    (3, 0, "found", "", "sata1", 4, 1),
    (3, 0, "reason", "backup-none", "", 0, 0),
    (3, 0, "trial", "trying", "1.1", 1, 7),
    (3, 0, "taken-back", "crash", "1.1", 1, 7),
    (3, 0, "reason", "disk-failed", "sata1", 0, 0),
    boot(4, "RESCUE", ""),
    (4, 0, "lost", "", "flash", 9, 1),
    (4, 0, "reason", "block-lost", "flash", 0, 0),
    (4, 0, "novelty", "x", "somewhere", 1, 2),
    (4, 0, "found", "", "flash", 5, 0),
)


def svg(told):
    return ElementTree.fromstring(log_page.svg(told))


def page(told, lines=("summary",)):
    """The HTML is kept such that an XML parser reads it."""
    text = log_page.html(told, lines)
    assert text.startswith("<!DOCTYPE html>")
    return ElementTree.fromstring(text[len("<!DOCTYPE html>") :])


def titles(root):
    return [e.text for e in root.iter() if e.tag.split("}")[-1] == "title"]


def texts(root):
    """What is written, without the titles that show under the mouse."""
    written = [e for e in root.iter() if e.tag.split("}")[-1] == "text"]
    return [(e.text or "") + "".join(child.tail or "" for child in e) for e in written]


@pytest.mark.parametrize("draw", [svg, page])
def test_every_event_is_in_the_picture(draw):
    hover = "\n".join(titles(draw(TOLD)))
    for session in TOLD.sessions:
        for event in session.events:
            assert journal.tell(event.entry) in hover


@pytest.mark.parametrize("text", [log_page.svg(TOLD), log_page.html(TOLD, ["summary"])])
def test_the_file_needs_nothing_from_elsewhere(text):
    assert not re.search(r"(href|src|url\(|@import|<script|<link)", text.replace(NAMESPACE, ""))
    assert "://" not in text.replace(NAMESPACE, "")


@pytest.mark.parametrize("text", [log_page.svg(TOLD), log_page.html(TOLD, [])])
def test_the_picture_follows_the_readers_light_and_dark(text):
    assert "prefers-color-scheme: dark" in text and "color-scheme: light dark" in text


def test_the_page_fits_a_narrow_window():
    text = log_page.html(TOLD, [])
    assert 'name="viewport"' in text
    assert "overflow-x: auto" in text and "position: sticky" in text


def test_the_page_has_the_summary_and_all_events_as_text_latest_first():
    root = page(TOLD, ["last good: <never>"])
    assert "last good: <never>" in "".join(root.itertext())
    assert [e.text.split(",")[0] for e in root.iter("h2")] == [
        f"session {n}" for n in (4, 3, 2, 1)
    ]
    items = ["".join(e.itertext()) for e in root.iter("li")]
    assert len(items) == sum(len(session.events) for session in TOLD.sessions)
    assert any("disk-failed: the disk gives errors" in item for item in items)


def test_rows_columns_and_what_stands_over_them():
    labels = texts(svg(TOLD))
    for label in ("1", "2", "3", "4", "2025-11-21", "+12", "+2", "1.0", "1.1", "DEGRADED"):
        assert label in labels
    rows = ["flash", "block 7", "block 8", "block 9", "sata0", "sata1", "member-missing"]
    for row in [*rows, "backup-none", "somewhere"]:
        assert row in labels


def test_the_legend_explains_the_marks_that_occur():
    labels = texts(svg(TOLD))
    meanings = [meaning for _, meaning in log_chart.MARKS.values()]
    assert [label for label in labels if label in meanings] == meanings
    few = history(boot(1), (1, 0, "found", "", "flash", 7, 1))
    assert [label for label in texts(svg(few)) if label in meanings] == ["damaged"]


@pytest.mark.parametrize("event", ["novelty", "source", "operation"])
def test_an_event_of_a_later_version_is_marked_as_one(event):
    drawn = texts(svg(history(boot(1), (1, 0, event, "", "somewhere", 0, 0))))
    assert "of a later version" in drawn
    assert "good copy came from here" not in drawn


def test_a_block_that_rots_again_stands_out():
    root = svg(TOLD)
    assert "2\u00d7" in "\n".join(texts(root))
    assert "block 7: damaged again and again, repaired 2 times" in titles(root)
    bands = [e for e in root.iter(f"{{{NAMESPACE}}}rect") if e.get("class") == "again"]
    assert len(bands) == 2  # under the name, and under the plot


def test_a_repair_sits_in_the_ring_of_its_damage():
    told = history(
        boot(1), (1, 0, "found", "", "flash", 7, 1), (1, 0, "repaired", "", "sata0", 7, 1)
    )
    tag = f"{{{NAMESPACE}}}"
    for cell in svg(told).iter(f"{tag}g"):
        title = cell.find(f"{tag}title")
        if title is not None and "damaged" in title.text:
            marks = cell.findall(f"{tag}g")
            assert [mark[0].get("class") for mark in marks] == ["found", "repaired"]
            assert marks[0].get("transform") == marks[1].get("transform")
            break
    else:
        pytest.fail("no mark for the damage")


def test_many_blocks_share_rows_and_many_sessions_are_drawn_narrow():
    entries = []
    for session in range(1, 101):
        entries += [boot(session), (session, 0, "found", "", "flash", 3 * session, 1)]
    labels = texts(svg(history(*entries)))
    assert sum(label.startswith("block") for label in labels) <= 16
    assert "100" in labels and "RUN" in labels
    assert len(log_chart.Chart(history(*entries))._sessions) == 100


def test_a_very_long_journal_shows_its_latest_sessions():
    root = svg(history(*(boot(session) for session in range(1, 702))))
    labels = texts(root)
    assert "701" in labels and "202" in labels and "201" not in labels
    assert any("the latest 500 shown" in title for title in titles(root))


def test_very_many_names_share_a_row():
    told = history(boot(1), *((1, 0, "created", "", f"disk{n}", 1, 1) for n in range(500)))
    assert len(log_chart.Chart(told)._rows) < 40
    hover = "\n".join(titles(svg(told)))
    assert "disk0: new" in hover and "disk499: new" in hover


def test_an_empty_journal_is_a_picture_too():
    assert titles(svg(history()))[0].endswith("0 sessions")
    assert page(history()) is not None


def test_names_from_disks_and_files_do_no_harm():
    bad = '</svg><script>alert("&")</script>\udcff\x1b'
    told = history(
        boot(1, '"><b', "<1&0>"), (1, 0, "created", bad, bad, 1, 1), (1, 0, bad, "", "", 0, 0),
        disk=bad,
    )  # fmt: skip
    for root in (svg(told), page(told, [bad])):
        assert not [e for e in root.iter() if e.tag.split("}")[-1] in ("script", "b")]
    log_page.svg(told).encode()
    log_page.html(told, [bad]).encode()


def test_a_block_that_a_backup_copy_lost_is_no_row_of_the_flash():
    told = history(boot(1), (1, 1, "lost", "", "sata0", 4, 1))
    written = texts(svg(told))
    assert "sata0" in written and "block 4" not in written
