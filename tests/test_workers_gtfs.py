"""workers/gtfs_load.py: what it makes of a feed, before any database is asked."""

import importlib.util
import sys
import zipfile
from datetime import date
from pathlib import Path
from types import ModuleType

import pytest

WORKERS = Path(__file__).parent.parent / "workers"


def load_worker(name: str) -> ModuleType:
    """A worker as a module, found by its path as the runner finds it."""
    spec = importlib.util.spec_from_file_location(name, WORKERS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


gtfs = load_worker("gtfs_load")
CAIRNS = WORKERS / "data" / "cairns_gtfs.zip"
ALL_WEEK = ("1",) * 7
MONDAYS = ("1", "0", "0", "0", "0", "0", "0")
NEVER = ("0",) * 7


def zip_of(folder: Path, files: dict[str, str | bytes]) -> Path:
    path = folder / "feed.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def table(folder: Path, content: str | bytes, name: str = "stops") -> list[list[str]]:
    """What is read from one file of a feed that has the fewest files it may have."""
    with gtfs.open_feed(zip_of(folder, {"stops.txt": "stop_id\na\n", f"{name}.txt": content})) as feed:
        return list(feed.read(name))


def refusal(folder: Path, content: str | bytes, name: str = "stops") -> str:
    with pytest.raises(gtfs.BadFeed) as refused:
        table(folder, content, name)
    return str(refused.value)


# --- the feed of Cairns ---


def test_the_feed_of_cairns_is_described_as_its_publisher_would():
    with gtfs.open_feed(CAIRNS) as feed:
        assert gtfs.describe(feed) == {
            "bbox": [145.662903, -17.104062, 145.78647, -16.743472],
            "service": ["2014-05-26", "2014-12-28"],
        }


def test_the_feed_of_cairns_has_the_rows_that_its_readme_counts():
    with gtfs.open_feed(CAIRNS) as feed:
        assert {name: sum(1 for _ in feed.read(name)) - 1 for name in feed.files} == {
            "agency": 1,
            "calendar": 4,
            "calendar_dates": 9,
            "routes": 22,
            "shapes": 22784,
            "stop_times": 37790,
            "stops": 416,
            "trips": 1339,
        }


# --- types ---


@pytest.mark.parametrize(
    ("file", "column", "sql_type"),
    [
        ("stops", "stop_lat", "double precision"),
        ("stops", "stop_id", "text"),
        ("stop_times", "arrival_time", "interval"),
        ("stop_times", "stop_sequence", "integer"),
        ("frequencies", "headway_secs", "integer"),
        ("calendar", "sunday", "integer"),
        ("calendar_dates", "date", "date"),
        ("fare_attributes", "price", "numeric"),
        ("stops", "a column of the agency", "text"),
    ],
)
def test_a_field_of_the_reference_has_its_type_and_any_other_is_text(file, column, sql_type):
    assert gtfs.type_of(file, column) == sql_type


def test_in_a_file_that_the_reference_does_not_know_every_column_is_text():
    assert gtfs.type_of("road_works", "start_date") == "text"


def test_names_from_a_feed_cannot_leave_their_quotes():
    sql = gtfs.table_sql("cairns", 'odd"name', ['a"; DROP TABLE b; --'])
    assert 'CREATE TABLE "cairns"."odd""name" ("a""; DROP TABLE b; --" text)' in sql


# --- reading files ---


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    assert table(tmp_path, b"\xef\xbb\xbfstop_id,lat\r\na,1\r\n") == [["stop_id", "lat"], ["a", "1"]]


def test_quotes_keep_commas_and_quotation_marks_together(tmp_path):
    assert table(tmp_path, 'n\n"Main ""A"", north"\n')[1] == ['Main "A", north']


def test_spaces_around_names_and_values_are_dropped(tmp_path):
    assert table(tmp_path, ' stop_id , stop name\na , "b, c"\n') == [["stop_id", "stop name"], ["a", "b, c"]]


def test_blank_lines_are_no_rows(tmp_path):
    assert table(tmp_path, "\nx,y\n\n1,2\n,\n") == [["x", "y"], ["1", "2"]]


def test_missing_values_at_the_end_of_a_row_are_blank_and_surplus_blanks_are_dropped(tmp_path):
    assert table(tmp_path, "x,y,z\n1\n1,2,3,,\n")[1:] == [["1", "", ""], ["1", "2", "3"]]


def test_a_column_without_a_name_keeps_its_values(tmp_path):
    assert table(tmp_path, "x,,z\n1,2,3\n") == [["x", "column_2", "z"], ["1", "2", "3"]]


def test_a_file_that_is_not_utf8_is_read_as_windows_text(tmp_path):
    assert table(tmp_path, "n\nCafé – Süd\n".encode("cp1252"))[1] == ["Café – Süd"]


def test_an_empty_file_has_neither_columns_nor_rows(tmp_path):
    assert table(tmp_path, "", name="feed_info") == []


def test_a_row_with_more_values_than_columns_is_refused_with_its_line(tmp_path):
    assert refusal(tmp_path, "x,y\n1,2\n1,2,3\n") == "stops.txt near line 3: 3 values for 2 columns"


def test_an_unclosed_quote_is_refused_instead_of_swallowing_the_rest(tmp_path):
    assert "near line 2" in refusal(tmp_path, 'x,y\n1,2\n3,"4\n5,6\n')


def test_two_columns_of_one_name_are_refused(tmp_path):
    assert "two columns have one name: x, x" in refusal(tmp_path, "x,x\n1,2\n")


def test_utf16_is_refused(tmp_path):
    assert "no text in UTF-8" in refusal(tmp_path, "x,y\n1,2\n".encode("utf-16"))


def test_a_damaged_file_is_refused(tmp_path):
    path = zip_of(tmp_path, {"stops.txt": "stop_id\nfirst\nsecond\n"})
    path.write_bytes(path.read_bytes().replace(b"second", b"damage"))
    with gtfs.open_feed(path) as feed, pytest.raises(gtfs.BadFeed, match="Bad CRC-32"):
        list(feed.read("stops"))


def test_an_absent_file_is_an_empty_one_and_an_absent_column_a_blank_one(tmp_path):
    with gtfs.open_feed(zip_of(tmp_path, {"stops.txt": "stop_id\na\n"})) as feed:
        assert list(feed.records("levels", "level_id")) == []
        assert list(feed.records("stops", "stop_lat", "stop_id")) == [("", "a")]


async def test_rows_travel_to_postgres_in_chunks_and_lose_nothing():
    rows = [["1", 'a "b", c'], ["2", ""], ["3", "\\."]]
    chunks = [chunk async for chunk in gtfs.csv_chunks(["id", "n"], rows, size=1)]
    assert len(chunks) > len(rows)
    assert b"".join(chunks).decode() == '"id","n"\n"1","a ""b"", c"\n"2",""\n"3","\\."\n'


# --- finding the feed in a zip ---


def files_in(folder: Path, *names: str) -> dict[str, str]:
    with gtfs.open_feed(zip_of(folder, dict.fromkeys(names, "x\n"))) as feed:
        return {table: file.filename for table, file in feed.files.items()}


def test_only_text_files_beside_stops_are_taken(tmp_path):
    names = ("stops.txt", "trips.txt", "locations.geojson", "notes/readme.txt")
    assert files_in(tmp_path, *names) == {"stops": "stops.txt", "trips": "trips.txt"}


@pytest.mark.parametrize("stops", ["feed/stops.txt", "feed\\stops.txt", "a/b/stops.txt"])
def test_a_feed_in_a_folder_is_found(tmp_path, stops):
    assert files_in(tmp_path, stops, "readme.txt") == {"stops": stops}


def test_the_shadow_files_of_a_mac_are_passed_over(tmp_path):
    names = ("feed/stops.txt", "feed/._stops.txt", "__MACOSX/stops.txt", "__MACOSX/feed/._stops.txt")
    assert files_in(tmp_path, *names) == {"stops": "feed/stops.txt"}


def test_a_zip_without_stops_is_refused(tmp_path):
    with pytest.raises(gtfs.BadFeed, match=r"no stops\.txt"):
        files_in(tmp_path, "trips.txt")


def test_a_zip_with_two_feeds_is_refused(tmp_path):
    with pytest.raises(gtfs.BadFeed, match="several feeds in it: bus, tram"):
        files_in(tmp_path, "bus/stops.txt", "tram/stops.txt")


@pytest.mark.parametrize(("name", "reason"), [("absent.zip", "no file"), ("plain.zip", "not a zip"), (".", "no file")])
def test_what_is_no_zip_file_is_refused(tmp_path, name, reason):
    (tmp_path / "plain.zip").write_text("no zip")
    with pytest.raises(gtfs.BadFeed, match=reason), gtfs.open_feed(tmp_path / name):
        pass


# --- the stops' bounding box ---


def test_the_box_is_west_south_east_north():
    assert gtfs.bbox([("10.5", "-1"), ("-3", "50"), ("4", "7")]) == [-3, -1, 10.5, 50]


def test_stops_without_coordinates_do_not_count_and_without_any_there_is_no_box():
    assert gtfs.bbox([("", ""), ("1", "2"), ("3", "")]) == [1, 2, 1, 2]
    assert gtfs.bbox([("", "")]) is None
    assert gtfs.bbox([]) is None


def test_places_that_are_not_on_earth_do_not_stretch_the_box():
    assert gtfs.bbox([("1", "2"), ("nan", "2"), ("181", "0"), ("0", "-91")]) == [1, 2, 1, 2]


def test_a_coordinate_that_is_no_number_is_refused():
    with pytest.raises(gtfs.BadFeed, match="'12,5' is not a number"):
        gtfs.bbox([("12,5", "1")])


# --- first and last day of service ---


def test_a_calendar_runs_from_its_first_to_its_last_day():
    assert gtfs.service_days([("s", "20240101", "20240131", *ALL_WEEK)], []) == ["2024-01-01", "2024-01-31"]


def test_a_calendar_begins_and_ends_on_a_weekday_with_service():
    # 2024-01-02 is a Tuesday, 2024-01-31 a Wednesday
    assert gtfs.service_days([("s", "20240102", "20240131", *MONDAYS)], []) == ["2024-01-08", "2024-01-29"]


def test_days_taken_out_of_a_service_count_for_that_service_only():
    calendar = [("s", "20240101", "20240131", *MONDAYS)]
    taken_out = [("s", "20240101", "2"), ("s", "20240129", "2")]
    assert gtfs.service_days(calendar, taken_out) == ["2024-01-08", "2024-01-22"]
    other = [("t", "20240129", "20240129", *ALL_WEEK)]
    assert gtfs.service_days(calendar + other, taken_out) == ["2024-01-08", "2024-01-29"]


def test_days_added_outside_the_calendar_count():
    calendar = [("s", "20240101", "20240131", *MONDAYS)]
    assert gtfs.service_days(calendar, [("s", "20240214", "1")]) == ["2024-01-01", "2024-02-14"]


def test_a_feed_may_have_no_calendar_and_only_dates():
    dates = [("s", "20240301", "1"), ("s", "20240201", "1"), ("s", "20240401", "2")]
    assert gtfs.service_days([], dates) == ["2024-02-01", "2024-03-01"]


def test_a_service_that_no_trip_uses_moves_nobody():
    calendar = [("bus", "20240101", "20240131", *ALL_WEEK), ("fares", "20000101", "20991231", *ALL_WEEK)]
    assert gtfs.service_days(calendar, [("fares", "19990101", "1")], {"bus"}) == ["2024-01-01", "2024-01-31"]


@pytest.mark.parametrize(
    "calendar",
    [
        [],
        [("s", "20240101", "99991231", *NEVER)],
        [("s", "20240131", "20240101", *ALL_WEEK)],
        [("s", "20240102", "20240103", *MONDAYS)],
    ],
)
def test_where_nothing_ever_runs_there_are_no_days(calendar):
    assert gtfs.service_days(calendar, []) is None


def test_both_ends_are_found_in_a_calendar_as_long_as_dates_go():
    calendar = [("s", "00010101", "99991231", *ALL_WEEK)]
    assert gtfs.service_days(calendar, []) == [date.min.isoformat(), date.max.isoformat()]


@pytest.mark.parametrize("text", ["", "2014", "20141301", "tomorrow"])
def test_what_is_no_date_is_refused(text):
    with pytest.raises(gtfs.BadFeed, match="not a date like 20140526"):
        gtfs.service_days([("s", text, "20240131", *ALL_WEEK)], [])


# --- the payload ---


@pytest.mark.parametrize("schema", ["cairns", "_x", "a1_b", "public", "a" * 63])
def test_a_plain_name_is_a_schema(schema):
    assert gtfs.schema_of({"schema": schema}) == schema


@pytest.mark.parametrize("schema", [None, "", 7, "Cairns", "1a", "a-b", "a\n", 'a"; DROP', "ä", "a" * 64])
def test_what_is_no_plain_name_is_no_schema(schema):
    with pytest.raises(gtfs.BadFeed, match="is no name of lower-case letters"):
        gtfs.schema_of({"schema": schema})


@pytest.mark.parametrize("schema", ["pg_catalog", "pg_x", "information_schema", "data_manager"])
def test_the_schemas_of_postgres_and_of_damad_are_not_for_feeds(schema):
    with pytest.raises(gtfs.BadFeed, match="belongs to Postgres or damad"):
        gtfs.schema_of({"schema": schema})


@pytest.mark.parametrize("payload", [{}, {"path": ""}, {"path": None}, {"path": 5}])
def test_a_payload_without_a_path_is_refused(payload):
    with pytest.raises(gtfs.BadFeed, match="path"):
        gtfs.path_of(payload)


def test_a_path_is_relative_to_the_working_folder_or_else_to_the_worker(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert gtfs.path_of({"path": "data/cairns_gtfs.zip"}) == CAIRNS
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cairns_gtfs.zip").touch()
    assert gtfs.path_of({"path": "data/cairns_gtfs.zip"}) == Path("data/cairns_gtfs.zip")
    assert gtfs.path_of({"path": "absent.zip"}) == Path("absent.zip")
