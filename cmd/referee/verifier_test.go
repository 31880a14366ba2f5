package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/internal/reason"
)

// TestImageVerifiers runs programs as containerd does: -name, -digest, the
// descriptor on stdin; all must agree.
func TestImageVerifiers(t *testing.T) {
	t.Parallel()
	const onlyGood = `case "$2" in *good*) echo fine;; *) echo "not on the list"; exit 1;; esac`
	for name, tc := range map[string]struct {
		programs  map[string]string // nil: there is no such directory
		reference string
		says      string // of the refusal; "" where the image may be used
	}{
		"no directory":     {nil, "registry.example/bad:1", ""},
		"no programs":      {map[string]string{}, "registry.example/bad:1", ""},
		"allowed":          {map[string]string{"a": onlyGood}, "registry.example/good:1", ""},
		"denied":           {map[string]string{"a": onlyGood}, "registry.example/bad:1", "not on the list"},
		"denied by one":    {map[string]string{"a": "exit 0", "b": "echo never; exit 3"}, "registry.example/good:1", "never"},
		"hangs":            {map[string]string{"a": "exec sleep 60"}, "registry.example/good:1", "verifier"},
		"sees its subject": {map[string]string{"a": `grep -q "$4" || { echo "no descriptor"; exit 1; }`}, "registry.example/good:1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := configs.Default()
			config.Containerd.ImageVerifierDir = filepath.Join(t.TempDir(), "bin")
			config.Containerd.ImageVerifierTimeout = configs.Duration{Duration: 5 * time.Second}
			if name == "hangs" {
				config.Containerd.ImageVerifierTimeout = configs.Duration{Duration: 200 * time.Millisecond}
			}
			for program, text := range tc.programs {
				path := filepath.Join(config.Containerd.ImageVerifierDir, program)
				err := os.MkdirAll(filepath.Dir(path), 0o755)
				if err == nil {
					err = os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755) //nolint:gosec // a program
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			verify, err := imageVerifier(config)
			if err != nil {
				t.Fatal(err)
			}
			top := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("top"), Size: 3}
			err = verify(t.Context(), tc.reference, top)
			switch {
			case tc.says == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.says != "" && (reason.Of(err) != reason.ImageDenied || !strings.Contains(err.Error(), tc.says)):
				t.Errorf("got %v, want a refusal that says %q", err, tc.says)
			}
		})
	}
	none := configs.Default()
	none.Containerd.ImageVerifierDir = ""
	if verify, err := imageVerifier(none); verify != nil || err != nil {
		t.Errorf("without a directory: %v", err)
	}
}

// TestSlowImageVerifier: who waits for an answer gets one in time to act on it.
func TestSlowImageVerifier(t *testing.T) {
	t.Parallel()
	config := configs.Default()
	config.Containerd.ImageVerifierDir = t.TempDir()
	program := filepath.Join(config.Containerd.ImageVerifierDir, "slow")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nexec sleep 60\n"), 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	verify, err := imageVerifier(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	err = verify(ctx, "registry.example/good:1", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("top"), Size: 3})
	if reason.Of(err) != reason.ImageDenied || ctx.Err() != nil {
		t.Errorf("got %v (%v), want a refusal before the time is over", err, ctx.Err())
	}
}
