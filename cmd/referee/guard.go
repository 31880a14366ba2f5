package main

import (
	"context"
	"errors"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/lazyblock/attach"
	"github.com/referee-cri/referee/lazyblock/complete"
	"github.com/referee-cri/referee/lazyblock/format/estargz"
	"github.com/referee-cri/referee/lazyblock/graft"
	"github.com/referee-cri/referee/lazyblock/host"
	"github.com/referee-cri/referee/lazyblock/volume"
	"github.com/referee-cri/referee/negotiate"
)

// newGuard wires negotiation and the node into the guard of pulls.
func newGuard(config *configs.Config, d *daemonParts, grafter *graft.Grafter, log *zap.Logger) (*fallback.Guard, error) {
	journal, err := openJournal(config)
	if err != nil {
		return nil, err
	}
	verify, err := imageVerifier(config)
	if err != nil {
		return nil, err
	}
	rules := newPolicy(config, log)
	d.negotiator = negotiate.New(negotiate.Options{
		Client:      d.registry.Client,
		Policy:      rules,
		Attachable:  attachable(d.volumes, d.driver, &d.gate),
		VerifyImage: verify,
		Log:         log,
	})
	return fallback.New(planner{d.negotiator}, node{d.negotiator, d.host, &snapshotterCheck{images: runtime.NewImageServiceClient(d.backend), grafter: grafter}, d.completion, &d.gate}, journal, log, fallback.Options{
		Disabled:         config.Disabled,
		Rules:            rules.Rules,
		Settled:          d.metrics.Pull,
		NegotiateTimeout: config.Pull.NegotiateTimeout.Duration,
		AttachTimeout:    config.Pull.AttachTimeout.Duration,
		NodeTimeout:      config.Pull.NodeTimeout.Duration,
		RecheckAfter:     config.Pull.RecheckAfter.Duration,
		Failures:         config.Breaker.Failures,
		OpenFor:          config.Breaker.OpenFor.Duration,
	}), nil
}

// attachable tells whether this node has a driver, and a reader for a format, and
// attaches anything now.
func attachable(volumes *volume.Manager, driver *attach.Chosen, gate *gate) func(format string) error {
	return func(format string) error {
		if err := gate.check(); err != nil {
			return err
		}
		if err := driver.Ready(); err != nil {
			return err
		}
		if !volumes.CanOpen(format) {
			return reason.Errorf(reason.NotAttachable, "this node has no reader for %s", format)
		}
		return nil
	}
}

// planner lets the guard ask the negotiator.
type planner struct{ negotiator *negotiate.Negotiator }

func (p planner) Plan(ctx context.Context, pull fallback.Pull) (*negotiate.Plan, error) {
	return p.negotiator.Plan(ctx, negotiate.Request{Reference: pull.Reference, Credentials: credentials(pull.Auth)})
}

// credentials are those of a request; nil is anonymous.
func credentials(auth *runtime.AuthConfig) registry.Credentials {
	return registry.Credentials{
		Username:      auth.GetUsername(),
		Password:      auth.GetPassword(),
		Auth:          auth.GetAuth(),
		IdentityToken: auth.GetIdentityToken(),
		ServerAddress: auth.GetServerAddress(),
	}
}

// node lets the guard use the host.
type node struct {
	plans *negotiate.Negotiator
	host  *host.Host
	check *snapshotterCheck

	completion *complete.Companion
	gate       *gate
}

func (n node) Present(ctx context.Context, reference string) ([]digest.Digest, error) {
	return n.host.Present(ctx, reference)
}

func (n node) Shield(ctx context.Context, chains []digest.Digest) (func(), error) {
	return n.host.Shield(ctx, chains)
}

func (n node) Renew(ctx context.Context, pull fallback.Pull) error {
	named, err := reference.ParseDockerRef(pull.Reference)
	if err != nil {
		return err
	}
	return n.host.Renew(ctx, pull.Reference, named.Name(), credentials(pull.Auth))
}

func (n node) Removed() { n.host.Removed() }

func (n node) Attach(ctx context.Context, pull fallback.Pull, plan *negotiate.Plan) (fallback.Attached, error) {
	if err := n.check.verify(ctx); err != nil {
		return fallback.Attached{}, err
	}
	leave, err := n.gate.enter()
	if err != nil {
		return fallback.Attached{}, err
	}
	defer leave()
	image := lazyImage(plan)
	attached, err := n.attach(ctx, pull, image)
	if errors.Is(err, estargz.ErrTableElsewhere) {
		if image.Volume.Tables, err = n.plans.ExternalTables(ctx, plan, credentials(pull.Auth)); err == nil {
			attached, err = n.attach(ctx, pull, image)
		}
	}
	return attached, err
}

// attach attaches an image unless it is in quarantine.
func (n node) attach(ctx context.Context, pull fallback.Pull, image host.Image) (fallback.Attached, error) {
	if err := n.completion.Refuse(image.Volume); err != nil {
		return fallback.Attached{}, err
	}
	release, report, err := n.host.Attach(ctx, image, credentials(pull.Auth))
	return fallback.Attached{
		Volume:   report.Volume,
		Fetched:  report.Fetched,
		Requests: report.Requests,
		Open:     report.Open,
		Mount:    report.Mount,
		Graft:    report.Graft,
		Release:  release,
	}, err
}

// lazyImage says in the host's words what the plan chose.
func lazyImage(plan *negotiate.Plan) host.Image {
	image := host.Image{
		Chains: plan.Image.ChainIDs,
		Volume: volume.Spec{
			Format:     plan.Chosen.Format,
			Repository: plan.Image.Repository,
			Reference:  plan.Image.Reference,
			Artifact:   plan.Chosen.Artifact,
			Layers:     plan.Chosen.Layers,
			Tables:     plan.Chosen.Tables,
			Word:       wordOf(plan.Chosen),
		},
	}
	known := []ocispec.Descriptor{plan.Image.Manifest, plan.Image.Config}
	if plan.Image.Index != nil {
		known = append(known, *plan.Image.Index)
	}
	for _, descriptor := range known {
		if bytes, ok := plan.Image.Documents[descriptor.Digest]; ok {
			image.Documents = append(image.Documents, host.Document{Descriptor: descriptor, Bytes: bytes})
		}
	}
	return image
}
