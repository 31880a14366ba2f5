package notarytest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Holder is whoever has a key and a certificate: an authority or a signer.
type Holder struct {
	Key   crypto.Signer
	Chain []*x509.Certificate // its own first, the root last
}

// Certificate is its own one.
func (h *Holder) Certificate() *x509.Certificate { return h.Chain[0] }

// Request says what a certificate is to be like. Zero times are an hour ago and in
// an hour.
type Request struct {
	Name       string // common name; the rest of the subject is O=Referee,ST=Here,C=XX
	Country    string // empty: XX
	From, To   time.Time
	Authority  bool
	Timestamps bool     // for a timestamping authority
	CRL, OCSP  []string // addresses that it names
}

// Subject is the distinguished name of a request, as a trust policy names it.
func (r Request) Subject() pkix.Name {
	country := r.Country
	if country == "" {
		country = "XX"
	}
	return pkix.Name{Country: []string{country}, Province: []string{"Here"}, Organization: []string{"Referee"}, CommonName: r.Name}
}

// Root makes an authority that nobody else vouches for, valid for ten years from
// five years ago on.
func Root(t testing.TB, name string) *Holder {
	t.Helper()
	now := time.Now()
	return issue(t, nil, Request{Name: name, Authority: true, From: now.AddDate(-5, 0, 0), To: now.AddDate(5, 0, 0)})
}

// Issue makes a holder whose certificate h signs.
func (h *Holder) Issue(t testing.TB, r Request) *Holder {
	t.Helper()
	return issue(t, h, r)
}

func issue(t testing.TB, issuer *Holder, r Request) *Holder {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	check(t, err)
	template := r.template(t)
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	parent, signer := template, crypto.Signer(key)
	if issuer != nil {
		parent, signer = issuer.Certificate(), issuer.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	check(t, err)
	certificate, err := x509.ParseCertificate(der)
	check(t, err)
	h := &Holder{Key: key, Chain: []*x509.Certificate{certificate}}
	if issuer != nil {
		h.Chain = append(h.Chain, issuer.Chain...)
	}
	return h
}

func (r Request) template(t testing.TB) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{
		Subject: r.Subject(), NotBefore: r.From, NotAfter: r.To, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, CRLDistributionPoints: r.CRL, OCSPServer: r.OCSP,
	}
	if c.NotBefore.IsZero() {
		c.NotBefore = time.Now().Add(-time.Hour)
	}
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(time.Hour)
	}
	switch {
	case r.Authority:
		c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	case r.Timestamps:
		// RFC 3161, 2.3: this usage alone, and critical, which crypto/x509 does not write by itself.
		usage, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
		check(t, err)
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}}
	default:
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	}
	return c
}

// RevocationList is a list by h, current until next, of revoked certificates.
func (h *Holder) RevocationList(t testing.TB, number int64, next time.Time, extensions []pkix.Extension, revoked ...*Holder) []byte {
	t.Helper()
	template := &x509.RevocationList{
		Number: big.NewInt(number), ThisUpdate: next.Add(-24*time.Hour + time.Duration(number)*time.Second),
		NextUpdate: next, ExtraExtensions: extensions,
	}
	for _, r := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: r.Certificate().SerialNumber, RevocationTime: time.Now().Add(-time.Minute),
		})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, h.Certificate(), h.Key)
	check(t, err)
	return der
}

// Files writes key and chain as PEM.
func (h *Holder) Files(t testing.TB) (keyFile, certFile string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(h.Key)
	check(t, err)
	dir := t.TempDir()
	keyFile, certFile = filepath.Join(dir, "key.pem"), filepath.Join(dir, "chain.pem")
	Write(t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	Write(t, certFile, PEM(h.Chain...))
	return keyFile, certFile
}

// PEM encodes certificates.
func PEM(certificates ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certificates {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.Bytes()
}

// Write writes a file and the directories that it needs.
func Write(t testing.TB, path string, content []byte) {
	t.Helper()
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(t, os.WriteFile(path, content, 0o600))
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
