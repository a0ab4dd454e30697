"""Load a GTFS feed, the timetable of a transit agency, into the tables of one schema.

Payload  {"path": "data/cairns_gtfs.zip", "schema": "cairns"}
Result   {"tables": {"stops": 416, …}, "bbox": [west, south, east, north], "service": [first day, last day]}

Each `name.txt` of the feed becomes the table `name`. A file and its checkpoint event are one transaction:
both are there or neither is. So an attempt that follows a crash reads its own events and goes on with the
first file that has no checkpoint; nothing is loaded twice, nothing is left half loaded.

What a feed may hold is told by the GTFS reference, https://gtfs.org/documentation/schedule/reference/.
"""

import asyncio
import csv
import io
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice
from pathlib import Path, PurePosixPath

import asyncpg

from damad import context, events, tasks

FILE_LOADED = "gtfs:FILE_LOADED"


class BadFeed(ValueError):
    """The payload or the feed is wrong, and will be just as wrong at the next attempt."""


async def main(initial_event: dict) -> dict:
    """Find out where and when the feed runs, and load every file that no earlier attempt has loaded."""
    payload = initial_event["payload"] or {}
    try:
        schema = schema_of(payload)
        with open_feed(path_of(payload)) as feed:
            description = describe(feed)  # first: it finds most that can be wrong before a table is touched
            return {"tables": await load_feed(feed, schema), **description}
    except BadFeed as error:
        raise tasks.NoRetry(str(error)) from error


def path_of(payload: dict) -> Path:
    """The zip file to load: relative to the working directory, or else to the folder of this worker."""
    path = payload.get("path")
    if not isinstance(path, str) or not path:
        raise BadFeed('the payload needs a "path", the zip file of a GTFS feed')
    beside_this_worker = Path(__file__).parent / path
    return beside_this_worker if not Path(path).exists() and beside_this_worker.exists() else Path(path)


def schema_of(payload: dict) -> str:
    """The schema to fill, unless it is one of Postgres or of damad."""
    schema = payload.get("schema")
    if not isinstance(schema, str) or not re.fullmatch("[a-z_][a-z0-9_]{0,62}", schema):
        raise BadFeed(f"schema {schema!r} is no name of lower-case letters, digits and _ (63 at most)")
    if schema.startswith("pg_") or schema in ("information_schema", "data_manager"):
        raise BadFeed(f"schema {schema!r} belongs to Postgres or damad, name another")
    return schema


# --- loading: one transaction a file ---


async def load_feed(feed: "Feed", schema: str) -> dict[str, int]:
    """The rows of each table, once all are loaded."""
    checkpoints = [event["payload"] for event in await events.read() if event["type"] == FILE_LOADED]
    last_load = {checkpoint["table"]: checkpoint for checkpoint in checkpoints}
    bytes_in_all = sum(file.file_size for file in feed.files.values())
    bytes_done = 0
    tables = {}
    for table, file in sorted(feed.files.items()):
        done = last_load.get(table)
        if done and done["crc"] == file.CRC:  # else somebody mended the file before this retry
            rows = done["rows"]
            print(f"{table}: {rows} rows, loaded by an earlier attempt", flush=True)
        else:
            await tasks.progress(round(bytes_done / max(bytes_in_all, 1), 3), table)
            rows = await load_file_or_skip(feed, table, schema)
        if rows is not None:
            tables[table] = rows
        bytes_done += file.file_size
    return tables


async def load_file_or_skip(feed: "Feed", table: str, schema: str) -> int | None:
    """The rows of a file; None for a stray text, say a licence, that is no table and no file of GTFS."""
    print(f"{table}: loading", flush=True)
    try:
        rows = await load_file(feed, table, schema)
    except BadFeed as error:
        if table in GTFS_FILES:
            raise
        context.current().logger.warning(f"left out, for it is no table: {error}")
        return None
    print(f"{table}: {rows} rows", flush=True)
    return rows


async def load_file(feed: "Feed", table: str, schema: str) -> int:
    """Make the table anew, fill it and leave the checkpoint: all of it or nothing."""
    lines = feed.read(table)
    columns = next(lines, [])
    try:
        async with events.transaction() as db:
            await db.execute(table_sql(schema, table, columns))
            rows = await copy(db, (schema, table), columns, lines) if columns else 0
            checkpoint = {"table": table, "rows": rows, "crc": feed.files[table].CRC}
            await events.dispatch({"type": FILE_LOADED, "payload": checkpoint})
    except asyncpg.DataError as error:
        raise BadFeed(f"{table}.txt: {error} ({error.context})") from error
    return rows


def table_sql(schema: str, table: str, columns: list[str]) -> str:
    """SQL that makes the table anew, and its schema if need be."""
    name = f"{quoted(schema)}.{quoted(table)}"
    fields = ", ".join(f"{quoted(column)} {type_of(table, column)}" for column in columns)
    return f"""
        CREATE SCHEMA IF NOT EXISTS {quoted(schema)};
        DROP TABLE IF EXISTS {name};
        CREATE TABLE {name} ({fields})"""


def quoted(identifier: str) -> str:
    """An identifier as SQL takes it, whatever characters a feed has put into it."""
    return '"' + identifier.replace('"', '""') + '"'


async def copy(db: asyncpg.Connection, into: tuple[str, str], columns: list[str], rows: Iterable) -> int:
    """Stream the rows into a table and count them; a blank value is NULL.

    Postgres reads the values itself: an interval that went through Python comes out as `1 day 01:10:00`, but
    a GTFS time of 25:10:00 means so many hours, also in the night when the clocks change.
    """
    schema, table = into
    status = await db.copy_to_table(
        table,
        schema_name=schema,
        columns=columns,
        source=csv_chunks(columns, rows),
        format="csv",
        header=True,
        force_null=columns,
    )
    return int(status.removeprefix("COPY "))


async def csv_chunks(columns: list[str], rows: Iterable, size: int = 1 << 18) -> AsyncIterator[bytes]:
    """The rows as clean CSV, chunk by chunk, so that a file larger than memory can pass."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(row)
        if buffer.tell() >= size:
            yield buffer.getvalue().encode()
            buffer.seek(0)
            buffer.truncate()
            await asyncio.sleep(0)  # reading is all CPU: without a pause nothing else on this loop would run
    yield buffer.getvalue().encode()


# --- the feed: CSV files in a zip ---


@dataclass(frozen=True)
class Feed:
    """An open feed: the archive, and its files by the name of their table."""

    archive: zipfile.ZipFile
    files: dict[str, zipfile.ZipInfo]

    def read(self, table: str) -> Iterator[list[str]]:
        """The column names, then row after row: values stripped, blank lines left out, all of one width."""
        file = self.files[table]
        columns: list[str] = []
        line = 0
        try:
            with self.archive.open(file) as raw:
                text = io.TextIOWrapper(raw, self.encoding(file), errors="replace", newline="")
                reader = csv.reader(text, skipinitialspace=True, strict=True)
                for cells in reader:
                    line = reader.line_num
                    values = [cell.strip() for cell in cells]
                    if columns and any(values):
                        yield fitted(values, len(columns))
                    elif any(values):
                        columns = column_names(values)
                        yield columns
        except (BadFeed, csv.Error, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise BadFeed(f"{file.filename} near line {line}: {error}") from error

    def records(self, table: str, *fields: str) -> Iterator[tuple[str, ...]]:
        """These fields of each row. An absent file is an empty one, an absent column a blank one."""
        lines = self.read(table) if table in self.files else iter(())
        columns = next(lines, [])
        places = [columns.index(field) if field in columns else None for field in fields]
        for row in lines:
            yield tuple("" if place is None else row[place] for place in places)

    def encoding(self, file: zipfile.ZipInfo) -> str:
        """UTF-8, as it must be; for a file that is not, the code page that such files have as a rule."""
        try:
            with self.archive.open(file) as raw, io.TextIOWrapper(raw, "utf-8") as text:
                while text.read(1 << 16):
                    pass
        except UnicodeDecodeError:
            return "cp1252"
        return "utf-8-sig"


@contextmanager
def open_feed(path: Path) -> Iterator[Feed]:
    """The feed in this zip file."""
    if not path.is_file():
        raise BadFeed(f"there is no file {path}")
    if not zipfile.is_zipfile(path):
        raise BadFeed(f"{path} is not a zip file")
    with zipfile.ZipFile(path) as archive:
        yield Feed(archive, feed_files(archive.infolist()))


def feed_files(entries: Iterable[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """Every .txt that lies beside stops.txt, at the top or in a folder, by the name of its table."""
    folders: dict[PurePosixPath, dict[str, zipfile.ZipInfo]] = defaultdict(dict)
    for entry in entries:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        left_by_a_mac = path.name.startswith("._") or "__MACOSX" in path.parts
        if path.suffix == ".txt" and not left_by_a_mac:
            folders[path.parent][path.stem] = entry
    feeds = [folder for folder, files in folders.items() if "stops" in files]
    feeds.sort(key=lambda folder: len(folder.parts))
    if not feeds:
        raise BadFeed("this is no GTFS feed, there is no stops.txt in it")
    if len(feeds) > 1 and len(feeds[0].parts) == len(feeds[1].parts):
        raise BadFeed(f"there are several feeds in it: {', '.join(map(str, feeds))}")
    if any(file.flag_bits & 1 for file in folders[feeds[0]].values()):
        raise BadFeed("its files are encrypted")
    return folders[feeds[0]]


def column_names(header: list[str]) -> list[str]:
    """The names in a header; a nameless column gets a name, so that nothing in the file is lost."""
    names = [name or f"column_{place}" for place, name in enumerate(header, start=1)]
    if len(set(names)) < len(names):
        raise BadFeed(f"two columns have one name: {', '.join(names)}")
    if "\0" in "".join(names):
        raise BadFeed("this is no text in UTF-8")
    return names


def fitted(values: list[str], width: int) -> list[str]:
    """A row as wide as the header: blanks at its end may be missing or too many, values may not."""
    if any(values[width:]):
        raise BadFeed(f"{len(values)} values for {width} columns")
    return values[:width] + [""] * (width - len(values))


# --- where and when ---

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def describe(feed: Feed) -> dict:
    """Where the stops lie, and from when to when there is service."""
    used = {service for (service,) in feed.records("trips", "service_id")}
    calendar = feed.records("calendar", "service_id", "start_date", "end_date", *WEEKDAYS)
    calendar_dates = feed.records("calendar_dates", "service_id", "date", "exception_type")
    return {
        "bbox": bbox(feed.records("stops", "stop_lon", "stop_lat")),
        "service": service_days(calendar, calendar_dates, used or None),
    }


def bbox(places: Iterable[tuple[str, ...]]) -> list[float] | None:
    """West, south, east and north of these (lon, lat); points inside a station may have neither."""
    points = [(degrees(lon), degrees(lat)) for lon, lat in places if lon and lat]
    on_earth = [(lon, lat) for lon, lat in points if abs(lon) <= 180 and abs(lat) <= 90]
    if not on_earth:
        return None
    lons, lats = zip(*on_earth, strict=True)
    return [min(lons), min(lats), max(lons), max(lats)]


def degrees(text: str) -> float:
    """A longitude or latitude as GTFS writes it."""
    try:
        return float(text)
    except ValueError as error:
        raise BadFeed(f"stops.txt: {text!r} is not a number of degrees") from error


def service_days(
    calendar: Iterable[tuple[str, ...]],
    calendar_dates: Iterable[tuple[str, ...]],
    used: set[str] | None = None,
) -> list[str] | None:
    """The first and the last day on which a service runs, of the used ones or of all; None if none ever does.

    The ends of a calendar are not enough: it may begin on a weekday without service, its last day may be
    removed, other days may be added. And a service without a trip, as fares have some, moves nobody.
    """
    added: dict[str, set[date]] = defaultdict(set)
    removed: dict[str, set[date]] = defaultdict(set)
    for service, on, exception in calendar_dates:
        (added if exception == "1" else removed)[service].add(day(on))
    running = {on for service in added if used is None or service in used for on in added[service]}
    for service, start, end, *flags in calendar:
        if "1" in flags and (used is None or service in used):
            weekdays = {weekday for weekday, flag in enumerate(flags) if flag == "1"}
            running |= ends_of(day(start), day(end), weekdays, removed[service])
    return [min(running).isoformat(), max(running).isoformat()] if running else None


def ends_of(start: date, end: date, weekdays: set[int], removed: set[date]) -> set[date]:
    """The first and the last day from start to end that falls on one of the weekdays and is not removed."""

    def runs(on: date) -> bool:
        return on.weekday() in weekdays and on not in removed

    steps = range((end - start).days + 1)
    forward = (start + timedelta(n) for n in steps)
    backward = (end - timedelta(n) for n in steps)
    return {on for way in (forward, backward) for on in islice(filter(runs, way), 1)}


def day(text: str) -> date:
    """A date as GTFS writes it."""
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise BadFeed(f"calendar.txt or calendar_dates.txt: {text!r} is not a date like 20140526") from error


# --- what the GTFS reference says of files and fields; fields that it does not name are text ---

FILES = (
    "agency stops routes trips stop_times calendar calendar_dates fare_attributes fare_rules timeframes "
    "rider_categories fare_media fare_products fare_leg_rules fare_leg_join_rules fare_transfer_rules areas "
    "stop_areas networks route_networks shapes frequencies transfers pathways levels location_groups "
    "location_group_stops booking_rules translations feed_info attributions"
)
FIELDS = {
    "double precision": "stop_lat stop_lon shape_pt_lat shape_pt_lon shape_dist_traveled "
    "length max_slope min_width level_index",
    "numeric": "price amount",
    "date": "date start_date end_date feed_start_date feed_end_date",
    "interval": "arrival_time departure_time start_time end_time start_pickup_drop_off_window "
    "end_pickup_drop_off_window prior_notice_last_time prior_notice_start_time",
    "integer": "location_type wheelchair_boarding stop_access route_type route_sort_order cemv_support "
    "direction_id wheelchair_accessible bikes_allowed cars_allowed stop_sequence pickup_type drop_off_type "
    "continuous_pickup continuous_drop_off timepoint shape_pt_sequence headway_secs exact_times "
    "monday tuesday wednesday thursday friday saturday sunday exception_type "
    "payment_method transfers transfer_duration is_default_fare_category fare_media_type rule_priority "
    "transfer_count duration_limit duration_limit_type fare_transfer_type transfer_type min_transfer_time "
    "pathway_mode is_bidirectional traversal_time stair_count booking_type prior_notice_duration_min "
    "prior_notice_duration_max prior_notice_last_day prior_notice_start_day "
    "is_producer is_operator is_authority",
}
GTFS_FILES = frozenset(FILES.split())
TYPES = {field: sql_type for sql_type, fields in FIELDS.items() for field in fields.split()}


def type_of(table: str, column: str) -> str:
    """The SQL type of a column. In a file of the agency's own even a known name may mean anything."""
    return TYPES.get(column, "text") if table in GTFS_FILES else "text"
