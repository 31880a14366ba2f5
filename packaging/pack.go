package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // registers itself
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm" // registers itself
)

const description = `lazy container images through the kubelet's image endpoint
Referee stands between the kubelet and containerd and attaches the accelerated
form of an image that this node can use, under its unchanged reference. Run
"referee install" to send the kubelet to it, "referee doctor" to see how it does.`

// pack makes a package and returns its path.
func (r *release) pack(format, arch, binary, bill, documents string) (path string, err error) {
	contents, err := r.contents(binary, bill, documents)
	if err != nil {
		return "", err
	}
	scripts := filepath.Join(r.source, "packaging", "scripts")
	info := nfpm.WithDefaults(&nfpm.Info{
		Name: "referee", Arch: arch, Platform: "linux", Version: r.version, Section: "admin", Priority: "optional",
		Maintainer: "The Referee authors <referee@referee-cri.example>", Description: description, Vendor: "Referee",
		Homepage: "https://github.com/referee-cri/referee", License: "Apache-2.0", MTime: r.date, DisableGlobbing: true,
		Overridables: nfpm.Overridables{
			Recommends: []string{"containerd"}, Contents: contents, Umask: 0o022,
			Scripts: nfpm.Scripts{
				PostInstall: filepath.Join(scripts, "postinst.sh"), PreRemove: filepath.Join(scripts, "prerm.sh"), PostRemove: filepath.Join(scripts, "postrm.sh"),
			},
			RPM: nfpm.RPM{BuildHost: "referee-cri.example", Summary: "Lazy container images through the kubelet's image endpoint"},
		},
	})
	packager, err := nfpm.Get(format)
	if err != nil {
		return "", err
	}
	path = filepath.Join(r.out, packager.ConventionalFileName(info))
	info.Target = path
	file, err := os.Create(path)
	if err != nil {
		return "", err
	}
	return path, errors.Join(packager.Package(info, file), file.Close())
}

// contents are the files of a package. The configuration is not among them: `referee
// install` writes one that fits the node, and the daemon does without.
func (r *release) contents(binary, bill, documents string) (files.Contents, error) {
	units := filepath.Join(documents, "units")
	if err := os.MkdirAll(units, 0o755); err != nil {
		return nil, err
	}
	list := []struct {
		source, target string
		mode           os.FileMode
	}{
		{binary, "/usr/bin/referee", 0o755},
		{bill, "/usr/share/doc/referee/referee.cdx.json", 0o644},
		{filepath.Join(r.source, "LICENSE"), "/usr/share/doc/referee/copyright", 0o644},
		{filepath.Join(r.source, "configs", "config.toml"), "/usr/share/doc/referee/config.toml", 0o644},
	}
	for _, unit := range []string{"referee.socket", "referee.service"} {
		text, err := os.ReadFile(filepath.Join(r.source, "configs", unit))
		if err != nil {
			return nil, err
		}
		text = bytes.ReplaceAll(text, []byte("=/usr/local/bin/"), []byte("=/usr/bin/"))
		if err := os.WriteFile(filepath.Join(units, unit), text, 0o644); err != nil {
			return nil, err
		}
		list = append(list, struct {
			source, target string
			mode           os.FileMode
		}{filepath.Join(units, unit), "/usr/lib/systemd/system/" + unit, 0o644})
	}
	pages, err := filepath.Glob(filepath.Join(documents, "man", "*.gz"))
	if err != nil {
		return nil, err
	}
	var contents files.Contents
	add := func(source, target string, mode os.FileMode) {
		contents = append(contents, &files.Content{
			Source: source, Destination: target, FileInfo: &files.ContentFileInfo{Owner: "root", Group: "root", Mode: mode, MTime: r.date},
		})
	}
	for _, f := range list {
		add(f.source, f.target, f.mode)
	}
	for _, page := range pages {
		add(page, "/usr/share/man/man8/"+filepath.Base(page), 0o644)
	}
	for shell, target := range shells() {
		add(filepath.Join(documents, shell), target, 0o644)
	}
	return contents, nil
}
