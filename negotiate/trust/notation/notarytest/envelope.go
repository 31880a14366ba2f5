package notarytest

import (
	"context"
	"crypto"
	"encoding/json"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The media types of envelopes.
const (
	JWS  = jws.MediaTypeEnvelope
	COSE = cose.MediaTypeEnvelope
)

// Sign makes an envelope with a signature of target by h. change, unless nil, may
// change everything about it, times that have passed included.
func (h *Holder) Sign(t testing.TB, mediaType string, target ocispec.Descriptor, change func(*signature.SignRequest)) []byte {
	t.Helper()
	payload, err := json.Marshal(map[string]any{"targetArtifact": target})
	check(t, err)
	signer, err := signature.NewLocalSigner(h.Chain, crypto.PrivateKey(h.Key))
	check(t, err)
	request := (&signature.SignRequest{
		Payload: signature.Payload{ContentType: "application/vnd.cncf.notary.payload.v1+json", Content: payload},
		Signer:  signer, SigningTime: time.Now().Add(-time.Second), SigningScheme: signature.SigningSchemeX509,
	}).WithContext(context.WithoutCancel(t.Context()))
	if change != nil {
		change(request)
	}
	envelope, err := signature.NewEnvelope(mediaType)
	check(t, err)
	raw, err := envelope.Sign(request)
	check(t, err)
	return raw
}
