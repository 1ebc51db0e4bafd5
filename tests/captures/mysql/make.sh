#!/bin/bash
# Makes the captures of this folder: a real MariaDB server, real clients, one network namespace, tcpdump.
#   sudo ./make.sh [FILE...]   all, or only these; needs mariadb-server, mariadb-client, libmariadb3, tcpdump, openssl, iproute2, python3 with venv (PyPI)
# Each scenario is a function of clients.py or a run of the mariadb client; each file holds that scenario alone.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
wanted=" $* "
namespace=ptmy$$
work=$(mktemp -d)
server=
cleanup() {
    [ -n "$server" ] && kill "$server" 2>/dev/null && wait "$server" 2>/dev/null || true
    ip netns del "$namespace" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q PyMySQL==1.2.4 mysql-connector-python==26.10.0 2>/dev/null ||
    "$work/venv/bin/pip" install -q PyMySQL mysql-connector-python
ip netns add "$namespace"
inside() { ip netns exec "$namespace" "$@"; }
inside ip link set lo up
# Ordinary segments instead of 64 KiB ones, so that messages are spread over packets as between hosts.
inside ip link set lo mtu 1500

openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=db -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
chmod 777 "$work"; chmod 644 "$work"/*.pem
mariadb-install-db --no-defaults --auth-root-authentication-method=normal --datadir="$work/data" --user=root >/dev/null
ip netns exec "$namespace" mariadbd --no-defaults --user=root --datadir="$work/data" --socket="$work/socket" --bind-address=127.0.0.1 --port=3306 \
    --skip-name-resolve --local-infile=1 --max-connections=20 --ssl-key="$work/key.pem" --ssl-cert="$work/cert.pem" \
    2>"$work/server.log" &
server=$!
for _ in $(seq 100); do mariadb --no-defaults -S "$work/socket" -uroot -e 'SELECT 1' >/dev/null 2>&1 && break; sleep 0.2; done
mariadb --no-defaults -S "$work/socket" -uroot < "$here/schema.sql"
printf '1001,infile\n1002,infile\n1003,infile\n' > "$work/rows.csv"

# capture FILE COMMAND...: everything on port 3306 while the command runs.
capture() {
    local file=$1; shift
    [[ $wanted = "  " || $wanted = *" $file "* ]] || return 0
    ip netns exec "$namespace" tcpdump -i lo -B 65536 -s 0 -U -w "$work/$file" 'tcp port 3306' 2>"$work/tcpdump.log" &
    local dump=$!
    for _ in $(seq 50); do grep -q 'listening on' "$work/tcpdump.log" && break; sleep 0.1; done
    (cd "$work" && inside "$@" >"$work/client.log" 2>&1) || echo "$file: the client ended with $?: $(tail -1 "$work/client.log")"
    sleep 1.5
    kill "$dump"; wait "$dump" || true
    grep -q '^0 packets dropped by kernel' "$work/tcpdump.log" || { echo "$file: packets were dropped, or tcpdump failed:"; cat "$work/tcpdump.log"; exit 1; }
    cp "$work/$file" "$here/$file"
}
cli() { capture "$1" mariadb --no-defaults -h127.0.0.1 -upt -psecret --skip-ssl --local-infile=1 "${@:2}"; }
python() { capture "$1" "$work/venv/bin/python" "$here/clients.py" "${@:2}"; }

# mariadb client: CLIENT_DEPRECATE_EOF and MariaDB's cached metadata.
cli client.pcap -f -v shop < "$here/client.sql"
cli compressed.pcap --compress shop -e 'SELECT * FROM items ORDER BY id'
# The first scenario once more, packed with zlib; short messages stay as they are.
cli compressed-client.pcap --compress -f -v shop < "$here/client.sql"
capture tls.pcap mariadb --no-defaults -h127.0.0.1 -upt -psecret --ssl shop -e 'SELECT 1'
capture refused.pcap mariadb --no-defaults -h127.0.0.1 -upt -pwrong --skip-ssl shop -e 'SELECT 1'
# PyMySQL: classic EOF, text protocol.
python pymysql.pcap pymysql
python infile.pcap infile
python error-in-rows.pcap error_in_rows
python latin1.pcap latin1
# The second byte of a letter may be a backslash or a quote.
python gbk.pcap multibyte gbk
python sjis.pcap multibyte sjis
# Every answer repeats who asked, in rows, affected rows or message.
python identity.pcap identity
python identity-prepared.pcap identity_prepared
python full.pcap too_many_connections
# Connector/Python: prepared statements, classic EOF.
python prepared.pcap prepared
# libmariadb: prepared statements with CLIENT_DEPRECATE_EOF, PREPARE and EXECUTE sent together; a cursor.
python direct.pcap direct
python cursor.pcap cursor
# libmariadb: many rows of parameters in one command, of integers, texts, and texts that are NULL.
python bulk.pcap bulk
ls -l "$here"/*.pcap
