"""Fuzz the readers: real files, mutated, read back; no crash, no hang, every row kept or set aside with its place.

    python scripts/fuzz_readers.py --data DIR --seconds 600 --seed 1
    python scripts/fuzz_readers.py --data DIR --seed 1 --only 4711       one case, its files kept

A case is a pure function of (seed, number). Only flantune's own errors may come out of a reader, each naming the file;
where none comes, the places of the kept and of the rejected rows must be exactly the file's rows, as counted here by
other code than the readers'. The last line is one JSON object; the exit code is 1 where a case failed.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import orjson

from flantune.errors import DataError, FlantuneError
from flantune.recipe import CollectionSpec
from flantune.sources import Rejects, read_part, rows_file

HANG_SECONDS = 20  # a reader that takes longer over one small file hangs
LINES, INSTANCES = 60, 40  # rows of a real file that are kept: mutations then hit a good share of them
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Seed:
    """A real file cut to a few rows, and how it is read. `beside` are files that lie in the same folder."""

    name: str  # path within the case's folder; parents matter to some readers
    content: bytes
    reader: str
    columns: dict[str, str] = field(default_factory=dict)
    beside: tuple[tuple[str, bytes], ...] = ()


class Hang(BaseException):
    """Raised by the alarm; no `except Exception` on the way may swallow it."""


class Lost(AssertionError):
    """A row that is neither kept nor set aside, or both, or an error that does not say where."""


# What there is to mutate ---------------------------------------------------------------------------------------------


def seeds_of(data: Path) -> list[Seed]:
    """One seed per shape of file: every reader has several. Files the data lacks are made of its own rows."""
    files = [
        *((p, "flan_cot") for p in sorted(data.glob("cot/*.tsv*"))),
        *((p, "qed") for p in sorted(data.glob("cot_raw/**/*.jsonlines*"))),
        *((p, "niv2") for p in sorted(data.glob("niv2/*.json*"))[::12]),
        *((p, "niv2") for p in sorted(data.glob("niv2_early/*.json*"))[::4]),
        *((p, "p3") for p in sorted(data.glob("t0/*.jsonl*"))[::20]),
        *((p, "muffin") for p in sorted(data.glob("muffin/**/*")) if p.is_file()),
    ]
    seeds = [Seed(f"{p.parent.name}/{p.name.removesuffix('.gz')}", shorter(p, reader), reader) for p, reader in files]
    seeds = [s for s in seeds if s.content.strip()]
    pairs = [json.loads(line) for line in shorter(data / "gsm8k" / "train.jsonl", "").splitlines()]
    return [*seeds, *made_seeds([(p["question"], p["answer"]) for p in pairs])]


def shorter(path: Path, reader: str) -> bytes:
    """The first rows of a real file, in its own format."""
    path = path if path.exists() else path.with_name(path.name + ".gz")
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    if reader == "niv2":
        task = json.loads(raw)
        task["Instances"] = task["Instances"][:INSTANCES]
        return json.dumps(task, indent=1, ensure_ascii=False).encode()
    if raw.lstrip().startswith(b"["):
        return json.dumps(json.loads(raw)[:INSTANCES], ensure_ascii=False).encode()
    return b"".join(raw.splitlines(keepends=True)[:LINES])


def made_seeds(pairs: list[tuple[str, str]]) -> list[Seed]:
    """The formats of which the data holds no file, with its questions and answers."""

    def lines(rows: list[dict[str, Any]]) -> bytes:
        return b"".join(orjson.dumps(row) + b"\n" for row in rows)

    def turns(q: str, a: str) -> list[dict[str, str]]:
        return [{"role": "system", "content": "Count."}, {"role": "user", "content": q},
                {"role": "assistant", "content": a}]  # fmt: skip

    alpaca = [{"instruction": q, "input": "" if i % 2 else "in words", "output": a} for i, (q, a) in enumerate(pairs)]
    chat = [{"id": str(i), "messages": turns(q, a)} for i, (q, a) in enumerate(pairs)]
    gpt = [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in pairs]
    prompts = [{"id": i, "prompt": q, "completion": a} for i, (q, a) in enumerate(pairs)]
    native = [{"fields": {"question": q}, "target": a, "rationale": a, "options": [a, "7"]} for q, a in pairs]
    keys = (
        b"name: own/sums\ndataset: sums\ncategory: Mathematics\nfields: [question]\ntemplates:\n"
        b'  - inputs: "Q: {question}\\n{options_}"\n    targets: "{answer}"\n'
    )
    columns = {"question": "question", "answer": "answer"}
    table = [{"question": q, "answer": a} for q, a in pairs]
    return [
        Seed("alpaca/a.json", orjson.dumps(alpaca), "alpaca"),
        Seed("alpaca/a.jsonl", lines(alpaca), "alpaca"),
        Seed("chat/c.jsonl", lines(chat), "chat"),
        Seed("chat/g.json", orjson.dumps(gpt), "chat"),
        Seed("prompts/p.jsonl", lines(prompts), "prompts"),
        Seed("prompts/p.json", orjson.dumps(prompts), "prompts"),
        Seed("native/sums.jsonl", lines(native), "native", beside=(("native/sums.task.yaml", keys),)),
        Seed("native/sums.task.yaml", keys, "native", beside=(("native/sums.jsonl", lines(native)),)),
        Seed("table/t.jsonl", lines(table), "table", columns),
        Seed("table/t.csv", csv_bytes(pairs, ","), "table", columns),
        Seed("table/t.tsv", csv_bytes(pairs, "\t"), "table", columns),
        Seed("table/t.parquet", parquet_bytes(table), "table", columns),
    ]


def csv_bytes(pairs: list[tuple[str, str]], delimiter: str) -> bytes:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    return "\r\n".join(delimiter.join(map(cell, row)) for row in [("question", "answer"), *pairs]).encode()


def parquet_bytes(rows: list[dict[str, str]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, compression="none")
    return sink.getvalue()


# Mutations -----------------------------------------------------------------------------------------------------------

OTHERS: tuple[Callable[[random.Random], Any], ...] = (
    lambda r: None,
    lambda r: r.random() < 0.5,
    lambda r: r.choice([0, -1, 3, 2**70, 1.5, 1e300]),
    lambda r: r.choice(["", " ", "x", "\x00", "\u2028", "\ufeff", "9" * 5000, "（", "NaN"]),
    lambda r: r.choice([" ", "a", "(http://", "\\"]) * 200_000,
    lambda r: r.choice([[], [[]], [None], [{}], ["a", "b"], [1, 2], [["a"], "b"]]),
    lambda r: r.choice([{}, {"": ""}, {"string": 3}, {"text": ["a"]}, {"a": {"b": {}}}]),
)
LITERALS = (b"NaN", b"-Infinity", b"1e999", b'"\\ud800"', b"[" * 5000, b"{" * 3000, b'{"a":' * 4000, b"\x00", b"'x'",
            b"tru", b"1" * 6000, b'"\xff\xfe"', b"[1,2", b'{"a":1,"a":2}')  # fmt: skip
BYTES = (b"\x00", b"\xff", b"\xfe\xff", BOM, b"\r", b"\r\n", b"\n", b"\t", b'"', b'""', b",", b"\\", b"\xe2\x80\xa8",
         b"\x85", b"\x1f\x8b", b"<|endoftext|>", b"\xed\xa0\x80", b"|")  # fmt: skip


def flip_bytes(content: bytes, r: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(r.choice([1, 2, 8, 64])):
        data[r.randrange(len(data))] = r.randrange(256)
    return bytes(data)


def flip_bits_of_text(content: bytes, r: random.Random) -> bytes:
    """One bit here and there: most letters become others, some quotes and braces go."""
    data = bytearray(content)
    for _ in range(r.choice([1, 4, 16])):
        data[r.randrange(len(data))] ^= 1 << r.randrange(7)
    return bytes(data)


def insert(content: bytes, r: random.Random) -> bytes:
    for _ in range(r.choice([1, 1, 5])):
        at = r.choice([0, r.randrange(len(content) + 1), len(content)])
        content = content[:at] + r.choice(BYTES) * r.choice([1, 1, 1, 3000]) + content[at:]
    return content


def cut(content: bytes, r: random.Random) -> bytes:
    return content[: r.randrange(len(content))]


def lines_changed(content: bytes, r: random.Random) -> bytes:
    """Lines dropped, doubled, joined, exchanged, halved."""
    lines = content.splitlines(keepends=True)
    for _ in range(r.choice([1, 3, 10])):
        i, j = r.randrange(len(lines)), r.randrange(len(lines))
        kind = r.randrange(5)
        if kind == 0 and len(lines) > 1:
            del lines[i]
        elif kind == 1:
            lines.insert(j, lines[i])
        elif kind == 2:
            lines[i] = lines[i].rstrip(b"\r\n")
        elif kind == 3:
            lines[i], lines[j] = lines[j], lines[i]
        else:
            lines[i] = lines[i][: len(lines[i]) // 2] + b"\n"
    return b"".join(lines)


def values_changed(content: bytes, r: random.Random) -> bytes:
    """JSON values exchanged by others, keys taken away or renamed: one line of JSON lines, or the one document."""
    found = parsed(content, r)
    if found is None:
        return flip_bytes(content, r)
    value, put_back = found
    for _ in range(r.choice([1, 2, 6])):
        places = list(inner_places(value))
        if not places:
            break
        holder, key = r.choice(places)
        kind = r.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[f"{key}_"] = holder.pop(key)
        else:
            holder[key] = r.choice(OTHERS)(r)
    return put_back(json.dumps(value, ensure_ascii=r.random() < 0.5).encode("utf-8", "replace"))


def literal_put_in(content: bytes, r: random.Random) -> bytes:
    """A JSON value replaced in the text itself by what no `json.dumps` writes."""
    found = [m.span(1) for m in re.finditer(rb'[:\[,]\s*("(?:[^"\\]|\\.)*"|\d+)', content)]
    start, stop = r.choice(found) if found else (0, 0)
    return content[:start] + r.choice(LITERALS) + content[stop:]


def encoded_otherwise(content: bytes, r: random.Random) -> bytes:
    text = content.decode("utf-8", "replace")
    return text.encode(r.choice(["utf-16", "utf-8-sig", "latin-1", "utf-32", "utf-7"]), "replace")


def ends_changed(content: bytes, r: random.Random) -> bytes:
    """Line ends, or what stands before and after the whole."""
    kind = r.randrange(5)
    if kind == 0:
        return content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    if kind == 1:
        return content.replace(b"\n", b"\r")
    if kind == 2:
        return r.choice([b"\n\n \n", b" ", BOM, BOM * 2]) + content + r.choice([b"", b"\n\n", b"\x1a", b"\x00"])
    if kind == 3:
        return content + content
    return r.choice([b"", b" \n\t\n", BOM, b"\n", b"[]", b"{}", b"null", b"[", b"\x00" * 64])


def zipped(content: bytes, r: random.Random) -> bytes:
    """gzip: whole, in two members, cut, or with bytes changed."""
    packed = gzip.compress(content, mtime=0)
    kind = r.randrange(4)
    if kind == 0:
        return packed
    if kind == 1:
        half = len(content) // 2
        return gzip.compress(content[:half], mtime=0) + gzip.compress(content[half:], mtime=0)
    if kind == 2:
        return packed[: r.randrange(2, len(packed))]
    return packed[:2] + flip_bytes(packed[2:], r)


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip_bytes, flip_bits_of_text, insert, cut, lines_changed, lines_changed, values_changed, values_changed,
    values_changed, literal_put_in, encoded_otherwise, ends_changed, zipped,
)  # fmt: skip


def parsed(content: bytes, r: random.Random) -> tuple[Any, Callable[[bytes], bytes]] | None:
    """A JSON value of the file and how to put another in its place."""
    try:
        return json.loads(content), lambda new: new
    except (ValueError, RecursionError):
        lines = content.split(b"\n")
        i = r.choice([0, r.randrange(len(lines))])
        try:
            return json.loads(lines[i]), lambda new: b"\n".join([*lines[:i], new, *lines[i + 1 :]])
        except (ValueError, RecursionError):
            return None


def inner_places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key or index) of every value within."""
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, inner in items:
        yield value, key
        yield from inner_places(inner)


# Reading and accounting ----------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    mutation: str
    reader: str
    kept: int = 0
    rejected: int = 0
    error: str = ""  # of ours
    failure: str = ""  # what must not be


def run_case(seeds: list[Seed], seed: int, number: int, folder: Path) -> Outcome:
    """Mutate, write, read, account. The folder holds the case's files afterwards."""
    r = random.Random(f"fuzz:{seed}:{number}")
    chosen = r.choice(seeds)
    mutations = r.choices(MUTATIONS, k=r.choice([1, 1, 1, 2]))
    content = chosen.content
    for mutate in mutations:
        content = mutate(content, r) if content else content
    path = folder / chosen.name
    for name, data in (*chosen.beside, (chosen.name, content)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    if chosen.reader == "native":
        path = path.with_name("sums.task.yaml")
    reader = chosen.reader if r.random() < 0.7 else "auto"
    outcome = Outcome("+".join(m.__name__ for m in mutations), chosen.reader)
    spec = CollectionSpec(path=str(path if r.random() < 0.5 else path.parent), reader=reader, columns=chosen.columns)
    try:
        with alarm(HANG_SECONDS):
            read_and_account(path, spec, folder / "ledger.jsonl", outcome)
    except Hang:
        outcome.failure = f"no end after {HANG_SECONDS} s"
    except FlantuneError as e:
        outcome.error = type(e).__name__
        if isinstance(e, DataError) and not any(str(p) in e.where for p in {path, rows_file(path)}):
            outcome.failure = f"an error that does not name the file: {e}"
    except Exception as e:
        outcome.failure = f"{type(e).__name__}: {e}"[:300]
    return outcome


def read_and_account(path: Path, spec: CollectionSpec, ledger: Path, outcome: Outcome) -> None:
    """Raises Lost where the file's rows are not exactly those kept and those set aside."""
    with Rejects(ledger) as rejects:
        found = [(rows.task, list(rows.examples)) for rows in read_part(path, spec, rejects)]
    lines = [orjson.loads(line) for line in ledger.read_bytes().splitlines()]
    file = rows_file(path)
    if not found:
        if str(path) not in rejects.skipped and str(file) not in rejects.skipped:
            raise Lost("no task, no error, and the file is not listed as skipped")
        return
    (task, examples), *more = found
    if more:
        raise Lost("two tasks in one file")
    kept = [e.where.removeprefix(f"{file.name}:") for e in examples]
    # A rejected row of a native task is named by its rows' file.
    aside = [line["place"] for line in lines if line["file"] == str(file)]
    outcome.kept, outcome.rejected = len(kept), len(aside)
    expected = places_of(file, task.source)
    if len(aside) != len(set(aside)) or rejects.total_rejected() != len(aside):
        raise Lost(f"a row set aside twice, or not written: {rejects.total_rejected()} counted, {len(aside)} written")
    if [e.row for e in examples] != list(range(len(examples))):
        raise Lost("kept examples are not numbered from 0 without gaps")
    if any(not e.targets or not all(t.strip() for t in e.targets) for e in examples):
        raise Lost("a kept example without a target")
    if rejects.total_rows() != len(expected):
        raise Lost(f"{rejects.total_rows()} rows counted, {len(expected)} in the file")
    if task.templates == "muffin_e2e_nlg":  # one example for all rows of one meaning
        if not set(kept) <= set(expected) - set(aside) or (expected and not kept and len(aside) != len(expected)):
            raise Lost("places of e2e rows")
    elif set(kept) & set(aside) or set(kept) | set(aside) != set(expected):
        missing = set(expected) - set(kept) - set(aside)
        raise Lost(f"rows {sorted(missing)[:5]} are neither kept nor set aside, of {len(expected)}")
    for line in lines:
        if not line["file"] or not line["place"] or not line["field"]:
            raise Lost(f"a row set aside without its place: {line}")


def places_of(file: Path, source: str) -> list[str]:
    """The rows of a file that could be read to its end, counted without the readers' code."""
    raw = file.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    name = file.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        import pyarrow.parquet as pq

        return [str(i + 1) for i in range(pq.read_metadata(file).num_rows)]
    raw = raw.removeprefix(BOM)
    if source == "niv2":
        return [f"Instances[{i}]" for i in range(len(json.loads(raw)["Instances"]))]
    if name.endswith(".csv") or (name.endswith(".tsv") and source == "table"):
        return csv_places(raw.decode(), "," if name.endswith(".csv") else "\t")
    if raw[:4096].lstrip().startswith(b"[") and source in ("prompts", "alpaca", "chat", "table", "muffin"):
        return [str(i + 1) for i in range(len(json.loads(raw)))]
    return [str(i) for i, line in enumerate(raw.split(b"\n"), 1) if line.strip()]


def csv_places(text: str, delimiter: str) -> list[str]:
    """The first lines of a well-formed CSV's rows after the header. A quote opens a cell only where the cell begins,
    and closes it where no second one follows. Blank lines are no rows."""
    places, quoted = [], False
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        if not quoted and line:
            places.append(str(number))
        at_start = not quoted
        i = 0
        while i < len(line):
            if quoted:
                if line[i] == '"' and line[i + 1 : i + 2] == '"':
                    i += 1
                elif line[i] == '"':
                    quoted = False
            elif line[i] == '"' and at_start:
                quoted = True
            at_start = not quoted and line[i] == delimiter
            i += 1
    return places[1:]


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(seeds: list[Seed], seed: int, numbers: Iterator[int], until: float = float("inf")) -> dict[str, Any]:
    """Run cases until the time is over or the numbers are. Returns counts and what failed."""
    totals: Counter[str] = Counter()
    readers: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    for number in numbers:
        if time.monotonic() >= until:
            break
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            outcome = run_case(seeds, seed, number, Path(folder))
        totals["cases"] += 1
        totals["rows_kept"] += outcome.kept
        totals["rows_set_aside"] += outcome.rejected
        totals["files_refused"] += bool(outcome.error)
        readers[outcome.reader] += 1
        if outcome.failure:
            failures.append({"number": number, "reader": outcome.reader, "mutation": outcome.mutation,
                             "failure": outcome.failure})  # fmt: skip
            print(f"case {seed}:{number} {outcome.reader} {outcome.mutation}: {outcome.failure}", flush=True)
    return {**totals, "seed": seed, "readers": dict(sorted(readers.items())), "failures": failures}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of real collections")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one case, its files kept")
    given = parser.parse_args()
    seeds = seeds_of(given.data)
    if given.only is not None:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        print(folder, run_case(seeds, given.seed, given.only, folder))
        return 0
    found = fuzz(seeds, given.seed, count(), time.monotonic() + given.seconds)
    print(json.dumps({"name": "fuzz_readers", "ok": not found["failures"], **found}))
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
