"""The page in headless Chromium: found, filtered, opened and drawn, by keyboard too; nothing run, nobody else asked."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flantune.explore.collection import Collection
from flantune.explore.explorer import Explorer

from .chromium import Chromium

pytestmark = pytest.mark.browser


def served(explorer: Explorer) -> Iterator[str]:
    """The address of a server in this process, on a port of its own."""
    import uvicorn

    from flantune.explore.serve import HOST, open_socket
    from flantune.explore.server import make_app

    listening = open_socket(0)
    server = uvicorn.Server(uvicorn.Config(make_app(explorer), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://{HOST}:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join(timeout=20)


@pytest.fixture(scope="module")
def address(explorer: Explorer) -> Iterator[str]:
    yield from served(explorer)


@pytest.fixture(scope="module")
def address_without_recipe(collection: Collection) -> Iterator[str]:
    yield from served(Explorer(collection))


@pytest.fixture(scope="module")
def program() -> str:
    found = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


@pytest.fixture
def browser(program: str, address: str, tmp_path: Path) -> Iterator[Chromium]:
    """A browser of its own for each test; none may leave an error in the console or ask anyone else."""
    chromium = Chromium(program, tmp_path / "profile")
    try:
        yield chromium
        assert not chromium.problems
        asked = {url for url in chromium.requests if not url.startswith(("http://127.0.0.1:", "about:", "data:"))}
        assert not asked
    finally:
        chromium.close()


ROWS = "[...document.querySelectorAll('tbody tr')]"
TASKS = f"{ROWS}.map(row => row.cells[0].innerText)"
SETTLED = "!document.querySelector('[aria-busy]')"


def choose(browser: Chromium, name: str, value: str) -> None:
    browser.run(
        f"(() => {{ const s = document.querySelector('select[name={name}]'); s.value = '{value}';"
        " s.dispatchEvent(new Event('change')); })()"
    )


def click(browser: Chromium, words: str) -> None:
    browser.wait(
        f"[...document.querySelectorAll('button')].some(b => b.innerText.startsWith('{words}') && !b.disabled)"
    )
    browser.run(f"[...document.querySelectorAll('button')].find(b => b.innerText.startsWith('{words}')).click()")


def test_a_task_is_found_filtered_and_opened_by_keyboard_alone(browser: Chromium, address: str) -> None:
    browser.open(address)
    browser.wait(f"{ROWS}.length > 50")
    everything = browser.run(f"{ROWS}.length")
    browser.press("/")
    assert browser.run("document.activeElement.name") == "words"
    browser.type("color foods")
    browser.wait(f"{ROWS}.length === 1")
    assert browser.run(TASKS) == ["demo/foods_color"]
    assert browser.run("document.activeElement.name") == "words"  # the table was drawn anew, typing goes on
    while browser.run("document.activeElement.innerText") != "demo/foods_color":
        browser.press("Tab")
    browser.press("Enter")
    browser.wait("document.querySelector('h1')?.innerText === 'demo/foods_color' && document.querySelector('.prompt')")
    browser.run("history.back()")
    browser.wait(f"{ROWS}.length === 1 && document.querySelector('[name=words]').value === 'color foods'")
    click(browser, "Clear")
    browser.wait(f"{ROWS}.length === {everything}")


def test_filters_narrow_the_table_and_each_others_choices(browser: Chromium, address: str, explorer: Explorer) -> None:
    browser.open(address + "#/tasks")
    browser.wait(f"{ROWS}.length > 50 && document.querySelector('select[name=category]')")
    choose(browser, "category", "foods")
    foods = sorted(row.name for row in explorer.collection.rows if row.category == "foods")
    browser.wait(f"{ROWS}.length === {len(foods)}")
    assert browser.run(TASKS) == foods
    choose(browser, "has", "options")
    browser.wait(f"{ROWS}.length < {len(foods)} && {SETTLED}")
    assert set(browser.run(TASKS)) == {
        row.name for row in explorer.collection.rows if row.category == "foods" and "options" in row.has
    }
    assert "category=foods" in browser.run("location.hash")


def test_a_tasks_page_draws_its_lengths_and_examples(browser: Chromium, address: str) -> None:
    browser.open(address + "#/task?name=demo/foods_color")
    browser.wait("document.querySelectorAll('figure svg').length === 2 && document.querySelector('.prompt')")
    told = browser.run("document.querySelector('figure svg').getAttribute('aria-label')")
    assert told.startswith("Histogram of Inputs, characters: median ")
    heights = "[...document.querySelectorAll('figure svg .bars rect')].map(r => r.getBoundingClientRect().height)"
    assert max(browser.run(heights)) > 30 and browser.run(f"{heights}.every(h => h >= 0)")
    before = browser.run("document.querySelector('.prompt pre').innerText")
    choose(browser, "format", "fs_opt")
    browser.wait("document.querySelector('.prompt .role-exemplar')")
    assert browser.run("document.querySelector('.prompt pre').innerText") != before
    choose(browser, "unit", "tokens")
    browser.wait("document.querySelector('figure svg')?.getAttribute('aria-label').includes('Inputs, tokens')")
    click(browser, "Next")
    browser.wait("document.querySelector('.prompt h3')?.innerText === 'row 5'")
    assert "start=5" in browser.run("location.hash")


def test_text_is_found_in_examples_and_leads_to_the_row(browser: Chromium, address: str) -> None:
    browser.open(address + "#/search")
    browser.wait("document.querySelector('input[name=text]')")
    browser.press("/")
    browser.type("onerror")
    browser.press("Enter")
    browser.wait("document.querySelectorAll('.hit').length === 12")
    assert browser.run("document.querySelector('.hit mark').innerText") == "onerror"
    assert "which is all" in browser.run("document.querySelector('[role=status]').innerText")
    browser.run("document.querySelectorAll('.hit a')[7].click()")
    browser.wait("document.querySelector('.prompt h3')?.innerText === 'row 7'")


@pytest.mark.parametrize("page", ["#/task?name=prompts/hostile", "#/search?text=script", "#/tasks?words=hostile"])
def test_hostile_text_is_shown_and_never_run(browser: Chromium, address: str, page: str) -> None:
    browser.open(address + page)
    browser.wait(f"document.body.innerText.includes('hostile') && document.querySelector('h1') && {SETTLED}")
    if "words" not in page:
        browser.wait("document.querySelector('main').innerText.includes('<script>window.ran = true</script>')")
    assert browser.run("window.ran ?? null") is None
    assert browser.run("document.querySelectorAll('main script, main img').length") == 0


def test_the_stream_goes_on_by_keys_and_filters(browser: Chromium, address: str, explorer: Explorer) -> None:
    stream = explorer.stream
    assert stream is not None
    browser.open(address + "#/stream?at=3")
    browser.wait("document.querySelector('pre.input') && document.querySelector('select[name=mixture]')")
    example = stream.example(3)
    shown = browser.run("document.querySelector('pre.input').textContent")
    assert shown == "".join(s.text for s in example.prompt.segments if s.role not in ("rationale", "target"))
    assert example.tokens is not None and example.tokens.targets is not None
    ids = browser.run(
        "[...document.querySelectorAll('details:nth-of-type(2) .tokens small')].map(e => Number(e.innerText))"
    )
    assert tuple(ids) == example.tokens.targets.ids
    browser.run("document.activeElement.blur()")
    browser.press("ArrowRight")
    browser.wait("document.querySelector('h1').innerText === 'Example 4'")
    browser.press("k")
    browser.wait("document.querySelector('h1').innerText === 'Example 3'")
    choose(browser, "format", "zs_opt")
    click(browser, "Next")
    expected = next(d.index for d in stream.data.mixture.draws(3, 999) if d.format.shots == 0)
    browser.wait(f"Number(document.querySelector('[name=at]').value) >= {expected} && {SETTLED}")
    browser.wait("document.querySelector('dl.facts').innerText.includes('zs_opt')")


def test_a_packed_row_is_drawn_with_its_examples(browser: Chromium, address: str, explorer: Explorer) -> None:
    assert explorer.stream is not None
    index = next(i for i in range(50) if explorer.stream.pack(i))
    pack = explorer.stream.pack(index)
    assert pack is not None
    browser.open(address + f"#/stream?at={index}")
    click(browser, "Show its packed row")
    browser.wait("document.querySelectorAll('svg .segment.here').length === 2")
    assert browser.run("document.querySelectorAll('svg .segment').length") == 2 * len(pack.members)
    assert browser.run("document.querySelector('tr.here').cells[0].innerText") == str(index)
    browser.wait("document.querySelectorAll('details figure svg').length >= 2")


def test_the_mixture_is_shown_with_its_shares(browser: Chromium, address: str, explorer: Explorer) -> None:
    browser.open(address + "#/mixture")
    assert explorer.stream is not None
    browser.wait(f"{ROWS}.length > 50")
    assert (
        len(explorer.stream.mixture_view().tasks)
        == browser.run("document.querySelectorAll('table')[2].rows.length") - 1
    )


def test_an_error_is_told_on_the_page(program: str, address: str, tmp_path: Path) -> None:
    browser = Chromium(program, tmp_path / "profile")
    try:
        browser.open(address + "#/task?name=demo/food_color")
        browser.wait("document.querySelector('[role=alert]')?.innerText.includes('demo/foods_color')")
    finally:
        browser.close()


def test_without_a_recipe_there_is_no_page_of_the_stream(browser: Chromium, address_without_recipe: str) -> None:
    browser.open(address_without_recipe)
    browser.wait(f"{ROWS}.length > 50")
    assert browser.run("[...document.querySelectorAll('nav a')].map(a => a.innerText)") == ["Tasks", "Search"]


@pytest.mark.parametrize(
    "page", ["#/tasks", "#/task?name=demo/foods_color", "#/stream?at=3", "#/mixture", "#/search?text=dog"]
)
@pytest.mark.parametrize(("width", "dark"), [(360, True), (1280, False)])
def test_nothing_is_wider_than_the_window_and_text_can_be_read(
    browser: Chromium, address: str, page: str, width: int, dark: bool
) -> None:
    browser.window(width, 800, dark=dark)
    browser.open(address + page)
    browser.wait(f"document.querySelector('h1, h2') && {SETTLED} && document.querySelector('table, pre, .hit')")
    assert browser.run("document.documentElement.scrollWidth") <= width
    ink, paper = browser.run("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    assert (ink, paper) == (
        ("rgb(232, 230, 227)", "rgb(25, 24, 23)") if dark else ("rgb(26, 26, 26)", "rgb(255, 255, 255)")
    )
    unnamed = "[...document.querySelectorAll('input, select')].filter(c => !c.labels.length).length"
    assert browser.run(unnamed) == 0
