package main

import (
	"context"
	"errors"
	"slices"
	"sync"
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
	"github.com/referee-cri/referee/lazyblock/trace"
	"github.com/referee-cri/referee/lazyblock/volume"
)

// registries are the registries as this node reaches them, with its credentials.
type registries struct {
	*registry.Client

	plugins *credentialprovider.Plugins // nil where the kubelet has none
}

// openRegistries tells observe, which may be nil, of every request.
func openRegistries(config *configs.Config, observe func(registry.Asked), log *zap.Logger) *registries {
	r := &registries{}
	options := registry.Options{
		HostDirs:     config.HostDirs(),
		DockerConfig: config.Registry.DockerConfig,
		UserAgent:    "referee/" + version,
		Observe:      observe,
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

func cacheOptions(config *configs.Config, log *zap.Logger) cache.Options {
	options := cache.Options{MaxBytes: config.Cache.MaxSize.Bytes, SpareOfDisk: config.Completion.SpareDisk.Hundredths, Log: log}
	if options.SpareOfDisk == 0 {
		options.SpareOfDisk = -1
	}
	return options
}

// blobs opens registry blobs through the cache.
type blobs struct {
	registry    *registry.Client
	cache       *cache.Store
	hosts       *blob.Hosts
	giveUpAfter time.Duration
	observe     func(p lazyblock.Priority, took time.Duration, n int, err error)
	hedged      func() // see blob.Options
	log         *zap.Logger
}

var _ volume.Blobs = blobs{}

func (b blobs) Open(repository string, creds registry.Credentials, desc ocispec.Descriptor) (volume.Blob, error) {
	source := &repositorySource{registry: b.registry}
	if err := source.Renew(repository, creds); err != nil {
		return nil, err
	}
	origin := blob.Open(source, desc, blob.Options{GiveUpAfter: b.giveUpAfter, Host: b.hosts.Of(registry.HostOf(repository)), Observe: b.observe, Hedged: b.hedged, Log: b.log})
	cached, err := b.cache.Blob(cacheKey(repository, desc), origin)
	switch {
	case err == nil:
		return &cachedBlob{Blob: cached, repositorySource: source, origin: origin}, nil
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

func (b uncachedBlob) Fetched() int64  { return b.Stats().Bytes }
func (b uncachedBlob) Requests() int64 { return b.Stats().Requests }
func (uncachedBlob) Close() error      { return nil }

// cachedBlob is a blob in the cache together with the way to its registry. It
// tells which parts are read.
type cachedBlob struct {
	*cache.Blob
	*repositorySource
	trace.Watch
	origin *blob.Blob
}

var (
	_ volume.Meter          = (*cachedBlob)(nil)
	_ volume.Asker          = (*cachedBlob)(nil)
	_ volume.Renewer        = (*cachedBlob)(nil)
	_ lazyblock.Invalidator = (*cachedBlob)(nil)
)

func (b *cachedBlob) Fetched() int64  { return b.origin.Stats().Bytes }
func (b *cachedBlob) Requests() int64 { return b.origin.Stats().Requests }

func (b *cachedBlob) ReadRange(ctx context.Context, p []byte, off int64) (int, error) {
	b.Saw(off, int64(len(p)))
	return b.Blob.ReadRange(ctx, p, off)
}

// cacheKey names a blob in the cache by digest and registry. What is read of it is
// not compared with its digest, so what one registry says about a digest must
// never answer for another.
func cacheKey(repository string, desc ocispec.Descriptor) ocispec.Descriptor {
	desc.Digest = keyDigest(repository, desc.Digest)
	return desc
}

func keyDigest(repository string, d digest.Digest) digest.Digest {
	return digest.FromString(registry.HostOf(repository) + " " + d.String())
}

func (b blobs) Remove(repository string, d digest.Digest) error {
	return b.cache.Remove(keyDigest(repository, d))
}

// maxRepositories is how many repositories of one registry are asked for a blob.
const maxRepositories = 8

// repositorySource asks the repositories that hold a blob, the one that was told
// or answered last first: any of them may lose it, or close itself to us.
type repositorySource struct {
	registry *registry.Client

	mu    sync.Mutex
	known []holder
}

type holder struct {
	name string
	repo *registry.Repository
}

func (s *repositorySource) Renew(repository string, creds registry.Credentials) error {
	repo, err := s.registry.Repository(repository, creds)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.first(holder{repository, repo})
	return nil
}

// first puts h before the others, in place of what was known by its name.
func (s *repositorySource) first(h holder) {
	known := []holder{h} // a new one: Do goes through the old
	for _, other := range s.known {
		if other.name != h.name && len(known) < maxRepositories {
			known = append(known, other)
		}
	}
	s.known = known
}

// answered puts h before the others, unless it was replaced meanwhile.
func (s *repositorySource) answered(h holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.known, h) {
		s.first(h)
	}
}

// repository returns the way to name, or to the one that is asked first.
func (s *repositorySource) repository(name string) *registry.Repository {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.known, func(h holder) bool { return h.name == name })
	return s.known[max(i, 0)].repo
}

func (s *repositorySource) Do(ctx context.Context, req registry.Request) (*registry.Response, error) {
	s.mu.Lock()
	known := s.known
	s.mu.Unlock()
	var first error
	for i, h := range known {
		resp, err := h.repo.Do(ctx, req)
		if err == nil {
			if i > 0 {
				s.answered(h)
			}
			return resp, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, first
}
