#!/usr/bin/env bash
# Makes the virtual environment VENV of this checkout from PYTHON, or brings it up to date:
#
#     requirements/install.sh [--keep] PYTHON VENV
#
# With --keep, a VENV that is there keeps the Python that made it; PYTHON counts for a new one.
# Where PYTHON already has torch and Detectron2 (built from source, say), VENV is a thin layer over
# that environment: it adds what is missing and leaves the environment itself as it is.
#
# Two files in VENV tell how far it is:
#   .gn_det-venv    written first. What made VENV; if that changes, VENV is made anew.
#   .gn_det-stamp   written last. Hash of the requirements; if that changes, VENV is refreshed in
#                   place. No stamp: the set-up was cut off, so VENV is made anew.
set -euo pipefail

say() { echo "gn_det set-up: $*"; }
die() { echo "gn_det set-up: $*" >&2; exit 1; }

keep=
if [ "${1:-}" = --keep ]; then keep=yes; shift; fi
[ $# = 2 ] && [ -n "$1" ] && [ -n "$2" ] || die "usage: requirements/install.sh [--keep] PYTHON VENV"
python=$1
case $2 in /*) venv=${2%/} ;; *) venv=$PWD/${2%/} ;; esac
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
marker=$venv/.gn_det-venv
stamp=$venv/.gn_det-stamp
tmp=$venv/.tmp

# --- What is wanted, what is there -----------------------------------------------------------

# A venv made from VENV itself (which is what an activated VENV asks for) would lose its ground.
found=$(command -v "$python" || true)
if [ -n "$keep" ] || [ "$(dirname "${found:-/}")" -ef "$venv/bin" ]; then
    before=$(sed -n 's/^python: //p' "$marker" 2>/dev/null || true)
    if [ -x "$before" ]; then python=$before; fi
fi

choose="Choose another Python: make PYTHON=/path/to/python3 ..."
[ -n "$(command -v "$python" || true)" ] || die "no '$python' was found. $choose"
probe() { "$python" "$here/probe.py" "$root" "$here"/*.txt "$here"/install.sh "$root/setup.py"; }
facts=$(probe 2>/dev/null) || die "'$python' does not run. $choose
$(probe 2>&1 | tail -n 8)"
{ read -r version; read -r python; read -r own && read -r hash; } <<<"$facts" || true
case $version in 3.*) minor=${version#3.} ;; *) minor=0 ;; esac
[ "$minor" -ge 10 ] || die "gn_det needs Python 3.10 or newer; $python is $version. $choose"
identity="Python $version, $venv, over $own"

up_to_date() {
    [ -x "$venv/bin/python" ] && [ "$(sed -n 's/^identity: //p' "$marker" 2>/dev/null)" = "$identity" ] &&
        [ "$(cat "$stamp" 2>/dev/null)" = "$hash" ]
}
if up_to_date; then exit 0; fi

# --- One set-up at a time, and no half-made VENV behind it -----------------------------------

if command -v flock >/dev/null; then
    # Children inherit the lock: what a killed set-up left running is waited for as well.
    exec 9<"$here/install.sh"
    flock -n 9 || { say "waiting for another set-up of this checkout to end"; flock 9 || true; }
    if up_to_date; then exit 0; fi
fi

state=none # fresh, refresh, stale (a refresh that failed in good order), done
child=
empty_venv() { # the marker goes last: without it the folder would count as somebody else's
    [ -d "$venv" ] || return 0
    rm -f "$stamp"
    for _ in 1 2 3 4 5; do # a killed pip's own children may write for another moment
        find "$venv/" -mindepth 1 -maxdepth 1 ! -name .gn_det-venv -exec rm -rf {} + && break
        sleep 1
    done
    rm -f "$marker"
}
finish() {
    local status=$?
    case $state in
        fresh)
            say "not finished: removing $venv" >&2
            empty_venv
            [ -L "$venv" ] || rmdir "$venv" || true
            ;;
        refresh) say "not finished: the next set-up makes $venv anew" >&2 ;;
        stale) echo "to be refreshed" >"$stamp" ;;
    esac
    [ "$state" = none ] || rm -rf "$tmp"
    exit "$status"
}
cut_off() {
    trap '' INT TERM HUP
    if [ -n "$child" ]; then
        kill -TERM "$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    fi
    exit "$1"
}
trap finish EXIT
trap 'cut_off 130' INT
trap 'cut_off 143' TERM
trap 'cut_off 129' HUP

# step WHAT COMMAND...: runs it quietly; its output is shown where it fails. In the background,
# because bash handles a signal during `wait` at once, but not before a foreground command ends.
step() {
    local what=$1 status=0
    shift
    say "$what"
    "$@" >"$tmp/log" 2>&1 &
    child=$!
    wait "$child" || status=$?
    child=
    [ "$status" = 0 ] && return
    tail -n 25 "$tmp/log" >&2
    # pip undoes what it cannot finish, unless a signal ended it.
    if [ "$state" = refresh ] && [ "$1" = pip_install ] && [ "$status" -lt 128 ]; then state=stale; fi
    die "failed at: $what. The reason stands above (no connection to the package registry? no
room on the disk?). Run it again once that is solved."
}

# Only our own venv's packages count, whatever PYTHONPATH says; over a user's environment its do.
isolated=-I
[ "$own" = - ] || isolated=
run_pip() {
    "$venv/bin/python" $isolated -m pip --no-input --disable-pip-version-check "$@"
}
pip_install() { run_pip install -q --no-build-isolation --no-warn-conflicts --progress-bar off "$@"; }

# --- VENV itself -----------------------------------------------------------------------------

if [ -e "$venv" ] || [ -L "$venv" ]; then
    [ -d "$venv" ] || die "$venv is there and is no folder. Remove it, or choose another: make VENV=..."
    if [ ! -e "$marker" ] && [ -n "$(ls -A "$venv")" ]; then
        die "$venv was not made by this set-up, so it is left alone. Remove it, or choose another folder: make VENV=..."
    fi
    # Of another checkout: what a link points to, a copy, or what has been moved.
    made_for=$(sed -n 's/^identity: Python [^,]*, \(.*\), over .*$/\1/p' "$marker" 2>/dev/null || true)
    beside=$(dirname "$venv")/requirements/install.sh
    if [ -e "$beside" ] && ! [ "$beside" -ef "$here/install.sh" ]; then made_for=$beside; fi
    if [ -n "$made_for" ] && [ "$made_for" != "$venv" ] && { [ -L "$venv" ] || ! [ "$made_for" -ef "$venv" ]; }; then
        die "$venv is the environment of another checkout ($made_for), so it is left alone. Remove it here, or choose another folder: make VENV=..."
    fi
fi
if [ "$own" != - ]; then
    say "$python has torch and Detectron2: they are used as they are"
    "$python" -W ignore -c "import torch, torchvision, detectron2.modeling" ||
        die "the Detectron2 in $own does not import, see above. Repair it there. $choose"
fi
"$python" -c "import venv, ensurepip" 2>/dev/null ||
    die "$python lacks the module 'venv' or 'ensurepip' (Debian, Ubuntu: apt install python$version-venv). $choose"

cd "$here"
export PIP_USER=0 # a user-wide "user = true" would stop pip in a virtual environment
if [ -e "$marker" ] && [ -x "$venv/bin/python" ] && [ -e "$stamp" ] &&
    [ "$(sed -n 's/^identity: //p' "$marker")" = "$identity" ]; then
    say "requirements changed: refreshing $venv"
    state=refresh
    rm -f "$stamp"
    mkdir -p "$tmp"
else
    if [ -e "$marker" ]; then
        if [ -e "$stamp" ]; then say "made anew: $venv was of another Python"
        else say "made anew: an earlier set-up of $venv was cut off"; fi
        empty_venv
    fi
    state=fresh
    mkdir -p "$venv"
    {
        echo "Made by gn_det's requirements/install.sh. The first set-up after a change here starts anew."
        echo "identity: $identity"
        echo "python: $python"
    } >"$marker"
    mkdir "$tmp"
    step "Python $version from $python in $venv" "$python" -m venv --prompt gn_det "$venv"
fi
# Gigabytes of wheels are unpacked: on VENV's disk, not on a /tmp that may be small.
export TMPDIR=$tmp
site=$venv/lib/python$version/site-packages

# --- Its packages ----------------------------------------------------------------------------

step "setuptools" pip_install "$(grep "^setuptools==" base.txt)"
if [ "$own" = - ]; then
    what="torch, Detectron2's other needs and the test tools (about 6 GB, one to three minutes)"
    [ "$state" = fresh ] || what="packages that changed"
    step "$what" pip_install --use-pep517 -r base.txt -r dev.txt
    pin=$(sed -n 's/^sal-detectron2==\([^ ]*\).*/\1/p' detectron2.txt)
    if [ ! -d "$site/sal_detectron2-$pin.dist-info" ]; then
        if ls -d "$site"/sal_detectron2-* >/dev/null 2>&1; then
            step "the earlier Detectron2 goes" run_pip uninstall -q -y sal-detectron2
        fi
        # The wheel is tagged for Python 3.10. Its Python code runs on newer ones as well, without
        # detectron2._C, which gn_det does not need. --python-version asks for --target.
        set -- --no-deps --require-hashes -r detectron2.txt
        [ "$minor" = 10 ] || set -- "$@" --target "$site" --python-version 3.10 --only-binary=:all:
        step "Detectron2" pip_install "$@"
    fi
    rm -rf "$site/tools" # the wheel's own scripts, as a top-level package that could shadow ours
    set -- --no-deps
else
    # .pth files are read in the order of their names: gn_det's own comes first, so that a gn_det
    # installed in the environment does not hide this checkout.
    "$python" - >"$site/zz_environment.pth" <<'PYTHON'
import site

users = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
for folder in users + site.getsitepackages():
    print(f"import site; site.addsitedir({folder!r})")
PYTHON
    # No other torch, and no numpy that the environment's torch was not built for.
    "$python" - >"$tmp/constraints.txt" <<'PYTHON'
from importlib.metadata import version

for name in ("torch", "torchvision", "numpy"):
    print(f"{name}=={version(name)}")
PYTHON
    opencv=
    "$python" -c "import cv2" 2>/dev/null || opencv=opencv-python-headless
    step "what the environment lacks" \
        pip_install -c "$tmp/constraints.txt" -r dev.txt $opencv
    set -- -c "$tmp/constraints.txt"
fi
# As a folder on the path (compat), which comes before other places with a gn_det.
step "gn_det from $root" \
    pip_install "$@" --config-settings editable_mode=compat -e "$root"
step "a check that torch and Detectron2 import" "$venv/bin/python" -c \
    "import torch, torchvision, cv2, detectron2.engine, detectron2.modeling"

echo "$hash" >"$stamp.new"
mv "$stamp.new" "$stamp"
state=done
say "$venv is ready ($SECONDS s)"
