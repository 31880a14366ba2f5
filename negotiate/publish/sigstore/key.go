package sigstore

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"time"

	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

// passwordVariable is where cosign looks for the password of a key.
const passwordVariable = "COSIGN_PASSWORD"

// key is a private key that signs as Sigstore's current clients do: with the hash
// that goes with its type.
type key struct {
	signature.SignerVerifier

	private crypto.PrivateKey
	public  crypto.PublicKey
	details signature.AlgorithmDetails
	name    []byte // as cosign names keys in bundles
}

var _ sign.Keypair = (*key)(nil)

func readKey(opts Options) (*key, error) {
	content, err := os.ReadFile(opts.KeyFile)
	if err != nil {
		return nil, err
	}
	private, err := cryptoutils.UnmarshalPEMToPrivateKey(content, func(bool) ([]byte, error) {
		if opts.Password != nil {
			return opts.Password, nil
		}
		if password, ok := os.LookupEnv(passwordVariable); ok {
			return []byte(password), nil
		}
		return nil, errors.New("it is encrypted, and " + passwordVariable + " is not set")
	})
	if err != nil {
		return nil, err
	}
	holder, ok := private.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T cannot sign", private)
	}
	k := &key{private: private, public: holder.Public()}
	if k.details, err = signature.GetDefaultAlgorithmDetails(k.public); err != nil {
		return nil, err
	}
	if k.SignerVerifier, err = signature.LoadSignerVerifierFromAlgorithmDetails(private, k.details); err != nil {
		return nil, err
	}
	der, err := cryptoutils.MarshalPublicKeyToDER(k.public)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	k.name = []byte(base64.StdEncoding.EncodeToString(sum[:]))
	return k, nil
}

// material trusts the key alone, to see whether a signature just made is right.
func (k *key) material() root.TrustedMaterial {
	return root.NewTrustedPublicKeyMaterialFromMapping(map[string]*root.ExpiringKey{
		string(k.name): root.NewExpiringKey(k, time.Time{}, time.Time{}),
	})
}

func (k *key) GetHashAlgorithm() protocommon.HashAlgorithm { return k.details.GetProtoHashType() }

func (k *key) GetSigningAlgorithm() protocommon.PublicKeyDetails {
	return k.details.GetSignatureAlgorithm()
}
func (k *key) GetHint() []byte                { return k.name }
func (k *key) GetPublicKey() crypto.PublicKey { return k.public }

// GetKeyAlgorithm is the key's type as Fulcio names it.
func (k *key) GetKeyAlgorithm() string {
	switch k.details.GetKeyType() {
	case signature.ECDSA:
		return "ECDSA"
	case signature.RSA:
		return "RSA"
	case signature.ED25519:
		return "ED25519"
	default:
		return ""
	}
}

func (k *key) GetPublicKeyPem() (string, error) {
	text, err := cryptoutils.MarshalPublicKeyToPEM(k.public)
	return string(text), err
}

// SignData signs the payload of an envelope. Its digest, which only signatures of
// messages hold, is not returned.
func (k *key) SignData(_ context.Context, data []byte) (made, digest []byte, err error) {
	made, err = k.SignMessage(bytes.NewReader(data))
	return made, nil, err
}
