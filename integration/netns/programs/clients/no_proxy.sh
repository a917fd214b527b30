# Which entries of no_proxy each client takes to mean the server: on a machine that reaches it directly, with a proxy that refuses
# everything. Prints a table: `direct` for an entry that has an effect, `-` for one that has none. $SITE is a name under
# .lab; 10.88.0.100 is its address.
for name in http_proxy https_proxy HTTP_PROXY HTTPS_PROXY; do export "$name=http://127.0.0.1:9"; done
export NODE_PATH="$MODULES" GIT_TERMINAL_PROMPT=0 GIT_CONFIG_NOSYSTEM=1
cat >fetch.js <<'JS'
const undici = require('undici');
undici.setGlobalDispatcher(new undici.EnvHttpProxyAgent());
undici.fetch(process.argv[2]).then((answer) => answer.text(), () => process.exit(1));
JS

# $1 is the client, $2 the address of a file. What was fetched before is no answer: npm falls back on what it keeps.
asks() {
    rm -rf fetched* cache
    case $1 in
    curl) curl --silent --fail --max-time 60 --output /dev/null "$2" ;;
    wget) wget --quiet --tries=1 --timeout=60 --output-document=/dev/null "$2" ;;
    aria2c) aria2c --quiet --no-conf --max-tries=1 --connect-timeout=60 --out=fetched "$2" ;;
    git) git ls-remote --quiet "${2%/hello}/git/trial.git" >/dev/null ;;
    requests | httpx | urllib) "$PYTHON" - "$1" "$2" <<'PYTHON' ;;
import sys, urllib.request
import httpx, requests
get = {"requests": lambda url: requests.get(url, timeout=60), "httpx": lambda url: httpx.get(url, timeout=60),
       "urllib": lambda url: urllib.request.urlopen(url, timeout=60).read()}
try:
    get[sys.argv[1]](sys.argv[2])
except Exception:
    sys.exit(1)
PYTHON
    apt) /usr/lib/apt/apt-helper -o Acquire::Retries=0 -o Acquire::http::Timeout=60 download-file "$2" fetched >/dev/null ;;
    npm) npm view --loglevel=silent --registry "${2%/hello}/npm/" --cache "$PWD/cache" --fetch-retries 0 trial-package version >/dev/null ;;
    undici) node fetch.js "$2" ;;
    esac
}

effect() { if asks "$1" "$2" 2>/dev/null; then printf ' direct |'; else printf ' - |'; fi; }

echo "| client | $SITE | .lab | lab | *.lab | PACKAGES.LAB | $SITE:80 | 10.88.0.100 | 10.88.0.0/24 | * |"
echo "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
for client in curl wget aria2c apt npm git requests httpx urllib undici; do
    export no_proxy=other.example NO_PROXY=other.example
    if asks "$client" "http://$SITE/hello" 2>/dev/null; then echo "$client does not use the proxy at all" >&2; exit 1; fi
    printf '| %s |' "$client"
    for entry in "$SITE" .lab lab '*.lab' PACKAGES.LAB "$SITE:80"; do
        export no_proxy="$entry" NO_PROXY="$entry"
        effect "$client" "http://$SITE/hello"
    done
    for entry in 10.88.0.100 10.88.0.0/24 '*'; do
        export no_proxy="$entry" NO_PROXY="$entry"
        effect "$client" http://10.88.0.100/hello
    done
    echo
done
