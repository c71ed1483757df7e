"""For every reader: what a valid file says comes out as it was put in, and no damage to a file loses a row unsaid."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.errors import DataError, FlantuneError
from flantune.recipe import CollectionSpec
from flantune.sources import Rejects, read_part
from flantune.types import Example

from .fuzzing import Outcome, read_and_account
from .written import COLUMNS, FILES, Row, Written, table_rows

kinds = pytest.mark.parametrize("kind", sorted(FILES))


@contextmanager
def on_disk(written: Written, content: bytes | None = None, beside: dict[str, bytes] | None = None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / written.name
        path.write_bytes(written.content if content is None else content)
        for name, data in (written.beside if beside is None else beside).items():
            (Path(folder) / name).write_bytes(data)
        yield path


def read(path: Path, written: Written, rejects: Rejects) -> list[Example]:
    spec = CollectionSpec(path=str(path), reader=written.reader, columns=written.columns)
    return [e for rows in read_part(path, spec, rejects) for e in rows.examples]


def said(example: Example) -> Row:
    fields = {name: text for name, text in example.fields.items() if name != "messages"}
    return Row(fields, example.targets, example.options, example.rationale)


@kinds
@settings(deadline=None, max_examples=25)
@given(data=st.data(), zipped=st.booleans(), mark=st.booleans())
def test_what_was_written_is_read(kind: str, data: st.DataObject, zipped: bool, mark: bool) -> None:
    written = data.draw(FILES[kind]())
    content = written.content
    if not written.name.endswith((".parquet", ".yaml")):  # those two are neither zipped nor marked by anyone
        content = (b"\xef\xbb\xbf" if mark else b"") + content
        content = gzip.compress(content) if zipped else content
    with on_disk(written, content) as path:
        rejects = Rejects()
        examples = read(path, written, rejects)
    assert [said(e) for e in examples] == written.rows
    assert rejects.total_rejected() == 0
    assert [e.row for e in examples] == list(range(len(examples)))
    assert len({e.id for e in examples}) == len(examples) or kind in ("boolq", "qed")  # theirs are the file's own ids


@kinds
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_reading_twice_gives_the_same(kind: str, data: st.DataObject) -> None:
    written = data.draw(FILES[kind]())
    with on_disk(written) as path:
        assert read(path, written, Rejects()) == read(path, written, Rejects())


fragments = st.one_of(
    st.binary(max_size=6),
    st.sampled_from([b"\x00", b"\xff", b"\xef\xbb\xbf", b"\r", b"\r\n", b"\n", b"\n\n", b"\t", b'"', b"[", b"{", b"}",
                     b"null", b"NaN", b"1e999", b'"\\ud800"', b"[" * 3000, b"9" * 5000, b"x" * 200_000, b": &a [*a]",
                     b"- " * 2000, b'{"id":1,"id":2}', b"\xe2\x80\xa8", b"\x1f\x8b\x08"]),
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Up to three places where bytes are taken out, put in or both; or the file cut, zipped and cut, or emptied."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.sampled_from([0, 0, 1, 5, 10_000])))
        content = content[:start] + draw(fragments) + content[stop:]
    whole = draw(st.integers(0, 9))
    if whole == 0:
        return content[: draw(st.integers(0, len(content)))]
    if whole == 1:
        packed = gzip.compress(content)
        return packed[: draw(st.integers(0, len(packed)))]
    if whole == 2:
        return draw(st.sampled_from([b"", b"\n", b" \t\n", b"\xef\xbb\xbf", b"[]", b"{}", b"null", b"\x00" * 9]))
    return content.decode("utf-8", "replace").encode("utf-16") if whole == 3 else content


@kinds
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_damaged_file_is_refused_by_name_or_every_row_is_accounted_for(kind: str, data: st.DataObject) -> None:
    written = data.draw(FILES[kind]())
    content, beside = written.content, dict(written.beside)
    if beside and data.draw(st.booleans()):
        beside = {name: data.draw(damaged(own)) for name, own in beside.items()}
    else:
        content = data.draw(damaged(content))
    with on_disk(written, content, beside) as path:
        spec = CollectionSpec(path=str(path), reader=written.reader, columns=written.columns)
        try:
            read_and_account(path, spec, path.with_name("ledger"), Outcome("", written.reader))
        except FlantuneError as e:
            assert isinstance(e, DataError) and path.name.partition(".")[0] in e.where


@settings(deadline=None, max_examples=8)
@given(pairs=table_rows())
def test_a_dataset_that_was_saved_is_read(pairs: list[tuple[dict[str, str], Row]]) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        datasets.Dataset.from_list([record for record, _ in pairs]).save_to_disk(f"{folder}/set")
        rejects = Rejects()
        spec = CollectionSpec(path=f"{folder}/set", reader="hub", columns=COLUMNS)
        examples = [e for rows in read_part(Path(spec.path), spec, rejects) for e in rows.examples]
    assert [said(e) for e in examples] == [row for _, row in pairs]
    assert (rejects.total_rows(), rejects.total_rejected()) == (len(pairs), 0)
