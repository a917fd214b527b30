# By the variables over HTTPS, and by pip's own option over HTTP.
"$PYTHON" -m venv --without-pip venv
pip="$PYTHON -m pip --isolated --disable-pip-version-check --no-input --quiet --python venv/bin/python"
eval "$("$LANEWAY" env)"
$pip --cert "$CA" download --no-deps --index-url "https://$SITE/simple/" --dest . trial-package
$pip --cert "$CA" install --no-deps --index-url "https://$SITE/simple/" trial-package
venv/bin/python -c 'import trial_package; assert trial_package.SAYS == "trial package"'
eval "$("$LANEWAY" env --unset)"
$pip --proxy http://127.0.0.1:1080 --trusted-host "$SITE" download --no-deps --index-url "http://$SITE/simple/" --dest again trial-package
cmp again/*.whl ./*.whl
