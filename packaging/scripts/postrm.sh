#!/bin/sh
# After the files are gone; with "purge" the data goes, too.
set -e
root=${DPKG_ROOT-}
[ "${1-}" != purge ] || rm -rf "$root/var/lib/referee" "$root/etc/referee"
[ ! -d "$root/run/systemd/system" ] || systemctl daemon-reload
