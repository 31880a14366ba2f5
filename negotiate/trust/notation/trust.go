package notation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/notaryproject/notation-core-go/revocation/purpose"
	notationgo "github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
)

// trust is what the files of a trust store say. It does not change.
type trust struct {
	policy *trustpolicy.Document
	stores stores
	// verifiers has one for each statement, by name: they differ in how much has to
	// be known about revocation.
	verifiers map[string]notationgo.Verifier
}

// read reads all files of a trust store.
func read(opts Options) (*trust, error) {
	policy, err := readPolicy(opts.PolicyFile)
	if err != nil {
		return nil, fmt.Errorf("read trust policy %s: %w", opts.PolicyFile, err)
	}
	t := &trust{policy: policy, stores: stores{}, verifiers: map[string]notationgo.Verifier{}}
	lists, err := readLists(opts.CRLDir)
	if err != nil {
		return nil, err
	}
	for _, statement := range policy.TrustPolicies {
		for _, store := range statement.TrustStores {
			if err := t.stores.read(opts, store); err != nil {
				return nil, fmt.Errorf("read trust store %q of trust policy statement %q: %w", store, statement.Name, err)
			}
		}
		if t.verifiers[statement.Name], err = newVerifier(statement, t.stores, lists); err != nil {
			return nil, fmt.Errorf("use trust policy statement %q: %w", statement.Name, err)
		}
	}
	return t, nil
}

// newVerifier makes the verifier of one statement. It is given no plugins.
func newVerifier(statement trustpolicy.TrustPolicy, certificates stores, lists *lists) (notationgo.Verifier, error) {
	level, err := statement.SignatureVerification.GetVerificationLevel()
	if err != nil {
		return nil, err
	}
	doc := &trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{statement}}
	return verifier.NewWithOptions(doc, certificates, nil, verifier.VerifierOptions{
		RevocationCodeSigningValidator: &offline{lists: lists, purpose: purpose.CodeSigning},
		RevocationTimestampingValidator: &offline{
			lists: lists, purpose: purpose.Timestamping,
			lenient: level.Enforcement[trustpolicy.TypeRevocation] != trustpolicy.ActionEnforce,
		},
	})
}

// readPolicy reads a trust policy. Members that are not known are errors: a
// restriction that nobody understands is one that nobody enforces.
func readPolicy(path string) (*trustpolicy.Document, error) {
	content, err := readFile(path, maxFile)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	var doc trustpolicy.Document
	if err := decoder.Decode(&doc); err != nil {
		return nil, atLine(content, decoder.InputOffset(), err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, atLine(content, decoder.InputOffset(), errors.New("more follows after the end of the policy"))
	}
	if err := doc.Validate(); err != nil {
		return nil, err
	}
	return &doc, nil
}

// atLine says where in a file a decoder stopped. The decoder's own idea of it is
// better than offset, where it has one.
func atLine(content []byte, offset int64, err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		offset = syntax.Offset
	}
	if mismatch, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		offset = mismatch.Offset
	}
	line := 1 + bytes.Count(content[:min(offset, int64(len(content)))], []byte("\n"))
	return fmt.Errorf("line %d: %w", line, err)
}
