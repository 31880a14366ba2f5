package notation

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/notaryproject/notation-go/verifier/truststore"
)

// Bounds of the operator's files, in bytes. The longest public revocation lists
// are below 16 MiB (notation-core-go, which takes 32).
const (
	maxFile = 4 << 20
	maxCRL  = 32 << 20
)

// readFile reads a file that must not be larger than limit.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("it is larger than %d bytes", limit)
	}
	return content, nil
}

// entries lists the paths in a directory that count, sorted.
func entries(dir string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range list {
		if !strings.HasPrefix(e.Name(), ".") {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, nil
}

func (o Options) storeDir(kind truststore.Type, name string) string {
	return filepath.Join(o.TrustStoreDir, "x509", string(kind), name)
}

// look describes what all files of the trust store look like from outside. It
// changes when one of them does, comes or goes.
func (o Options) look() string {
	var b strings.Builder
	see := func(path string) {
		info, err := os.Stat(path)
		if err != nil {
			fmt.Fprintf(&b, "%q absent\n", path)
			return
		}
		fmt.Fprintf(&b, "%q %d %d", path, info.Size(), info.ModTime().UnixNano())
		if stat, ok := info.Sys().(*syscall.Stat_t); ok { // a copy may keep size and time of the former file
			fmt.Fprintf(&b, " %d %d.%d", stat.Ino, stat.Ctim.Sec, stat.Ctim.Nsec)
		}
		b.WriteByte('\n')
	}
	seeAll := func(dir string) []string {
		paths, err := entries(dir)
		if err != nil {
			fmt.Fprintf(&b, "%q unreadable\n", dir)
		}
		return paths
	}
	see(o.PolicyFile)
	for _, kind := range truststore.Types {
		for _, store := range seeAll(o.storeDir(kind, "")) {
			for _, file := range seeAll(store) {
				see(file)
			}
		}
	}
	if o.CRLDir != "" {
		for _, file := range seeAll(o.CRLDir) {
			see(file)
		}
	}
	return b.String()
}
