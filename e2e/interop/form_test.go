package interop_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/referee-cri/referee/internal/conversion"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
	signnotation "github.com/referee-cri/referee/negotiate/publish/notation"
	signsigstore "github.com/referee-cri/referee/negotiate/publish/sigstore"
	trustnotation "github.com/referee-cri/referee/negotiate/trust/notation"
	"github.com/referee-cri/referee/negotiate/trust/notation/notarytest"
	trustsigstore "github.com/referee-cri/referee/negotiate/trust/sigstore"
)

// signWith signs something in a repository, as conversion.Options.Sign does.
type signWith func(ctx context.Context, repo *remote.Repository, subject ocispec.Descriptor) (ocispec.Descriptor, error)

// convert does what `referee convert` does with the image tagged 1, and returns the form of
// its first platform.
func (p place) convert(t *testing.T, repository string, sign signWith) conversion.Attached {
	t.Helper()
	made, err := conversion.Run(t.Context(), conversion.Options{Source: p.ref(repository, "1"), TempDir: t.TempDir(), Sign: sign})
	if err != nil {
		t.Fatal(err)
	}
	return made[0]
}

// putForm pushes an image of two layers and a form of it that nobody has signed.
func (p place) putForm(t *testing.T, repository string) (image *regtest.Image, form ocispec.Descriptor) {
	t.Helper()
	image = p.putImage(t, repository, 2)
	return image, p.convert(t, repository, nil).Artifact
}

// keyPair is a pair of files.
type keyPair struct{ private, public string }

// newKeyPair makes one that is not encrypted, as openssl does.
func newKeyPair(t *testing.T) keyPair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := cryptoutils.MarshalPrivateKeyToPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := cryptoutils.MarshalPublicKeyToPEM(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	k := keyPair{filepath.Join(t.TempDir(), "private.pem"), filepath.Join(t.TempDir(), "public.pem")}
	write(t, k.private, string(private))
	write(t, k.public, string(public))
	return k
}

// generate has cosign make an encrypted pair, the only kind that it signs with.
func generate(t *testing.T, cosign program) keyPair {
	t.Helper()
	prefix := filepath.Join(t.TempDir(), "key")
	cosign.run(t, "generate-key-pair", "--output-key-prefix", prefix)
	return keyPair{prefix + ".key", prefix + ".pub"}
}

// sign signs as Referee does.
func (k keyPair) sign(scheme signsigstore.Scheme) signWith {
	return func(ctx context.Context, repo *remote.Repository, subject ocispec.Descriptor) (ocispec.Descriptor, error) {
		return signsigstore.Sign(ctx, repo, subject, signsigstore.Options{KeyFile: k.private, Password: []byte(cosignPassword), Scheme: scheme})
	}
}

// trusted is a trust store with a public key.
func trusted(t *testing.T, public string, change ...func(*trustsigstore.Options)) negotiate.Verifier {
	t.Helper()
	opts := trustsigstore.Options{Keys: []string{public}}
	for _, f := range change {
		f(&opts)
	}
	v, err := trustsigstore.Load("cosign", opts)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// notary is an authority of the Notary Project with one signer.
type notary struct{ root, builder *notarytest.Holder }

func newNotary(t *testing.T) notary {
	t.Helper()
	root := notarytest.Root(t, "root")
	return notary{root, root.Issue(t, notarytest.Request{Name: "builder"})}
}

// sign signs as Referee does.
func (n notary) sign(t *testing.T, envelope string) signWith {
	t.Helper()
	keyFile, certFile := n.builder.Files(t)
	return func(ctx context.Context, repo *remote.Repository, subject ocispec.Descriptor) (ocispec.Descriptor, error) {
		return signnotation.Sign(ctx, repo, subject, signnotation.Options{KeyFile: keyFile, CertFile: certFile, Envelope: envelope})
	}
}

// store is a trust store that trusts the notary for these scopes: repositories,
// or "*".
func (n notary) store(t *testing.T, scopes ...string) *notarytest.Store {
	t.Helper()
	statement := notarytest.Statement("ca:prod")
	statement.RegistryScopes = scopes
	s := notarytest.NewStore(t, statement)
	s.Trust(t, "ca", "prod", n.root.Certificate())
	return s
}

// load is the trust store as a node has it.
func load(t *testing.T, s *notarytest.Store) negotiate.Verifier {
	t.Helper()
	v, err := trustnotation.Load("notation", trustnotation.Options{PolicyFile: s.PolicyFile, TrustStoreDir: s.TrustStoreDir})
	if err != nil {
		t.Fatal(err)
	}
	return v
}
