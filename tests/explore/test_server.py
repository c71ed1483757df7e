"""The API: what it answers, what it refuses, and what it never lets out."""

from __future__ import annotations

import itertools
import re
from importlib import resources

import pytest
from fastapi.testclient import TestClient

from flantune.explore.collection import Collection, TaskFilter
from flantune.explore.explorer import Explorer
from flantune.explore.server import FILES, HEADERS, make_app
from flantune.explore.views import Lengths, SearchView, StreamView, TasksView, TaskView
from flantune.recipe import SETTINGS

from .conftest import HOSTILE

LOCAL = "http://127.0.0.1"


@pytest.fixture(scope="module")
def client(explorer: Explorer) -> TestClient:
    return TestClient(make_app(explorer), base_url=LOCAL)


@pytest.fixture(scope="module")
def plain(collection: Collection) -> TestClient:
    """Without a recipe."""
    return TestClient(make_app(Explorer(collection)), base_url=LOCAL)


def tasks(client: TestClient, **wanted: object) -> TasksView:
    answer = client.get("/api/tasks", params={"limit": 200, **wanted})
    assert answer.status_code == 200, answer.text
    return TasksView.model_validate(answer.json())


def test_every_filter_keeps_the_tasks_that_pass_it_and_its_counts_are_those_of_choosing_it(client: TestClient) -> None:
    for chosen in ({}, {"words": "foods"}, {"mixture": "demo"}, {"has": "options", "use": "trained"}):
        found = tasks(client, **chosen)
        assert found.total == len(found.tasks) and found.examples == sum(t.examples for t in found.tasks)
        for facet, values in found.facets.items():
            for value in values:
                narrowed = tasks(client, **{**chosen, facet: value.value})
                assert narrowed.total == value.tasks
                for task in narrowed.tasks:
                    own = getattr(task, {"format": "formats"}.get(facet, facet))
                    assert value.value == own or (isinstance(own, tuple) and value.value in own)


def test_words_are_all_looked_for_in_name_and_definition(client: TestClient, collection: Collection) -> None:
    found = {t.name for t in tasks(client, words="COLOR foods").tasks}
    assert found == {n for n in collection.store.tasks if "color" in n and "foods" in n} != set()
    assert tasks(client, words="no such words").total == 0


def test_pages_of_tasks_join_to_the_whole(client: TestClient) -> None:
    whole = tasks(client, sort="examples").tasks
    parts = [
        client.get("/api/tasks", params={"sort": "examples", "offset": at, "limit": 7}).json()["tasks"]
        for at in range(0, len(whole), 7)
    ]
    assert [t["name"] for t in itertools.chain(*parts)] == [t.name for t in whole]
    assert [t.examples for t in whole] == sorted((t.examples for t in whole), reverse=True)


def test_use_and_formats_are_the_recipes(client: TestClient, plain: TestClient) -> None:
    by_name = {t.name: t for t in tasks(client).tasks}
    assert by_name["demo/verbs_ing"].use == "held out" and by_name["demo/verbs_ing"].share is None
    trained = [t for t in by_name.values() if t.use == "trained"]
    assert sum(t.share or 0 for t in trained) == pytest.approx(1) and {t.formats for t in trained} == {
        ("zs_opt", "fs_opt")
    }
    assert all(t.use is None for t in tasks(plain).tasks)
    with_options = {t.name for t in tasks(plain, format="zs_opt").tasks}
    assert with_options == {t.name for t in tasks(plain, has="options").tasks} != set()


def test_a_task_is_told_in_full(client: TestClient, collection: Collection) -> None:
    task = TaskView.model_validate(client.get("/api/task", params={"name": "demo/foods_color"}).json())
    assert task.row.examples == collection.store.size("demo/foods_color") and task.licence == "Apache-2.0"
    assert [t.name for t in task.templates] == [
        t.name for t in collection.templates(collection.find("demo/foods_color"))
    ]


@pytest.mark.parametrize("format", SETTINGS)
def test_examples_are_rendered_the_same_each_time(client: TestClient, collection: Collection, format: str) -> None:
    asked = {"name": "demo/foods_color", "format": format, "seed": 5, "start": 2, "count": 4}
    first, second = (client.get("/api/task/examples", params=asked) for _ in range(2))
    assert first.status_code == 200 and first.content == second.content
    for shown in first.json()["prompts"]:
        prompt, _ = collection.prompt("demo/foods_color", shown["row"], SETTINGS[format], seed=5)
        assert [s["text"] for s in shown["segments"]] == [s.text for s in prompt.segments]
        assert len(shown["exemplars"]) == SETTINGS[format].shots or SETTINGS[format].demonstrations
        assert shown["row"] not in [e["row"] for e in shown["exemplars"]]
    assert [p["row"] for p in first.json()["prompts"]] == [2, 3, 4, 5]


def test_rows_past_the_end_are_none(client: TestClient) -> None:
    answer = client.get("/api/task/examples", params={"name": "demo/foods_color", "start": 10**9}).json()
    assert answer["prompts"] == [] and answer["examples"] > 0


@pytest.mark.parametrize("unit", ["characters", "tokens"])
def test_lengths_are_those_of_the_rendered_examples(
    client: TestClient, explorer: Explorer, collection: Collection, unit: str
) -> None:
    name = "demo/foods_color"
    found = Lengths.model_validate(client.get("/api/task/lengths", params={"name": name, "unit": unit}).json())
    tokenizer = explorer.tokenizer()
    assert tokenizer is not None
    sizes = []
    for row in range(collection.store.size(name)):
        prompt, _ = collection.prompt(name, row, SETTINGS["zs_opt"])
        sizes.append(len(prompt.inputs) if unit == "characters" else len(tokenizer.encode(prompt.inputs)))
    assert found.inputs.examples == found.of == len(sizes)
    assert (found.inputs.smallest, found.inputs.largest) == (min(sizes), max(sizes))


def test_lengths_in_tokens_need_a_tokenizer(plain: TestClient) -> None:
    answer = plain.get("/api/task/lengths", params={"name": "demo/foods_color", "unit": "tokens"})
    assert answer.status_code == 400 and "--tokenizer" in answer.json()["error"]


def test_the_stream_is_what_preview_shows(client: TestClient, explorer: Explorer) -> None:
    assert explorer.stream is not None
    for index in (0, 7, 40):
        expected = explorer.stream.example(index)
        answer = client.get("/api/stream/example", params={"at": index, "pack": True})
        assert StreamView.model_validate(answer.json()) == expected
        pack = client.get("/api/stream/pack", params={"at": index}).json()
        assert pack == (None if expected.pack is None else expected.pack.model_dump(mode="json"))


def test_search_is_filtered_and_says_where_it_stopped(client: TestClient, collection: Collection) -> None:
    answer = client.get("/api/search", params={"text": "a", "category": "foods", "limit": 3})
    found = SearchView.model_validate(answer.json())
    names = set(collection.names(TaskFilter(category="foods")))
    assert len(found.hits) == 3 and {h.task for h in found.hits} <= names and found.next and found.stopped == "3 found"
    assert found.total == sum(collection.store.size(n) for n in names)


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("/api/task?name=demo/food_color", 404, "demo/foods_color"),
        ("/api/task/examples?name=nothing", 404, "no task 'nothing'"),
        ("/api/task/examples?name=demo/foods_color&format=zs", 400, "expected one of zs_opt"),
        ("/api/task/examples?name=demo/foods_color&start=-1", 400, "start"),
        ("/api/task/examples?name=demo/foods_color&count=1000000", 400, "count"),
        ("/api/tasks?sort=colour", 400, "sort"),
        ("/api/search?text=%20", 400, "some text"),
        ("/api/search?text=a&start=nonsense", 400, "begin the search anew"),
        ("/api/stream/example?at=-1", 400, "at"),
        ("/api/stream/example?at=99999999999999999999999", 400, "at"),
        ("/api/stream/example?at=x", 400, "at"),
    ],
)
def test_a_wrong_call_is_told_what_was_expected(client: TestClient, path: str, status: int, told: str) -> None:
    answer = client.get(path)
    assert answer.status_code == status and told in answer.json()["error"]


def test_far_places_of_the_stream_can_be_seen(client: TestClient) -> None:
    answer = client.get("/api/stream/example", params={"at": 10**12})
    assert answer.status_code == 200 and answer.json()["prompt"]["index"] == 10**12


def test_without_a_recipe_there_is_no_stream(plain: TestClient) -> None:
    for path in ("mixture", "stream", "stream/example?at=0", "stream/pack?at=0", "stream/block?number=0"):
        answer = plain.get(f"/api/{path}")
        assert answer.status_code == 400 and "--recipe" in answer.json()["error"]


def test_every_file_of_the_page_is_there_and_names_nothing_elsewhere(client: TestClient) -> None:
    folder = resources.files("flantune.explore").joinpath("page")
    assert {file for file, _ in FILES.values()} == {f.name for f in folder.iterdir() if f.is_file()}
    for path in FILES:
        answer = client.get(f"/{path}")
        assert answer.status_code == 200
        elsewhere = set(re.findall(r"https?://[^\s\"')]+", answer.text)) - {"http://www.w3.org/2000/svg"}
        assert not elsewhere
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", answer.text)


def test_the_pages_own_modules_are_all_served(client: TestClient) -> None:
    for path in FILES:
        for name in re.findall(r'from "\./([\w.]+)"', client.get(f"/{path}").text):
            assert name in FILES


def test_every_answer_forbids_scripts_of_others_and_any_request_elsewhere(client: TestClient) -> None:
    for path in ("/", "/api/overview", "/api/task?name=none"):
        headers = client.get(path).headers
        assert {name: headers[name] for name in HEADERS} == HEADERS
    assert (
        "access-control-allow-origin" not in client.get("/api/overview", headers={"Origin": "http://a.example"}).headers
    )


def test_another_name_for_this_machine_is_refused(explorer: Explorer) -> None:
    app = make_app(explorer)
    assert TestClient(app, base_url="http://rebound.example").get("/api/overview").status_code == 400
    assert TestClient(app, base_url="http://localhost").get("/api/overview").status_code == 200


def test_nothing_can_be_changed(client: TestClient) -> None:
    schema = client.get("/api/openapi.json").json()
    assert {method for path in schema["paths"].values() for method in path} == {"get"}
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


def test_hostile_text_is_answered_as_data(client: TestClient) -> None:
    answer = client.get("/api/task/examples", params={"name": "prompts/hostile", "count": 1})
    assert answer.headers["content-type"] == "application/json"
    assert HOSTILE in "".join(s["text"] for s in answer.json()["prompts"][0]["segments"])
