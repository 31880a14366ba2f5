// Package host makes planned images ready on this node: it mounts their volumes
// and grafts them into containerd, keeps both in step with what containerd still
// wants, and brings everything back after a restart.
//
// It owns the order of those steps and the reconciling loop, and it can put an
// image's original layers where a volume was. It never decides whether an image
// should be lazy, or whose word is good enough, and knows neither policy nor CRI.
//
// Goroutines: Run is one, which the caller starts and stops; Attach runs its
// independent steps side by side and waits for all of them.
package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/v2/core/content"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/referee-cri/referee/internal/contain"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/tracing"
	"github.com/referee-cri/referee/lazyblock/graft"
	"github.com/referee-cri/referee/lazyblock/volume"
)

const (
	endTimeout        = 10 * time.Second // taking away what one pull needed
	reconcileInterval = 30 * time.Second // containerd's garbage collection sends no snapshot events
	removalDelay      = 500 * time.Millisecond
	firstRetry        = 250 * time.Millisecond // of a reconciliation that failed, while containerd starts
)

// Options of a Host.
type Options struct {
	Conn      grpc.ClientConnInterface // containerd
	Namespace string
	Grafter   *graft.Grafter
	Volumes   *volume.Manager
	Registry  *registry.Client // where original layers come from; nil: Materialise fails
	Log       *zap.Logger
}

// Host is this node. It is safe for concurrent use.
type Host struct {
	images    imagesapi.ImagesClient
	content   content.Store
	namespace string
	grafter   *graft.Grafter
	volumes   *volume.Manager
	registry  *registry.Client
	log       *zap.Logger
	wake      chan struct{} // capacity 1: a reason to reconcile soon
	restored  atomic.Bool   // everything that a former process left is back
	collect   atomic.Bool   // an image was removed since containerd last collected garbage for us

	grafts, graftFailures, materialised, materialiseFailures atomic.Int64
}

// Stats is what a Host has done since it was made.
type Stats struct {
	Grafts, GraftFailures             int64 // images that a volume was grafted for, or could not
	Materialised, MaterialiseFailures int64 // chains whose original layers took a volume's place, or could not
}

// Stats returns the numbers of now.
func (h *Host) Stats() Stats {
	return Stats{
		Grafts: h.grafts.Load(), GraftFailures: h.graftFailures.Load(),
		Materialised: h.materialised.Load(), MaterialiseFailures: h.materialiseFailures.Load(),
	}
}

// count adds one to done or failed.
func count(err error, done, failed *atomic.Int64) {
	if err != nil {
		failed.Add(1)
	} else {
		done.Add(1)
	}
}

// New returns a Host. It does not talk to containerd yet.
func New(opts Options) *Host {
	if opts.Log == nil {
		opts.Log = zap.NewNop()
	}
	return &Host{
		images:    imagesapi.NewImagesClient(opts.Conn),
		content:   contentproxy.NewContentStore(opts.Conn),
		namespace: opts.Namespace,
		grafter:   opts.Grafter,
		volumes:   opts.Volumes,
		registry:  opts.Registry,
		log:       opts.Log,
		wake:      make(chan struct{}, 1),
	}
}

// Image is an image to be made ready.
type Image struct {
	Chains []digest.Digest // bottom first
	Volume volume.Spec
	// Documents are verified manifests and configs of the image. containerd is
	// given them, so that the forwarded pull need not fetch them again.
	Documents []Document
}

// Document is one small blob with its exact bytes.
type Document struct {
	Descriptor ocispec.Descriptor
	Bytes      []byte
}

// Report tells what an Attach took. Its steps overlap.
type Report struct {
	volume.Report

	Volume string        // its ID
	Graft  time.Duration // committing the top chain
}

// Present returns the chain IDs of the image that containerd has under
// ref, if its top chain holds content; else nil.
func (h *Host) Present(ctx context.Context, ref string) ([]digest.Digest, error) {
	image, err := h.Original(ctx, ref)
	if err != nil || image == nil || len(image.DiffIDs) == 0 {
		return nil, err
	}
	chains := image.ChainIDs()
	state, err := h.grafter.State(ctx, chains[len(chains)-1])
	if err != nil || state != graft.Ordinary && state != graft.Grafted {
		return nil, err
	}
	return chains, nil
}

// Original returns the image that containerd has under ref, nil if it has
// none, or not all of the image's documents for this platform.
func (h *Host) Original(ctx context.Context, ref string) (*Original, error) {
	image, err := h.original(namespaces.WithNamespace(ctx, h.namespace), ref)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up image %s: %w", ref, err)
	}
	return image, nil
}

func (h *Host) original(ctx context.Context, ref string) (*Original, error) {
	descriptor, err := h.target(ctx, ref)
	if err != nil {
		return nil, err
	}
	manifest, err := images.Manifest(ctx, h.content, descriptor, platforms.Default())
	if err != nil {
		return nil, err
	}
	diffIDs, err := images.RootFS(ctx, h.content, manifest.Config)
	if err != nil {
		return nil, err
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, err
	}
	return &Original{Repository: named.Name(), Layers: manifest.Layers, DiffIDs: diffIDs}, nil
}

// Shield readies the node for an ordinary pull of an image with these chains;
// without chains, of any image. release must be called after the pull.
func (h *Host) Shield(ctx context.Context, chains []digest.Digest) (release func(), err error) {
	pull, err := h.grafter.Shield(ctx, chains)
	if err != nil {
		return nil, err
	}
	return func() { h.end(ctx, pull) }, nil
}

// Attach mounts the image's volume and grafts it. release must be called after
// the forwarded pull. It fails with reason.AlreadyPresent if containerd has the
// image's content already, under whatever name, or another pull was faster.
func (h *Host) Attach(ctx context.Context, image Image, creds registry.Credentials) (release func(), report Report, err error) {
	if !h.volumes.CanOpen(image.Volume.Format) {
		return nil, report, reason.Errorf(reason.NotAttachable, "no reader for format %q", image.Volume.Format)
	}
	if len(image.Chains) > 0 {
		image.Volume.Chain = image.Chains[len(image.Chains)-1] // what its word is for
	}
	report.Volume = image.Volume.ID()
	var (
		pull   *graft.Pull
		unpin  func()
		group  errgroup.Group
		cancel context.CancelFunc
	)
	ctx, cancel = context.WithCancel(ctx)
	defer cancel()
	fail := func(err error) error {
		if err != nil {
			cancel() // no use in the other half
		}
		return err
	}
	ctx, attaching := tracing.Start(ctx, "attach", tracing.KeyFormat.String(image.Volume.Format))
	defer func() { attaching.End(err) }()
	group.Go(func() error {
		return fail(contain.Panic(h.log, "mounting a volume", func() (err error) {
			ctx, span := tracing.Start(ctx, "mount")
			defer func() { span.End(err) }()
			unpin, report.Report, err = h.volumes.Mount(ctx, image.Volume, creds)
			return err
		}))
	})
	group.Go(func() error {
		return fail(contain.Panic(h.log, "preparing a graft", func() (err error) {
			ctx, span := tracing.Start(ctx, "prepare graft")
			defer func() { span.End(err) }()
			if pull, err = h.grafter.Begin(ctx, image.Chains); err != nil {
				return err
			}
			return pull.Leased(ctx, func(ctx context.Context) error { return h.store(ctx, image.Documents) })
		}))
	})
	err = group.Wait()
	if err == nil {
		grafting := time.Now()
		gctx, span := tracing.Start(ctx, "graft")
		err = pull.Graft(gctx, report.Volume)
		span.End(err)
		count(err, &h.grafts, &h.graftFailures)
		report.Graft = time.Since(grafting)
	}
	if err != nil {
		h.undo(ctx, pull, unpin)
		return nil, report, err
	}
	return func() { h.undo(ctx, pull, unpin) }, report, nil
}

// undo ends the pull first: as long as it holds the top chain's lease the graft
// keeps the volume.
func (h *Host) undo(ctx context.Context, pull *graft.Pull, unpin func()) {
	if pull != nil {
		h.end(ctx, pull)
	}
	if unpin != nil {
		unpin()
		h.look() // the volume may have been for nothing
	}
}

func (h *Host) end(ctx context.Context, pull *graft.Pull) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	pull.End(ctx)
}

// store gives containerd the documents. What it has already is fine.
func (h *Host) store(ctx context.Context, documents []Document) error {
	var group errgroup.Group
	for _, document := range documents {
		group.Go(func() error {
			ref := "referee-" + document.Descriptor.Digest.String()
			err := content.WriteBlob(ctx, h.content, ref, bytes.NewReader(document.Bytes), document.Descriptor)
			if err != nil && !errdefs.IsAlreadyExists(err) {
				// containerd will fetch it: a round trip more, nothing worse.
				h.log.Debug("document not stored", zap.Stringer("digest", document.Descriptor.Digest), zap.Error(err))
			}
			return nil
		})
	}
	return group.Wait()
}

// Renew lets the lazy image that containerd has under ref be read with
// creds from now on. Of an ordinary image nothing is read: nothing happens.
func (h *Host) Renew(ctx context.Context, ref, repository string, creds registry.Credentials) error {
	chains, err := h.Present(ctx, ref)
	if err != nil || len(chains) == 0 {
		return err
	}
	volume, err := h.grafter.Volume(ctx, chains[len(chains)-1])
	if err != nil || volume == "" {
		return err
	}
	return h.volumes.Renew(ctx, volume, repository, creds)
}

// Removed tells that an image was removed. It does not block.
func (h *Host) Removed() {
	h.collect.Store(true)
	h.look()
}

// Settled tells that a volume was copied to local files. It does not block.
func (h *Host) Settled() { h.look() }

// look makes Run reconcile soon.
func (h *Host) look() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// Restore brings back what grafts need after a restart or a reboot: volumes are
// mounted, binds renewed, what containerd no longer knows is released.
func (h *Host) Restore(ctx context.Context) error { return h.reconcile(ctx) }

// Restored returns an error until every volume that was in use before this process
// is mounted again.
func (h *Host) Restored() error {
	if !h.restored.Load() {
		return errors.New("volumes of a former process are not mounted again yet")
	}
	return nil
}

// Run reconciles whenever there may be a reason, until ctx ends.
func (h *Host) Run(ctx context.Context) {
	pause := firstRetry
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-h.wake:
			// The removal's garbage collection may be under way still: look at once,
			// and once more when it should be over.
			_ = h.reconcile(ctx)
			select {
			case <-ctx.Done():
				return
			case <-time.After(removalDelay):
			}
			if h.collect.Swap(false) {
				h.collectGarbage(ctx)
			}
		}
		if err := h.reconcile(ctx); err == nil {
			pause = reconcileInterval
		} else if ctx.Err() == nil {
			pause = min(2*pause, reconcileInterval)
			h.log.Warn("node not reconciled", zap.Duration("retry", pause), zap.Error(err))
		}
		timer.Reset(pause)
	}
}

// collectGarbage lets containerd drop what the lease of a pull still held when
// the image was removed: it collects for a removal, but not when a lease ends.
func (h *Host) collectGarbage(ctx context.Context) {
	if grafts, err := h.grafter.Grafts(ctx); err != nil || len(grafts) == 0 {
		return
	}
	if err := h.grafter.CollectGarbage(ctx); err != nil && ctx.Err() == nil {
		h.log.Warn("garbage not collected", zap.Error(err))
	}
}

func (h *Host) reconcile(ctx context.Context) error {
	// In this order: a volume that is idle now and not wanted afterwards is wanted
	// by nobody; a pull that comes between pins it again.
	idle, err := h.volumes.Idle()
	if err != nil {
		return err
	}
	wanted, err := h.grafter.Wanted(ctx)
	if err != nil {
		return err
	}
	keep := make(map[string]bool)
	for _, id := range wanted {
		keep[id] = true
	}
	err = h.volumes.Restore(ctx, wanted)
	if err == nil {
		h.volumes.Restored()
		h.restored.Store(true)
	}
	err = errors.Join(err, h.volumes.Resettle(ctx))
	bindErr := h.grafter.Reconcile(ctx, h.volumes.Mounted)
	if bindErr == nil {
		bindErr = h.volumes.Sweep(ctx, idle, keep)
	}
	return errors.Join(err, bindErr)
}
