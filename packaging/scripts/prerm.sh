#!/bin/sh
# Before the files go ("remove" for dpkg, 0 for rpm; not for an upgrade): a node that
# `referee install` changed gets back what it was. Where images or containers still
# need Referee this fails, and the package stays.
set -e
case ${1-} in
remove | 0) ;;
*) exit 0 ;;
esac
root=${DPKG_ROOT-}
[ ! -e "$root/var/lib/referee/install.json" ] || "$root/usr/bin/referee" uninstall --root "${root:-/}"
