# By the one variable of `laneway env --fronts`, without any proxy.
eval "$("$LANEWAY" env --fronts)"
export UV_CACHE_DIR="$PWD/cache" UV_PYTHON_DOWNLOADS=never UV_NO_CONFIG=1
uv --quiet venv --python "$PYTHON" venv
uv --quiet pip install --python venv/bin/python --no-deps trial-package
venv/bin/python -c 'import trial_package; assert trial_package.SAYS == "trial package"'
curl -sS http://127.0.0.1:1080/metrics | grep -q 'laneway_front_files_total{result="verified",registry="pypi"}'
