#!/usr/bin/env bash
# Make .venv hold exactly what requirements.txt says, and the companion package itself, editable.
#
# The stamp .venv/.ready is written last: an interrupted installation is taken up again by the next run.
# An environment that cannot be mended in place is built anew, once.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'set-up: %s\n' "$*"; }

# The first Python on the path that is new enough; PYTHON=... names another one.
find_python() {
  local name
  for name in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  say "Python 3.11 or newer is needed; found: $("${PYTHON:-python3}" --version 2>&1 || true)" >&2
  say "install one (Debian 12, Ubuntu 24.04: apt-get install python3 python3-venv) or name one: make book PYTHON=..." >&2
  return 1
}

fresh() {
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    say "$python lacks the venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2
    return 1
  fi
  "$python" -m venv --clear .venv
}

usable() {
  .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# -qq leaves pip's errors and silences the rest. The package needs only setuptools, which is pinned with
# everything else, so it is built here rather than in an environment downloaded for the purpose.
install() {
  local conflicts pip=(.venv/bin/python -m pip --disable-pip-version-check)
  "${pip[@]}" install -qq -r requirements.txt &&
    "${pip[@]}" install -qq --no-deps --no-build-isolation --editable . &&
    { conflicts=$("${pip[@]}" check) || { say "$conflicts"; false; }; }
}

start=$SECONDS
python=$(find_python)
was_there=yes
rm -f .venv/.ready
if ! usable; then
  was_there=no
  say "creating .venv with $("$python" --version)"
  fresh
fi
say "installing $(grep -c '==' requirements.txt) pinned packages and companion into .venv (a minute or two; the downloads are kept for next time)"
if ! install; then
  [ "$was_there" = yes ] || { say "the installation failed; see the message above" >&2; exit 1; }
  say "that did not work; starting again with an empty .venv"
  fresh
  install
fi
touch .venv/.ready
say "done in $((SECONDS - start)) s, $(du -sh .venv | cut -f1) in .venv"
