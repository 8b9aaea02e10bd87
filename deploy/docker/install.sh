#!/bin/sh
# Installs one extra of Engram into a folder, every file of the libraries held against the hashes of its lock.
#
#   install.sh EXTRA TARGET              libraries and programs in one virtual environment TARGET
#   install.sh EXTRA TARGET libraries    its libraries alone: what changes with the lock
#   install.sh EXTRA TARGET programs TOP engram alone, laid out in TOP to be copied over TARGET: what changes with every commit
#
# EXTRA is extractor, trainer or service. It needs Python 3.12 with pip as `python3` and a way to PyPI; no compiler, and nothing is
# left behind but TARGET (and TOP). What installs stays out of them: uv and the build backend live in a folder that is removed.
set -eu
umask 022

fail() { echo "install.sh: $*" >&2; exit 2; }

[ $# -ge 2 ] && [ $# -le 4 ] || fail "expected EXTRA TARGET [libraries | programs TOP], got $# arguments"
extra=$1 target=$2 layer=${3:-both} top=${4:-}
root=$(cd "$(dirname "$0")/../.." && pwd)
lock=$root/requirements/$extra.txt
case $layer in
  both | libraries) [ -z "$top" ] || fail "'$layer' takes no TOP, got '$top'" ;;
  programs) [ -n "$top" ] || fail "'programs' needs a folder TOP to lay the programs out in" ;;
  *) fail "expected libraries or programs, got '$layer'" ;;
esac
case $extra in
  extractor | trainer | service) ;;
  *) fail "expected extractor, trainer or service, got '$extra'" ;;
esac
[ "$layer" = programs ] || [ ! -e "$target" ] || fail "$target is there already: remove it, or give another folder"
[ "$layer" != programs ] || [ -x "$target/bin/python" ] || fail "$target holds no libraries: run 'install.sh $extra $target libraries' before"
python=$(command -v python3) || fail "there is no python3 on the PATH"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$version" = 3.12 ] || fail "expected Python 3.12, $python is $version"

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
trap 'exit 130' INT TERM
"$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir --root-user-action ignore --require-hashes \
  --target "$tools/site" --requirement "$root/deploy/docker/build.txt"
uv=$tools/site/bin/uv
# pyproject.toml tells uv that sam2 is built after torch, with what its lock brought.
cd "$root"
export UV_PYTHON_DOWNLOADS=never UV_NO_PROGRESS=1 UV_SYSTEM_CERTS=1
# sam2's kernel for filling holes needs a compiler, and Engram never calls it.
export SAM2_BUILD_CUDA=0
# A read-only container cannot write bytecode, and copying between layers may change the times that bytecode is checked by.
export PYC_INVALIDATION_MODE=UNCHECKED_HASH

install_libraries() {
  "$uv" venv --quiet --no-project --python "$python" "$target"
  VIRTUAL_ENV=$target "$uv" pip sync --quiet --require-hashes --compile-bytecode "$lock"
}

install_programs() {
  told=$(PYTHONPATH=$tools/site "$python" -m hatchling build --target wheel --directory "$tools/dist" 2>&1) || {
    echo "$told" >&2
    exit 1
  }
  # the wheel was built a moment ago from the folder beside this script: there is no hash to hold it against
  "$uv" pip install --quiet --python "$target/bin/python" --no-deps --no-index --compile-bytecode "$@" "$tools"/dist/engram-*.whl
}

case $layer in
  both) install_libraries; install_programs ;;
  libraries) install_libraries ;;
  programs) install_programs --prefix "$top" ;;
esac
# uv's own locks may be written by everybody
rm -f "$target/.lock" ${top:+"$top/.lock"}
