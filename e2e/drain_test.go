package e2e_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/referee-cri/referee/e2e/node"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
)

// told is what status tells.
type told struct {
	Draining bool `json:"draining"`
	Volumes  []struct {
		Reference string `json:"reference"`
		Mounted   bool   `json:"mounted"`
		Cached    int64  `json:"cached_bytes"`
		Size      int64  `json:"size_bytes"`
	} `json:"volumes"`
	Cache struct {
		Cached int64 `json:"cached_bytes"`
		InUse  int64 `json:"in_use_bytes"`

		Scratch int64 `json:"scratch_bytes"`
	} `json:"cache"`
	Disk []struct {
		Path  string `json:"path"`
		Bytes int64  `json:"bytes"`
	} `json:"disk"`
}

func (c command) status(t *testing.T) told {
	t.Helper()
	var s told
	if err := json.Unmarshal([]byte(c.run(t, "status", "--output", "json")), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestDrain drains a node with a lazy image, one on top of it and a container of
// each, and then has containers created without the daemon, after a reboot.
func TestDrain(t *testing.T) {
	t.Parallel()
	s := newScene(t, node.Options{}, "")
	base, _ := s.push(t, "app", "base", s.stack(t, "base"))
	s.convert(t, base, "app")
	top, _ := s.push(t, "app", "top", s.stack(t, "base", "top"))
	s.pull(t, base, fallback.Lazy)
	s.pull(t, top, fallback.Ordinary)
	running := start(t, s.lazy, base, "/bin/busybox", "sleep", "1000")
	s.expectAccounted(t, base)

	s.expectDrainFails(t, base)

	out := s.command.run(t, "drain")
	if !strings.Contains(out, "no image needs the daemon any more") || !strings.Contains(out, "running containers still read volume") {
		t.Errorf("drain says:\n%s", out)
	}
	for ref, own := range map[string]string{base: "base", top: "top"} {
		s.expectReadsOwn(t, s.lazy, ref, own)
	}
	if own, err := running.Output(t.Context(), "/bin/busybox", "cat", "/own"); err != nil || own != "base" {
		t.Errorf("the container that runs reads %q: %v", own, err)
	}
	if again := s.command.run(t, "drain"); strings.Contains(again, "fetched") {
		t.Errorf("there was something left to drain:\n%s", again)
	}

	late, _ := s.push(t, "app", "late", s.stack(t, "late"))
	s.convert(t, late, "app")
	if entry := s.pull(t, late, fallback.Ordinary); entry.Reason != reason.Draining {
		t.Errorf("the pull of a drained node was ordinary for %s: %s", entry.Reason, entry.Sentence)
	}
	if !s.status(t).Draining {
		t.Error("status does not say that the node is drained")
	}
	s.command.run(t, "drain", "--cancel")
	later, _ := s.push(t, "app", "later", s.stack(t, "later"))
	s.convert(t, later, "app")
	s.pull(t, later, fallback.Lazy)
	s.command.run(t, "drain", later)
	if s.status(t).Draining {
		t.Error("draining one image drains the node")
	}

	removePod(t, running)
	s.cyclePower(t)
	if out, err := s.command.try(t, "status"); err == nil || !strings.Contains(err.Error(), "the daemon does not run") {
		t.Errorf("status without a daemon: %v\n%s", err, out)
	}
	for ref, own := range map[string]string{base: "base", top: "top", late: "late", later: "later"} {
		s.expectReadsOwn(t, s.CRI(), ref, own)
	}
}

// expectDrainFails drains the node while no original layer can be had: it says
// which image is left, and changes nothing.
func (s *scene) expectDrainFails(t *testing.T, ref string) {
	t.Helper()
	repair := s.registry.Inject(regtest.Fault{Match: regtest.Path("/blobs/", http.MethodGet), Status: http.StatusNotFound})
	defer repair()
	out, err := s.command.try(t, "drain")
	if err == nil || !strings.Contains(out, "FAILED "+ref) || !strings.Contains(out, "404") || !strings.Contains(out, "left: ") {
		t.Errorf("drain without a registry: %v\n%s", err, out)
	}
	if volumes := s.status(t).Volumes; len(volumes) != 1 || !volumes[0].Mounted {
		t.Errorf("after a drain that failed: %+v", volumes)
	}
}

// expectReadsOwn has a new container show its image's layers.
func (s *scene) expectReadsOwn(t *testing.T, through *node.Client, ref, own string) {
	t.Helper()
	container := start(t, through, ref, "/bin/busybox", "sleep", "1000")
	defer removePod(t, container)
	s.expectOwn(t, container, own)
}

// expectAccounted compares what status says of one lazy image with the disk.
func (s *scene) expectAccounted(t *testing.T, ref string) {
	t.Helper()
	st := s.status(t)
	if len(st.Volumes) != 1 || st.Volumes[0].Reference != ref || !st.Volumes[0].Mounted {
		t.Fatalf("status tells of %+v", st.Volumes)
	}
	v := st.Volumes[0]
	if v.Cached == 0 || v.Cached > v.Size || v.Cached != st.Cache.Cached || v.Cached != st.Cache.InUse {
		t.Errorf("%d of %d bytes cached; the cache has %d, %d in use", v.Cached, v.Size, st.Cache.Cached, st.Cache.InUse)
	}
	onDisk := int64(0)
	for _, d := range st.Disk {
		if strings.HasSuffix(d.Path, "/cache") {
			onDisk = d.Bytes
		}
	}
	if onDisk < st.Cache.Cached {
		t.Errorf("the cache takes %d bytes of disk and says that it has %d", onDisk, st.Cache.Cached)
	}
	if text := s.command.run(t, "status"); !strings.Contains(text, ref) || !strings.Contains(text, "mounted") {
		t.Errorf("status:\n%s", text)
	}
}
