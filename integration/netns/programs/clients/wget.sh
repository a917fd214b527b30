eval "$("$LANEWAY" env)"
wget --quiet --tries=1 "http://$SITE/big" "http://$SITE/big.sha256"
sha256sum --check --quiet big.sha256
wget --quiet --tries=1 --ca-certificate="$CA" --output-document=- "https://$SITE/hello" | grep -q "hello from $SITE"
# A download that was broken off goes on where it was.
truncate --size=1000000 big
wget --quiet --tries=1 --continue "http://$SITE/big"
sha256sum --check --quiet big.sha256
