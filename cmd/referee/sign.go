package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/pflag"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/referee-cri/referee/negotiate/publish/notation"
	"github.com/referee-cri/referee/negotiate/publish/sigstore"
)

// signFlags say how what is pushed is signed.
type signFlags struct {
	with                    string
	key, certificates       string
	scheme, envelope        string
	expiry                  time.Duration
	plugin, pluginDir, name string
	tsa, tsaRoots           string
}

func (f *signFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.with, "sign", "", "sign what is attached: cosign or notation")
	flags.StringVar(&f.key, "sign-key", "", "private key file (PEM); cosign's encrypted keys take their password from COSIGN_PASSWORD")
	flags.StringVar(&f.certificates, "sign-certificates", "", "notation: file with the key's certificate chain, leaf first (PEM)")
	flags.StringVar(&f.scheme, "sign-scheme", "", "cosign: bundle (a Sigstore bundle as referrer, the default) or tag (sha256-….sig)")
	flags.StringVar(&f.envelope, "sign-envelope", "", "notation: jws (the default) or cose")
	flags.DurationVar(&f.expiry, "sign-expiry", 0, "notation: how long the signature counts, such as 8760h (default: without end)")
	flags.StringVar(&f.plugin, "sign-plugin", "", "notation: signing plugin that holds the key, instead of --sign-key")
	flags.StringVar(&f.pluginDir, "sign-plugin-dir", "", "notation: folder of plugins (default: notation's own)")
	flags.StringVar(&f.name, "sign-key-id", "", "notation: the key as the plugin knows it")
	flags.StringVar(&f.tsa, "sign-timestamp-url", "", "notation: RFC 3161 timestamping authority")
	flags.StringVar(&f.tsaRoots, "sign-timestamp-roots", "", "notation: root certificates of that authority (PEM)")
}

type signer = func(context.Context, *remote.Repository, ocispec.Descriptor) (ocispec.Descriptor, error)

// signer returns what signs as the flags say, nil if they do not say so.
func (f *signFlags) signer() (signer, error) {
	switch f.with {
	case "":
		if f.key != "" || f.plugin != "" {
			return nil, errors.New("--sign-key and --sign-plugin need --sign: expected cosign or notation")
		}
		return nil, nil
	case "cosign":
		return f.cosign()
	case "notation":
		return f.notation()
	default:
		return nil, fmt.Errorf("--sign %s: expected cosign or notation", f.with)
	}
}

func (f *signFlags) cosign() (signer, error) {
	if f.key == "" || f.plugin != "" {
		return nil, errors.New("--sign cosign: expected --sign-key, and no plugin")
	}
	opts := sigstore.Options{KeyFile: f.key, Scheme: sigstore.Scheme(f.scheme)}
	return func(ctx context.Context, repo *remote.Repository, subject ocispec.Descriptor) (ocispec.Descriptor, error) {
		return sigstore.Sign(ctx, repo, subject, opts)
	}, nil
}

func (f *signFlags) notation() (signer, error) {
	opts := notation.Options{KeyFile: f.key, CertFile: f.certificates, Envelope: f.envelope, Expiry: f.expiry}
	switch {
	case f.plugin != "" && f.key == "" && f.name != "":
		opts.Plugin = &notation.Plugin{Name: f.plugin, Dir: f.pluginDir, KeyID: f.name}
	case f.plugin != "" || f.key == "" || f.certificates == "":
		return nil, errors.New("--sign notation: expected --sign-key with --sign-certificates, or --sign-plugin with --sign-key-id")
	}
	if f.tsa != "" {
		opts.TSA = &notation.TSA{URL: f.tsa, RootsFile: f.tsaRoots}
	}
	return func(ctx context.Context, repo *remote.Repository, subject ocispec.Descriptor) (ocispec.Descriptor, error) {
		return notation.Sign(ctx, repo, subject, opts)
	}, nil
}
