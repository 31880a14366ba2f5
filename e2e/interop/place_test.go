package interop_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
	"github.com/referee-cri/referee/negotiate"
)

var amd64 = &ocispec.Platform{OS: "linux", Architecture: "amd64"}

// place is a registry of some kind.
type place struct {
	host string
	list negotiate.Discovery // the way in which it tells what is attached
}

// everywhere runs a test against registries of every kind.
func everywhere(t *testing.T, test func(t *testing.T, p place)) {
	t.Helper()
	for name, start := range map[string]func(*testing.T) place{
		"referrers API": withAPI, "tag schema": withoutAPI, "docker-registry": distribution,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, start(t))
		})
	}
}

func withAPI(t *testing.T) place {
	t.Helper()
	return place{regtest.New(t, regtest.Options{}).Host(), negotiate.FoundReferrersAPI}
}

func withoutAPI(t *testing.T) place {
	t.Helper()
	return place{regtest.New(t, regtest.Options{Features: &regtest.Features{}}).Host(), negotiate.FoundTagSchema}
}

// distribution is the registry of Debian's docker-registry package, which knows
// nothing of referrers.
func distribution(t *testing.T) place {
	t.Helper()
	binary, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("docker-registry is not installed")
	}
	dir := t.TempDir()
	config, output := filepath.Join(dir, "config.yml"), filepath.Join(dir, "log")
	write(t, config, fmt.Sprintf("version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: \"127.0.0.1:0\"}\n", dir))
	log, err := os.Create(output)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.CommandContext(t.Context(), binary, "serve", config)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed: its error says so
	})
	listening := regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)
	for deadline := time.Now().Add(30 * time.Second); ; {
		said := read(t, output)
		if address := listening.FindSubmatch(said); address != nil {
			return place{string(address[1]), negotiate.FoundTagSchema}
		}
		if time.Now().After(deadline) {
			t.Fatalf("docker-registry does not listen: %s", said)
		}
		select {
		case <-t.Context().Done():
			t.Fatal("the test has ended")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// ref is a reference to a tag or a digest of a repository.
func (p place) ref(repository, name string) string {
	if digest.Digest(name).Validate() == nil {
		return p.host + "/" + repository + "@" + name
	}
	return p.host + "/" + repository + ":" + name
}

// repository is a client as command lines have it: they leave lists of referrers
// behind that a newer one has replaced, since many registries refuse to delete.
func (p place) repository(t *testing.T, name string) *remote.Repository {
	t.Helper()
	repo, err := remote.NewRepository(p.host + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	repo.PlainHTTP, repo.SkipReferrersGC = true, true
	repo.Client = &auth.Client{Client: &http.Client{Transport: transport}, Cache: auth.NewCache()}
	return repo
}

// putImage makes an image and pushes it with the tag 1.
func (p place) putImage(t *testing.T, repository string, layers int) *regtest.Image {
	t.Helper()
	origin := regtest.New(t, regtest.Options{})
	img, err := origin.PutImage("origin", "1", regtest.ImageSpec{Layers: layers, Platform: amd64})
	if err != nil {
		t.Fatal(err)
	}
	p.copyFrom(t, origin, repository)
	return img
}

// putIndex makes an image for two platforms and pushes it with the tag 1.
func (p place) putIndex(t *testing.T, repository string, layers int) {
	t.Helper()
	origin := regtest.New(t, regtest.Options{})
	var images []*regtest.Image
	for i, platform := range []*ocispec.Platform{amd64, {OS: "linux", Architecture: "arm64"}} {
		img, err := origin.PutImage("origin", "", regtest.ImageSpec{Layers: layers, Platform: platform, Seed: int64(i)})
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, img)
	}
	if _, err := origin.PutIndex("origin", "1", images...); err != nil {
		t.Fatal(err)
	}
	p.copyFrom(t, origin, repository)
}

// copyFrom copies what another registry has under the tag 1.
func (p place) copyFrom(t *testing.T, origin *regtest.Registry, repository string) {
	t.Helper()
	from := place{host: origin.Host()}.repository(t, "origin")
	if _, err := oras.Copy(t.Context(), from, "1", p.repository(t, repository), "1", oras.DefaultCopyOptions); err != nil {
		t.Fatal(err)
	}
}

// putReference copies an image of the reference data with all that is attached to
// it, and the further tags named.
func (p place) putReference(t *testing.T, repository, folder, tag string, more ...string) ocispec.Descriptor {
	t.Helper()
	store, err := oci.NewFromFS(t.Context(), os.DirFS(filepath.Join(testdata.Dir(t, "reference"), folder)))
	if err != nil {
		t.Fatal(err)
	}
	to := p.repository(t, repository)
	image, err := oras.ExtendedCopy(t.Context(), store, tag, to, tag, oras.DefaultExtendedCopyOptions)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range more {
		if _, err := oras.Copy(t.Context(), store, name, to, name, oras.DefaultCopyOptions); err != nil {
			t.Fatal(err)
		}
	}
	return image
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
