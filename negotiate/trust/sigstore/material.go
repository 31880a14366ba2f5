package sigstore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
)

// material is what the files of a trust store say. It is not changed once made.
type material struct {
	keys             []key
	root             root.TrustedMaterial // empty where there is no trusted root
	identities       verify.CertificateIdentities
	requireLog       bool
	requireTimestamp bool
	checkReference   bool
}

// key is one public key.
type key struct {
	fingerprint [sha256.Size]byte // of the key as SubjectPublicKeyInfo, DER
	// verifiers are the ways in which signatures by it are made: cosign up to
	// version 2 hashes with SHA-256 whatever the curve, Sigstore's newer clients
	// with a hash as long as the curve; Ed25519 signs the message or its hash.
	verifiers []signature.Verifier
}

// name is the key for people.
func (k key) name() string { return "key sha256:" + hex.EncodeToString(k.fingerprint[:]) }

// hint is the name that cosign gives a key in bundles.
func (k key) hint() string { return base64.StdEncoding.EncodeToString(k.fingerprint[:]) }

// read makes the material out of its files. Its errors name the file.
func read(opts Options) (*material, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	m := &material{
		root: &root.BaseTrustedMaterial{}, requireLog: opts.requireLog(),
		requireTimestamp: opts.RequireTimestamp, checkReference: opts.CheckReference,
	}
	for _, path := range opts.Keys {
		public, err := readKeys(path)
		if err != nil {
			return nil, fmt.Errorf("read keys %s: %w", path, err)
		}
		for _, p := range public {
			k, err := newKey(p)
			if err != nil {
				return nil, fmt.Errorf("read keys %s: %w", path, err)
			}
			m.keys = append(m.keys, k)
		}
	}
	if opts.TrustedRoot == "" {
		return m, nil
	}
	trusted, err := readRoot(opts.TrustedRoot)
	if err == nil {
		err = sufficient(trusted, opts)
	}
	if err != nil {
		return nil, fmt.Errorf("read trusted root %s: %w", opts.TrustedRoot, err)
	}
	m.root = trusted
	m.identities, err = identities(opts.Identities)
	return m, err
}

// sufficient tells whether a root holds what the options rely on.
func sufficient(trusted *root.TrustedRoot, opts Options) error {
	switch {
	case len(opts.Identities) > 0 && len(trusted.FulcioCertificateAuthorities()) == 0:
		return errors.New("it names no certificate authority, so no identity can be proven")
	case opts.requireLog() && len(trusted.RekorLogs()) == 0:
		return errors.New("it names no transparency log, and one is required")
	case opts.RequireTimestamp && len(trusted.TimestampingAuthorities()) == 0:
		return errors.New("it names no timestamp authority, and one is required")
	default:
		return nil
	}
}

func newKey(public crypto.PublicKey) (key, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return key{}, fmt.Errorf("encode key: %w", err)
	}
	k := key{fingerprint: sha256.Sum256(der)}
	for _, load := range loaders(public) {
		v, err := load()
		if err != nil {
			return key{}, fmt.Errorf("use %T: %w", public, err)
		}
		k.verifiers = append(k.verifiers, v)
	}
	if len(k.verifiers) == 0 {
		return key{}, fmt.Errorf("use %T: neither ECDSA, RSA nor Ed25519", public)
	}
	return k, nil
}

// loaders are the ways to verify with a key, the most likely first.
func loaders(public crypto.PublicKey) []func() (signature.Verifier, error) {
	with := func(h crypto.Hash) func() (signature.Verifier, error) {
		return func() (signature.Verifier, error) { return signature.LoadVerifier(public, h) }
	}
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		switch p.Curve {
		case elliptic.P384():
			return []func() (signature.Verifier, error){with(crypto.SHA384), with(crypto.SHA256)}
		case elliptic.P521():
			return []func() (signature.Verifier, error){with(crypto.SHA512), with(crypto.SHA256)}
		default:
			return []func() (signature.Verifier, error){with(crypto.SHA256)}
		}
	case *rsa.PublicKey:
		return []func() (signature.Verifier, error){with(crypto.SHA256)}
	case ed25519.PublicKey:
		return []func() (signature.Verifier, error){
			with(0),
			func() (signature.Verifier, error) { return signature.LoadED25519phVerifier(p) },
		}
	default:
		return nil
	}
}

// keyed is the material as seen with one key, whatever name a bundle gives it: that
// name stands outside the signature.
type keyed struct {
	root.TrustedMaterial

	verifier signature.Verifier
}

// PublicKeyVerifier returns the key, valid at any time.
func (k keyed) PublicKeyVerifier(string) (root.TimeConstrainedVerifier, error) {
	return root.NewExpiringKey(k.verifier, time.Time{}, time.Time{}), nil
}
