// Package carry lets a list of referrers bring the manifests of what it lists. A
// registry repeats a manifest's annotations in its entry (distribution-spec 1.1,
// "Listing Referrers"), so a manifest that holds the rest of itself in one of them
// can be put together from the entry. It is then compared with the entry's digest
// as if it had been fetched, and the round trip for fetching it is saved.
package carry

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"

	"github.com/klauspost/compress/flate"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Annotation holds the manifest as JSON up to its annotations, which are its last
// member: deflated (RFC 1951) and then in base64 without padding (RFC 4648,
// section 4).
const Annotation = "io.github.referee-cri.manifest"

const (
	// maxPacked is how long the annotation gets, in characters: some thirty layers.
	// TCP brings about 14 KiB in its first round trip, and a list holds several entries.
	maxPacked = 4 << 10
	// maxUnpacked bounds what the annotation unpacks to, in bytes.
	maxUnpacked = 64 << 10
)

// Pack returns manifest with itself in its annotations, and these. annotations are
// those that it has, its last member; they are left alone. A manifest that would
// become too long for a list is returned as it is.
func Pack(manifest []byte, annotations map[string]string) ([]byte, map[string]string, error) {
	last, err := end(annotations)
	if err != nil {
		return nil, nil, err
	}
	rest, found := bytes.CutSuffix(manifest, last)
	if !found {
		return nil, nil, fmt.Errorf("pack manifest: it does not end with its annotations %s", last)
	}
	packed, err := deflate(rest)
	if err != nil {
		return nil, nil, fmt.Errorf("pack manifest: %w", err)
	}
	if len(rest) > maxUnpacked || base64.RawStdEncoding.EncodedLen(len(packed)) > maxPacked {
		return manifest, annotations, nil
	}
	all := maps.Clone(annotations)
	if all == nil {
		all = map[string]string{}
	}
	all[Annotation] = base64.RawStdEncoding.EncodeToString(packed)
	if last, err = end(all); err != nil {
		return nil, nil, err
	}
	return append(bytes.Clone(rest), last...), all, nil
}

// Unpack returns the manifest that entry describes if its annotations carry it, and
// nil if they do not, or something else: the manifest must then be fetched.
func Unpack(entry ocispec.Descriptor) []byte {
	packed := entry.Annotations[Annotation]
	if packed == "" || len(packed) > maxPacked || entry.Digest.Validate() != nil {
		return nil
	}
	deflated, err := base64.RawStdEncoding.DecodeString(packed)
	if err != nil {
		return nil
	}
	manifest, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(deflated)), maxUnpacked+1))
	if err != nil || len(manifest) > maxUnpacked {
		return nil
	}
	last, err := end(entry.Annotations)
	if err != nil {
		return nil
	}
	manifest = append(manifest, last...)
	if int64(len(manifest)) != entry.Size || entry.Digest.Algorithm().FromBytes(manifest) != entry.Digest {
		return nil
	}
	return manifest
}

// end is how a manifest's JSON ends: with its annotations, sorted by key and without
// white space, as encoding/json writes them.
func end(annotations map[string]string) ([]byte, error) {
	if len(annotations) == 0 {
		return []byte("}"), nil
	}
	content, err := json.Marshal(annotations)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `,"annotations":%s}`, content), nil
}

func deflate(content []byte) ([]byte, error) {
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return packed.Bytes(), nil
}
