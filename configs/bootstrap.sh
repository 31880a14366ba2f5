#!/bin/sh
# Puts Referee on a node when it first boots: for cloud-init's runcmd, a launch
# template, or a shell. No network is used.
#
#   bootstrap.sh [BINARY] [options]      referee install, see its --help
#   bootstrap.sh --uninstall [options]   referee uninstall, see its --help
#
# BINARY defaults to "referee" beside this script. To bring a configuration, write
# /etc/referee/config.toml first: what is there is kept.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
binary=$here/referee
verb=install
case ${1-} in
--uninstall) verb=uninstall && shift ;;
'' | -*) ;;
*) binary=$1 && shift ;;
esac
if [ ! -f "$binary" ] && [ $verb = uninstall ]; then
	binary=$(command -v referee) || binary=referee
fi
if [ ! -f "$binary" ] || [ ! -x "$binary" ]; then
	printf 'bootstrap: no executable at %s\n' "$binary" >&2
	exit 1
fi
exec "$binary" "$verb" "$@"
