#!/usr/bin/env bash
# curl against the server in PODTAP_TEST_CLICKHOUSE_URL, in the database named by the first argument.
set -euo pipefail
url=$PODTAP_TEST_CLICKHOUSE_URL
database=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

same() { # what, got, expected
  if [ "$2" != "$3" ]; then
    printf '%s: got\n%s\nexpected\n%s\n' "$1" "$2" "$3" >&2
    exit 1
  fi
  echo "ok $1"
}
holds() { # what, text, words...
  local what=$1 text=$2 word
  shift 2
  for word in "$@"; do
    if [[ $text != *"$word"* ]]; then
      printf '%s: no "%s" in\n%s\n' "$what" "$word" "$text" >&2
      exit 1
    fi
  done
  echo "ok $what"
}
sql() { # statement, more arguments of curl...
  local statement=$1
  shift
  curl -sS "$@" --data-binary "$statement" "$url/?database=$database"
}
get() { # parameter=value...
  local pairs=() pair
  for pair in "$@"; do pairs+=(--data-urlencode "$pair"); done
  curl -sS -G "$url/" --data-urlencode "database=$database" "${pairs[@]}"
}
status() { curl -sS -o /dev/null -w '%{http_code}' "$@"; }
insert() { # statement, more arguments of curl; the data on stdin
  local statement=$1
  shift
  curl -sS -X POST "$@" --data-binary @- "$url/?database=$database&query=$(printf %s "$statement" | sed 's/ /%20/g')"
}

curl -sS "$url/" --data-binary "CREATE DATABASE $database"
same ping "$(curl -sS "$url/ping")" "Ok."
same "nothing asked" "$(curl -sS "$url/")" "Ok."
same replicas_status "$(curl -sS "$url/replicas_status")" "Ok."
same "GET" "$(get 'query=SELECT 1 + 1')" 2
same "HEAD" "$(curl -sS -I -G "$url/" --data-urlencode 'query=SELECT 1' | tr -d '\r' | sed -n 's/^\(HTTP.*\)/\1/p')" "HTTP/1.1 200 OK"
same "default format" "$(get 'query=SELECT 1 AS a' default_format=JSONEachRow)" '{"a":1}'
same "query in URL and body" "$(printf ' 7 AS a' | insert 'SELECT')" 7
holds "headers" "$(curl -sS -D- -o /dev/null "$url/?query_id=my-id" --data-binary 'SELECT 1 FORMAT CSV' | tr '[:upper:]' '[:lower:]')" \
  "x-clickhouse-query-id: my-id" "x-clickhouse-format: csv" "x-clickhouse-timezone:" "x-clickhouse-server-display-name:" \
  'x-clickhouse-summary: {"read_rows":"' "content-type: text/csv"

sql "CREATE TABLE t (id UInt64, name String) ENGINE = MergeTree ORDER BY id"
sql "INSERT INTO t VALUES (1, 'a;'), (2, 'b''c')"
printf '3,"c\n\n;d"\n' | insert 'INSERT INTO t FORMAT CSV'
printf '{"id":4,"name":"d"}\n' | insert 'INSERT INTO t FORMAT JSONEachRow' -H 'Transfer-Encoding: chunked'
printf '\x05\0\0\0\0\0\0\0\x03;\n\0' | insert 'INSERT INTO t FORMAT RowBinary'
printf "6\tf\n" | gzip | insert 'INSERT INTO t FORMAT TSV' -H 'Content-Encoding: gzip'
printf '7\n' | insert "INSERT INTO t SELECT a, 'from input' FROM input('a UInt64') FORMAT TSV"
sql "INSERT INTO t SELECT 8, 'from select'"
same "inserts in all ways" "$(sql 'SELECT id, name FROM t ORDER BY id')" "$(printf "1\ta;\n2\tb\\\\'c\n3\tc\\\\n\\\\n;d\n4\td\n5\t;\\\\n\\\\0\n6\tf\n7\tfrom input\n8\tfrom select")"
sql "TRUNCATE TABLE t"

seq 1 100000 | sed 's/$/\trow/' >"$scratch/rows"
insert 'INSERT INTO t FORMAT TSV' <"$scratch/rows"
for format in RowBinary RowBinaryWithNamesAndTypes Native Parquet JSONCompactEachRow CSVWithNames Arrow; do
  curl -sS -o "$scratch/data" "$url/?database=$database" --data-binary "SELECT * FROM t ORDER BY id FORMAT $format"
  sql "CREATE OR REPLACE TABLE u AS t"
  insert "INSERT INTO u FORMAT $format" <"$scratch/data"
  same "100000 rows there and back as $format" "$(sql 'SELECT count(), sum(id), any(name) FROM u')" "$(printf '100000\t5000050000\trow')"
done
curl -sS -o "$scratch/data" "$url/?database=$database&compress=1" --data-binary "SELECT * FROM t FORMAT Native"
sql "CREATE OR REPLACE TABLE u AS t"
insert "INSERT INTO u FORMAT Native&decompress=1" <"$scratch/data"
same "compress=1 and decompress=1" "$(sql 'SELECT count() FROM u')" 100000
same "a compressed answer" "$(curl -sS --compressed "$url/?enable_http_compression=1&database=$database" --data-binary 'SELECT count() FROM u')" 100000
holds "and it is compressed" "$(curl -sS -D- -o /dev/null -H 'Accept-Encoding: gzip' "$url/?enable_http_compression=1" --data-binary 'SELECT 1' | tr '[:upper:]' '[:lower:]')" \
  "content-encoding: gzip"

same "parameters in the URL" "$(get 'query=SELECT {a:UInt8} + 1, {b:String}' param_a=4 'param_b=x\ty')" "$(printf '5\tx\\ty')"
same "parameters in a form" "$(curl -sS "$url/" -F 'query=SELECT {a:UInt8} + 1' -F param_a=4)" 5
same "a table in a form" "$(printf '1\tz\n2\ty\n' | curl -sS "$url/" -F 'query=SELECT max(b) FROM x' -F 'x_structure=a UInt8, b String' -F 'x=@-;filename=x')" z
same "a setting of one query" "$(get "query=SELECT getSetting('max_threads')" max_threads=3)" 3
same "is gone after it" "$(get "query=SELECT getSetting('max_threads') = 3")" 0
same "a database of one query" "$(get 'query=SELECT currentDatabase()')" "$database"

session="$url/?session_id=$database"
curl -sS "$session" --data-binary 'CREATE TEMPORARY TABLE mine (a UInt8)'
curl -sS "$session" --data-binary 'INSERT INTO mine VALUES (9)'
curl -sS "$session" --data-binary 'SET max_threads = 5'
same "a session's table" "$(curl -sS "$session" --data-binary 'SELECT a FROM mine')" 9
same "a setting over a session's" "$(curl -sS "$session&max_threads=2" --data-binary "SELECT getSetting('max_threads')")" 2
same "leaves the session's" "$(curl -sS "$session" --data-binary "SELECT getSetting('max_threads')")" 5
same "no such session" "$(status "$url/?session_id=$database-none&session_check=1" --data-binary 'SELECT 1')" 500
same "others do not see it" "$(status "$url/" --data-binary 'SELECT a FROM mine')" 404

holds "unknown table" "$(curl -sS -i "$url/" --data-binary 'SELECT * FROM nowhere')" "HTTP/1.1 404" "Code: 60. DB::Exception:" "(UNKNOWN_TABLE) (version "
same "unknown database" "$(status "$url/?database=nowhere" --data-binary 'SELECT 1')" 404
same "syntax" "$(status "$url/" --data-binary 'SELECT FROM FROM')" 400
same "unknown setting" "$(status "$url/?nonsense=1" --data-binary 'SELECT 1')" 404
same "unknown user" "$(status -H 'X-ClickHouse-User: nobody' -H 'X-ClickHouse-Key: x' "$url/" --data-binary 'SELECT 1')" 403
same "a time limit" "$(status "$url/?max_execution_time=1" --data-binary 'SELECT count() FROM system.numbers')" 408
holds "GET does not write" "$(get 'query=INSERT INTO t VALUES (1, 2)')" "Code: 164."
holds "one statement at a time" "$(sql 'SELECT 1; SELECT 2')" "Multi-statements are not allowed"
holds "a bad value" "$(printf 'x\ty\n' | insert 'INSERT INTO t FORMAT TSV')" "Code: 27."
holds "a broken body" "$(gzip <"$scratch/rows" | head -c 5000 | insert 'INSERT INTO t FORMAT TSV' -H 'Content-Encoding: gzip')" "Code: "
same "nothing of it is stored" "$(sql 'SELECT count() FROM t')" 100000

failing="SELECT throwIf(number = 4000000), repeat('x', 20) FROM numbers(5000000)"
code=0
curl -sS -o "$scratch/data" "$url/" --data-binary "$failing" 2>"$scratch/error" || code=$?
same "an error in the middle of a stream breaks the connection" "$code" 18
holds "and says why" "$(tail -c 1000 "$scratch/data" | tr -d '\0')" "__exception__" "Code: 395."
same "with wait_end_of_query it has its status" "$(status "$url/?wait_end_of_query=1" --data-binary "$failing")" 500

curl -sS -o "$scratch/long" "$url/" --data-binary 'SELECT sleepEachRow(1) FROM numbers(3) SETTINGS max_block_size = 1' &
sleep 0.3
took=$(curl -sS -o /dev/null -w '%{time_total}' "$url/" --data-binary 'SELECT 1')
took=$(curl -sS -o /dev/null -w "$took + %{time_total}" "$url/?database=$database" --data-binary "INSERT INTO t VALUES (1, 'beside')")
same "a query and an insert beside a long query" "$(awk "BEGIN { print ($took < 1.0) }") $(jobs -pr | wc -l)" "1 1"
wait
same "a million rows" "$(sql 'SELECT number, toString(number) FROM numbers(1000000)' | wc -l)" 1000000
curl -sS "$url/" --data-binary "DROP DATABASE $database"
