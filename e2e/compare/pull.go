package compare

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/regtest"
)

// Way is a way to pull.
type Way string

// The ways.
const (
	Ordinary Way = "ordinary" // containerd alone
	Lazy     Way = "lazy"     // Referee in front of it
	Tuned    Way = "tuned"    // containerd alone, fetching each layer in parallel pieces
	Stargz   Way = "stargz"   // stargz-snapshotter, of an eStargz image
	SOCI     Way = "soci"     // soci-snapshotter, of an image with an index
)

// Result is what one pull and start took.
type Result struct {
	Pull     time.Duration   // PullImage
	Ready    time.Duration   // from the same start until the container answers
	Bytes    int64           // that came over the link until then
	Requests []regtest.Entry // that the registry had answered by then
	Began    time.Time
	Entry    *fallback.Entry // what Referee noted; nil of an ordinary pull
}

const (
	readyTimeout   = 5 * time.Minute
	removeTimeout  = 30 * time.Second
	journalTimeout = 20 * time.Second
)

// Run pulls the image, starts a container of it, waits until that answers, calls
// inside (nil: nothing) and removes container and image again. As a kubelet does
// it, the pod's sandbox is made before the pull; it is not part of the times.
func (b *Bed) Run(ctx context.Context, way Way, image Image, l Link, inside func(*node.Container, int) error) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	client := b.client(way)
	b.port++
	pod, err := client.RunPod(ctx, image.Name)
	if err != nil {
		return Result{}, err
	}
	ref := way.ref(image, l)
	result, err := b.start(ctx, way, pod, image, l, func(container *node.Container, port int) error {
		if err := b.wasLazy(way); err != nil || inside == nil {
			return err
		}
		return inside(container, port)
	})
	if err == nil && way == Lazy {
		result.Entry, err = b.lazyEntry(ctx, ref, result.Began)
	}
	err = errors.Join(err, cleanly(ctx, pod.Remove), b.remove(ctx, way, ref))
	if err != nil {
		return result, fmt.Errorf("%s pull of %s: %w", way, ref, err)
	}
	return result, nil
}

func (b *Bed) start(ctx context.Context, way Way, pod *node.Pod, image Image, l Link, inside func(*node.Container, int) error) (Result, error) {
	ref := way.ref(image, l)
	b.Registry.ResetRequests()
	before := l.running.Stats().Down.Bytes
	result := Result{Began: time.Now()}
	if _, err := b.client(way).Pull(ctx, ref, nil); err != nil {
		return result, err
	}
	result.Pull = time.Since(result.Began)
	var command []string
	if image.program.command != nil {
		command = image.program.command(b.port)
	}
	container, err := pod.Create(ctx, ref, command)
	if err != nil {
		return result, err
	}
	if err := container.Start(ctx); err != nil {
		return result, err
	}
	if err := image.program.ready(ctx, container, b.port); err != nil {
		return result, err
	}
	result.Ready = time.Since(result.Began)
	result.Bytes = l.running.Stats().Down.Bytes - before
	result.Requests = b.Registry.Requests()
	return result, inside(container, b.port)
}

// client is the kubelet of a way.
func (b *Bed) client(way Way) *node.Client {
	switch way {
	case Ordinary:
	case Lazy:
		return b.Lazy
	case Tuned:
		return b.Tuned
	case Stargz, SOCI:
		return b.peers[way].client
	}
	return b.Direct
}

// NodeOf is the node where a way pulls.
func (b *Bed) NodeOf(way Way) *node.Node {
	switch way {
	case Ordinary, Lazy:
	case Tuned:
		return b.tuned
	case Stargz, SOCI:
		return b.peers[way].node
	}
	return b.Node
}

// wasLazy fails where a peer has no layer mounted of the image that it runs: an
// ordinary pull would be compared with itself. Referee's journal tells of its own.
func (b *Bed) wasLazy(way Way) error {
	p := b.peers[way]
	if p == nil {
		return nil
	}
	mounts, err := p.lazyMounts()
	if err == nil && len(mounts) == 0 {
		err = fmt.Errorf("%s mounted no layer of the image; its log: %s", way, p.snapshotter.Log())
	}
	return err
}

// Pull pulls an image through Referee and leaves it on the node. It fails unless
// that went the lazy way.
func (b *Bed) Pull(ctx context.Context, image Image, l Link) error {
	began := time.Now()
	if _, err := b.Lazy.Pull(ctx, image.Ref(l), nil); err != nil {
		return err
	}
	_, err := b.lazyEntry(ctx, image.Ref(l), began)
	return err
}

// WasLazy tells whether the image's last pull through Referee, which began after
// since, went the lazy way.
func (b *Bed) WasLazy(ctx context.Context, image Image, l Link, since time.Time) (bool, error) {
	entry, err := b.entry(ctx, image.Ref(l), since)
	return err == nil && entry.Outcome == fallback.Lazy, err
}

// VolumesDir is where Referee mounts what it attaches.
func (b *Bed) VolumesDir() string { return b.path("referee-state", "volumes") }

// lazyEntry returns what Referee noted of a pull, which it does just after its
// caller has the answer. An ordinary pull is an error: it would be compared with
// itself.
func (b *Bed) lazyEntry(ctx context.Context, ref string, since time.Time) (*fallback.Entry, error) {
	entry, err := b.entry(ctx, ref, since)
	if err == nil && entry.Outcome != fallback.Lazy {
		err = fmt.Errorf("the pull was %s: %s: %s", entry.Outcome, entry.Reason, entry.Sentence)
	}
	return &entry, err
}

// entry waits for what Referee notes of a pull.
func (b *Bed) entry(ctx context.Context, ref string, since time.Time) (entry fallback.Entry, err error) {
	ctx, cancel := context.WithTimeout(ctx, journalTimeout)
	defer cancel()
	journal := fallback.ReadJournal(b.path("referee-root", "journal"))
	err = poll(ctx, 10*time.Millisecond, "pull is in the journal", func() (ok bool, err error) {
		entry, err = journal.Last(ref)
		return err == nil && !entry.Time.Before(since) && entry.Forward != nil, err
	})
	return entry, err
}

// Remove removes the images, which must be all that are lazy on the node, and
// waits until node and daemon have let go of them.
func (b *Bed) Remove(ctx context.Context, l Link, images ...Image) error {
	var refs []string
	for _, image := range images {
		refs = append(refs, image.Ref(l))
	}
	return b.remove(ctx, Lazy, refs...)
}

func (b *Bed) remove(ctx context.Context, way Way, refs ...string) error {
	return cleanly(ctx, func(ctx context.Context) error {
		for _, ref := range refs {
			if err := b.client(way).Remove(ctx, ref); err != nil {
				return err
			}
		}
		return poll(ctx, 20*time.Millisecond, "volumes are released", func() (bool, error) {
			if p := b.peers[way]; p != nil {
				mounts, err := p.lazyMounts()
				return len(mounts) == 0, err
			}
			return folderEmpty(b.VolumesDir())
		})
	})
}

// cleanly does what has to be done also when ctx has ended.
func cleanly(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	return do(ctx)
}

// Chill makes everything cold for a way to pull: its daemon is started anew, so
// that it knows no connection, no referrer, no byte and no former start, and the
// kernel's page cache is dropped.
func (b *Bed) Chill(ctx context.Context, way Way) error {
	if b.peers[way] != nil {
		return errors.Join(b.chillPeer(ctx, way), DropPageCache())
	}
	return b.chill(ctx, "cache", "traces")
}

// ChillTraced is Chill but for what Referee has recorded of former starts.
func (b *Bed) ChillTraced(ctx context.Context) error { return b.chill(ctx, "cache") }

// chill removes these folders while the daemon does not run.
func (b *Bed) chill(ctx context.Context, folders ...string) error {
	if err := b.Referee.Stop(); err != nil {
		return err
	}
	for _, folder := range folders {
		if err := os.RemoveAll(b.path("referee-root", folder)); err != nil {
			return fmt.Errorf("remove %s: %w", folder, err)
		}
	}
	if err := b.Referee.Start(ctx); err != nil {
		return err
	}
	b.Lazy.Close()
	client, err := b.Referee.Client()
	if err != nil {
		return err
	}
	b.Lazy = client
	if _, err := b.Lazy.List(ctx); err != nil { // connects
		return err
	}
	return DropPageCache()
}

// Warm pulls another image over the link and removes it, as a node does that is
// in use: the daemon's connections to the registry are open afterwards.
func (b *Bed) Warm(ctx context.Context, other Image, l Link) error {
	if err := b.Pull(ctx, other, l); err != nil {
		return err
	}
	return b.Remove(ctx, l, other)
}

// DropPageCache makes the kernel forget what it has read.
func DropPageCache() error {
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return fmt.Errorf("drop page cache: %w", err)
	}
	return nil
}

// Explain is what `referee explain` says of the image.
func (b *Bed) Explain(ctx context.Context, image Image, l Link) (string, error) {
	return b.Command(ctx, "explain", image.Ref(l))
}
