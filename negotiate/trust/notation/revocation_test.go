package notation_test

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate/trust/notation/notarytest"
)

type action = trustpolicy.ValidationAction

// revocation is what a policy and a directory of lists are put together of.
type revocation struct {
	w           *world
	leaf, other *notarytest.Holder
	fresh       time.Time
}

func (r *revocation) put(t *testing.T, name string, content []byte) {
	t.Helper()
	notarytest.Write(t, filepath.Join(r.w.store.CRLDir, name), content)
}

// TestRevocation asks local lists and nobody else.
func TestRevocation(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	network := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(network.Close)
	crl, ocsp := []string{network.URL + "/ca.crl"}, []string{network.URL + "/ocsp"}
	const good = ""

	for name, tc := range map[string]struct {
		crl, ocsp []string
		action    action // of revocation; empty: enforce
		authority bool   // the leaf's issuer names a CRL of the root's, too
		lists     func(t *testing.T, r *revocation)
		noDir     bool
		says      string
	}{
		"cannot be revoked":       {says: good},
		"OCSP only, nothing here": {ocsp: ocsp, says: `revocation: unable to check revocation status, err: nobody here knows whether "CN=builder,O=Referee,ST=Here,C=XX" is revoked: there is no revocation list of its issuer "CN=intermediate,`},
		"CRL, nothing here":       {crl: crl, says: "servers on the network are not asked"},
		"CRL, no directory":       {crl: crl, noDir: true, says: "no directory of revocation lists is configured"},
		"CRL, only logged":        {crl: crl, action: trustpolicy.ActionLog, says: good},
		"CRL, skipped":            {crl: crl, ocsp: ocsp, action: trustpolicy.ActionSkip, says: good},
		"in no list": {crl: crl, lists: func(t *testing.T, r *revocation) {
			r.put(t, "ca.crl", r.w.intermediate.RevocationList(t, 1, r.fresh, nil, r.other))
		}, says: good},
		"OCSP only, in no list": {ocsp: ocsp, lists: func(t *testing.T, r *revocation) {
			r.put(t, "ca.crl", r.w.intermediate.RevocationList(t, 1, r.fresh, nil, r.other))
		}, says: good},
		"revoked": {crl: crl, lists: func(t *testing.T, r *revocation) {
			r.put(t, "ca.crl", r.w.intermediate.RevocationList(t, 1, r.fresh, nil, r.leaf))
		}, says: `revocation: signing certificate with subject "CN=builder,O=Referee,ST=Here,C=XX" is revoked`},
		"revoked, names no list": {lists: func(t *testing.T, r *revocation) {
			r.put(t, "ca.crl", r.w.intermediate.RevocationList(t, 1, r.fresh, nil, r.leaf))
		}, says: "is revoked"},
		"revoked, only logged": {crl: crl, action: trustpolicy.ActionLog, lists: func(t *testing.T, r *revocation) {
			r.put(t, "ca.crl", r.w.intermediate.RevocationList(t, 1, r.fresh, nil, r.leaf))
		}, says: good},
		"revoked, PEM of several": {crl: crl, lists: func(t *testing.T, r *revocation) {
			block := func(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}) }
			r.put(t, "all.pem", append(block(r.w.root.RevocationList(t, 1, r.fresh, nil)), block(r.w.intermediate.RevocationList(t, 1, r.fresh, nil, r.leaf))...))
		}, says: "is revoked"},
		"revoked, notation's cache": {crl: crl, lists: func(t *testing.T, r *revocation) {
			content, err := json.Marshal(map[string][]byte{"baseCRL": r.w.intermediate.RevocationList(t, 1, r.fresh, nil, r.leaf)})
			if err != nil {
				t.Fatal(err)
			}
			r.put(t, "0f1e2d", content)
		}, says: "is revoked"},
		"revoked by the later list": {crl: crl, lists: func(t *testing.T, r *revocation) {
			r.put(t, "1.crl", r.w.intermediate.RevocationList(t, 1, r.fresh, nil))
			r.put(t, "2.crl", r.w.intermediate.RevocationList(t, 2, r.fresh, nil, r.leaf))
		}, says: "is revoked"},
		"expired list beside a current one": {crl: crl, lists: func(t *testing.T, r *revocation) {
			r.put(t, "1.crl", r.w.intermediate.RevocationList(t, 1, time.Now().Add(-time.Hour), nil))
			r.put(t, "2.crl", r.w.intermediate.RevocationList(t, 2, r.fresh, nil))
		}, says: good},
		"expired list": {crl: crl, lists: func(t *testing.T, r *revocation) {
			r.put(t, "1.crl", r.w.intermediate.RevocationList(t, 1, time.Now().Add(-time.Hour), nil))
		}, says: "1.crl#1: failed to validate base CRL: expired CRL"},
		"list of another authority with that name": {crl: crl, lists: func(t *testing.T, r *revocation) {
			forged := notarytest.Root(t, "intermediate")
			r.put(t, "ca.crl", forged.RevocationList(t, 1, r.fresh, nil))
		}, says: "there is no revocation list of its issuer"},
		"list of another part": {crl: crl, lists: func(t *testing.T, r *revocation) {
			r.put(t, "ca.crl", r.w.intermediate.RevocationList(t, 1, r.fresh, part(t, "http://elsewhere.example/7.crl", false)))
		}, says: "there is no revocation list of its issuer"},
		"list of its part": {crl: crl, lists: func(t *testing.T, r *revocation) {
			r.put(t, "7.crl", r.w.intermediate.RevocationList(t, 1, r.fresh, part(t, "http://elsewhere.example/7.crl", false)))
			r.put(t, "8.crl", r.w.intermediate.RevocationList(t, 1, r.fresh, part(t, crl[0], false)))
		}, says: good},
		"list of authorities": {crl: crl, lists: func(t *testing.T, r *revocation) {
			r.put(t, "ca.crl", r.w.intermediate.RevocationList(t, 1, r.fresh, part(t, crl[0], true)))
		}, says: "there is no revocation list of its issuer"},
		"authority revoked": {crl: crl, authority: true, lists: func(t *testing.T, r *revocation) {
			r.put(t, "ca.crl", r.w.intermediate.RevocationList(t, 1, r.fresh, nil))
			r.put(t, "root.crl", r.w.root.RevocationList(t, 1, r.fresh, nil, r.w.intermediate))
		}, says: `"CN=intermediate,O=Referee,ST=Here,C=XX" is revoked`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if !tc.noDir {
				w.store.CRLDir = filepath.Join(w.store.Dir, "crl")
				notarytest.Write(t, filepath.Join(w.store.CRLDir, ".keep"), nil)
			}
			statement := notarytest.Statement("ca:prod")
			if tc.action != "" {
				statement.SignatureVerification.Override = map[trustpolicy.ValidationType]action{trustpolicy.TypeRevocation: tc.action}
			}
			w.store.SetPolicy(t, statement)
			if tc.authority {
				w.intermediate = w.root.Issue(t, notarytest.Request{Name: "intermediate", Authority: true, CRL: crl})
			}
			r := &revocation{
				w: w, fresh: time.Now().Add(time.Hour), other: w.intermediate.Issue(t, notarytest.Request{Name: "other"}),
				leaf: w.intermediate.Issue(t, notarytest.Request{Name: "builder", CRL: tc.crl, OCSP: tc.ocsp}),
			}
			if tc.lists != nil {
				tc.lists(t, r)
			}
			envelope := r.leaf.Sign(t, notarytest.JWS, target.Descriptor, nil)
			_, err := load(t, w.store).Verify(t.Context(), target, signatureOf(notarytest.JWS, envelope))
			expectRefusal(t, err, tc.says)
		})
	}
	t.Cleanup(func() {
		if n := asked.Load(); n != 0 {
			t.Errorf("the network was asked %d times", n)
		}
	})
}

// expectRefusal wants a signer not to be trusted, for a reason; "" wants none.
func expectRefusal(t *testing.T, err error, says string) {
	t.Helper()
	switch {
	case says == "" && err != nil:
		t.Errorf("refused: %v", err)
	case says != "" && (reason.Of(err) != reason.SignatureUntrusted || !strings.Contains(err.Error(), says)):
		t.Errorf("%q: %v, want it to say %q", reason.Of(err), err, says)
	}
}

// part is the extension of a list of some certificates only: those that name url,
// or of these the authorities.
func part(t *testing.T, url string, authorities bool) []pkix.Extension {
	t.Helper()
	var point struct {
		Point struct {
			Names []asn1.RawValue `asn1:"tag:0"`
		} `asn1:"tag:0"`
		OnlyCAs bool `asn1:"optional,tag:2"`
	}
	point.Point.Names = []asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(url)}}
	point.OnlyCAs = authorities
	der, err := asn1.Marshal(point)
	if err != nil {
		t.Fatal(err)
	}
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: der}}
}

// TestRevocationOfTimestampingAuthority: notation enforces it always, a node without
// network where the policy enforces revocation.
func TestRevocationOfTimestampingAuthority(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		action action
		list   bool // there is one
		in     bool // it names the authority
		says   string
	}{
		"enforced, unknown": {action: trustpolicy.ActionEnforce, says: `timestamp: failed to check timestamping certificate chain revocation with error: nobody here knows whether "CN=stamper,`},
		"enforced, known":   {action: trustpolicy.ActionEnforce, list: true},
		"enforced, revoked": {action: trustpolicy.ActionEnforce, list: true, in: true, says: `"CN=stamper,O=Referee,ST=Here,C=XX" is revoked`},
		"logged, unknown":   {action: trustpolicy.ActionLog},
		"logged, revoked":   {action: trustpolicy.ActionLog, list: true, in: true, says: "is revoked"},
		"skipped, unknown":  {action: trustpolicy.ActionSkip},
		"skipped, revoked":  {action: trustpolicy.ActionSkip, list: true, in: true, says: "is revoked"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.store.CRLDir = filepath.Join(w.store.Dir, "crl")
			notarytest.Write(t, filepath.Join(w.store.CRLDir, ".keep"), nil)
			statement := notarytest.Statement("ca:prod", "tsa:time")
			statement.SignatureVerification.Override = map[trustpolicy.ValidationType]action{trustpolicy.TypeRevocation: tc.action}
			w.store.SetPolicy(t, statement)
			stamper := w.tsaRoot.Issue(t, notarytest.Request{Name: "stamper", Timestamps: true, CRL: []string{"http://127.0.0.1:1/tsa.crl"}})
			if tc.list {
				var revoked []*notarytest.Holder
				if tc.in {
					revoked = append(revoked, stamper)
				}
				notarytest.Write(t, filepath.Join(w.store.CRLDir, "tsa.crl"), w.tsaRoot.RevocationList(t, 1, time.Now().Add(time.Hour), nil, revoked...))
			}
			tsa := notarytest.NewTSA(t, stamper, time.Now)
			envelope := w.root.Issue(t, notarytest.Request{Name: "builder"}).Sign(t, notarytest.COSE, target.Descriptor,
				func(r *signature.SignRequest) { tsa.Stamp(t, r) })
			_, err := load(t, w.store).Verify(t.Context(), target, signatureOf(notarytest.COSE, envelope))
			expectRefusal(t, err, tc.says)
		})
	}
}
