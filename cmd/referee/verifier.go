package main

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/pkg/imageverifier/bindir"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pelletier/go-toml/v2"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/internal/reason"
)

// imageVerifier asks containerd's image verifiers as containerd does when it
// pulls through its transfer service. It asks them before any layer of a form is
// read, and also where containerd itself would not.
func imageVerifier(config *configs.Config) (func(context.Context, string, ocispec.Descriptor) error, error) {
	if config.Containerd.ImageVerifierDir == "" {
		return nil, nil
	}
	var settings bindir.Config
	// The package takes durations only in the form of its own configuration.
	text := fmt.Sprintf("bin_dir = %q\nmax_verifiers = %d\nper_verifier_timeout = %q\n",
		config.Containerd.ImageVerifierDir, config.Containerd.ImageVerifierMax, config.Containerd.ImageVerifierTimeout.Duration)
	if err := toml.Unmarshal([]byte(text), &settings); err != nil {
		return nil, fmt.Errorf("configure image verifiers: %w", err)
	}
	verifier := bindir.NewImageVerifier(&settings)
	return func(ctx context.Context, reference string, top ocispec.Descriptor) error {
		ctx, cancel := leaveTime(ctx)
		defer cancel()
		judgement, err := verifier.VerifyImage(ctx, reference, top)
		if err != nil {
			return reason.Errorf(reason.ImageDenied, "ask the image verifiers: %w", err)
		}
		if !judgement.OK {
			return reason.Errorf(reason.ImageDenied, "an image verifier denies it: %s", judgement.Reason)
		}
		return nil
	}, nil
}

// leaveTime ends a little before ctx does: whoever asked must still be able to say
// that the verifiers, and not a registry, were slow.
func leaveTime(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, limited := ctx.Deadline()
	if !limited {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-time.Until(deadline)/8))
}
