# Sourced by the scripts beside it: sets `root`, the project's folder, and `python`, that of its
# .venv, which is made on the first run and whenever the requirements have changed.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
requirements=$(cat "$root/setup.py" "$root/requirements.txt" | cksum)

if [[ "$(cat "$root/.venv/installed" 2>/dev/null)" != "$requirements" ]]; then
  base=${PYTHON:-python3}
  if ! "$base" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
    echo "error: $base is not Python 3.11 to 3.13: name one, as PYTHON=python3.11 $0" >&2
    exit 1
  fi
  echo "Installing into $root/.venv (a few minutes, once)" >&2
  [[ -x $python ]] || "$base" -m venv "$root/.venv"
  (cd "$root" && "$python" -m pip install --quiet --disable-pip-version-check -r requirements.txt)
  echo "$requirements" > "$root/.venv/installed"
fi
