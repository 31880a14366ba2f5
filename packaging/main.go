// Command packaging builds what a release consists of: static binaries, Debian
// and RPM packages of them with units, manual pages and completions, and a bill of
// materials. The same commit gives the same bytes, whoever builds it where.
//
// It is a module of its own: Referee itself needs none of what this does. It runs
// the go command and writes below one directory.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	source := flag.String("source", "..", "the checkout")
	out := flag.String("out", "../dist", "where everything goes")
	version := flag.String("version", "", "as in v1.2.3 (default: what git describe says)")
	arches := flag.String("arch", "amd64,arm64", "architectures")
	flag.Parse()
	err := run(ctx, *source, *out, *version, strings.Split(*arches, ","))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "packaging:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, source, out, version string, arches []string) error {
	source, err := filepath.Abs(source)
	if err != nil {
		return err
	}
	r := release{source: source, out: out, version: version}
	if r.out, err = filepath.Abs(out); err != nil {
		return err
	}
	if r.version == "" {
		if r.version, err = describe(ctx, source); err != nil {
			return err
		}
	}
	if r.date, err = dateOf(ctx, source); err != nil {
		return err
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	return r.make(ctx, arches)
}

// describe is the version that git knows: that of a tag, or one before the first.
func describe(ctx context.Context, source string) (string, error) {
	if text, err := git(ctx, source, "describe", "--tags", "--match", "v*"); err == nil {
		return text, nil
	}
	text, err := git(ctx, source, "rev-parse", "--short=12", "HEAD")
	return "v0.0.0-" + text, err
}

// dateOf is when the source was committed, or what SOURCE_DATE_EPOCH says
// (reproducible-builds.org): the time of every file that is made.
func dateOf(ctx context.Context, source string) (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		var err error
		if text, err = git(ctx, source, "log", "-1", "--format=%ct"); err != nil {
			return time.Time{}, err
		}
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("date of the source: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

func git(ctx context.Context, source string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", append([]string{"-C", source}, args...)...).Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		err = fmt.Errorf("git %s: %w: %s", args[0], err, failed.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}
