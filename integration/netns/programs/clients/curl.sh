# By the variables that 'laneway env' prints, and by each of curl's own options.
eval "$("$LANEWAY" env)"
curl --silent --show-error --fail --output big "http://$SITE/big"
curl --silent --show-error --fail "http://$SITE/big.sha256" | sha256sum --check --quiet
curl --silent --show-error --fail --cacert "$CA" "https://$SITE/hello" | grep -q "hello from $SITE"
eval "$("$LANEWAY" env --unset)"
curl --silent --show-error --fail --proxy http://127.0.0.1:1080 "http://$SITE/hello" | grep -q hello
curl --silent --show-error --fail --socks5-hostname 127.0.0.1:1080 "http://$SITE/hello" | grep -q hello
