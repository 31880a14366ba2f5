package notation_test

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"github.com/notaryproject/notation-plugin-framework-go/plugin"

	"github.com/referee-cri/referee/negotiate/publish/notation"
	"github.com/referee-cri/referee/negotiate/trust/notation/notarytest"
)

// pluginKeys names, to a child of the test, the directory of its key.
const pluginKeys = "REFEREE_TEST_PLUGIN_KEYS"

// TestMain lets the test be its own notation plugin.
func TestMain(m *testing.M) {
	dir, child := os.LookupEnv(pluginKeys)
	if !child {
		os.Exit(m.Run())
	}
	answer, err := answerPlugin(os.Args[1], os.Stdin, dir)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(answer)
	}
	if err != nil {
		refusal, _ := json.Marshal(map[string]string{"errorCode": "ERROR", "errorMessage": err.Error()}) // strings always encode
		fmt.Fprintln(os.Stderr, string(refusal))
		os.Exit(1)
	}
}

// installPlugin installs this test as the plugin "keeper", which signs for the key
// "the key" with that of h.
func installPlugin(t *testing.T, h *notarytest.Holder) *notation.Plugin {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	keyFile, _ := h.Files(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "keeper", "notation-keeper")
	notarytest.Write(t, path, fmt.Appendf(nil, "#!/bin/sh\n%s=%s exec %s \"$@\"\n", pluginKeys, filepath.Dir(keyFile), self))
	if err := os.Chmod(path, 0o700); err != nil { //nolint:gosec // plugins are executed
		t.Fatal(err)
	}
	return &notation.Plugin{Name: "keeper", Dir: dir, KeyID: "the key"}
}

// answerPlugin does what a plugin has to (plugin specification 1.0, "Signature
// generator").
func answerPlugin(command string, input io.Reader, keys string) (any, error) {
	var request struct {
		KeyID   string `json:"keyId"`
		Payload []byte `json:"payload"`
	}
	if err := json.NewDecoder(input).Decode(&request); err != nil {
		return nil, err
	}
	if plugin.Command(command) == plugin.CommandGetMetadata {
		return plugin.GetMetadataResponse{
			Name: "keeper", Description: "keeps a key", Version: "1.0.0", URL: "https://keeper.example",
			SupportedContractVersions: []string{plugin.ContractVersion},
			Capabilities:              []plugin.Capability{plugin.CapabilitySignatureGenerator},
		}, nil
	}
	if request.KeyID != "the key" {
		return nil, fmt.Errorf("there is no key %q", request.KeyID)
	}
	switch plugin.Command(command) {
	case plugin.CommandDescribeKey:
		return plugin.DescribeKeyResponse{KeyID: request.KeyID, KeySpec: plugin.KeySpecEC256}, nil
	case plugin.CommandGenerateSignature:
		return signAsPlugin(request.KeyID, request.Payload, keys)
	default:
		return nil, fmt.Errorf("%s is not done here", command)
	}
}

func signAsPlugin(key string, payload []byte, keys string) (any, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(keys, "chain.pem"), filepath.Join(keys, "key.pem"))
	if err != nil {
		return nil, err
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key cannot sign")
	}
	sum := sha256.Sum256(payload)
	der, err := signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var point struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &point); err != nil {
		return nil, err
	}
	raw := append(point.R.FillBytes(make([]byte, 32)), point.S.FillBytes(make([]byte, 32))...) // as JWS and COSE want it
	return plugin.GenerateSignatureResponse{
		KeyID: key, Signature: raw, SigningAlgorithm: plugin.SignatureAlgorithmECDSA_SHA256, CertificateChain: pair.Certificate,
	}, nil
}
