package sigstore

import (
	"bytes"
	"crypto"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// maxFile bounds a file of the trust store, in bytes. Sigstore's own trusted root
// is some 10 KB.
const maxFile = 4 << 20

// files are all paths that the trust store is made of.
func (o Options) files() []string {
	files := o.Keys
	if o.TrustedRoot != "" {
		files = append(files[:len(files):len(files)], o.TrustedRoot)
	}
	return files
}

// fingerprint changes when a file does, comes or goes. Mounted secrets are symbolic
// links: what they point to counts.
func fingerprint(files []string) string {
	var b strings.Builder
	for _, path := range files {
		info, err := os.Stat(path)
		if err != nil {
			fmt.Fprintf(&b, "%q absent\n", path)
			continue
		}
		fmt.Fprintf(&b, "%q %d %d\n", path, info.Size(), info.ModTime().UnixNano())
	}
	return b.String()
}

// readFile reads a file that must not be larger than maxFile.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxFile {
		return nil, fmt.Errorf("it is larger than %d bytes", maxFile)
	}
	return content, nil
}

// readKeys returns the public keys of a PEM file, at least one.
func readKeys(path string) ([]crypto.PublicKey, error) {
	content, err := readFile(path)
	if err != nil {
		return nil, err
	}
	var keys []crypto.PublicKey
	for len(bytes.TrimSpace(content)) > 0 {
		block, rest := pem.Decode(content)
		if block == nil {
			break
		}
		content = rest
		if strings.Contains(block.Type, "PRIVATE") {
			return nil, errors.New("it holds a private key, which has no place on a node")
		}
		key, err := cryptoutils.UnmarshalPEMToPublicKey(pem.EncodeToMemory(block))
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", len(keys)+1, err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("it holds no public key in PEM")
	}
	return keys, nil
}

// readRoot reads a trusted root.
func readRoot(path string) (*root.TrustedRoot, error) {
	content, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return root.NewTrustedRootFromJSON(content)
}
