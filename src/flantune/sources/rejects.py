"""The ledger of what reading set aside: counted per file and per reason, and streamed to a file if one is given."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from types import TracebackType

import orjson

from flantune.errors import DataError, shorten

FIRST_REASONS = 3  # places an error message quotes
GOT_LIMIT = 200  # characters of a bad value that are kept


class BadRow(Exception):
    """One row that cannot become an example. `malformed` False: the format allows it, it only teaches nothing."""

    def __init__(self, field: str, expected: str, got: object, mend: str = "", malformed: bool = True) -> None:
        super().__init__(field, expected, got)
        self.field, self.expected, self.got, self.mend, self.malformed = field, expected, got, mend, malformed


class Rejects:
    """Rows seen and rows set aside, per file; files set aside whole.

    Every source row is counted once with `row`; those that give no example are counted once more with `add`.
    So `rows[file] - rejected[file]` rows were kept. Only malformed rows count against a recipe's `max_rejected`.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.rows: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.malformed: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.skipped: dict[str, str] = {}  # file -> why no row of it was read
        self._first: defaultdict[str, list[str]] = defaultdict(list)
        self._out = path.open("wb") if path is not None else None

    def row(self, file: Path | str, count: int = 1) -> None:
        self.rows[str(file)] += count

    def add(
        self,
        file: Path | str,
        place: str,
        field: str,
        expected: str,
        got: object,
        mend: str = "",
        malformed: bool = True,
    ) -> None:
        """Set one row aside. `place` is the line or row within the file, as a person would look for it."""
        name = str(file)
        self.rejected[name] += 1
        self.reasons[f"{field}: expected {expected}"] += 1
        if malformed:
            self.malformed[name] += 1
            if len(self._first[name]) < FIRST_REASONS:
                self._first[name].append(
                    f"{place}: field '{field}': expected {expected}, got {shorten(got)}. {mend}".strip()
                )
        self._write(name, place, field, expected, got)

    def add_bad(self, file: Path | str, place: str, bad: BadRow) -> None:
        self.add(file, place, bad.field, bad.expected, bad.got, bad.mend, bad.malformed)

    def skip(self, file: Path | str, reason: str) -> None:
        """Set a whole file aside: it is no row and counts in no share."""
        self.skipped[str(file)] = reason
        self._write(str(file), "", "file", "rows that a reader knows", reason)

    def share(self, file: Path | str) -> float | None:
        """Malformed rows over rows seen; None for a file without rows."""
        rows = self.rows[str(file)]
        return self.malformed[str(file)] / rows if rows else None

    def check(self, file: Path | str, max_rejected: float) -> None:
        """Raise DataError if more of the file is malformed than `max_rejected` (a share) allows."""
        share = self.share(file)
        if share is None or share <= max_rejected:
            return
        name = str(file)
        raise DataError(
            name,
            field="rows",
            expected=f"at most {max_rejected:.2%} malformed",
            got=f"{self.malformed[name]} of {self.rows[name]} ({share:.2%})",
            mend="First: " + " | ".join(self._first[name]) + " Mend the rows, or raise 'max_rejected' in the recipe.",
        )

    def total_rows(self) -> int:
        return self.rows.total()

    def total_rejected(self) -> int:
        return self.rejected.total()

    def _write(self, file: str, place: str, field: str, expected: str, got: object) -> None:
        if self._out is None:
            return
        file = file.encode("utf-8", "backslashreplace").decode()  # a name on disk may be no UTF-8
        line = {"file": file, "place": place, "field": field, "expected": expected, "got": shorten(got, GOT_LIMIT)}
        self._out.write(orjson.dumps(line) + b"\n")

    def close(self) -> None:
        if self._out is not None:
            self._out.close()

    def __enter__(self) -> Rejects:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
