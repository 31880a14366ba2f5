#!/bin/sh
# After the files are gone; with "purge" the data goes, too.
set -e
[ "${1-}" != purge ] || rm -rf /var/lib/referee /etc/referee
[ ! -d /run/systemd/system ] || systemctl daemon-reload
