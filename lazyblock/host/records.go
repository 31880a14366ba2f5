package host

import (
	"context"
	"errors"
	"fmt"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Target returns the digest that containerd's record of ref names, "" where it has
// no such record.
func (h *Host) Target(ctx context.Context, ref string) (digest.Digest, error) {
	target, err := h.target(namespaces.WithNamespace(ctx, h.namespace), ref)
	if errdefs.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look up image %s: %w", ref, err)
	}
	return target.Digest, nil
}

func (h *Host) target(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	response, err := h.images.Get(ctx, &imagesapi.GetImageRequest{Name: ref})
	if err != nil {
		return ocispec.Descriptor{}, errgrpc.ToNative(err)
	}
	target := response.GetImage().GetTarget()
	return ocispec.Descriptor{MediaType: target.GetMediaType(), Digest: digest.Digest(target.GetDigest()), Size: target.GetSize()}, nil
}

// Originals returns the images that containerd may have unpacked under ref: this
// platform's, or, where its index has none here, every one whose manifest and
// config are here. None without an error means that there is no such record.
func (h *Host) Originals(ctx context.Context, ref string) ([]*Original, error) {
	ctx = namespaces.WithNamespace(ctx, h.namespace)
	target, err := h.target(ctx, ref)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up image %s: %w", ref, err)
	}
	if original, err := h.original(ctx, ref); err == nil {
		return []*Original{original}, nil
	} else if !errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("read image %s: %w", ref, err)
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, err
	}
	var found []*Original
	err = images.Walk(ctx, images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if images.IsManifestType(desc.MediaType) {
			// To Manifest without a platform any manifest is right.
			manifest, err := images.Manifest(ctx, h.content, desc, nil)
			if err == nil {
				var diffIDs []digest.Digest
				if diffIDs, err = images.RootFS(ctx, h.content, manifest.Config); err == nil {
					found = append(found, &Original{Repository: named.Name(), Layers: manifest.Layers, DiffIDs: diffIDs})
				}
			}
			if err != nil && !errdefs.IsNotFound(err) {
				return nil, err
			}
			return nil, nil
		}
		children, err := images.Children(ctx, h.content, desc)
		if errdefs.IsNotFound(err) {
			return nil, nil // what is not here was not unpacked
		}
		return children, err
	}), target)
	if err == nil && len(found) == 0 {
		err = errors.New("none of its manifests is here")
	}
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", ref, err)
	}
	return found, nil
}

// Forget removes the records by which the image of ref is found, as long as they
// name target: its own, that of the digest in the same repository, and that of the
// image ID unless another repository's record names the same image. Containers that
// run keep what they have.
func (h *Host) Forget(ctx context.Context, ref string, target digest.Digest) error {
	ctx = namespaces.WithNamespace(ctx, h.namespace)
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return fmt.Errorf("forget image: %w", err)
	}
	response, err := h.images.List(ctx, &imagesapi.ListImagesRequest{Filters: []string{fmt.Sprintf("target.digest==%q", target)}})
	if err != nil {
		return fmt.Errorf("forget image %s: %w", ref, errgrpc.ToNative(err))
	}
	exact := named.Name() + "@" + target.String()
	var ours, ids []*imagesapi.Image
	shared := false
	for _, image := range response.GetImages() {
		switch name := image.GetName(); {
		case name == ref, name == exact:
			ours = append(ours, image)
		case digest.Digest(name).Validate() == nil: // containerd's CRI names an image by its ID, too
			ids = append(ids, image)
		default:
			shared = true
		}
	}
	if !shared {
		ours = append(ours, ids...)
	}
	var errs []error
	for _, image := range ours {
		_, err := h.images.Delete(ctx, &imagesapi.DeleteImageRequest{Name: image.GetName(), Target: image.GetTarget(), Sync: true})
		if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("forget image %s: %w", image.GetName(), err))
		}
	}
	h.Removed()
	return errors.Join(errs...)
}
