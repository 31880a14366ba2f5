package notation

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/notaryproject/notation-core-go/revocation/crl"
)

// Extensions of revocation lists (RFC 5280, 5.2.4 and 5.2.5).
const (
	oidDeltaIndicator = "2.5.29.27"
	oidIssuingPoint   = "2.5.29.28"
)

// lists are the revocation lists of a directory. They do not change.
type lists struct {
	dir string // empty: none was given
	all []list // the latest first
}

// list is one revocation list, with a delta where it came with one.
type list struct {
	path   string
	bundle *crl.Bundle
	point  *issuingPoint // nil: it is about all certificates of its issuer
}

// issuingPoint is the IssuingDistributionPoint extension: the list is about a part
// of its issuer's certificates.
type issuingPoint struct {
	Point struct {
		Names []asn1.RawValue `asn1:"optional,tag:0"`
	} `asn1:"optional,tag:0"`
	OnlyUsers      bool           `asn1:"optional,tag:1"`
	OnlyCAs        bool           `asn1:"optional,tag:2"`
	SomeReasons    asn1.BitString `asn1:"optional,tag:3"`
	Indirect       bool           `asn1:"optional,tag:4"`
	OnlyAttributes bool           `asn1:"optional,tag:5"`
}

// readLists reads a directory of revocation lists. A file that holds none is an
// error; a list that is out of date is not: it counts as soon as it is renewed.
func readLists(dir string) (*lists, error) {
	ls := &lists{dir: dir}
	if dir == "" {
		return ls, nil
	}
	files, err := entries(dir)
	if err != nil {
		return nil, fmt.Errorf("read revocation lists: %w", err)
	}
	for _, file := range files {
		content, err := readFile(file, maxCRL)
		if err != nil {
			return nil, fmt.Errorf("read revocation list %s: %w", file, err)
		}
		if err := ls.add(file, content); err != nil {
			return nil, fmt.Errorf("read revocation list %s: %w", file, err)
		}
	}
	slices.SortStableFunc(ls.all, func(a, b list) int {
		return b.bundle.BaseCRL.ThisUpdate.Compare(a.bundle.BaseCRL.ThisUpdate)
	})
	return ls, nil
}

// add adds what a file holds.
func (ls *lists) add(path string, content []byte) error {
	if bytes.HasPrefix(bytes.TrimSpace(content), []byte("{")) {
		return ls.addCached(path, content)
	}
	block, rest := pem.Decode(content)
	if block == nil {
		return ls.addDER(path, content, nil)
	}
	for ; block != nil; block, rest = pem.Decode(rest) {
		if err := ls.addDER(path, block.Bytes, nil); err != nil {
			return err
		}
	}
	return nil
}

// addCached adds a file of notation's CRL cache (notation-go v1.3.2, verifier/crl).
func (ls *lists) addCached(path string, content []byte) error {
	var file struct {
		Base  []byte `json:"baseCRL"`
		Delta []byte `json:"deltaCRL"`
	}
	if err := json.Unmarshal(content, &file); err != nil {
		return err
	}
	if len(file.Base) == 0 {
		return errors.New("baseCRL: it is missing")
	}
	return ls.addDER(path, file.Base, file.Delta)
}

func (ls *lists) addDER(path string, base, delta []byte) error {
	l := list{path: path, bundle: &crl.Bundle{}}
	var err error
	if l.bundle.BaseCRL, err = x509.ParseRevocationList(base); err != nil {
		return err
	}
	if extension(l.bundle.BaseCRL.Extensions, oidDeltaIndicator) != nil {
		return errors.New("it is a delta to another list, which does not come with it")
	}
	if len(delta) > 0 {
		if l.bundle.DeltaCRL, err = x509.ParseRevocationList(delta); err != nil {
			return fmt.Errorf("deltaCRL: %w", err)
		}
	}
	if raw := extension(l.bundle.BaseCRL.Extensions, oidIssuingPoint); raw != nil {
		l.point = &issuingPoint{}
		if _, err := asn1.Unmarshal(raw, l.point); err != nil {
			return fmt.Errorf("issuing distribution point: %w", err)
		}
	}
	ls.all = append(ls.all, l)
	return nil
}

func extension(all []pkix.Extension, oid string) []byte {
	for _, e := range all {
		if e.Id.String() == oid {
			return e.Value
		}
	}
	return nil
}

// by returns the lists that issuer signed, but for those that a later list of the
// same part replaces.
func (ls *lists) by(issuer *x509.Certificate) []list {
	var found []list
	for _, l := range ls.all {
		base := l.bundle.BaseCRL
		if !bytes.Equal(base.RawIssuer, issuer.RawSubject) || base.CheckSignatureFrom(issuer) != nil {
			continue
		}
		same := func(o list) bool {
			return bytes.Equal(extension(o.bundle.BaseCRL.Extensions, oidIssuingPoint), extension(base.Extensions, oidIssuingPoint))
		}
		if !slices.ContainsFunc(found, same) {
			found = append(found, l)
		}
	}
	return found
}

// covers tells whether a certificate's not being in the list means something.
func (l list) covers(c *x509.Certificate) bool {
	p := l.point
	switch {
	case p == nil:
		return true
	case p.Indirect || p.OnlyAttributes || p.SomeReasons.BitLength > 0 || p.OnlyUsers && c.IsCA || p.OnlyCAs && !c.IsCA:
		return false
	case len(p.Point.Names) == 0:
		return true
	}
	return slices.ContainsFunc(p.Point.Names, func(name asn1.RawValue) bool {
		const uri = 6 // uniformResourceIdentifier of GeneralName
		return name.Class == asn1.ClassContextSpecific && name.Tag == uri && slices.Contains(c.CRLDistributionPoints, string(name.Bytes))
	})
}
