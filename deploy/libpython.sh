#!/bin/sh
# tritonserver's Python stub links libpython3.X.so.1.0, which the Python of Debian and Ubuntu comes without. This puts
# it into the given interpreter's environment, as <environment>/libpython, from the distribution's package and without
# root. It does nothing where the library is there already.
# Usage: sh deploy/libpython.sh .venv/bin/python
set -eu

missing=$("${1:-python3}" -c '
import ctypes, os, sys, sysconfig

version = "%d.%d" % sys.version_info[:2]
name = f"libpython{version}.so.1.0"
folders = [sysconfig.get_config_var("LIBDIR"), *(f"{sys.base_prefix}/{lib}" for lib in ("lib", "lib64"))]
if not any(folder and os.path.exists(f"{folder}/{name}") for folder in [*folders, f"{sys.prefix}/libpython"]):
    try:
        ctypes.CDLL(name)
    except OSError:
        print(version, sys.base_prefix, sys.prefix)
')
[ -n "$missing" ] || exit 0
read -r version base environment <<END
$missing
END
name=libpython$version.so.1.0

if [ "$base" != /usr ]; then
    echo "the Python in $base was built without $name, which tritonserver needs; take the system's:" \
        "make clean demo PYTHON=/usr/bin/python3 (or a Python built with --enable-shared)" >&2
    exit 1
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Since the change to 64-bit time some releases say t64.
download() {
    for package in "libpython$version" "libpython${version}t64"; do
        (cd "$scratch" && apt-get "$@" download "$package") >>"$scratch/log" 2>&1 && return
    done
    return 1
}

# The system's package lists may be empty (in containers) or out of date, and only root can renew them: lists of our own
# do as well.
download_with_own_lists() {
    mkdir -p "$scratch/state/lists/partial" "$scratch/cache/archives/partial"
    set -- -o "Dir::State=$scratch/state" -o Dir::State::status=/var/lib/dpkg/status -o "Dir::Cache=$scratch/cache" \
        -o Acquire::Languages=none
    apt-get "$@" update >>"$scratch/log" 2>&1 || true # one unreachable source is no reason
    download "$@"
}

if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    echo "fetching $name, which the system's Python comes without"
    if download || download_with_own_lists; then
        dpkg-deb -x "$scratch"/libpython*.deb "$scratch/package"
        mkdir -p "$environment/libpython"
        cp "$(find "$scratch/package" -type f -name "$name")" "$environment/libpython/$name.new"
        mv "$environment/libpython/$name.new" "$environment/libpython/$name"
        exit 0
    fi
fi
echo "$name is missing, which tritonserver's Python stub needs, and could not be downloaded; run:" \
    "sudo apt-get update && sudo apt-get install libpython$version" >&2
exit 1
