package e2e_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/regtest"
)

// TestIdentity compares a lazy image with the same image on a plain node.
func TestIdentity(t *testing.T) {
	t.Parallel()
	for _, version := range versions {
		t.Run("containerd "+version, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, node.Options{Containerd: version}, "")
			plain := node.Run(t, node.Options{Containerd: version}).CRI()
			ref := b.pushTiny(t)
			ctx := t.Context()
			want, err := plain.Pull(ctx, ref, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := b.lazy.Pull(ctx, ref, nil)
			if err != nil || got != want {
				t.Errorf("lazy pull returns %q (%v), a plain node %q", got, err, want)
			}
			expectSame(t, "ImageStatus", imageStatus(ctx, t, plain, ref), imageStatus(ctx, t, b.lazy, ref))
			expectSame(t, "ListImages", list(ctx, t, plain), list(ctx, t, b.lazy))
			b.expectReleased(t, ref)
			expectSame(t, "ListImages after removal", without(list(ctx, t, plain), want), list(ctx, t, b.lazy))
			if b.pull(t, ref, fallback.Lazy); t.Failed() {
				t.Log("the second pull after a removal differs")
			}
		})
	}
}

func expectSame(t *testing.T, what string, plain, lazy any) {
	t.Helper()
	if diff := cmp.Diff(plain, lazy, protocmp.Transform()); diff != "" {
		t.Errorf("%s (-plain +lazy):\n%s", what, diff)
	}
}

func imageStatus(ctx context.Context, t *testing.T, client *node.Client, ref string) *runtime.ImageStatusResponse {
	t.Helper()
	response, err := client.Images.ImageStatus(ctx, &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: ref}, Verbose: true})
	if err != nil || response.GetImage() == nil {
		t.Fatalf("status of %s: %v, %v", ref, response, err)
	}
	return response
}

func list(ctx context.Context, t *testing.T, client *node.Client) []*runtime.Image {
	t.Helper()
	images, err := client.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	byID := make([]*runtime.Image, 0, len(images))
	for _, id := range []bool{true, false} { // the pause image first: containerd's order is random
		for _, image := range images {
			if image.GetPinned() == id {
				byID = append(byID, image)
			}
		}
	}
	return byID
}

func without(images []*runtime.Image, id string) []*runtime.Image {
	var rest []*runtime.Image
	for _, image := range images {
		if image.GetId() != id {
			rest = append(rest, image)
		}
	}
	return rest
}

// expectReleased removes the image through Referee and waits until nothing of
// it is left: mounts, FUSE files, records, cached blobs, snapshot directories.
func (b *bed) expectReleased(t *testing.T, ref string) {
	t.Helper()
	if len(b.remains(t)) == 0 {
		t.Fatal("nothing was there before the removal: the check cannot fail")
	}
	if err := b.lazy.Remove(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	b.expectNothingRemains(t)
}

func (b *bed) expectNothingRemains(t *testing.T) {
	t.Helper()
	// containerd spends at most a fiftieth of its time on collecting garbage: where the
	// disk is slow, the next collection is far.
	deadline := time.Now().Add(90 * time.Second)
	for remains := b.remains(t); len(remains) > 0; remains = b.remains(t) {
		if time.Now().After(deadline) {
			t.Fatalf("still there: %s", strings.Join(remains, "\n"))
		}
		select {
		case <-t.Context().Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// remains lists what lazy images have left on the node.
func (b *bed) remains(t *testing.T) []string {
	t.Helper()
	var found []string
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, b.Dir()+"/referee-state/volumes/") || strings.Contains(line, b.Snapshots()) && strings.Contains(line, "/lazy") {
			found = append(found, strings.TrimSpace(line))
		}
	}
	for _, pattern := range []string{
		"referee-state/fuse/*", "referee-state/volumes/*", "referee-root/volumes/*.json", "referee-root/cache/*/*",
	} {
		names, err := filepath.Glob(filepath.Join(b.Dir(), pattern))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, names...)
	}
	links, err := filepath.Glob(filepath.Join(b.Snapshots(), "*", "fs"))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil {
			found = append(found, link+" -> "+target)
		}
	}
	return found
}

// TestRepeatedPull counts what pulling an image again asks the registry.
func TestRepeatedPull(t *testing.T) {
	t.Parallel()
	b := newBed(t, node.Options{}, "")
	plain := node.Run(t, node.Options{}).CRI()
	ref := b.pushTiny(t)
	count := func(client *node.Client) []regtest.Entry {
		for range 2 { // the second time is the one that counts
			b.registry.ResetRequests()
			if _, err := client.Pull(t.Context(), ref, nil); err != nil {
				t.Fatal(err)
			}
		}
		return b.registry.Requests()
	}
	want, got := count(plain), count(b.lazy)
	if len(want) == 0 || len(got) > len(want) {
		t.Errorf("a repeated pull asks %d times through Referee, %d times without:\n%v", len(got), len(want), got)
	}
	if entry := b.explain(t, ref, time.Time{}); entry.Outcome != fallback.Lazy {
		t.Errorf("the decision that brought the image is forgotten: %+v", entry)
	}
}
