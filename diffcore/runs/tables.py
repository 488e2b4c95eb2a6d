"""Tables of samples: one row a sample, as CSV, TSV or Parquet."""

import csv
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diffcore.errors import UserError
from diffcore.plugins.output import Batches, Value
from diffcore.runs.scores import Scoring

ENDINGS = (".csv", ".tsv", ".parquet")


def columns_of(scoring: Scoring, asked: str | Sequence[str] | None) -> tuple[str, ...]:
    """The columns of a table: the usual ones, those that are named, or with a `+` before the first, both."""
    if asked is None:
        return scoring.columns
    names = [name.strip() for name in (asked.split(",") if isinstance(asked, str) else asked)]
    if not names or not all(name.removeprefix("+") for name in names):
        raise UserError("`columns`: give names, such as smiles,qed, or +strain for these beside the usual ones")
    more = names[0].startswith("+")
    named = [names[0].removeprefix("+"), *names[1:]]
    return tuple(dict.fromkeys((*(scoring.columns if more else ()), *named)))


class TableWriter:
    """The writer of a modality that also writes tables, with a row for each sample.

    The columns are `number` from 1, those of `more`, which has a value for each sample, `asked_NAME` for each requested
    condition, and the values of `Scoring`.
    """

    def __init__(
        self,
        writer: Any,
        scoring: Scoring,
        columns: Sequence[str],
        asked: Sequence[str],
        more: Mapping[str, Sequence[Value]] = MappingProxyType({}),
    ) -> None:
        self._writer, self._scoring, self._columns, self._asked = writer, scoring, tuple(columns), tuple(asked)
        self._more = more
        self.endings = (*writer.endings, *(ending for ending in ENDINGS if ending not in writer.endings))
        self.streams = (*getattr(writer, "streams", ()), *ENDINGS)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def together(self, samples: Any, path: Path, columns: int, captions: Any = ()) -> None:
        """Write all samples into one file, as the writer of the modality does."""
        if path.suffix.lower() in ENDINGS:
            self.stream([(samples, captions)], path)
        else:
            self._writer.together(samples, path, columns, captions)

    def stream(self, batches: Batches, path: Path) -> None:
        """Write any number of samples into one file: a table, or what the writer of the modality writes."""
        ending = path.suffix.lower()
        if ending not in ENDINGS:
            self._writer.stream(batches, path)
        elif ending == ".parquet":
            _write_parquet(self.header, list(self._rows(batches)), path)
        else:
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, delimiter="\t" if ending == ".tsv" else ",", lineterminator="\n")
                writer.writerow(self.header)
                writer.writerows([_cell(value) for value in row] for row in self._rows(batches))

    @property
    def header(self) -> list[str]:
        """The names of the columns."""
        return ["number", *self._more, *(f"asked_{name}" for name in self._asked), *self._columns]

    def _rows(self, batches: Batches) -> Iterator[list[Value]]:
        number = 0
        for samples, captions in batches:
            values = self._scoring(samples, self._columns)
            captions = captions or [{}] * len(samples)
            for place, caption in enumerate(captions):
                number += 1
                asked = [_number(caption.get(name)) for name in self._asked]
                own = [each[number - 1] for each in self._more.values()]
                yield [number, *own, *asked, *(values[name][place] for name in self._columns)]


def _number(text: str | None) -> Value:
    """A requested value as a number, where it is one."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _cell(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def require_parquet(path: Path) -> None:
    """Raise `UserError` if a Parquet file is asked for, and the package that writes it is not installed."""
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError(f"{path}: Parquet files need the package pyarrow (pip install pyarrow); .csv needs nothing")


def _write_parquet(header: Sequence[str], rows: Sequence[Sequence[Value]], path: Path) -> None:
    from pyarrow import parquet, table  # type: ignore[import-not-found]

    columns = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    parquet.write_table(table({name: _of_one_type(values) for name, values in columns.items()}), path)


def _of_one_type(values: list[Value]) -> list[Any]:
    """The values of a column as Parquet has them: all numbers, all truth values, or all texts."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool}:
        return list(values)
    if kinds <= {int, bool}:
        return [None if value is None else int(value) for value in values]
    if str not in kinds:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]
