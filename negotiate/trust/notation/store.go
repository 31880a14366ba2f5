package notation

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-go/verifier/truststore"
)

// stores are the certificates of named stores, by "<type>:<name>" as trust policies
// write it. It answers notation-go from memory: what a verdict stands on is what
// was checked when it was read.
type stores map[string][]*x509.Certificate

var _ truststore.X509TrustStore = stores(nil)

// GetCertificates returns the certificates of one store.
func (s stores) GetCertificates(_ context.Context, kind truststore.Type, name string) ([]*x509.Certificate, error) {
	certificates, known := s[string(kind)+":"+name]
	if !known {
		return nil, fmt.Errorf("trust store %s:%s was not read", kind, name)
	}
	return certificates, nil
}

// read adds the store that a trust policy names, unless it is there already.
func (s stores) read(opts Options, ref string) error {
	if s[ref] != nil {
		return nil
	}
	kind, name, _ := strings.Cut(ref, ":") // the policy is valid, so there is a colon
	dir := opts.storeDir(truststore.Type(kind), name)
	files, err := entries(dir)
	if err != nil {
		return err
	}
	var all []*x509.Certificate
	for _, file := range files {
		certificates, err := readCertificates(file, truststore.Type(kind))
		if err != nil {
			return fmt.Errorf("read certificates %s: %w", file, err)
		}
		all = append(all, certificates...)
	}
	if len(all) == 0 {
		return fmt.Errorf("there is no certificate in %s", dir)
	}
	s[ref] = all
	return nil
}

// readCertificates reads a file of certificates fit for a store of this kind.
func readCertificates(path string, kind truststore.Type) ([]*x509.Certificate, error) {
	content, err := readFile(path, maxFile)
	if err != nil {
		return nil, err
	}
	certificates, err := parseCertificates(content)
	if err != nil {
		return nil, err
	}
	if err := truststore.ValidateCertificates(certificates); err != nil {
		return nil, err
	}
	for _, c := range certificates {
		// Timestamps are verified up to a root, which a store of another kind need
		// not hold.
		if kind == truststore.TypeTSA && (!bytes.Equal(c.RawSubject, c.RawIssuer) || c.CheckSignatureFrom(c) != nil) {
			return nil, fmt.Errorf("%q is not a root, as stores of timestamping authorities need it", c.Subject)
		}
	}
	return certificates, nil
}

// parseCertificates reads PEM or DER.
func parseCertificates(content []byte) ([]*x509.Certificate, error) {
	block, rest := pem.Decode(content)
	if block == nil {
		return x509.ParseCertificates(content)
	}
	var certificates []*x509.Certificate
	for ; block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it holds a %s, want certificates only", strings.ToLower(block.Type))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(certificates)+1, err)
		}
		certificates = append(certificates, c)
	}
	return certificates, nil
}

// trusting names the one among refs that the signer's chain leads to.
func (s stores) trusting(refs []string, signer *signature.SignerInfo) (string, error) {
	want := truststore.TypeCA
	if signer.SignedAttributes.SigningScheme == signature.SigningSchemeX509SigningAuthority {
		want = truststore.TypeSigningAuthority
	}
	for _, ref := range refs {
		if !strings.HasPrefix(ref, string(want)+":") {
			continue
		}
		if _, err := signature.VerifyAuthenticity(signer, s[ref]); err == nil {
			return ref, nil
		}
	}
	return "", errors.New("the signer's chain leads to none of the trust stores")
}
