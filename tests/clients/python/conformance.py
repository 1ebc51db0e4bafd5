"""clickhouse-connect against the server in PODTAP_TEST_CLICKHOUSE_URL, in the database named by the first argument."""

import datetime
import os
import sys
import threading
import time
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

URL = urlsplit(os.environ["PODTAP_TEST_CLICKHOUSE_URL"])
DATABASE = sys.argv[1]


def connect(**options):
    return clickhouse_connect.get_client(
        host=URL.hostname, port=URL.port or 8123, username=URL.username or "default", password=URL.password or "", **options
    )


def same(what, got, expected):
    if got != expected:
        sys.exit(f"{what}: got {got!r}, expected {expected!r}")
    print(f"ok {what}", flush=True)


def fails(what, words, action):
    try:
        action()
    except ClickHouseError as error:
        if not all(word in str(error) for word in words):
            sys.exit(f"{what}: the error is {error}")
        print(f"ok {what}", flush=True)
        return
    sys.exit(f"{what}: no error")


def drain(stream):
    with stream as blocks:
        return sum(len(block) for block in blocks)


admin = connect()
admin.command(f"CREATE DATABASE {DATABASE}")
client = connect(database=DATABASE)
client.command("CREATE TABLE t (id UInt64, name String, at DateTime64(3, 'UTC'), tags Array(LowCardinality(String))) ENGINE = MergeTree ORDER BY id")

# Insert: Native by the driver, then texts.
at = datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=datetime.timezone.utc)
client.insert("t", [[1, "a'\\\n\t;", at, ["x", "y"]]], column_names=["id", "name", "at", "tags"])
client.raw_insert("t", ["id", "name"], b'2,"b"\n3,"c;"\n', fmt="CSV")
client.raw_insert("t", ["id", "name"], b'{"id":4,"name":"d"}\n', fmt="JSONEachRow")
same("inserts in three formats", client.query("SELECT id, name FROM t ORDER BY id").result_rows, [(1, "a'\\\n\t;"), (2, "b"), (3, "c;"), (4, "d")])
row = client.query("SELECT at, tags FROM t WHERE id = 1").result_rows[0]
same("types come back", (row[0].replace(tzinfo=datetime.timezone.utc), list(row[1])), (at, ["x", "y"]))

for codec in [False, "lz4", "zstd", "gzip"]:
    packed = connect(database=DATABASE, compress=codec)
    packed.command("CREATE OR REPLACE TABLE many (n UInt64, s String) ENGINE = MergeTree ORDER BY n")
    packed.insert("many", [[n, f"row {n}"] for n in range(100_000)], column_names=["n", "s"])
    rows = packed.query("SELECT n, s FROM many ORDER BY n").result_rows
    same(f"100000 rows there and back, compression {codec}", (len(rows), rows[99_999]), (100_000, (99_999, "row 99999")))

same(
    "parameters",
    client.query(
        "SELECT {n:UInt8} + 1, {s:String}, {l:Array(String)}", parameters={"n": 41, "s": "it's \\ \t ü", "l": ["a'b", "c"]}
    ).result_rows,
    [(42, "it's \\ \t ü", ["a'b", "c"])],
)
same("settings of one query", client.query("SELECT getSetting('max_threads')", settings={"max_threads": 3}).result_rows, [(3,)])
same("and none after it", client.query("SELECT getSetting('max_threads') = 3").result_rows, [(False,)])

client.command("CREATE TEMPORARY TABLE mine (n UInt8)")
client.command("INSERT INTO mine VALUES (7)")
same("a session keeps its temporary table", client.query("SELECT n FROM mine").result_rows, [(7,)])
fails("other sessions do not see it", ["60"], lambda: connect(database=DATABASE).query("SELECT n FROM mine"))

fails("unknown table", ["UNKNOWN_TABLE", "60"], lambda: client.query("SELECT * FROM nowhere"))
fails("syntax error", ["SYNTAX_ERROR", "62"], lambda: client.query("SELECT FROM WHERE"))
fails("a row that does not parse", ["27"], lambda: client.raw_insert("t", ["id"], b'{"id":"x"}\n', fmt="JSONEachRow"))
fails(
    "an error in the middle of a stream",
    ["395"],
    lambda: drain(client.query_row_block_stream("SELECT throwIf(number = 4000000), repeat('x', 20) FROM numbers(5000000)")),
)
same("the connection works after it", client.query("SELECT 1").result_rows, [(1,)])

started = threading.Event()


def long_query():
    other = connect(database=DATABASE)
    started.set()
    other.query("SELECT sleepEachRow(1) FROM numbers(3) SETTINGS max_block_size = 1")


thread = threading.Thread(target=long_query)
thread.start()
started.wait()
time.sleep(0.3)
begun = time.monotonic()
client.query("SELECT 1")
client.insert("many", [[1, "beside"]], column_names=["n", "s"])
took = time.monotonic() - begun
same("a query and an insert beside a long query", (took < 1.0, thread.is_alive()), (True, True))
thread.join()

same("a million rows", drain(client.query_row_block_stream("SELECT number, toString(number) FROM numbers(1000000)")), 1_000_000)
same("the summary counts", client.insert("many", [[1, "a"], [2, "b"]], column_names=["n", "s"]).written_rows, 2)
admin.command(f"DROP DATABASE {DATABASE}")
