# By the one variable of `laneway env --fronts`, without any proxy.
"$PYTHON" -m venv --without-pip venv
pip="$PYTHON -m pip --disable-pip-version-check --no-input --quiet --no-cache-dir --python venv/bin/python"
eval "$("$LANEWAY" env --fronts)"
$pip install --no-deps trial-package
venv/bin/python -c 'import trial_package; assert trial_package.SAYS == "trial package"'
$pip download --no-deps --dest . trial-package
curl -sS http://127.0.0.1:1080/metrics | grep -q 'laneway_front_files_total{result="verified",registry="pypi"} 2'
