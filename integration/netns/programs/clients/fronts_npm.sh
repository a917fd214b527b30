# By the one variable of `laneway env --fronts`, without any proxy; then from the lock file alone.
echo '{"name": "app", "version": "1.0.0"}' >package.json
eval "$("$LANEWAY" env --fronts)"
npm install --no-audit --no-fund --no-update-notifier --loglevel=error --cache "$PWD/cache" --fetch-retries 0 trial-package
node -e 'require("assert").equal(require("trial-package"), "trial package")'
rm -rf node_modules cache
npm ci --no-audit --no-fund --no-update-notifier --loglevel=error --cache "$PWD/cache" --fetch-retries 0
node -e 'require("assert").equal(require("trial-package"), "trial package")'
curl -sS http://127.0.0.1:1080/metrics | grep -q 'laneway_front_files_total{result="verified",registry="npm"} 2'
