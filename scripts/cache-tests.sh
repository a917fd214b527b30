#!/usr/bin/env bash
# Runs the public tests for HTTP caches (the repository http-tests/cache-tests) against a gateway and a client on loopback.
#
#   scripts/cache-tests.sh DIRECTORY [TEST]   DIRECTORY is a copy of that repository; TEST is the id of one test, shown in full
#
# Needs node, and the modules of the copy ('npm install undici' there). The program is taken from target/debug, or LANEWAY.
set -euo pipefail
corpus=$(cd "$1" && pwd)
only=${2:-}
cd "$(dirname "$0")/.."
laneway=${LANEWAY:-target/debug/laneway}
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
origin=$(free_port) front=$(free_port) proxy=$(free_port) discovery=$(free_port)
: > "$work/empty.toml"
export LANEWAY_CONFIG=$work/empty.toml LANEWAY_PROBE=none
run() { LANEWAY_STATE=$work/$1 "$laneway" "${@:2}"; }

code=$(run gateway init --name gateway --group cache | grep -o 'lw1\.[^ ]*' | head -1)
LANEWAY_STATE=$work/gateway "$laneway" up --role gateway --lan 127.0.0.2 --discovery-port "$discovery" --link 127.0.0.2:0 --proxy 127.0.0.2:0 \
    --allow "127.0.0.0/8" 2> "$work/gateway.log" &
pids+=($!)
for _ in $(seq 100); do grep -q "ready" "$work/gateway.log" && break; sleep 0.1; done
run client join "$code" --name client --lan 127.0.0.4 --discovery-port "$discovery" > "$work/join.log" 2>&1
LANEWAY_STATE=$work/client "$laneway" up --role client --lan 127.0.0.4 --discovery-port "$discovery" --proxy "127.0.0.1:$proxy" 2> "$work/client.log" &
pids+=($!)

# The client of the tests speaks with a server and not with a proxy: this puts the one in front of the other.
cat > "$work/front.mjs" <<'JS'
import http from 'http'
const [front, proxy, origin] = process.argv.slice(2)
const agent = new http.Agent({ keepAlive: true })
http.createServer((request, response) => {
  const headers = request.rawHeaders.slice()
  for (let at = 0; at < headers.length; at += 2) {
    if (headers[at].toLowerCase() === 'host') headers[at + 1] = `127.0.0.1:${origin}`
  }
  const path = `http://127.0.0.1:${origin}${request.url}`
  const onward = http.request({ host: '127.0.0.1', port: proxy, method: request.method, path, headers, agent })
  onward.on('information', info => {
    const lines = []
    for (let at = 0; at < info.rawHeaders.length; at += 2) lines.push(`${info.rawHeaders[at]}: ${info.rawHeaders[at + 1]}\r\n`)
    response.socket.write(`HTTP/1.1 ${info.statusCode} ${info.statusMessage}\r\n${lines.join('')}\r\n`)
  })
  onward.on('response', answer => {
    response.sendDate = false
    response.writeHead(answer.statusCode, answer.statusMessage, answer.rawHeaders)
    answer.pipe(response)
    answer.on('error', () => response.destroy())
    answer.on('aborted', () => response.destroy())
  })
  onward.on('error', () => response.destroy())
  request.pipe(onward)
}).listen(Number(front), '127.0.0.1')
JS
node "$work/front.mjs" "$front" "$proxy" "$origin" &
pids+=($!)
pushd "$corpus" > /dev/null
npm_config_protocol=http npm_config_port=$origin npm_config_pidfile=$work/pid \
    node test-engine/server/server.mjs > "$work/origin.log" 2>&1 &
pids+=($!)
popd > /dev/null
for _ in $(seq 200); do curl -s -m 5 -o /dev/null -f "http://127.0.0.1:$front/" -H "Cache-Control: no-store" && break; sleep 0.1; done

cd "$corpus"
export npm_config_base=http://127.0.0.1:$front npm_config_id=$only npm_package_config_id=$only
if [ -n "$only" ]; then
    exec 3>&1
    node --no-warnings test-engine/cli.mjs >&3
    exit
fi
node --no-warnings test-engine/cli.mjs > "$work/results.json"
cat > "$work/count.mjs" <<JS
import fs from 'fs'
const { default: tests } = await import('$corpus/tests/index.mjs')
const results = JSON.parse(fs.readFileSync('$work/results.json'))
const counts = {}
const failed = []
for (const suite of tests) {
  for (const test of suite.tests) {
    if (test.browser_only) continue
    const kind = test.kind ?? 'required'
    counts[kind] ??= { passed: 0, of: 0 }
    counts[kind].of++
    if (results[test.id] === true) counts[kind].passed++
    else if (kind !== 'check') failed.push(kind + ' ' + test.id + ': ' + JSON.stringify(results[test.id]))
  }
}
console.log(failed.join('\n'))
for (const [kind, { passed, of }] of Object.entries(counts)) console.log(kind + ': ' + passed + ' of ' + of)
JS
node "$work/count.mjs"
