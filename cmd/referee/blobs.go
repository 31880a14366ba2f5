package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/internal/credentialprovider"
	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/lazyblock"
	"github.com/referee-cri/referee/lazyblock/blob"
	"github.com/referee-cri/referee/lazyblock/cache"
	"github.com/referee-cri/referee/lazyblock/format/overlaybd"
	"github.com/referee-cri/referee/lazyblock/volume"
)

// registries are the registries as this node reaches them, with its credentials.
type registries struct {
	*registry.Client

	plugins *credentialprovider.Plugins // nil where the kubelet has none
}

func openRegistries(config *configs.Config, log *zap.Logger) *registries {
	r := &registries{}
	options := registry.Options{
		HostDirs:     config.HostDirs(),
		DockerConfig: config.Registry.DockerConfig,
		UserAgent:    "referee/" + version,
		Log:          log,
	}
	if config.Registry.CredentialProviderConfig != "" {
		r.plugins = credentialprovider.New(credentialprovider.Options{
			Config:  config.Registry.CredentialProviderConfig,
			BinDir:  config.Registry.CredentialProviderBinDir,
			Timeout: config.Registry.CredentialProviderTimeout.Duration,
			Log:     log,
		})
		options.Sources = append(options.Sources, r.plugins)
	}
	r.Client = registry.New(options)
	return r
}

func (r *registries) Close() error {
	err := r.Client.Close()
	if r.plugins != nil {
		err = errors.Join(err, r.plugins.Close())
	}
	return err
}

// blobs opens registry blobs through the cache.
type blobs struct {
	registry    *registry.Client
	cache       *cache.Store
	giveUpAfter time.Duration
	log         *zap.Logger
}

var _ volume.Blobs = blobs{}

func (b blobs) Open(repository string, creds registry.Credentials, desc ocispec.Descriptor) (volume.Blob, error) {
	source := &repositorySource{registry: b.registry}
	if err := source.Renew(repository, creds); err != nil {
		return nil, err
	}
	origin := blob.Open(source, desc, blob.Options{GiveUpAfter: b.giveUpAfter, Log: b.log})
	cached, err := b.cache.Blob(desc, origin)
	switch {
	case err == nil:
		return cachedBlob{cached, source, origin}, nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		b.log.Warn("reading a layer without the cache", zap.Error(err))
		return uncachedBlob{origin, source}, nil
	default:
		return nil, err
	}
}

// uncachedBlob is a blob for which the cache's disk has no room at all: an
// ordinary pull would need more.
type uncachedBlob struct {
	*blob.Blob
	*repositorySource
}

var (
	_ volume.Meter   = uncachedBlob{}
	_ volume.Renewer = uncachedBlob{}
)

func (b uncachedBlob) Fetched() int64 { return b.Stats().Bytes }
func (uncachedBlob) Close() error     { return nil }

// cachedBlob is a blob in the cache together with the way to its registry.
type cachedBlob struct {
	*cache.Blob
	*repositorySource
	origin *blob.Blob
}

var (
	_ volume.Meter          = cachedBlob{}
	_ volume.Renewer        = cachedBlob{}
	_ lazyblock.Invalidator = cachedBlob{}
)

func (b cachedBlob) Fetched() int64 { return b.origin.Stats().Bytes }

// repositorySource asks the repository it was last told, with the credentials it
// was last given.
type repositorySource struct {
	registry *registry.Client
	current  atomic.Pointer[registry.Repository]
}

func (s *repositorySource) Renew(repository string, creds registry.Credentials) error {
	repo, err := s.registry.Repository(repository, creds)
	if err == nil {
		s.current.Store(repo)
	}
	return err
}

func (s *repositorySource) Do(ctx context.Context, req registry.Request) (*registry.Response, error) {
	return s.current.Load().Do(ctx, req)
}

func (b blobs) Remove(digest digest.Digest) error { return b.cache.Remove(digest) }

// formats are the formats whose layers can be opened here.
func formats() map[string]volume.Opener {
	return map[string]volume.Opener{"overlaybd": openOverlaybd}
}

func openOverlaybd(ctx context.Context, id string, layers []lazyblock.RangeReader) (lazyblock.Volume, error) {
	device, err := overlaybd.Open(ctx, layers, id)
	if err != nil {
		return lazyblock.Volume{}, err
	}
	fsType, err := lazyblock.FSType(ctx, device)
	if err != nil {
		_ = device.Close()
		return lazyblock.Volume{}, fmt.Errorf("overlaybd device: %w", err)
	}
	return lazyblock.Volume{FSType: fsType, Primary: device}, nil
}
