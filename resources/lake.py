"""The data lake: Parquet files by day, in a folder or under an `s3://` prefix.

Belongs here: where the files of a data set are, how a day is replaced so that nobody sees half of it, and
errors that name the file. Does not belong here: what the rows mean (`medscore_assets/mobility`), and how
files are stored (`lake_folder.py`, `lake_s3.py`).

A data set is a folder; a partition is a folder `day=YYYY-MM-DD` (or `month=YYYY-MM`) in it; a data set
without partitions has its files in its own folder. A processed partition is one file, `part.parquet`, so
that replacing it is one rename, or one put. Raw partitions only grow: each file is named for its arrival
and its content, `<arrival>-<hash>.parquet`, and the same content is not taken twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from resources.errors import MedscoreError, PermanentError, TransientError
from resources.lake_folder import FolderStore, Store

ROW_GROUP = 122_880
"""Rows in a row group: DuckDB's own size, which one thread decodes at a time."""

DICTIONARY_BYTES = 256 * 1024

PART = "part.parquet"
SUFFIX = ".parquet"
HASH_DIGITS = 16
ARRIVAL_FORMAT = "%Y%m%dT%H%M%SZ"
COMPRESSION = "zstd"

ENGINES = frozenset({"duckdb", "_duckdb", "ibis", "pyarrow"})
PASSING = frozenset({"OutOfMemoryException", "IOException", "InterruptException", "ArrowMemoryError"})
"""Names of engines' errors that say nothing of the files."""

Rows: TypeAlias = "pa.Table | Iterable[pa.RecordBatch]"
"""A table, or batches of one schema (a reader of them, too), read once."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set of the lake: its folder, the columns that every file must have, and its partitions.

    Files may hold more columns; of those in `schema`, integers may have another width and texts may or
    may not be dictionaries.
    """

    path: str
    schema: pa.Schema
    partition: Literal["day", "month"] | None = "day"
    sorted_by: str | None = None
    """The text of few values by which writers sort the rows of a file where they can: readers pass over row
    groups by its least and greatest value, as by those of numbers and times."""
    row_group: int = ROW_GROUP
    """Rows in a row group, or somewhat more. Small ones are for files in which few rows are looked for."""

    def folder(self, day: date | None = None) -> str:
        """The folder of a partition, or of the whole data set if it has none: `path/day=2024-03-01`."""
        if (self.partition is None) != (day is None):
            raise ValueError(f"{self.path}: a day belongs to a data set with partitions, and only to one")
        if day is None:
            return self.path
        return f"{self.path}/{self.partition}={day.isoformat()[: 7 if self.partition == 'month' else 10]}"


class Lake:
    """The files of a lake at `url`: a folder, `file://...`, or `s3://bucket/prefix`.

    For S3, `s3` is a boto3 client (it brings credentials, region and endpoint) and `cache` the folder of
    downloaded objects. Names of files are relative to the lake; `local` turns them into paths.
    """

    def __init__(self, url: str | Path, *, s3: Any = None, cache: Path | None = None) -> None:
        self.url = str(url).rstrip("/")
        self._store = _store(self.url, s3, cache)

    def __repr__(self) -> str:
        return f"Lake({self.url!r})"

    def days(self, dataset: Dataset) -> list[date]:
        """The days (of months: their first days) that have at least one file, in order."""
        prefix = f"{dataset.partition}="
        found = []
        for name in self._store.folders(dataset.path):
            if not name.startswith(prefix):
                continue
            text = name.removeprefix(prefix)
            try:
                day = date.fromisoformat(f"{text}-01" if dataset.partition == "month" else text)
            except ValueError:
                form = "YYYY-MM" if dataset.partition == "month" else "YYYY-MM-DD"
                raise PermanentError(
                    f"the folder {dataset.path}/{name} names no {dataset.partition}",
                    where=self.url,
                    mend=f"Name it {prefix}{form}, or take it out of the lake.",
                ) from None
            if self.files(dataset, day):
                found.append(day)
        return sorted(found)

    def files(self, dataset: Dataset, day: date | None = None) -> list[str]:
        """The names of a partition's files, in order of arrival; none where there is no such partition."""
        folder = dataset.folder(day)
        return [f"{folder}/{name}" for name in self._store.files(folder) if name.endswith(SUFFIX)]

    def dataset_paths(self, dataset: Dataset, first: date, last: date) -> list[str]:
        """The names of all files of the partitions from `first` to `last`, both included."""
        if dataset.partition == "month":
            first = first.replace(day=1)
        return [
            name for day in self.days(dataset) if first <= day <= last for name in self.files(dataset, day)
        ]

    def local(self, names: Sequence[str]) -> list[str]:
        """Paths, in the same order, that DuckDB and Spark can open. Objects of S3 are downloaded once."""
        return [str(path) for path in self._store.local(names)]

    def write_day(self, dataset: Dataset, day: date, rows: Rows) -> str:
        """Replace a partition by `rows`, whole or not at all, and give the name of its file.

        Rows are brought to the data set's schema. Raises `PermanentError` for a column that is missing.
        """
        return self._replace(dataset, dataset.folder(day), rows)

    @contextmanager
    def writing(self, dataset: Dataset) -> Iterator[Callable[[date, Rows], None]]:
        """Replace partitions together: gives what writes the rows of one of them, aside.

        When the block ends, each is put in its place, whole; if it raises, all stay as they are.
        """
        with ExitStack() as aside:
            files: dict[date, Path] = {}

            def write(day: date, rows: Rows) -> None:
                files[day] = aside.enter_context(self._store.aside(dataset.folder(day)))
                self._fill(files[day], dataset, rows, dataset.folder(day))

            yield write
            for day, file in files.items():
                self._store.put(file, f"{dataset.folder(day)}/{PART}")

    def write(self, dataset: Dataset, rows: Rows) -> str:
        """Replace a data set without partitions by `rows`, whole or not at all."""
        return self._replace(dataset, dataset.folder(), rows)

    def add_file(self, dataset: Dataset, day: date, rows: Rows, *, arrival: datetime) -> str:
        """Add rows that arrived at a time (with zone) to a partition, and give the name of their file.

        If a file of the partition has the same content, that file's name is given and nothing is written.
        """
        if arrival.tzinfo is None:
            raise ValueError("the time of arrival has no zone")
        folder, came = dataset.folder(day), arrival.astimezone(UTC).strftime(ARRIVAL_FORMAT)
        with self._store.aside(folder) as file:
            self._fill(file, dataset, rows, folder)
            with file.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()[:HASH_DIGITS]
            for present in self.files(dataset, day):
                if present.endswith(f"-{digest}{SUFFIX}"):
                    return present
            self._store.put(file, name := f"{folder}/{came}-{digest}{SUFFIX}")
        return name

    def read_day(self, dataset: Dataset, day: date, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a partition with the data set's columns (or those named) in the schema's types.

        Raises `PermanentError` if the day has no file, or a file is damaged or lacks a column.
        """
        names = self.files(dataset, day)
        if not names:
            raise self.no_files(dataset, day)
        return self._read(dataset, names, columns)

    def read(self, dataset: Dataset, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a data set without partitions; no rows where it has no file."""
        return self._read(dataset, self.files(dataset), columns)

    def check(self, dataset: Dataset, names: Sequence[str]) -> None:
        """Read the footers of files. The first that is damaged or lacks a column is a `PermanentError`."""
        for name, path in zip(names, self._store.local(names), strict=True):
            with self.reading(dataset, [name]):
                found = pq.read_schema(path)
            _require(dataset.schema, found, where=f"{self.url}/{name}")

    @contextmanager
    def reading(self, dataset: Dataset, names: Sequence[str]) -> Iterator[None]:
        """Around code that reads files with any engine: an error becomes one that names the damaged file.

        Which file it is, engines do not always say; here each is read again, with its pages' contents. An
        engine's error that no file explains becomes one without its text, which may quote a value:
        `TransientError` where memory or the disk failed, else `PermanentError`. Ours stay as they are.
        """
        try:
            yield
        except MedscoreError:
            raise
        except Exception as error:
            for name in names:
                if (reason := _damage(self._store.local([name])[0])) is not None:
                    raise PermanentError(
                        f"the file {name} of {dataset.path} cannot be read as Parquet: {reason}",
                        where=f"{self.url}/{name}",
                        mend="Deliver it again, or take it out of the lake; then run its days again.",
                    ) from error
            if type(error).__module__.partition(".")[0] in ENGINES or isinstance(
                error, OSError | MemoryError
            ):
                raise _unexplained(error, dataset, where=self.url) from None
            raise

    def no_files(self, dataset: Dataset, day: date) -> PermanentError:
        """The error for a partition without files."""
        return PermanentError(
            f"{dataset.path} has no files for {day}",
            where=f"{self.url}/{dataset.folder(day)}",
            mend="Deliver or compute that day first; days before and after it do not depend on this.",
        )

    def _read(self, dataset: Dataset, names: Sequence[str], columns: Sequence[str] | None) -> pa.Table:
        self.check(dataset, names)
        wanted = pa.schema([dataset.schema.field(name) for name in columns or dataset.schema.names])
        tables = [wanted.empty_table()]
        for name, path in zip(names, self._store.local(names), strict=True):
            # ParquetFile and not read_table, which would add columns from the folder's name.
            with self.reading(dataset, [name]), pq.ParquetFile(path) as file:
                table = file.read(columns=wanted.names)
            tables.append(as_schema(table, wanted, where=f"{self.url}/{name}"))
        return pa.concat_tables(tables)

    def _replace(self, dataset: Dataset, folder: str, rows: Rows) -> str:
        name = f"{folder}/{PART}"
        with self._store.aside(folder) as file:
            self._fill(file, dataset, rows, folder)
            self._store.put(file, name)
        return name

    def _fill(self, file: Path, dataset: Dataset, rows: Rows, folder: str) -> None:
        """Write a file that no reader sees until the store takes it."""
        shape: dict[str, Any] = {"sorted_by": dataset.sorted_by, "row_group": dataset.row_group}
        write_parquet(file, rows, dataset.schema, where=f"{self.url}/{folder}", **shape)


def write_parquet(
    file: Path,
    rows: Rows,
    schema: pa.Schema,
    *,
    where: str,
    sorted_by: str | None = None,
    row_group: int = ROW_GROUP,
) -> None:
    """Write rows, brought to `schema`, in row groups of `row_group` or somewhat more. `where` is for errors.

    Of batches, a row group ends earlier where the next batch begins with another value of `sorted_by`, if it
    has an eighth of its rows: so most have one value, and readers know it without a look at them.

    Minutes and counts repeat as texts do, so their columns begin with a dictionary; where it would grow
    past `DICTIONARY_BYTES` (of a small row group: its share), the writer goes on without. Fractions do
    not repeat: without dictionaries they take a third less time, and less room. Least and greatest values
    cost a third of the time for texts of few values, by which nobody looks for rows, `sorted_by` apart.
    """
    sought = [f.name for f in schema if not pa.types.is_dictionary(f.type) or f.name == sorted_by]
    with pq.ParquetWriter(
        file,
        schema,
        compression=COMPRESSION,
        use_dictionary=[field.name for field in schema if not pa.types.is_floating(field.type)],
        dictionary_pagesize_limit=DICTIONARY_BYTES * min(row_group, ROW_GROUP) // ROW_GROUP,
        write_statistics=sought,
    ) as writer:
        for table in _row_groups(rows, row_group, sorted_by):
            writer.write_table(as_schema(table, schema, where=where), row_group_size=2 * row_group)


def as_schema(table: pa.Table, schema: pa.Schema, *, where: str) -> pa.Table:
    """The columns of `schema` in its order and types.

    Raises `PermanentError` for one that is missing, of another kind, or holds a value that does not fit.
    """
    _require(schema, table.schema, where=where)
    columns = []
    for field in schema:
        column = table.column(field.name)
        try:
            if pa.types.is_dictionary(field.type) and not pa.types.is_dictionary(column.type):
                column = column.dictionary_encode()
            columns.append(column.cast(field.type))
        except pa.ArrowInvalid:
            # Arrow's own text would quote the value.
            raise PermanentError(
                f"the column {field.name} holds a value that does not fit {field.type}",
                where=where,
                mend="Mend the source of the rows, and deliver them again.",
            ) from None
    return pa.table(columns, schema=schema)


def _unexplained(error: Exception, dataset: Dataset, *, where: str) -> MedscoreError:
    """An engine's error without its text, and without the engine's own error as its cause."""
    kind = type(error).__name__
    if isinstance(error, OSError | MemoryError) or kind in PASSING:
        return TransientError(
            f"{dataset.path} could not be read: {kind}",
            where=where,
            mend="Look at the machine's memory and disk, and try again.",
        )
    return PermanentError(
        f"the engine failed on {dataset.path}: {kind}",
        where=where,
        mend="Read the columns of these files by hand, and report which of them the engine cannot take.",
    )


def _store(url: str, s3: Any, cache: Path | None) -> Store:
    if url.startswith("s3://"):
        from resources.lake_s3 import S3Store

        if s3 is None or cache is None:
            raise PermanentError(
                "a lake on S3 needs an S3 client and a folder for downloaded objects",
                where=url,
                mend="Give both, or use a folder.",
            )
        return S3Store(url, s3, cache)
    return FolderStore(Path(url.removeprefix("file://")))


def _row_groups(rows: Rows, row_group: int, sorted_by: str | None) -> Iterator[pa.Table]:
    """The rows as tables of one row group each, at most twice as long; no empty ones."""
    if isinstance(rows, pa.Table):
        rows = rows.to_batches(max_chunksize=row_group)
    gathered: list[pa.RecordBatch] = []
    waiting, value = 0, None
    for batch in rows:
        # A column that is missing has its error where the types are looked at.
        if sorted_by in batch.schema.names and batch.num_rows:
            before, value = value, batch.column(sorted_by)[0].as_py()
            if value != before and waiting >= row_group // 8:
                yield pa.Table.from_batches(gathered).unify_dictionaries()
                gathered, waiting = [], 0
        gathered.append(batch)
        waiting += batch.num_rows
        if waiting >= row_group:
            yield pa.Table.from_batches(gathered).unify_dictionaries()
            gathered, waiting = [], 0
    if gathered:
        yield pa.Table.from_batches(gathered).unify_dictionaries()


def _plain(kind: pa.DataType) -> pa.DataType:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.string() if pa.types.is_large_string(plain) or pa.types.is_string_view(plain) else plain


def _require(schema: pa.Schema, found: pa.Schema, *, where: str) -> None:
    """Every column of `schema` is in `found`, of the same kind."""
    missing = [name for name in schema.names if name not in found.names]
    if missing:
        raise PermanentError(
            f"the column {', '.join(missing)} is missing",
            where=where,
            mend=f"Write it with the columns {', '.join(schema.names)}, and deliver it again.",
        )
    for field in schema:
        kind, wanted = _plain(found.field(field.name).type), _plain(field.type)
        if not any(same(kind) and same(wanted) for same in _KINDS) and kind != wanted:
            raise PermanentError(
                f"the column {field.name} is {kind} and not {wanted}",
                where=where,
                mend="Write it with that type, and deliver it again.",
            )


def _with_zone(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind)) and kind.tz is not None


_KINDS: tuple[Callable[[pa.DataType], bool], ...] = (pa.types.is_integer, pa.types.is_floating, _with_zone)
"""Types that can stand for each other. A timestamp without a zone stands for none with one."""


def _damage(path: Path) -> str | None:
    """Why a file cannot be read to its end; None if it can."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROW_GROUP):
                # Reading takes the positions of texts as they are.
                batch.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        return type(error).__name__
    return None
