package notarytest

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/tspclient-go"
)

// TSA is a timestamping authority (RFC 3161) on the loopback interface.
type TSA struct {
	URL    string
	Root   *x509.Certificate
	client *http.Client
}

// NewTSA starts one with the key of h. now is what it takes for the time.
func NewTSA(t testing.TB, h *Holder, now func() time.Time) *TSA {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer, err := h.stamp(body, now())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/timestamp-reply")
		_, _ = w.Write(answer) // the client will miss it
	}))
	t.Cleanup(server.Close)
	return &TSA{URL: server.URL, Root: h.Chain[len(h.Chain)-1], client: server.Client()}
}

// stamp answers a timestamp request.
func (h *Holder) stamp(request []byte, now time.Time) ([]byte, error) {
	asked, err := timestamp.ParseRequest(request)
	if err != nil {
		return nil, err
	}
	token := timestamp.Timestamp{
		HashAlgorithm: asked.HashAlgorithm, HashedMessage: asked.HashedMessage, Nonce: asked.Nonce,
		Time: now, Accuracy: time.Second, Policy: asn1.ObjectIdentifier{1, 2, 3, 4, 1},
		AddTSACertificate: true, Certificates: h.Chain[1:],
	}
	return token.CreateResponseWithOpts(h.Certificate(), h.Key, crypto.SHA256)
}

// Stamp has the authority countersign the envelope that a request makes.
func (a *TSA) Stamp(t testing.TB, request *signature.SignRequest) {
	t.Helper()
	stamper, err := tspclient.NewHTTPTimestamper(a.client, a.URL)
	check(t, err)
	request.Timestamper = stamper
	request.TSARootCAs = x509.NewCertPool()
	request.TSARootCAs.AddCert(a.Root)
}
