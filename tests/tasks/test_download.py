"""One file over HTTP, from a server with its moods."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flantune.errors import DataError, RecipeError
from flantune.tasks.download import download

from .mirrors import BODY, Server

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.mark.parametrize(
    ("moods", "ranges"),
    [
        ([], [None]),
        (["cut"], [None, "bytes=524288-"]),
        (["cut", "cut"], [None, "bytes=524288-", "bytes=786432-"]),
        (["cut", "whole"], [None, "bytes=524288-"]),  # a server without ranges sends all of it again
        (["cut", "wrong_range"], [None, "bytes=524288-", None]),
        (["busy", "cut", "busy"], [None, None, "bytes=524288-", "bytes=524288-"]),
    ],
)
def test_a_file_comes_whole_whatever_the_server_does(
    server: Server, tmp_path: Path, moods: list[str], ranges: list[str | None]
) -> None:
    server.files["/f"], server.moods = BODY, moods
    download(f"{server.url}/f", tmp_path / "f.part")
    assert (tmp_path / "f.part").read_bytes() == BODY
    assert [r for _, r in server.asked] == ranges
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.part"]


@pytest.mark.parametrize("there", [0, 1, 1000, len(BODY) - 1, len(BODY), len(BODY) + 7])
def test_any_beginning_is_gone_on_from(server: Server, tmp_path: Path, there: int) -> None:
    server.files["/f"] = BODY
    (tmp_path / "f").write_bytes((BODY + b"and more")[:there])
    download(f"{server.url}/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY
    (tmp_path / "g").write_bytes((BODY + b"and more")[:there])
    (tmp_path / "source").write_bytes(BODY)
    download((tmp_path / "source").as_uri(), tmp_path / "g")
    assert (tmp_path / "g").read_bytes() == BODY


def test_a_file_that_changed_between_two_attempts_is_not_spliced(server: Server, tmp_path: Path) -> None:
    server.files["/f"], server.moods = BODY, ["cut", *["busy"] * 4]
    with pytest.raises(DataError, match="503"):
        download(f"{server.url}/f", tmp_path / "f", attempts=4)
    server.files["/f"], server.etag = BODY[::-1], '"two"'
    download(f"{server.url}/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY[::-1]


def test_only_attempts_that_bring_nothing_count(server: Server, tmp_path: Path, no_pauses: list[float]) -> None:
    server.files["/f"], server.moods = BODY, ["cut"] * 8
    download(f"{server.url}/f", tmp_path / "f", attempts=2)
    assert len(server.asked) == 9 and set(no_pauses) == {1.0}
    server.moods = ["busy"] * 9
    with pytest.raises(DataError, match="3 times in a row"):
        download(f"{server.url}/f", tmp_path / "g", attempts=3)
    assert no_pauses[-2:] == [1.0, 2.0]


def test_what_is_not_there_is_said_at_once(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"HTTP 404.*--mirror"):
        download(f"{server.url}/none", tmp_path / "f")
    assert len(server.asked) == 1
    with pytest.raises(DataError, match="expected a file, got 'none there'"):
        download((tmp_path / "none").as_uri(), tmp_path / "f")
    with pytest.raises(RecipeError, match="http, https or file, got 'ftp'"):
        download("ftp://example.invalid/f", tmp_path / "f")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(1, 5000),
    there=st.integers(0, 5000),
    moods=st.lists(st.sampled_from(["cut", "whole", "busy", "wrong_range", ""]), max_size=6),
)
def test_any_run_of_moods_ends_with_the_whole_file(
    server: Server, tmp_path: Path, size: int, there: int, moods: list[str]
) -> None:
    server.files["/f"], server.moods = BODY[:size], list(moods)
    (tmp_path / "f").write_bytes(BODY[:there])  # a beginning of it, or more than there is
    download(f"{server.url}/f", tmp_path / "f", attempts=len(moods) + 2)  # one for a beginning that is too long
    assert (tmp_path / "f").read_bytes() == BODY[:size]
