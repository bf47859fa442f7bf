#!/bin/sh
# Open3D and OpenCV need a few shared libraries that pip cannot bring. Install them where that is
# allowed, else say what to run and stop before anything half works.
set -eu

missing=""
need() { # need <shared object> <Debian package>
    { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep -q "$1" || missing="$missing $2"
}
need libusb-1.0.so.0 libusb-1.0-0
need libudev.so.1 libudev1
need libGL.so.1 libgl1
need libEGL.so.1 libegl1
need libX11.so.6 libx11-6
need libgthread-2.0.so.0 libglib2.0-0
"${PYTHON:-python3}" -c "import ensurepip, venv" 2>/dev/null || missing="$missing python3-venv"
[ -z "$missing" ] && exit 0

command="apt-get update && apt-get install -y --no-install-recommends$missing"
if ! command -v apt-get >/dev/null; then
    echo "Missing system libraries (Debian names):$missing" >&2
    echo "Install them with your system's package manager, then run make again." >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "Missing system libraries. Please run this line once, then make again:" >&2
    echo "    sudo sh -c '$command'" >&2
    exit 1
fi
echo "Installing$missing"
export DEBIAN_FRONTEND=noninteractive
sh -c "$command" >/dev/null
