eval "$("$LANEWAY" env)"
exec "$PYTHON" "$PROGRAMS/python.py"
