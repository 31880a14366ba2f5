package conversion

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/retry"
)

// openSource returns what Source names and the tag or digest in it.
func openSource(ctx context.Context, opts Options) (oras.ReadOnlyTarget, string, error) {
	if layout, isLayout := strings.CutPrefix(opts.Source, "oci:"); isLayout {
		folder, tag, found := cutLast(layout, ":")
		if !found {
			folder, tag = layout, "latest"
		}
		store, err := oci.NewFromFS(ctx, os.DirFS(folder))
		if err != nil {
			return nil, "", fmt.Errorf("open OCI layout %s: %w", folder, err)
		}
		return store, tag, nil
	}
	repo, err := OpenRepository(opts.Source, opts)
	if err != nil {
		return nil, "", err
	}
	if repo.Reference.Reference == "" {
		repo.Reference.Reference = "latest"
	}
	return repo, repo.Reference.Reference, nil
}

// openDestination returns the repository to push to: with the new image's tag as its
// reference, where there is to be one.
func openDestination(opts Options) (*remote.Repository, error) {
	if opts.To.Keeps() == "" {
		if opts.Reference != "" {
			return nil, fmt.Errorf("%s is attached to the image and takes no reference of its own: %s", opts.To.Name(), opts.Reference)
		}
		return openRepositoryOf(opts)
	}
	if opts.Reference == "" {
		return nil, fmt.Errorf("%s makes a new image, which keeps %s: say with --tag under which reference", opts.To.Name(), opts.To.Keeps())
	}
	repo, err := openReference(opts)
	if err != nil {
		return nil, err
	}
	if err := repo.Reference.ValidateReferenceAsTag(); err != nil {
		return nil, fmt.Errorf("reference of the new image: %w", err)
	}
	if from, err := registry.ParseReference(opts.Source); err == nil && from == repo.Reference {
		return nil, fmt.Errorf("%s is the image itself, which stays as it is: give the new one another tag", repo.Reference)
	}
	return repo, nil
}

// openReference opens the repository of a new image, with its tag.
func openReference(opts Options) (*remote.Repository, error) {
	if strings.Contains(opts.Reference, "/") {
		return OpenRepository(opts.Reference, opts)
	}
	repo, err := openRepositoryOf(opts)
	if err != nil {
		return nil, err
	}
	repo.Reference.Reference = opts.Reference
	return repo, nil
}

// openRepositoryOf opens the repository that forms are attached to.
func openRepositoryOf(opts Options) (*remote.Repository, error) {
	switch {
	case opts.Destination != "":
		return OpenRepository(opts.Destination, opts)
	case strings.HasPrefix(opts.Source, "oci:"):
		return nil, errors.New("an OCI layout needs a repository to push to: give --repository")
	default:
		return OpenRepository(opts.Source, opts)
	}
}

// OpenRepository returns a repository to read or write: of opts PlainHTTP and
// UserAgent count. It authenticates like docker: with its configuration file and
// credential helpers.
func OpenRepository(reference string, opts Options) (*remote.Repository, error) {
	repo, err := remote.NewRepository(reference)
	if err != nil {
		return nil, fmt.Errorf("reference %q: %w", reference, err)
	}
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return nil, fmt.Errorf("read docker credentials: %w", err)
	}
	client := &auth.Client{Client: retry.DefaultClient, Cache: auth.NewCache(), Credential: credentials.Credential(store)}
	client.SetUserAgent(opts.UserAgent)
	repo.Client = client
	repo.PlainHTTP = opts.PlainHTTP || isThisMachine(repo.Reference.Host())
	return repo, nil
}

// isThisMachine follows containerd: such hosts speak plain HTTP by default.
func isThisMachine(host string) bool {
	name, _, _ := cutLast(host, ":")
	return name == "localhost" || strings.HasPrefix(name, "127.") || host == "localhost"
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
