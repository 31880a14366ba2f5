package notation

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"

	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/notaryproject/tspclient-go"
	gocose "github.com/veraison/go-cose"
)

// Bounds of an envelope. Certificates in it are the attacker's as well as anybody's,
// and their keys are used before it is known whose they are. One check with an RSA
// key takes 3 ms at 8192 bits, 3.5 s at 256 Kibit and two minutes at 1 Mibit.
const (
	maxEnvelope     = 4 << 20 // bytes; usual ones are below 20 KB
	maxToken        = 1 << 18 // bytes of a timestamp, certificates included
	maxCertificates = 16      // in a chain, and in a timestamp
	maxStampers     = 4       // signers of a timestamp; there is one
	maxRSABits      = 8192    // crypto/tls has the same bound
)

// timestampHeader is the unsigned attribute that carries a timestamp, in both
// envelopes (Notary Project signature specification 1.0, "Unsigned Attributes").
const timestampHeader = "io.cncf.notary.timestampSignature"

// checkBounds says no to envelopes that would cost too much to verify. It reads them
// as notation-core-go does; what it cannot read goes on, to be refused there.
func checkBounds(mediaType string, envelope []byte) error {
	if len(envelope) > maxEnvelope {
		return fmt.Errorf("the envelope is %d bytes long, want at most %d", len(envelope), maxEnvelope)
	}
	var chain [][]byte
	var token []byte
	switch mediaType {
	case jws.MediaTypeEnvelope:
		chain, token = partsOfJWS(envelope)
	case cose.MediaTypeEnvelope:
		chain, token = partsOfCOSE(envelope)
	default:
		return fmt.Errorf("envelopes of type %q are not known", mediaType)
	}
	if len(chain) > maxCertificates {
		return fmt.Errorf("the chain has %d certificates, want at most %d", len(chain), maxCertificates)
	}
	var certificates []*x509.Certificate
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("certificate %d of the chain: %w", i+1, err)
		}
		certificates = append(certificates, c)
	}
	if err := checkKeys(certificates); err != nil {
		return err
	}
	return checkToken(token)
}

func partsOfJWS(envelope []byte) (chain [][]byte, token []byte) {
	var e struct {
		Header struct {
			Chain [][]byte `json:"x5c"`
			Token []byte   `json:"io.cncf.notary.timestampSignature"`
		} `json:"header"`
	}
	if json.Unmarshal(envelope, &e) != nil {
		return nil, nil
	}
	return e.Header.Chain, e.Header.Token
}

func partsOfCOSE(envelope []byte) (chain [][]byte, token []byte) {
	var e gocose.Sign1Message
	if e.UnmarshalCBOR(envelope) != nil {
		return nil, nil
	}
	list, _ := e.Headers.Unprotected[gocose.HeaderLabelX5Chain].([]any) // another type is refused later
	for _, item := range list {
		der, _ := item.([]byte) // as above
		chain = append(chain, der)
	}
	token, _ = e.Headers.Unprotected[timestampHeader].([]byte) // as above
	return chain, token
}

// checkToken looks at a timestamp, which is not signed by the signer: anybody can
// put another one there.
func checkToken(token []byte) error {
	if len(token) == 0 {
		return nil
	}
	if len(token) > maxToken {
		return fmt.Errorf("the timestamp is %d bytes long, want at most %d", len(token), maxToken)
	}
	parsed, err := tspclient.ParseSignedToken(token)
	if err != nil {
		return nil //nolint:nilerr // refused where the policy asks for a timestamp
	}
	if len(parsed.Certificates) > maxCertificates || len(parsed.SignerInfos) > maxStampers {
		return fmt.Errorf("the timestamp has %d certificates and %d signers, want at most %d and %d",
			len(parsed.Certificates), len(parsed.SignerInfos), maxCertificates, maxStampers)
	}
	return checkKeys(parsed.Certificates)
}

func checkKeys(certificates []*x509.Certificate) error {
	for _, c := range certificates {
		if key, ok := c.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSABits {
			return fmt.Errorf("a certificate has an RSA key of %d bits, want at most %d", key.N.BitLen(), maxRSABits)
		}
	}
	return nil
}
