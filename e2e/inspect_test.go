package e2e_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/publish/sigstore"
	"github.com/referee-cri/referee/negotiate/trust/notation/notarytest"
)

// TestInspectedThenPulled draws the tree of an image where there is neither daemon
// nor containerd, then pulls it on a node with the same policy: what was marked is
// what is used.
func TestInspectedThenPulled(t *testing.T) {
	t.Parallel()
	m := newMarket(t)
	s := m.newStall(t, cosignScheme(negotiate.SignatureBundle, sigstore.SchemeBundle))
	unsigned := s.attach(t, s.newer(t))
	sbom := s.attach(t, ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/spdx+json", Subject: &s.image.descriptor, Config: ocispec.DescriptorEmptyJSON,
	})
	signed := s.signed(t)
	rules, _, _ := strings.Cut(s.text, "[cri]")
	_, rules, _ = strings.Cut(rules, "[[policy]]")
	bare := newCommand(t, filepath.Join(t.TempDir(), "config.toml"))
	notarytest.Write(t, bare.config, fmt.Appendf(nil, "version = 1\nroot = \"/nonexistent\"\nstate = \"/nonexistent\"\n[cri]\nbackend = \"/nonexistent\"\n[registry]\nconfig_path = %q\n[[policy]]%s",
		filepath.Join(s.Dir(), "certs.d"), rules))

	tree := inspect(t, bare, s.ref)
	found := map[string]*negotiate.Attachment{}
	for _, a := range tree.Manifest.Attached {
		found[a.Descriptor.Digest.String()] = a
	}
	chosen, other, bill := found[signed.Artifact.Digest.String()], found[unsigned.Digest.String()], found[sbom.Digest.String()]
	switch {
	case len(found) != 3 || chosen == nil || other == nil || bill == nil:
		t.Fatalf("attached are %v", found)
	case !chosen.Chosen || len(chosen.Attached) != 1 || !chosen.Attached[0].Convincing || chosen.Attached[0].Descriptor.Digest != signed.Signature.Digest:
		t.Errorf("the signed form: %+v", chosen)
	case other.Chosen || other.Reason != reason.Unsigned:
		t.Errorf("the unsigned form: %+v", other)
	case !strings.Contains(bill.What, "software bill of materials"):
		t.Errorf("the SBOM: %+v", bill)
	}
	text := bare.run(t, "inspect", s.ref)
	for _, want := range []string{
		s.ref, "policy: *.cosign.test/**", "* overlaybd: would be used", "* sigstore-bundle signature: convincing", "- overlaybd: unsigned: ", bill.What, "on the word of",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("does not say %q:\n%s", want, text)
		}
	}

	s.registry.ResetRequests()
	entry := s.expectSigned(t, signed.Artifact.Digest)
	if tree.Outcome != string(entry.Outcome) || tree.Artifact != entry.Artifact || tree.Format != entry.Format || tree.Policy != entry.Policy ||
		tree.Signer == nil || !strings.HasPrefix(entry.Signer, tree.Signer.Identity) {
		t.Errorf("inspected: %+v, signed by %+v; pulled: %+v", tree, tree.Signer, entry)
	}
}

// inspect reads the tree as JSON.
func inspect(t *testing.T, c command, ref string) (tree negotiate.Inspection) {
	t.Helper()
	out := c.run(t, "inspect", ref, "--output", "json")
	if err := json.Unmarshal([]byte(out), &tree); err != nil || tree.Manifest == nil {
		t.Fatalf("inspect prints %q: %v", out, err)
	}
	return tree
}

// TestInspectAccess asks registries that want a password, and one that is not there.
func TestInspectAccess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := newCommand(t, filepath.Join(dir, "config.toml"))
	notarytest.Write(t, c.config, fmt.Appendf(nil, "version = 1\n[registry]\nconfig_path = %q\ndocker_config = %q\n%s", dir, filepath.Join(dir, "docker.json"), anyImage))
	reg := regtest.New(t, regtest.Options{})
	if _, err := reg.PutImage("app", "1", regtest.ImageSpec{}); err != nil {
		t.Fatal(err)
	}
	ref := reg.Ref("app", "1")
	c.run(t, "convert", ref)
	reg.SetAuth(regtest.Auth{Kind: regtest.AuthToken, Username: "robot", Password: "hunter2"})
	refused := func(ref string, says ...string) {
		t.Helper()
		began := time.Now()
		out, err := c.try(t, "inspect", ref)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || out != "" {
			t.Fatalf("inspect prints %q, %v", out, err)
		}
		for _, want := range says {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("the error does not say %q: %v", want, err)
			}
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("that took %s", took)
		}
	}
	login := func(password string) {
		t.Helper()
		auth := base64.StdEncoding.EncodeToString([]byte("robot:" + password))
		notarytest.Write(t, filepath.Join(dir, "docker.json"), fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, reg.Host(), auth))
	}
	refused(ref, reg.Host(), "401")
	login("hunter1")
	refused(ref, reg.Host(), "401")
	login("hunter2")
	if tree := inspect(t, c, ref); tree.Outcome != string(fallback.Lazy) {
		t.Errorf("inspected: %+v", tree)
	}
	closed, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	refused(gone+"/app:1", gone, "connection refused")
	refused("UPPER/case:1", "UPPER/case:1")
}
