package host_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/lazyblock/host"
	"github.com/referee-cri/referee/lazyblock/materialise"
)

func TestMaterialiseUnderARunningContainer(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	image := b.pullLazily(t)
	top := image.ChainIDs()[3]
	volume := b.image(t, image.ChainIDs()).Volume.ID()
	before, stop := b.container(t, top)
	if isMaterialised(t, before) {
		t.Fatal("the image is not lazy")
	}
	var last materialise.Progress
	var group sync.WaitGroup
	b.registry.ResetRequests()
	for i := range 3 { // one works, the others find it done
		group.Go(func() {
			var progress func(materialise.Progress)
			if i == 0 {
				progress = func(p materialise.Progress) { last = p }
			}
			if err := b.Materialise(t.Context(), top, *image, registry.Credentials{}, progress); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if last != (materialise.Progress{}) && last.Unpacked != 4 {
		t.Errorf("progress ends at %+v", last)
	}
	for _, layer := range image.Layers {
		n, _ := b.registry.Count(func(e regtest.Entry) bool { return strings.HasSuffix(e.Path, layer.Digest.String()) })
		if n != 1 {
			t.Errorf("layer %s was fetched %d times", layer.Digest, n)
		}
	}
	after, stopAfter := b.container(t, top)
	expectTree(t, after)
	b.restart()
	if err := b.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !b.volumes.Mounted(volume) {
		t.Error("a container lost its volume")
	}
	expectTree(t, before, converterDiffers...) // all of it, read from the volume now
	if standings, err := b.Words(t.Context(), image.ChainIDs()); err != nil || len(standings) != 1 || !standings[0].Materialised {
		t.Errorf("plain content is %+v, %v", standings, err)
	}
	stop()
	b.reconcileUntil(t, b.volumes.Empty)
	if _, err := b.volumes.Recorded(volume); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("volume is still on record: %v", err)
	}
	expectTree(t, after)
	if chains, err := b.Present(t.Context(), b.ref); err != nil || !slices.Equal(chains, image.ChainIDs()) {
		t.Errorf("image is present as %v, %v", chains, err)
	}
	stopAfter()
	b.removeImage(t)
	left, err := os.ReadDir(filepath.Join(b.node.Snapshots(), "snapshots"))
	for _, entry := range left {
		if names, err := os.ReadDir(filepath.Join(b.node.Snapshots(), "snapshots", entry.Name())); err != nil || len(names) != 2 {
			t.Errorf("snapshot directory %s holds %v, %v", entry.Name(), names, err)
		}
	}
	if err != nil {
		t.Error(err)
	}
}

func TestFailedMaterialiseLeavesTheGraft(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	image := b.pullLazily(t)
	top := image.ChainIDs()[3]
	at := int64(100)
	cancelled, cancel := context.WithCancel(t.Context())
	layer := regtest.Path(image.Layers[1].Digest.String(), http.MethodGet)
	for name, tc := range map[string]struct {
		ctx    context.Context //nolint:containedctx // of one case
		change func(*host.Original)
		chain  digest.Digest
		fault  regtest.Fault
		want   reason.Code
	}{
		"a corrupt layer":           {fault: regtest.Fault{Match: layer, FlipAt: &at}, want: reason.DigestMismatch},
		"a private layer":           {fault: regtest.Fault{Match: layer, Status: http.StatusUnauthorized}, want: reason.Unauthorized},
		"a layer of another size":   {change: func(o *host.Original) { o.Layers[1].Size++ }, want: reason.SizeMismatch},
		"layers of another image":   {change: func(o *host.Original) { o.DiffIDs[1] = digest.FromString("other") }, want: reason.LayerMismatch},
		"layers in another order":   {change: func(o *host.Original) { o.Layers[0], o.Layers[1] = o.Layers[1], o.Layers[0] }, want: reason.DigestMismatch},
		"a layer less":              {change: func(o *host.Original) { o.Layers = o.Layers[:3] }, want: reason.LayerMismatch},
		"a chain that is not there": {chain: image.ChainIDs()[0], want: reason.GraftFailed},
		"a caller who does not wait": {ctx: cancelled, fault: regtest.Fault{Match: func(r *http.Request) bool {
			stop := layer(r)
			if stop {
				cancel()
			}
			return stop
		}, Hang: true}, want: reason.Cancelled},
	} {
		asked := host.Original{Repository: image.Repository, Layers: slices.Clone(image.Layers), DiffIDs: slices.Clone(image.DiffIDs)}
		if tc.change != nil {
			tc.change(&asked)
		}
		if tc.fault.Match == nil {
			tc.fault = regtest.Fault{Match: func(*http.Request) bool { return false }}
		}
		ctx, chain := t.Context(), top
		if tc.ctx != nil {
			ctx = tc.ctx
		}
		if tc.chain != "" {
			chain = tc.chain
		}
		remove := b.registry.Inject(tc.fault)
		if err := b.Materialise(ctx, chain, asked, registry.Credentials{}, nil); reason.Of(err) != tc.want {
			t.Errorf("%s: %v (%s), want %s", name, err, reason.Of(err), tc.want)
		}
		remove()
		if standings, err := b.Words(t.Context(), image.ChainIDs()); err != nil || len(standings) != 1 {
			t.Errorf("%s: grafts are %+v, %v", name, standings, err)
		}
	}
	cancel()
	root, stop := b.container(t, top)
	if isMaterialised(t, root) {
		t.Error("the graft is gone")
	}
	expectTree(t, root, converterDiffers...)
	if plain, err := filepath.Glob(filepath.Join(b.node.Snapshots(), "snapshots", "*", "plain")); err != nil || len(plain) != 0 {
		t.Errorf("left behind: %v, %v", plain, err)
	}
	stop()
	b.removeImage(t)
}

func TestWordsAreForOneChain(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	image := b.pullLazily(t)
	chains := image.ChainIDs()
	spec := b.image(t, chains).Volume
	// Another repository says that the same layers are an image of its own.
	claim := b.image(t, []digest.Digest{digest.FromString("victim")})
	claim.Volume.Repository = b.registry.Host() + "/attacker"
	release, _, err := b.Attach(t.Context(), claim, registry.Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	friend := b.registry.Host() + "/friend"
	if err := b.Vouch(t.Context(), spec.ID(), friend, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.Vouch(t.Context(), spec.ID(), "registry.test/friend", nil); err == nil {
		t.Error("another registry vouches for what it has not served")
	}
	b.restart()
	got, err := b.Words(t.Context(), append(claim.Chains, chains...))
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, func(x, y host.Standing) int { return len(x.Repository) - len(y.Repository) })
	want := []host.Standing{
		{
			Chain: chains[3], Volume: spec.ID(), Repository: b.repository(), Artifact: spec.Artifact.Digest,
			Vouchers: []string{friend}, Word: json.RawMessage(`{"signer":"somebody"}`),
		},
		{
			Chain: claim.Chains[0], Volume: claim.Volume.ID(), Repository: b.registry.Host() + "/attacker",
			Artifact: spec.Artifact.Digest, Word: json.RawMessage(`{"signer":"somebody"}`),
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("words (-want +got):\n%s", diff)
	}
	if got, err := b.Words(t.Context(), chains[:3]); err != nil || len(got) != 0 {
		t.Errorf("words of what is not grafted: %+v, %v", got, err)
	}
	record := filepath.Join(b.node.Dir(), "root-of-referee", "volumes", spec.ID()+".json")
	if err := os.Truncate(record, 10); err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{"half written", "lost"} {
		got, err = b.Words(t.Context(), chains)
		if diff := cmp.Diff([]host.Standing{{Chain: chains[3], Volume: spec.ID()}}, got); err != nil || diff != "" {
			t.Errorf("record is %s: %v (-want +got):\n%s", state, err, diff)
		}
		if state == "half written" {
			if err := os.Remove(record); err != nil {
				t.Fatal(err)
			}
		}
	}
	release()
	b.removeImage(t)
}
