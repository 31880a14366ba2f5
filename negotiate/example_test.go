package negotiate_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/publish"
)

// An image in a registry, an accelerated form attached to it, and a node that asks.
func Example() {
	if err := planBeforeAndAfter(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// lazy: false because: nothing is attached to the image
	// lazy: true format: overlaybd found by: referrers-api
}

func planBeforeAndAfter(ctx context.Context) error {
	reg, err := regtest.Start(regtest.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = reg.Close() }()
	platform := &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	image, err := reg.PutImage("shop/cart", "1", regtest.ImageSpec{Layers: 1, Platform: platform})
	if err != nil {
		return err
	}

	negotiator := negotiate.New(negotiate.Options{Client: registry.New(registry.Options{HostDirs: []string{}})})
	request := negotiate.Request{Reference: reg.Ref("shop/cart", "1"), Platform: platform}
	plan, err := negotiator.Plan(ctx, request)
	if err != nil {
		return err
	}
	fmt.Println("lazy:", plan.Lazy(), "because:", plan.Detail)

	if err := attachForm(ctx, reg, image); err != nil {
		return err
	}
	// Another node, which has not just asked.
	negotiator = negotiate.New(negotiate.Options{Client: registry.New(registry.Options{HostDirs: []string{}})})
	plan, err = negotiator.Plan(ctx, request)
	if err != nil {
		return err
	}
	fmt.Println("lazy:", plan.Lazy(), "format:", plan.Chosen.Format, "found by:", plan.Chosen.Found)
	return nil
}

// attachForm publishes a stand-in for a converted layer.
func attachForm(ctx context.Context, reg *regtest.Registry, image *regtest.Image) error {
	dir, err := os.MkdirTemp("", "form-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	content := []byte("a converted layer")
	path := filepath.Join(dir, "layer")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return err
	}
	layer := ocispec.Descriptor{Digest: digest.FromBytes(content), Size: int64(len(content))}
	config, err := publish.Config(image.ConfigRaw, []digest.Digest{layer.Digest})
	if err != nil {
		return err
	}
	repo, err := remote.NewRepository(reg.Host() + "/shop/cart")
	if err != nil {
		return err
	}
	repo.PlainHTTP = true
	_, err = publish.Push(ctx, repo, publish.Form{
		Source: image.Descriptor, Config: config, Layers: []publish.File{{Descriptor: layer, Path: path}},
	}, publish.Options{})
	return err
}
