"""Sums up a GTFS feed that gtfs_load.py loaded: how many rows each table has, and where most buses stop.

Payload: {"schema": "cairns"}. Result: {"tables": {"stops": 416, …}, "busiest_stops": [{"name": …, "departures": …}]}.
Run it without a daemon, on your terminal:  damad run gtfs_summary.py --payload '{"schema": "cairns"}'
"""

from damad import events, tasks

TABLES = """
    SELECT table_name FROM information_schema.tables WHERE table_schema = $1 ORDER BY table_name
"""

BUSIEST = """
    SELECT stop_name AS name, count(*) AS departures
      FROM {schema}.stop_times JOIN {schema}.stops USING (stop_id)
      GROUP BY stop_id, stop_name
      ORDER BY departures DESC, stop_name
      LIMIT 5
"""


async def main(initial_event):
    schema = initial_event["payload"]["schema"]
    async with events.transaction() as db:
        names = [row["table_name"] for row in await db.fetch(TABLES, schema)]
        if not names:
            raise tasks.NoRetry(f"there is no schema {schema!r}, or it is empty")
        quoted = await db.fetchval("SELECT quote_ident($1)", schema)
        counts = {name: await db.fetchval(f'SELECT count(*) FROM {quoted}."{name}"') for name in names}
        busiest = [dict(row) for row in await db.fetch(BUSIEST.format(schema=quoted))]

    for name, count in counts.items():
        print(f"  {name:<16}{count:>10,}")
    print("  busiest stops:")
    for stop in busiest:
        print(f"  {stop['departures']:>10,}  {stop['name']}")
    return {"tables": counts, "busiest_stops": busiest}
