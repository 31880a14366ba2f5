#!/bin/sh
# Puts Referee on a node, or takes it away again.
#
#   bootstrap.sh [options] [BINARY]     install; BINARY defaults to "referee" beside this script
#   bootstrap.sh --uninstall [options]  undo exactly what installing did
#
#   --prefix DIR           where bin/referee goes (/usr/local)
#   --kubelet-config DIR   the kubelet's --config-dir (/etc/kubernetes/kubelet.conf.d)
#   --root DIR             work on the tree below DIR, a node image or a test: nothing is started,
#                          and units are enabled only by their links
#   --no-start             install, but start and restart nothing
#   --force                uninstall although volumes are still in use
#   -h, --help             this text
#
# Running it again changes nothing and replaces the binary. Files that exist are
# kept: a configuration or unit you wrote wins. What was made is listed in
# /var/lib/referee.installed; --uninstall removes that and no more. The
# configuration stays if it was edited, and so does data in /var/lib/referee.
# No network is used.
set -eu

say() { printf 'bootstrap: %s\n' "$*"; }
die() { printf 'bootstrap: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '2,/^set -eu/{/^#/{s/^# \{0,1\}//;p;};}' "$0"; }

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root='' prefix=/usr/local kubelet=/etc/kubernetes/kubelet.conf.d
binary='' uninstall='' start=yes force=''
while [ $# -gt 0 ]; do
	case $1 in
	--prefix | --kubelet-config | --root)
		[ $# -ge 2 ] || die "$1 needs a directory"
		case $2 in /*) ;; *) die "$1 needs an absolute path, not $2" ;; esac
		case $1 in
		--prefix) prefix=${2%/} ;;
		--kubelet-config) kubelet=${2%/} ;;
		--root) root=${2%/} ;;
		esac
		shift
		;;
	--uninstall) uninstall=yes ;;
	--no-start) start='' ;;
	--force) force=yes ;;
	-h | --help) usage; exit 0 ;;
	-*) die "unknown option $1 (see --help)" ;;
	*) [ -z "$binary" ] || die "one binary, not also $1"; binary=$1 ;;
	esac
	shift
done

config=/etc/referee/config.toml
units=/etc/systemd/system
crictl=/etc/crictl.yaml
crictl_before=/etc/crictl.yaml.before-referee
manifest=/var/lib/referee.installed
endpoint='image-endpoint: unix:///run/referee/cri.sock'

# live: this is a running node, and it may be touched.
live() { [ -n "$start" ] && [ -z "$root" ] && [ -d /run/systemd/system ]; }

# note KIND WHAT: remember in the manifest, once.
note() {
	grep -qxF -- "$1 $2" "$root$manifest" || printf '%s %s\n' "$1" "$2" >>"$root$manifest"
}

# noted KIND WHAT: is it in the manifest?
noted() { grep -qxF -- "$1 $2" "$root$manifest"; }

# missing DIR: DIR and those above it that are not there, outermost first.
missing() {
	[ -d "$root$1" ] && return
	missing "$(dirname -- "$1")"
	printf '%s\n' "$1"
}

# parents DIR: make DIR, remembering which directories were not there.
parents() {
	missing "$1" | while read -r dir; do
		note dir "$dir"
		mkdir -m 0755 -- "$root$dir"
	done
}

# put MODE FILE: standard input becomes FILE, whole or not at all.
put() {
	cat >"$root$2.new"
	chmod "$1" "$root$2.new"
	mv -f -- "$root$2.new" "$root$2"
}

# copy NAME FILE: the shipped NAME becomes FILE, unless that exists.
copy() {
	parents "$(dirname -- "$2")"
	if [ -e "$root$2" ]; then
		shipped "$1" | cmp -s - "$root$2" || say "kept $2, which differs from the shipped $1"
		return
	fi
	note file "$2"
	shipped "$1" | put 0644 "$2"
	say "wrote $2"
}

# shipped NAME: NAME as it is to stand on this node.
shipped() {
	sed "s|^ExecStart=/usr/local/bin/|ExecStart=$prefix/bin/|" "$here/$1"
}

# link UNIT TARGET: enable UNIT for TARGET.
link() {
	parents "$units/$2.wants"
	[ -L "$root$units/$2.wants/$1" ] && return
	note file "$units/$2.wants/$1"
	ln -s "$units/$1" "$root$units/$2.wants/$1"
}

# with_endpoint FILE: crictl's configuration FILE, its images through Referee.
with_endpoint() {
	grep -v '^image-endpoint:' "$1" || true
	printf '%s\n' "$endpoint"
}

point_crictl() {
	if [ ! -e "$root$crictl" ]; then
		copy crictl.yaml "$crictl"
	elif ! grep -qxF "$endpoint" "$root$crictl"; then
		noted crictl "$crictl" || cp -p -- "$root$crictl" "$root$crictl_before"
		note crictl "$crictl"
		with_endpoint "$root$crictl_before" | put 0644 "$crictl"
		say "pointed $crictl at Referee"
	fi
}

# restore_crictl: the file from before, if nobody edited it since; else only the
# line that is ours goes back.
restore_crictl() {
	[ -e "$root$crictl_before" ] || return 0
	if [ ! -e "$root$crictl" ]; then
		rm -f -- "$root$crictl_before"
		return
	elif with_endpoint "$root$crictl_before" | cmp -s - "$root$crictl"; then
		mv -f -- "$root$crictl_before" "$root$crictl"
	else
		{ grep -vxF "$endpoint" "$root$crictl" || true; grep '^image-endpoint:' "$root$crictl_before" || true; } | put 0644 "$crictl"
		rm -f -- "$root$crictl_before"
	fi
	say "pointed $crictl back"
}

# reads_drop_ins: does anything here start the kubelet with --config-dir?
reads_drop_ins() {
	grep -rqse '--config-dir' "$root/etc/default/kubelet" "$root/etc/sysconfig/kubelet" "$root/var/lib/kubelet/kubeadm-flags.env" \
		"$root$units/kubelet.service" "$root$units/kubelet.service.d" \
		"$root/usr/lib/systemd/system/kubelet.service" "$root/usr/lib/systemd/system/kubelet.service.d"
}

install_referee() {
	binary=${binary:-$here/referee}
	if [ ! -f "$binary" ] || [ ! -x "$binary" ]; then die "no executable at $binary"; fi
	for name in config.toml referee.service referee.socket kubelet.conf crictl.yaml; do
		[ -r "$here/$name" ] || die "$name is not beside this script"
	done
	case $prefix in *[\|\&\\\ ]*) die "--prefix must not hold | & \\ or spaces" ;; esac

	if [ ! -e "$root$manifest" ]; then
		made=$(missing "$(dirname -- "$manifest")" | sed 's/^/dir /')
		mkdir -p -- "$root$(dirname -- "$manifest")"
		printf '%s\n' "$made" >"$root$manifest"
	fi

	parents "$prefix/bin"
	note file "$prefix/bin/referee"
	put 0755 "$prefix/bin/referee" <"$binary" # renamed into place: the running one stays whole
	copy config.toml "$config"
	if noted file "$config" && ! grep -q '^sum ' "$root$manifest"; then
		note sum "$(cksum <"$root$config")"
	fi
	copy referee.socket "$units/referee.socket"
	copy referee.service "$units/referee.service"
	link referee.socket sockets.target
	link referee.service multi-user.target
	if live; then
		systemctl daemon-reload
		systemctl start referee.socket
		systemctl restart referee.service
	fi

	# Only now, with the socket answering, is anybody sent to it.
	copy kubelet.conf "$kubelet/50-referee.conf"
	point_crictl
	if live; then systemctl try-restart kubelet.service; fi
	reads_drop_ins || say "the kubelet must be started with --config-dir=$kubelet, or with" \
		"--image-service-endpoint=unix:///run/referee/cri.sock: nothing here does that yet"
	say "installed"
}

uninstall_referee() {
	[ -e "$root$manifest" ] || { say "not installed by this script: nothing to do"; return; }

	# Away from the socket first, then the socket.
	restore_crictl
	if noted file "$kubelet/50-referee.conf"; then rm -f -- "$root$kubelet/50-referee.conf"; fi
	if live; then
		systemctl try-restart kubelet.service
		# Every grafted image becomes plain files, or containers could no longer be created from it.
		"$prefix/bin/referee" drain || [ -n "$force" ] || die "draining did not finish: run this again, or with --force"
		systemctl stop referee.socket referee.service
	fi

	sum=$(sed -n 's/^sum //p' "$root$manifest")
	dirs=$(sed -n 's/^dir //p' "$root$manifest" | sort -r)
	grep '^file ' "$root$manifest" | cut -d' ' -f2- | while read -r path; do
		if [ "$path" = "$config" ] && [ -e "$root$path" ] && [ "$(cksum <"$root$path")" != "$sum" ]; then
			say "kept $path: it was edited"
			continue
		fi
		rm -f -- "$root$path"
	done
	rm -f -- "$root$manifest"
	# Innermost first; a directory that others use by now stays.
	printf '%s\n' "$dirs" | while read -r path; do
		[ -z "$path" ] || rmdir -- "$root$path" 2>/dev/null || true
	done
	if live; then systemctl daemon-reload; fi
	say "uninstalled; data, if any, is in $root/var/lib/referee"
}

if [ -n "$uninstall" ]; then uninstall_referee; else install_referee; fi
