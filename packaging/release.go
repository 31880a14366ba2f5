package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"time"
)

// release is one version being built.
type release struct {
	source, out string // absolute
	version     string // "v1.2.3"
	date        time.Time
}

// make builds everything, and lists it with its digests in SHA256SUMS.
func (r *release) make(ctx context.Context, arches []string) error {
	native := filepath.Join(r.out, "native") // runs here, to tell of itself
	defer os.RemoveAll(native)
	if err := r.build(ctx, runtime.GOARCH, filepath.Join(native, "referee")); err != nil {
		return err
	}
	if err := r.documents(ctx, native); err != nil {
		return err
	}
	var made []string
	for _, arch := range arches {
		binary := filepath.Join(r.out, "referee-linux-"+arch)
		if err := r.build(ctx, arch, binary); err != nil {
			return err
		}
		bill, err := r.bill(binary)
		if err != nil {
			return err
		}
		made = append(made, binary, bill)
		for _, format := range []string{"deb", "rpm"} {
			path, err := r.pack(format, arch, binary, bill, native)
			if err != nil {
				return fmt.Errorf("make %s for %s: %w", format, arch, err)
			}
			made = append(made, path)
		}
	}
	index, err := r.image(arches)
	if err != nil {
		return err
	}
	return sums(r.out, append(made, index))
}

// build compiles a static binary in which nothing tells where or when.
func (r *release) build(ctx context.Context, arch, path string) error {
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -buildid= -X main.version="+r.version, "-o", path, "./cmd/referee")
	command.Dir = r.source
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=", "GOWORK=off", "GOAMD64=v1", "GOARM64=v8.0")
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("build for %s: %w\n%s", arch, err, out)
	}
	return nil
}

// shells have completions, by the path that their packages look at.
func shells() map[string]string {
	return map[string]string{
		"bash": "/usr/share/bash-completion/completions/referee",
		"zsh":  "/usr/share/zsh/vendor-completions/_referee",
		"fish": "/usr/share/fish/vendor_completions.d/referee.fish",
	}
}

// documents has the binary in dir write its manual pages and completions there.
func (r *release) documents(ctx context.Context, dir string) error {
	binary, man := filepath.Join(dir, "referee"), filepath.Join(dir, "man")
	if _, err := r.run(ctx, binary, "manual", man); err != nil {
		return err
	}
	pages, err := filepath.Glob(filepath.Join(man, "*.8"))
	if err != nil {
		return err
	}
	for _, page := range pages {
		if err := compress(page); err != nil {
			return err
		}
	}
	for shell := range shells() {
		script, err := r.run(ctx, binary, "completion", shell)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, shell), script, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (r *release) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	command := exec.CommandContext(ctx, name, args...)
	command.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.date.Unix()))
	out, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("run %s %s: %w", filepath.Base(name), strings.Join(args, " "), err)
	}
	return out, nil
}

// compress replaces a file by its gzip form, which names neither file nor time.
func compress(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(path+".gz", packed.Bytes(), 0o644), os.Remove(path))
}

// sums writes the digests of files below dir.
func sums(dir string, files []string) error {
	sort.Strings(files)
	var list strings.Builder
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		fmt.Fprintf(&list, "%x  %s\n", sha256.Sum256(data), name)
	}
	return os.WriteFile(filepath.Join(dir, "SHA256SUMS"), []byte(list.String()), 0o644)
}
