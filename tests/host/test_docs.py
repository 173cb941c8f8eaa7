"""What the pages promise about each other, the tests and the codes is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md", *sorted(ROOT.glob("boards/*/README.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
# ADVICE is read as text: host tests import no firmware.
ADVICE = dict(
    re.findall(
        r'^    "([a-z-]+)": "(.+)",$', (ROOT / "firmware/lifeboat/advice.py").read_text(), re.M
    )
)


def prose(page):
    """A page without its fenced code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def slugs(page):
    """The anchors of a page's headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.M):
        text = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(text)
    return found


def links(page):
    """The relative links of a page: (path, anchor), either may be empty."""
    for target in re.findall(r"\]\(([^()\s]+)\)", prose(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor


def unreachable(page):
    """The relative links of a page that lead nowhere."""
    lost = []
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in slugs(target)):
            lost.append(f"{path}#{anchor}" if anchor else path)
    return lost


@each_page
def test_each_link_leads_somewhere(page):
    assert unreachable(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# One heading: `two`\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#one-heading-two) [b](other.md#one) [c](none.md) [d](https://none.example)"
        "\n```\n[e](code.md)\n```\n[f](#own)\n## Own\n"
    )
    assert unreachable(page) == ["other.md#one", "none.md"]


def defined(path):
    """The tests that a file defines, at its top."""
    return set(re.findall(r"^def (test_\w+)\(", path.read_text(), re.M))


def named_tests(text):
    """(file, test) of what a page names as `test_x.py::test_y`."""
    return re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)


def test_each_test_that_the_security_page_names_exists():
    text = (DOCS / "security.md").read_text()
    files = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        files.setdefault(path.name, set()).update(defined(path))
    named = named_tests(text)
    assert len(named) > 30
    assert [n for n in named if n[1] not in files.get(n[0], ())] == []


def test_the_security_page_names_tests_in_no_other_way():
    text = (DOCS / "security.md").read_text()
    assert len(re.findall(r"\btest_\w+", text)) == 2 * len(named_tests(text))


def test_the_advice_is_read_whole():
    lines = (ROOT / "firmware/lifeboat/advice.py").read_text().count('": "')
    assert len(ADVICE) == lines > 50


def test_each_reason_code_on_the_page_about_the_memory_exists():
    named = re.findall(r"`([a-z]+(?:-[a-z]+)+)`", prose(DOCS / "memory.md"))
    assert len(set(named)) > 10
    assert set(named) - set(ADVICE) == set()


def test_each_reason_code_of_the_memory_and_the_sets_is_on_that_page():
    about = {code for code in ADVICE if re.match(r"memory-|set-|member-|region-claimed", code)}
    named = set(re.findall(r"`([a-z-]+)`", prose(DOCS / "memory.md")))
    shown = set(re.findall(r"^ *\[lifeboat\] ([a-z-]+) ", prose(DOCS / "memory.md"), re.M))
    assert about - named - shown == set()


@each_page
def test_console_lines_have_the_words_of_the_board(page):
    """As report.show() prints them: `[lifeboat] CODE WHERE DETAIL: ADVICE`."""
    for code, advice in re.findall(
        r"^ *\[lifeboat\] ([a-z-]+) [^:]*: (.+)$", page.read_text(), re.M
    ):
        assert ADVICE[code] == advice
