#!/usr/bin/env bash
# Real programs through a named tunnel that another node holds: three nodes on loopback, the services at the third, the
# visitors at the first. No byte may be lost, and every program has to end as it does without a tunnel.
#
#   bash tests/programs.sh [quick|all] [PATH OF snomesh]
#
# `quick` (Redis, ssh, scp, half a minute) runs in CI, `all` adds PostgreSQL with pgbench, nginx with 1,000 connections that
# are kept alive, a WebSocket, and 5,000 streams at a time. Installs the programs from the distribution's packages where
# they are missing; needs root for that, and skips with a message where it may not. Everything listens on loopback and ends
# with the script.
set -euo pipefail
cd "$(dirname "$0")/.."
scope=${1:-quick}
snomesh=$(realpath "${2:-${CARGO_TARGET_DIR:-target}/debug/snomesh}")
[ -x "$snomesh" ] || { echo "there is no $snomesh: cargo build first"; exit 2; }
[ "$(id -u)" = 0 ] || { echo 'SKIPPED: needs root to install and to run the programs'; exit 0; }

packages=(redis-server redis-tools openssh-server openssh-client python3)
[ "$scope" = quick ] || packages+=(postgresql postgresql-contrib nginx-light apache2-utils python3-websockets)
missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    # The distribution must not start services of its own on the usual ports.
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
    apt-get -o DPkg::Lock::Timeout=300 update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -qqy --no-install-recommends \
            "${missing[@]}" >/dev/null || { echo "SKIPPED: cannot install ${missing[*]}"; exit 0; }
fi

work=$(mktemp -d)
chmod 755 "$work"
pids=()
finish() {
    local code=$?
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    [ "$code" = 0 ] || for log in "$work"/*.log; do printf '\n== %s\n' "$log"; tail -n 20 "$log"; done
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT
background() { "$@" >>"$work/$name.log" 2>&1 & pids+=($!); }

# A port that nothing listens on.
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
until_true() {
    local what=$1 tries=600
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { echo "not in time: $what"; exit 1; }
        sleep 0.1
    done
}
listens() { python3 -c "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 1)" "$1"; }
passed() { printf '✓ %-14s %s\n' "$1" "$2"; }

node() {
    local name=$1
    shift
    background "$snomesh" up --name "$name" --listen 127.0.0.1:0 --data-dir "$work/$name" --quiet "$@"
    until_true "node $name" "$snomesh" --data-dir "$work/$name" status
}
at() { local name=$1; shift; "$snomesh" --data-dir "$work/$name" "$@"; }
listen() { at "$1" status -o json | python3 -c 'import json, sys; print(json.load(sys.stdin)["listen"])'; }
linked() { at "$1" status -o json | python3 -c 'import json, sys; sys.exit(json.load(sys.stdin)["nodes"]["linked"] != 2)'; }

ulimit -n "$(ulimit -Hn)"
node a
ca=(--ca "$work/a/ca.crt" --ca-key "$work/a/ca.key" --join "$(listen a)")
node b "${ca[@]}"
node c "${ca[@]}"
for name in a b c; do until_true "links of $name" linked $name; done

# Offers a service at node c and binds it at node a; the bound port is in `door`.
offer() {
    at c expose "$1" "$2" --quiet
    until_true "$1 at node a" at a resolve "$1"
    door=$(at a bind 0 "$1" -o name | sed 's/.*://')
}

redis() {
    local name=redis port
    port=$(port)
    background redis-server --port "$port" --bind 127.0.0.1 --save '' --dir "$work"
    until_true redis listens "$port"
    offer redis "$port"
    redis-benchmark -p "$door" -t set,get,lpush -n 20000 -c 50 -r 100000 -q >"$work/redis-benchmark.out"
    redis-cli -p "$door" ping | grep -qx PONG
    head -c 400000 /dev/urandom | base64 -w0 >"$work/value"
    redis-cli -p "$door" -x set large <"$work/value" >/dev/null
    redis-cli -p "$door" --raw get large | head -c -1 | cmp - "$work/value"
    passed Redis "$(tr '\r' '\n' <"$work/redis-benchmark.out" | grep -E '^(SET|GET).*p50' | tr '\n' ' ')"
}

ssh_and_scp() {
    local name=sshd port proxy
    port=$(port)
    mkdir -p /run/sshd "$work/ssh"
    ssh-keygen -qt ed25519 -N '' -f "$work/ssh/host"
    ssh-keygen -qt ed25519 -N '' -f "$work/ssh/user"
    cp "$work/ssh/user.pub" "$work/ssh/authorized"
    background /usr/sbin/sshd -D -e -f /dev/null -h "$work/ssh/host" -p "$port" -o ListenAddress=127.0.0.1 \
        -o AuthorizedKeysFile="$work/ssh/authorized" -o StrictModes=no -o PermitRootLogin=yes -o UsePAM=no \
        -o PidFile=none -o Subsystem='sftp internal-sftp'
    until_true sshd listens "$port"
    offer ssh "$port"
    proxy=(-q -o ProxyCommand="$snomesh --data-dir $work/a connect ssh@c" -i "$work/ssh/user" -o IdentitiesOnly=yes
        -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null)
    [ "$(ssh "${proxy[@]}" root@any echo hello)" = hello ]
    local code=0
    ssh "${proxy[@]}" root@any exit 7 || code=$?
    [ $code = 7 ]
    head -c 50000000 /dev/urandom >"$work/original"
    scp "${proxy[@]}" "$work/original" root@any:"$work/there"
    scp "${proxy[@]}" root@any:"$work/there" "$work/back"
    cmp "$work/original" "$work/back"
    ssh "${proxy[@]}" root@any cat <"$work/original" | cmp - "$work/original"
    code=0
    ssh -o ProxyCommand="$snomesh --data-dir $work/a connect nobody" root@any true 2>/dev/null || code=$?
    [ $code = 255 ]
    passed 'ssh and scp' '50 MB there and back, exit codes'
}

postgres() {
    local name=postgres port bin pg
    port=$(port)
    bin=$(dirname "$(ls /usr/lib/postgresql/*/bin/initdb | tail -n 1)")
    mkdir "$work/pg" && chown postgres "$work/pg"
    (cd / && runuser -u postgres -- "$bin/initdb" -D "$work/pg" -A trust >"$work/initdb.log")
    (cd / && background runuser -u postgres -- "$bin/postgres" -D "$work/pg" -p "$port" -c listen_addresses=127.0.0.1 \
        -c unix_socket_directories= -c fsync=off -c max_connections=100; echo "${pids[-1]}" >"$work/pg.pid")
    pids+=("$(cat "$work/pg.pid")")
    pg=(-h 127.0.0.1 -U postgres)
    until_true postgres psql "${pg[@]}" -p "$port" -c 'select 1'
    offer pg "$port"
    pg+=(-p "$door")
    pgbench "${pg[@]}" -i -q -s 2 postgres >/dev/null 2>&1
    pgbench "${pg[@]}" -c 32 -j 2 -T 10 postgres >"$work/pgbench.out" 2>&1
    # What was paid is what there is.
    psql "${pg[@]}" -Atc 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
        and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)' postgres | grep -qx t
    passed PostgreSQL "$(grep -E '^(tps|number of failed)' "$work/pgbench.out" | tr '\n' ' ')"
}

nginx_keep_alive() {
    local name=nginx port failed
    port=$(port)
    mkdir -p "$work/www" && head -c 1000 /dev/zero | tr '\0' x >"$work/www/index.html"
    cat >"$work/nginx.conf" <<CONF
worker_processes 1; daemon off; pid $work/nginx.pid; error_log $work/nginx-error.log; worker_rlimit_nofile 8192;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000; keepalive_timeout 300s; client_body_temp_path $work/t1;
  proxy_temp_path $work/t2; fastcgi_temp_path $work/t3; uwsgi_temp_path $work/t4; scgi_temp_path $work/t5;
  server { listen 127.0.0.1:$port backlog=4096; root $work/www; } }
CONF
    background nginx -c "$work/nginx.conf"
    until_true nginx listens "$port"
    offer web "$port"
    ab -k -q -c 1000 -n 50000 -s 60 "http://127.0.0.1:$door/" >"$work/ab.out" 2>&1
    failed=$(awk '/^Failed requests/ { print $3 }' "$work/ab.out")
    [ "$failed" = 0 ]
    grep -qE '^Complete requests: +50000$' "$work/ab.out"
    [ "$(awk '/^HTML transferred/ { print $3 }' "$work/ab.out")" = 50000000 ]
    passed nginx "1,000 connections kept alive, $(awk '/^Requests per second/ { print $4 }' "$work/ab.out") requests/s, 0 failed"
}

websocket() {
    local name=websocket port
    port=$(port)
    cat >"$work/ws.py" <<'PY'
import asyncio, os, sys, websockets
async def echo(socket, *_):
    async for message in socket:
        await socket.send(message)
async def serve(port):
    async with websockets.serve(echo, "127.0.0.1", port, max_size=None):
        await asyncio.Future()
async def visit(port):
    async with websockets.connect(f"ws://127.0.0.1:{port}", max_size=None) as socket:
        for size in [0, 1, 125, 126, 65535, 65536, 1 << 20, 5 << 20] + [100] * 1000:
            message = os.urandom(size)
            await socket.send(message)
            assert await socket.recv() == message
asyncio.run({"serve": serve, "visit": visit}[sys.argv[1]](int(sys.argv[2])))
PY
    # The distribution's, which has the distribution's modules.
    background /usr/bin/python3 "$work/ws.py" serve "$port"
    until_true websocket listens "$port"
    offer ws "$port"
    /usr/bin/python3 "$work/ws.py" visit "$door"
    passed WebSocket '1,008 messages of up to 5 MiB, each echoed'
}

resident() { awk '/^VmRSS/ { print $2 }' "/proc/$1/status"; }
many_streams() {
    local name=echo port count=${STREAMS:-5000} before_a before_c
    port=$(port)
    cat >"$work/echo.py" <<'PY'
import asyncio, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
async def echo(reader, writer):
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()
async def serve(port):
    async with await asyncio.start_server(echo, "127.0.0.1", port, backlog=4096):
        await asyncio.Future()
async def visit(port, count, ready, go):
    places = asyncio.Semaphore(64)
    async def connect(number):
        async with places:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"%08d" % number)
            assert await reader.readexactly(8) == b"%08d" % number
            return number, reader, writer
    streams = await asyncio.gather(*[connect(number) for number in range(count)])
    open(ready, "w").close()
    while not __import__("os").path.exists(go):
        await asyncio.sleep(0.1)
    async def finish(number, reader, writer):
        message = b"%08d" % (number * 7) * 100
        writer.write(message)
        writer.write_eof()
        assert await reader.read(-1) == message
        writer.close()
    await asyncio.gather(*[finish(*stream) for stream in streams])
if sys.argv[1] == "serve":
    asyncio.run(serve(int(sys.argv[2])))
else:
    asyncio.run(visit(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]))
PY
    background python3 "$work/echo.py" serve "$port"
    until_true echo listens "$port"
    offer echo "$port"
    before_a=$(resident "${pids[0]}") before_c=$(resident "${pids[2]}")
    name=visitors
    background python3 "$work/echo.py" visit "$door" "$count" "$work/ready" "$work/go"
    local visitors=${pids[-1]}
    until_true "$count streams" test -e "$work/ready"
    sleep 3
    local a=$((($(resident "${pids[0]}") - before_a) * 1024 / count)) c=$((($(resident "${pids[2]}") - before_c) * 1024 / count))
    touch "$work/go"
    wait "$visitors"
    passed "$count streams" "at a time; idle each costs $a B at the visitor's node, $c B at the holder's (resident)"
}

redis
ssh_and_scp
if [ "$scope" != quick ]; then
    postgres
    nginx_keep_alive
    websocket
    many_streams
fi
