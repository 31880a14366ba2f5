package e2e_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/eventually"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
)

// TestKubeletsDay does to one socket what a kubelet does: it asks who is there and
// how much is free, pulls private images in parallel, each more than once, lists
// them, and collects them as garbage.
func TestKubeletsDay(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Options{}, "")
	const images = 3
	refs := make([]string, images)
	for i := range refs {
		repository := fmt.Sprintf("team%d/tiny", i)
		if _, err := b.registry.LoadLayout(repository, filepath.Join(testdata.Dir(t, "reference"), "tiny")); err != nil {
			t.Fatal(err)
		}
		refs[i] = b.registry.Ref(repository, "tiny")
	}
	b.registry.SetAuth(regtest.Auth{Kind: regtest.AuthToken, Username: "kubelet", Password: "secret"})

	// A kubelet without an endpoint for images of its own has one socket for both services.
	kubelet, err := node.Dial(filepath.Join(b.Dir(), "referee", "cri.sock"), "", filepath.Join(b.Dir(), "pods"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kubelet.Close)
	version, err := kubelet.Runtime.Version(t.Context(), &runtime.VersionRequest{Version: "0.1.0"})
	if err != nil || version.GetRuntimeName() != "containerd" || version.GetRuntimeApiVersion() != "v1" {
		t.Errorf("the version is %v, %v", version, err)
	}
	b.expectFileSystem(t, kubelet)

	started := time.Now()
	ids := b.pullAll(t, kubelet, refs)
	lazy := 0
	for _, ref := range refs {
		if b.explain(t, ref, started).Outcome == fallback.Lazy {
			lazy++
		}
		if image, err := kubelet.ImageStatus(t.Context(), ref); err != nil || image.GetId() != ids[ref] || image.GetSize() == 0 {
			t.Errorf("the status of %s is %v, %v; its pull said %s", ref, image, err, ids[ref])
		}
	}
	if volumes := b.status(t).Volumes; lazy == 0 || len(volumes) == 0 {
		t.Errorf("%d pulls were lazy, there are volumes %v", lazy, volumes)
	}

	// Garbage collection goes by the ids that ListImages tells.
	listed, err := kubelet.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range listed {
		for _, ref := range refs {
			if image.GetId() == ids[ref] && !image.GetPinned() {
				if err := kubelet.Remove(t.Context(), image.GetId()); err != nil {
					t.Error(err)
				}
			}
		}
	}
	for _, ref := range refs {
		if image, err := kubelet.ImageStatus(t.Context(), ref); err != nil || image != nil {
			t.Errorf("after its removal the status of %s is %v, %v", ref, image, err)
		}
	}
	eventually.True(t, "no volume is left", func() bool { return len(b.status(t).Volumes) == 0 })
	b.expectNothingRemains(t)
	b.expectFileSystem(t, kubelet)
}

// pullAll pulls every image three times at once, as for three pods, and returns
// the ids.
func (b *bed) pullAll(t *testing.T, kubelet *node.Client, refs []string) map[string]string {
	t.Helper()
	const pods = 3
	auth := &runtime.AuthConfig{Username: "kubelet", Password: "secret"}
	ids := make(map[string]string)
	var mu sync.Mutex
	var pulls sync.WaitGroup
	for _, ref := range refs {
		for range pods {
			pulls.Go(func() {
				id, err := kubelet.Pull(t.Context(), ref, auth)
				mu.Lock()
				defer mu.Unlock()
				if err != nil || ids[ref] != "" && ids[ref] != id {
					t.Errorf("a pull of %s gave %s and %v, another %s", ref, id, err, ids[ref])
				}
				ids[ref] = id
			})
		}
	}
	pulls.Wait()
	return ids
}

// expectFileSystem wants the answer on which a kubelet's eviction depends.
func (b *bed) expectFileSystem(t *testing.T, kubelet *node.Client) {
	t.Helper()
	info, err := kubelet.Images.ImageFsInfo(t.Context(), &runtime.ImageFsInfoRequest{})
	if err != nil || len(info.GetImageFilesystems()) == 0 || info.GetImageFilesystems()[0].GetFsId().GetMountpoint() != b.Snapshots() {
		t.Errorf("images are at %v, %v", info.GetImageFilesystems(), err)
	}
}
