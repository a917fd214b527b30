# In four parts at a time, each a connection of its own.
eval "$("$LANEWAY" env)"
aria2c --quiet --no-conf --split=4 --min-split-size=1M --max-connection-per-server=4 "http://$SITE/big"
aria2c --quiet --no-conf "http://$SITE/big.sha256"
sha256sum --check --quiet big.sha256
aria2c --quiet --no-conf --ca-certificate="$CA" "https://$SITE/hello"
grep -q "hello from $SITE" hello
