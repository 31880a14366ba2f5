package compare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/e2e/images"
)

// Form is how an image is stored; it is the image's tag as well.
type Form string

// The forms. An image in its original form has an overlaybd form attached to it.
const (
	Original Form = images.Tag
	EStargz  Form = "estargz"
	// EStargzRecorded has what one start reads in front, marked for prefetch.
	EStargzRecorded Form = "estargz-recorded"
	SOCIIndexed     Form = "soci"
	// The forms that Referee makes, by the names that `convert --to` has for them.
	ZstdChunked Form = "zstd-chunked"
	EROFS       Form = "erofs"
	Disk        Form = "disk"
)

// OwnForms are forms that `referee convert` makes, besides overlaybd.
func OwnForms() []Form { return []Form{ZstdChunked, EROFS, Disk} }

// PeerForms are the forms that other projects' tools make.
func PeerForms() []Form { return []Form{EStargz, EStargzRecorded, SOCIIndexed} }

// maker is the peer whose tool makes a form, and that tool's version.
func (f Form) maker() (Way, string) {
	if f == SOCIIndexed {
		return SOCI, SOCIVersion
	}
	return Stargz, StargzVersion
}

// PublishForm pushes the named image in another form, made by the peer's own
// tool. EStargzRecorded starts the image once over the link, which must be
// published as EStargz; what was made is kept and used again.
func (b *Bed) PublishForm(ctx context.Context, name string, form Form, l Link) (Image, error) {
	maker, version := form.maker()
	image := Image{Name: name, Tag: string(form), program: programs[name]}
	layout, err := images.BuildForm(ctx, b.progress, name, images.Form{
		Name: string(form), Version: version,
		Convert: func(ctx context.Context, layout string) (ocispec.Descriptor, error) {
			if form != EStargzRecorded {
				return convertWith(ctx, maker, layout, nil)
			}
			files, err := b.filesOfStart(ctx, Image{Name: name, Tag: string(EStargz), program: image.program}, l)
			if err != nil {
				return ocispec.Descriptor{}, err
			}
			return convertWith(ctx, maker, layout, files)
		},
	})
	if err != nil {
		return Image{}, err
	}
	if _, err := b.Registry.LoadLayout(name, layout); err != nil {
		return Image{}, err
	}
	manifests, err := layoutManifests(layout)
	if err != nil {
		return Image{}, fmt.Errorf("read manifests of %s as %s: %w", name, form, err)
	}
	image.Layers, image.Size = len(manifests[0].Layers), total(manifests[0].Layers)
	for _, m := range manifests { // SOCI's tables are layers of a second one
		image.LazySize += total(m.Layers)
	}
	return image, nil
}

// convertWith runs a peer's tool on a layout, with the list of files that a start
// reads where there is one.
func convertWith(ctx context.Context, maker Way, layout string, files []string) (form ocispec.Descriptor, err error) {
	binary, err := peerBinary(ctx, maker)
	if err != nil {
		return form, err
	}
	args := []string{"convert", layout}
	if len(files) > 0 {
		list := layout + ".files"
		if err := os.WriteFile(list, []byte(strings.Join(files, "\n")), 0o600); err != nil {
			return form, fmt.Errorf("list files: %w", err)
		}
		defer func() { err = errors.Join(err, os.Remove(list)) }()
		args = append(args, list)
	}
	out, err := runCommand(ctx, binary, args...)
	if err == nil {
		err = json.Unmarshal([]byte(out), &form)
	}
	return form, err
}

// accessed is what stargz-snapshotter logs of the first access to a file.
var accessed = regexp.MustCompile(`msg="file accessed: ([^"]+)"`)

// filesOfStart are the files that a start of an eStargz image reads, in the order
// of the first access, as stargz-snapshotter logs them.
func (b *Bed) filesOfStart(ctx context.Context, image Image, l Link) (files []string, err error) {
	p := b.peers[Stargz]
	if p == nil {
		return nil, errors.New("record a start: stargz-snapshotter does not run")
	}
	usual := b.peerConfig(Stargz, p.node)
	p.snapshotter.Reconfigure("log_file_access = true\n" + usual)
	defer p.snapshotter.Reconfigure(usual)
	if err := b.Chill(ctx, Stargz); err != nil {
		return nil, err
	}
	before := len(p.snapshotter.Log())
	if _, err := b.Run(ctx, Stargz, image, l, nil); err != nil {
		return nil, err
	}
	for _, found := range accessed.FindAllStringSubmatch(p.snapshotter.Log()[before:], -1) {
		if !slices.Contains(files, found[1]) {
			files = append(files, found[1])
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("record a start of %s: it read nothing", image.Name)
	}
	return files, nil
}

// layoutManifests reads the image manifests of a layout of one image, those that
// an index binds included.
func layoutManifests(layout string) ([]ocispec.Manifest, error) {
	read := func(path string, into any) error {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return json.Unmarshal(text, into)
	}
	var index ocispec.Index
	if err := read(filepath.Join(layout, ocispec.ImageIndexFile), &index); err != nil {
		return nil, err
	}
	blobs := filepath.Join(layout, ocispec.ImageBlobsDir, "sha256")
	if len(index.Manifests) == 1 && index.Manifests[0].MediaType == ocispec.MediaTypeImageIndex {
		if err := read(filepath.Join(blobs, index.Manifests[0].Digest.Encoded()), &index); err != nil {
			return nil, err
		}
	}
	manifests := make([]ocispec.Manifest, len(index.Manifests))
	for i, d := range index.Manifests {
		if err := read(filepath.Join(blobs, d.Digest.Encoded()), &manifests[i]); err != nil {
			return nil, err
		}
	}
	if len(manifests) == 0 {
		return nil, fmt.Errorf("no image in %s", layout)
	}
	return manifests, nil
}
