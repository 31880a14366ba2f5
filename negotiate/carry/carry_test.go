package carry_test

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/negotiate/carry"
)

// manifest is one of a form with that many layers.
func manifest(tb testing.TB, layers int, annotations map[string]string) []byte {
	tb.Helper()
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: "application/vnd.example.form.v1", Config: descriptor("config"), Annotations: annotations,
	}
	for i := range layers {
		d := descriptor(fmt.Sprint("layer ", i))
		d.Annotations = map[string]string{"digest": d.Digest.String(), "size": fmt.Sprint(d.Size), "version": "<1>"}
		m.Layers = append(m.Layers, d)
	}
	subject := descriptor("subject")
	m.Subject = &subject
	content, err := json.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return content
}

func descriptor(content string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: "application/vnd.example", Digest: digest.FromString(content), Size: int64(len(content))}
}

// entry is what a registry lists of a manifest.
func entry(tb testing.TB, manifest []byte) ocispec.Descriptor {
	tb.Helper()
	var m ocispec.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		tb.Fatal(err)
	}
	return ocispec.Descriptor{
		MediaType: m.MediaType, ArtifactType: m.ArtifactType, Annotations: m.Annotations,
		Digest: digest.FromBytes(manifest), Size: int64(len(manifest)),
	}
}

func TestAManifestComesBackFromItsEntry(t *testing.T) {
	t.Parallel()
	for name, annotations := range map[string]map[string]string{
		"no annotations": nil,
		"annotations":    {"org.example.z": "<&>", "a": "ü\u2028\"", "M": ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plain, before := manifest(t, 8, annotations), maps.Clone(annotations)
			packed, all, err := carry.Pack(plain, annotations)
			if err != nil {
				t.Fatal(err)
			}
			if len(all) != len(annotations)+1 || !maps.Equal(annotations, before) {
				t.Errorf("annotations %v became %v", annotations, all)
			}
			e := entry(t, packed)
			if diff := cmp.Diff(all, e.Annotations); diff != "" {
				t.Errorf("the manifest's annotations (-returned +in it):\n%s", diff)
			}
			if got := carry.Unpack(e); !bytes.Equal(got, packed) {
				t.Errorf("unpacked %s, want %s", got, packed)
			}
			var was, is ocispec.Manifest
			if err := json.Unmarshal(plain, &was); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(packed, &is); err != nil {
				t.Fatal(err)
			}
			if delete(is.Annotations, carry.Annotation); len(is.Annotations) == 0 {
				is.Annotations = nil
			}
			if diff := cmp.Diff(was, is); diff != "" {
				t.Errorf("beside its annotation the manifest changed:\n%s", diff)
			}
			if again, _, err := carry.Pack(plain, annotations); err != nil || !bytes.Equal(again, packed) {
				t.Errorf("packed twice it differs (%v)", err)
			}
		})
	}
}

func TestLongManifestsAreNotCarried(t *testing.T) {
	t.Parallel()
	carried := 0
	for _, layers := range []int{1, 30, 100, 1000} {
		plain := manifest(t, layers, map[string]string{"a": "b"})
		packed, all, err := carry.Pack(plain, map[string]string{"a": "b"})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := all[carry.Annotation]; ok {
			if carried++; carry.Unpack(entry(t, packed)) == nil {
				t.Errorf("%d layers are packed and cannot be unpacked", layers)
			}
		} else if !bytes.Equal(packed, plain) {
			t.Errorf("%d layers are not carried, and changed", layers)
		}
	}
	if carried != 2 {
		t.Errorf("%d of four manifests are carried, want those of 1 and 30 layers", carried)
	}
}

func TestPackKnowsItsManifest(t *testing.T) {
	t.Parallel()
	plain := manifest(t, 2, map[string]string{"a": "b"})
	if _, _, err := carry.Pack(plain, map[string]string{"a": "c"}); err == nil || !strings.Contains(err.Error(), `"a":"c"`) {
		t.Errorf("other annotations than the manifest's: %v", err)
	}
}

// TestUnpackBelievesTheDigestAlone: an entry comes from whoever answers for the
// registry.
func TestUnpackBelievesTheDigestAlone(t *testing.T) {
	t.Parallel()
	packed, _, err := carry.Pack(manifest(t, 3, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := carry.Pack(manifest(t, 4, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	if carry.Unpack(entry(t, packed)) == nil {
		t.Fatal("the entry that is changed below is no good to begin with")
	}
	for name, change := range map[string]func(*ocispec.Descriptor){
		"another digest":      func(d *ocispec.Descriptor) { d.Digest = digest.FromString("x") },
		"no digest":           func(d *ocispec.Descriptor) { d.Digest = "" },
		"an unknown digest":   func(d *ocispec.Descriptor) { d.Digest = "md5:0123" },
		"another size":        func(d *ocispec.Descriptor) { d.Size++ },
		"another's":           func(d *ocispec.Descriptor) { d.Annotations = entry(t, other).Annotations },
		"one more annotation": func(d *ocispec.Descriptor) { d.Annotations["x"] = "y" },
		"no annotation":       func(d *ocispec.Descriptor) { delete(d.Annotations, carry.Annotation) },
		"not base64":          func(d *ocispec.Descriptor) { d.Annotations[carry.Annotation] = "=" },
		"not deflated":        func(d *ocispec.Descriptor) { d.Annotations[carry.Annotation] = "AAAA" },
		"cut":                 func(d *ocispec.Descriptor) { d.Annotations[carry.Annotation] = d.Annotations[carry.Annotation][:40] },
		"long":                func(d *ocispec.Descriptor) { d.Annotations[carry.Annotation] += strings.Repeat("A", 4<<10) },
	} {
		e := entry(t, packed)
		if change(&e); carry.Unpack(e) != nil {
			t.Errorf("%s: unpacked", name)
		}
	}
}

// TestUnpackIsBounded offers manifests that are what their entries say, and long.
func TestUnpackIsBounded(t *testing.T) {
	t.Parallel()
	for spaces, want := range map[int]bool{60 << 10: true, 64 << 10: false, 2 << 20: false} {
		rest := []byte(`{"schemaVersion":2` + strings.Repeat(" ", spaces))
		var packed bytes.Buffer
		w, err := flate.NewWriter(&packed, flate.BestCompression)
		if err == nil {
			_, err = w.Write(rest)
		}
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		annotation := base64.RawStdEncoding.EncodeToString(packed.Bytes())
		if len(annotation) > 4<<10 {
			t.Fatalf("%d spaces take %d characters", spaces, len(annotation))
		}
		e := entry(t, fmt.Appendf(nil, `%s,"annotations":{%q:%q}}`, rest, carry.Annotation, annotation))
		if got := carry.Unpack(e) != nil; got != want {
			t.Errorf("%d spaces: unpacked: %t", spaces, got)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	for _, layers := range []int{0, 1, 9} {
		packed, _, err := carry.Pack(manifest(f, layers, map[string]string{"a": "b"}), map[string]string{"a": "b"})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(entry(f, packed).Annotations[carry.Annotation], packed)
	}
	f.Fuzz(func(t *testing.T, annotation string, manifest []byte) {
		d := ocispec.Descriptor{
			Digest: digest.FromBytes(manifest), Size: int64(len(manifest)),
			Annotations: map[string]string{"a": "b", carry.Annotation: annotation},
		}
		if got := carry.Unpack(d); got != nil && !bytes.Equal(got, manifest) {
			t.Errorf("unpacked %q for a digest of %q", got, manifest)
		}
	})
}
