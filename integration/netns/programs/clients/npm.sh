# By the variables, then by npm's own settings.
echo '{"name": "app", "version": "1.0.0"}' >package.json
install() { npm install --no-audit --no-fund --no-update-notifier --loglevel=error --cache "$PWD/cache" --cafile "$CA" --registry "https://$SITE/npm/" --fetch-retries 0 "$@" trial-package; }
eval "$("$LANEWAY" env)"
install
node -e 'require("assert").equal(require("trial-package"), "trial package")'
eval "$("$LANEWAY" env --unset)"
rm -rf node_modules package-lock.json cache
install --https-proxy http://127.0.0.1:1080 --proxy http://127.0.0.1:1080
node -e 'require("assert").equal(require("trial-package"), "trial package")'
