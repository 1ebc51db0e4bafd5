#!/bin/bash
# Makes the HTTP and TLS captures of this folder: a real nginx, a small python server behind it, curl, one network namespace.
#   sudo ./make.sh [NAME...]        all, or only these (http1/chunked ...); needs nginx, curl, openssl, python3, tcpdump, iproute2
# The MySQL captures have their own recipe in mysql/make.sh. Expected records beside each capture: see sidecar/tests/captures.rs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
wanted=" $* "
namespace=ptcore$$
work=$(mktemp -d)
chmod 755 "$work"
cleanup() {
    for pid in $(jobs -p); do kill "$pid" 2>/dev/null || true; done
    ip netns del "$namespace" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

ip netns add "$namespace"
inside() { ip netns exec "$namespace" "$@"; }
inside ip link set lo up
# Ordinary segments instead of 64 KiB ones, so that bodies are spread over packets as between hosts.
inside ip link set lo mtu 1500

openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=shop.example -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
mkdir "$work/www"
head -c 20000 /dev/zero | tr '\0' x >"$work/www/large.txt"
seq 1 400 >"$work/www/page.html"
cat >"$work/nginx.conf" <<CONF
worker_processes 1;
daemon off;
pid $work/pid;
error_log $work/error.log;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path $work/body; proxy_temp_path $work/proxy; fastcgi_temp_path $work/fastcgi; uwsgi_temp_path $work/uwsgi; scgi_temp_path $work/scgi;
    server {
        listen 127.0.0.1:80; listen [::1]:80;
        listen 127.0.0.1:443 ssl http2;
        ssl_certificate $work/cert.pem; ssl_certificate_key $work/key.pem; ssl_protocols TLSv1.2 TLSv1.3;
        root $work/www;
        location /api/ { default_type application/json; return 200 '{"ok":true}\n'; }
        location /fail { return 503 'not now\n'; }
        location /gz/ { alias $work/www/; gzip on; gzip_min_length 1; }
        location /upload { client_max_body_size 1m; proxy_pass http://127.0.0.1:8000; proxy_http_version 1.1; proxy_request_buffering off; }
    }
}
CONF
cat >"$work/behind.py" <<'PY'
# Answers after 100 Continue and 50 ms, in chunks with a trailer; /close without a length.
import socket, threading, time
def serve(connection):
    with connection, connection.makefile("rb") as lines:
        while line := lines.readline():
            head = {}
            while (field := lines.readline()) not in (b"\r\n", b""):
                name, _, value = field.partition(b":")
                head[name.strip().lower()] = value.strip()
            if head.get(b"expect") == b"100-continue":
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            lines.read(int(head.get(b"content-length", 0)))
            if head.get(b"transfer-encoding") == b"chunked":
                while size := int(lines.readline().split(b";")[0], 16):
                    lines.read(size + 2)
                lines.readline()
            target = line.split()[1].decode()
            if target.startswith("/echo/"):
                # The answer repeats who asked: N as content type, N * 37 bytes of body; every third in chunks, every fifth a 404.
                number = int(target[6:])
                body = b"e" * (number * 37)
                status = "404 Not Found" if number % 5 == 4 else "200 OK"
                answer = b"HTTP/1.1 %s\r\nContent-Type: text/n-%d\r\n" % (status.encode(), number)
                if number % 3 == 0:
                    parts = [body[at : at + 500] for at in range(0, len(body), 500)]
                    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
                    connection.sendall(answer + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
                else:
                    connection.sendall(answer + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                continue
            time.sleep(0.05)
            if line.split()[1] == b"/close":
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil ")
                time.sleep(0.02)
                connection.sendall(b"the end\n")
                return
            if line.split()[1] == b"/ws":
                connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x02hi")
                return
            connection.sendall(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n6\r\nhello,\r\n")
            time.sleep(0.02)
            connection.sendall(b"7;a=b\r\n world!\r\n0\r\nX-Sum: 13\r\n\r\n")
listener = socket.create_server(("127.0.0.1", 8000))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
PY
cat >"$work/pipeline.py" <<'PY'
# Sends eight requests at once, three times, and reads all answers before the next eight.
import socket
connection = socket.create_connection(("127.0.0.1", 80))
for batch in range(3):
    connection.sendall(b"".join(b"GET /api/items/%d HTTP/1.1\r\nHost: shop\r\n\r\n" % (batch * 8 + n) for n in range(8)))
    for _ in range(8):
        answer = b""
        while not answer.endswith(b"{\"ok\":true}\n"):
            answer += connection.recv(1)
PY
cat >"$work/echo.py" <<'PY'
# Asks /echo/N, every other time with a body of N bytes, so many requests at once; reads all their answers before the next ones.
import socket, sys
at_once, total = int(sys.argv[1]), int(sys.argv[2])
connection = socket.create_connection(("127.0.0.1", 8000))
lines = connection.makefile("rb")
def request(number):
    if number % 2 == 0:
        return b"GET /echo/%d HTTP/1.1\r\nHost: echo\r\n\r\n" % number
    return b"POST /echo/%d HTTP/1.1\r\nHost: echo\r\nContent-Length: %d\r\n\r\n" % (number, number) + b"q" * number
for first in range(0, total, at_once):
    batch = range(first, min(first + at_once, total))
    connection.sendall(b"".join(request(number) for number in batch))
    for number in batch:
        head = {}
        while (field := lines.readline()) != b"\r\n":
            name, _, value = field.partition(b":")
            head[name.lower()] = value.strip()
        assert head[b"content-type"] == b"text/n-%d" % number
        lines.read(int(head.get(b"content-length", 0)))
        if b"transfer-encoding" in head:
            while size := int(lines.readline(), 16):
                lines.read(size + 2)
            lines.readline()
PY
# Not through the function: its subshell, not the server, would get the signal.
ip netns exec "$namespace" nginx -c "$work/nginx.conf" &
ip netns exec "$namespace" python3 "$work/behind.py" &
for _ in $(seq 50); do inside curl -so /dev/null http://127.0.0.1/api/ && inside curl -so /dev/null http://127.0.0.1:8000/ready && break; sleep 0.1; done

# record NAME COMMAND...: captures what the command causes, to its last packet.
record() {
    local name=$1 packets
    shift
    [[ $wanted = "  " || $wanted = *" $name "* ]] || return 0
    ip netns exec "$namespace" tcpdump -i lo -B 32768 -s0 --immediate-mode -U -w "$work/capture" tcp 2>"$work/tcpdump.log" &
    local tcpdump=$!
    until grep -qs 'listening on' "$work/tcpdump.log"; do sleep 0.05; done
    "$@" >/dev/null 2>&1 || true
    packets=-1
    until [ "$packets" = "$(stat -c %s "$work/capture")" ]; do packets=$(stat -c %s "$work/capture"); sleep 0.5; done
    kill "$tcpdump"
    wait "$tcpdump" || true
    grep -q '^0 packets dropped by kernel' "$work/tcpdump.log" || { cat "$work/tcpdump.log" >&2; exit 1; }
    mkdir -p "$(dirname "$here/$name")"
    cp "$work/capture" "$here/$name.pcap"
}
web=http://127.0.0.1
trace='traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
record http1/keep-alive inside curl -s -H "$trace" -H 'X-Request-Id: r-1' -H 'X-Forwarded-For: 203.0.113.9, 10.0.0.1' -A shop/1.0 \
    "$web/api/items/4711?token=secret" "$web/api/items/4712" "$web/missing/550e8400-e29b-41d4-a716-446655440000" "$web/fail" "$web/large.txt"
record http1/head-and-not-modified inside sh -c "curl -sI $web/large.txt; curl -s -z 'Fri, 01 Jan 2100 00:00:00 GMT' $web/large.txt; curl -s -g 'http://[::1]/api/v6'"
record http1/chunked inside sh -c "curl -s --compressed $web/gz/page.html; head -c 3000 /dev/zero | curl -s -H 'Transfer-Encoding: chunked' -H 'Content-Type: application/octet-stream' --data-binary @- http://127.0.0.1:8000/upload"
record http1/continue inside sh -c "head -c 20000 /dev/zero | curl -s -H 'Expect: 100-continue' -H 'Content-Type: application/x-tar' --data-binary @- http://127.0.0.1:8000/upload"
record http1/proxied inside curl -s -d 'name=secret' "$web/upload"
record http1/until-close inside curl -s http://127.0.0.1:8000/close
record http1/upgrade inside curl -s -m 1 -H 'Connection: Upgrade' -H 'Upgrade: websocket' http://127.0.0.1:8000/ws
record http1/pipelined inside python3 "$work/pipeline.py"
record http1/echo inside python3 "$work/echo.py" 1 40
record http1/echo-pipelined inside python3 "$work/echo.py" 6 40
record tls/tls13 inside curl -sk --resolve shop.example:443:127.0.0.1 https://shop.example/api/
record tls/tls12 inside curl -sk --tls-max 1.2 --http1.1 --resolve shop.example:443:127.0.0.1 https://shop.example/api/
