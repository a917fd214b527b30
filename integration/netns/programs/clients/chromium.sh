# A page with a script, by --proxy-server and by /proxy.pac.
for proxy in --proxy-server=http://127.0.0.1:1080 --proxy-server=socks5://127.0.0.1:1080 --proxy-pac-url=http://127.0.0.1:1080/proxy.pac; do
    rm -rf profile
    chromium --headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run --disable-background-networking \
        --disable-component-update --disable-sync --user-data-dir="$PWD/profile" --timeout=100000 \
        "$proxy" --dump-dom "http://$SITE/page.html" >page 2>log || { tail -n 20 log >&2; exit 1; }
    grep -q "told by $SITE" page || { echo "$proxy:" >&2; cat page >&2; tail -n 20 log >&2; exit 1; }
done
