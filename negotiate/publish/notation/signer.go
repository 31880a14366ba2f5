package notation

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	notationgo "github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/dir"
	"github.com/notaryproject/notation-go/plugin"
	"github.com/notaryproject/notation-go/signer"
	"github.com/notaryproject/tspclient-go"
)

// tsaTimeout bounds one request to a timestamping authority, which is a small
// message and one signature.
const tsaTimeout = 15 * time.Second

// signer opens what the options name.
func (o Options) signer(ctx context.Context) (notationgo.Signer, error) {
	switch {
	case o.Plugin != nil && (o.KeyFile != "" || o.CertFile != ""):
		return nil, errors.New("a signing plugin and a key file are given, want one of them")
	case o.Plugin != nil:
		return o.Plugin.open(ctx)
	case o.KeyFile == "" || o.CertFile == "":
		return nil, errors.New("a key file with a certificate file, or a signing plugin, is needed")
	}
	s, err := signer.NewGenericSignerFromFiles(o.KeyFile, o.CertFile)
	if err != nil {
		return nil, fmt.Errorf("read key %s and certificates %s: %w", o.KeyFile, o.CertFile, err)
	}
	return s, nil
}

func (p *Plugin) open(ctx context.Context) (notationgo.Signer, error) {
	installed := dir.PluginFS()
	if p.Dir != "" {
		installed = dir.NewSysFS(p.Dir)
	}
	found, err := plugin.NewCLIManager(installed).Get(ctx, p.Name)
	if err != nil {
		return nil, fmt.Errorf("find notation plugin %q: %w", p.Name, err)
	}
	s, err := signer.NewPluginSigner(found, p.KeyID, p.Config)
	if err != nil {
		return nil, fmt.Errorf("use notation plugin %q: %w", p.Name, err)
	}
	return s, nil
}

func (t *TSA) open() (tspclient.Timestamper, *x509.CertPool, error) {
	pem, err := os.ReadFile(t.RootsFile)
	if err != nil {
		return nil, nil, fmt.Errorf("read its roots: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("read its roots: there is no certificate in %s", t.RootsFile)
	}
	stamper, err := tspclient.NewHTTPTimestamper(&http.Client{Timeout: tsaTimeout}, t.URL)
	if err != nil {
		return nil, nil, err
	}
	return stamper, roots, nil
}
