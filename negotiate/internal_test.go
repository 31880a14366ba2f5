package negotiate

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
)

func TestNextLink(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		headers []string
		want    string
		none    bool
	}{
		"plain":                       {headers: []string{`</a?b=c>; rel="next"`}, want: "/a?b=c"},
		"token":                       {headers: []string{`</a>;rel=next`}, want: "/a"},
		"other parameters first":      {headers: []string{`</a>; title="x; rel=\"prev\""; rel="next"`}, want: "/a"},
		"several relations":           {headers: []string{`</a>; rel="last NEXT"`}, want: "/a"},
		"second link":                 {headers: []string{`</p>; rel="prev", </a>; rel="next"`}, want: "/a"},
		"second header":               {headers: []string{`</p>; rel="prev"`, `</a>; rel="next"`}, want: "/a"},
		"comma and semicolon in URL":  {headers: []string{`</p,q;r>; rel=prev, </a,b;c>; rel="next"`}, want: "/a,b;c"},
		"comma in quotes":             {headers: []string{`</a>; title="x, </z>; rel=next"; rel="next"`}, want: "/a"},
		"first rel counts":            {headers: []string{`</a>; rel="prev"; rel="next"`}, none: true},
		"spaces":                      {headers: []string{`  </a> ;  rel = "next" `}, want: "/a"},
		"parameter without value":     {headers: []string{`</a>; x; rel="next"`}, want: "/a"},
		"no relation":                 {headers: []string{`</a>`}, none: true},
		"not closed":                  {headers: []string{`</a; rel="next"`}, none: true},
		"no angle brackets":           {headers: []string{`/a; rel="next"`}, none: true},
		"garbage before":              {headers: []string{`garbage, </a>; rel="next"`}, want: "/a"},
		"quote not closed":            {headers: []string{`</a>; rel="next`}, want: "/a"},
		"nothing":                     {headers: nil, none: true},
		"empty target is the same":    {headers: []string{`<>; rel="next"`}, want: ""},
		"nextish is another relation": {headers: []string{`</a>; rel="nextish"`}, none: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, found := nextLink(http.Header{"Link": tc.headers})
			if found == tc.none || got != tc.want {
				t.Errorf("got %q, %t", got, found)
			}
		})
	}
}

func TestResolvePageKeepsTheOrigin(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ present, ref, want string }{
		"relative path":     {"https://r.example/v2/a/referrers/d?x=1", "/v2/a/referrers/d?n=2", "https://r.example/v2/a/referrers/d?n=2"},
		"query only":        {"https://r.example/v2/a", "?n=2", "https://r.example/v2/a?n=2"},
		"absolute":          {"http://r.example:5000/v2/a", "http://R.example:5000/b", "http://R.example:5000/b"},
		"default port":      {"https://r.example/v2/a", "https://r.example:443/b", "https://r.example:443/b"},
		"fragment":          {"https://r.example/v2/a", "/b#c", "https://r.example/b"},
		"other host":        {"https://r.example/v2/a", "https://evil.example/b", ""},
		"other port":        {"https://r.example/v2/a", "https://r.example:8443/b", ""},
		"TLS is dropped":    {"https://r.example/v2/a", "http://r.example/b", ""},
		"port 443, no TLS":  {"https://r.example/v2/a", "http://r.example:443/b", ""},
		"metadata service":  {"http://r.example/v2/a", "//169.254.169.254/latest", ""},
		"user in the URL":   {"https://r.example/v2/a", "https://u@r.example/b", ""},
		"other scheme":      {"https://r.example/v2/a", "file:///etc/passwd", ""},
		"not a URL":         {"https://r.example/v2/a", "http://[::1", ""},
		"IPv6, same":        {"http://[::1]:5000/v2/a", "http://[::1]:5000/b", "http://[::1]:5000/b"},
		"opaque":            {"https://r.example/v2/a", "mailto:x@y", ""},
		"backslash in path": {"https://r.example/v2/a", `/\evil.example/`, "https://r.example/%5Cevil.example/"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			present, err := url.Parse(tc.present)
			if err != nil {
				t.Fatal(err)
			}
			got, err := resolvePage(present, tc.ref)
			if (err != nil) != (tc.want == "") || (err == nil && got.String() != tc.want) {
				t.Errorf("got %v, %v, want %q", got, err, tc.want)
			}
		})
	}
}

func TestFallbackTagForm(t *testing.T) {
	t.Parallel()
	hex := strings.Repeat("0123456789abcdef", 8)
	for d, want := range map[digest.Digest]string{
		digest.Digest("sha256:" + hex[:64]):                "sha256-" + hex[:64],
		digest.Digest("sha512:" + hex):                     "sha512-" + hex[:64],
		digest.Digest("a+b.c_d:x=y"):                       "a-b.c_d-x-y",
		digest.Digest(strings.Repeat("a", 40) + ":" + hex): strings.Repeat("a", 32) + "-" + hex[:64],
	} {
		if got := fallbackTag(d); got != want {
			t.Errorf("tag of %s is %s, want %s", d, got, want)
		}
	}
}

func TestCacheIsBoundedAndForgets(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	c := newLRU[int, string](10, func() time.Time { return now })
	has := func(keys ...int) bool {
		return !slices.ContainsFunc(keys, func(k int) bool { _, ok := c.get(k); return !ok })
	}
	c.put(1, "a", 4, time.Minute)
	c.put(2, "b", 4, time.Hour)
	if !has(1, 2) {
		t.Error("values are lost")
	}
	_ = has(1) // used last
	c.put(3, "c", 4, time.Hour)
	if has(2) || !has(1, 3) || c.weight != 8 {
		t.Errorf("the least recently used one must go; weight %d", c.weight)
	}
	c.put(4, "d", 11, time.Hour)
	if has(4) || !has(1, 3) {
		t.Error("what is heavier than the cache must not be kept")
	}
	now = now.Add(time.Minute)
	if has(1) || !has(3) || c.weight != 4 || c.order.Len() != len(c.items) {
		t.Errorf("expired values must go; weight %d", c.weight)
	}
	c.put(3, "e", 1, time.Hour)
	if v, _ := c.get(3); v != "e" || c.weight != 1 {
		t.Errorf("replaced value %q, weight %d", v, c.weight)
	}
}

// TestRunnableEntries goes through what stands in indexes; containerd 2.4 takes
// the first of those wanted.
func TestRunnableEntries(t *testing.T) {
	t.Parallel()
	entry := func(name, arch string, change ...func(*ocispec.Descriptor)) ocispec.Descriptor {
		d := ocispec.Descriptor{Digest: digest.Digest(name), MediaType: ocispec.MediaTypeImageManifest}
		if arch != "" {
			d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		}
		for _, c := range change {
			c(&d)
		}
		return d
	}
	annotated := func(key string) func(*ocispec.Descriptor) {
		return func(d *ocispec.Descriptor) { d.Annotations = map[string]string{key: "x"} }
	}
	typed := func(artifactType string) func(*ocispec.Descriptor) {
		return func(d *ocispec.Descriptor) { d.ArtifactType = artifactType }
	}
	features := func(names ...string) func(*ocispec.Descriptor) {
		return func(d *ocispec.Descriptor) { d.Platform.OSFeatures = names }
	}
	for name, tc := range map[string]struct {
		entries []ocispec.Descriptor
		want    []string
	}{
		"the better one first": {[]ocispec.Descriptor{entry("none", ""), entry("386", "386"), entry("amd64", "amd64"), entry("arm64", "arm64")}, []string{"amd64", "386", "none"}},
		"equal ones as listed": {[]ocispec.Descriptor{entry("b", "amd64"), entry("a", "amd64")}, []string{"b", "a"}},
		"attestations":         {[]ocispec.Descriptor{entry("unknown", "unknown", annotated(annotationDockerReference)), entry("wrong", "amd64", annotated(annotationDockerReference)), entry("image", "amd64")}, []string{"image"}},
		"no manifests":         {[]ocispec.Descriptor{entry("blob", "amd64", func(d *ocispec.Descriptor) { d.MediaType = "application/octet-stream" }), entry("image", "amd64")}, []string{"image"}},
		"SOCI index first":     {[]ocispec.Descriptor{entry("soci", "amd64", typed(artifactTypeSOCIv2), annotated(annotationSOCIManifest)), entry("image", "amd64")}, []string{"image"}},
		"SOCI index, bare":     {[]ocispec.Descriptor{entry("soci", "amd64", typed(artifactTypeSOCIv2)), entry("v1", "amd64", typed(artifactTypeSOCIv1)), entry("image", "amd64", annotated(annotationSOCIIndex))}, []string{"image"}},
		"EROFS alternative":    {[]ocispec.Descriptor{entry("erofs", "amd64", features(featureErofs)), entry("image", "amd64")}, []string{"image"}},
		"Nydus alternative":    {[]ocispec.Descriptor{entry("image", "amd64"), entry("nydus", "amd64", features(featureNydus), typed(artifactTypeNydus))}, []string{"image"}},
		// Without os.features nothing tells containerd that it is another form.
		"Nydus by type alone, behind":    {[]ocispec.Descriptor{entry("image", "amd64"), entry("nydus", "amd64", typed(artifactTypeNydus))}, []string{"image", "nydus"}},
		"Nydus by type alone, before":    {[]ocispec.Descriptor{entry("nydus", "amd64", typed(artifactTypeNydus)), entry("image", "amd64")}, []string{"nydus", "image"}},
		"accelerated images carry types": {[]ocispec.Descriptor{entry("overlaybd", "amd64", typed(artifactTypeNative))}, []string{"overlaybd"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, d := range runnable(tc.entries, onlyAMD64()) {
				got = append(got, string(d.Digest))
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func FuzzNextLink(f *testing.F) {
	for _, seed := range []string{`</a>; rel="next"`, `<a,b>;x="\"",<c>;rel=next`, `<`, `;=",`, `<a>; rel="\`, `,,,<>;rel`} {
		f.Add(seed)
	}
	present := &url.URL{Scheme: "https", Host: "r.example", Path: "/v2/a"}
	f.Fuzz(func(t *testing.T, header string) {
		target, found := nextLink(http.Header{"Link": {header}})
		if !found && target != "" {
			t.Errorf("no link, but target %q", target)
		}
		if next, err := resolvePage(present, target); err == nil && (next.Scheme != "https" || next.Hostname() != "r.example") {
			t.Errorf("left the origin: %s", next)
		}
	})
}

func FuzzDecodeManifest(f *testing.F) {
	f.Add("", []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`))
	f.Add(mediaTypeORASArtifact, []byte(`{"artifactType":"x","blobs":null,"subject":{"digest":"","size":0}}`))
	f.Add(mediaTypeOCIArtifact, []byte(`{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","artifactType":"x","blobs":[{}]}`))
	f.Add(ocispec.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:x"}]}`))
	const known = `"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2`
	for _, l := range []string{
		`"annotations":{"containerd.io/snapshot/nydus-bootstrap":""}`,
		`"annotations":{"containerd.io/snapshot/overlaybd/fastoci/target-digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}`,
		`"annotations":{"containerd.io/snapshot/stargz/toc.digest":"x"}`,
		`"annotations":{"io.containers.zstd-chunked.manifest-checksum":"sha256:x","io.containers.zstd-chunked.manifest-position":"1:1:1:1"}`,
		`"mediaType":"application/vnd.erofs.layer.v1"`,
	} {
		f.Add(ocispec.MediaTypeImageManifest, []byte(`{"schemaVersion":2,"config":{`+known+`},"layers":[{`+known+`,`+l+`}]}`))
	}
	f.Add(ocispec.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[{`+known+`},{"mediaType":"application/vnd.oci.image.manifest.v1+json",`+known+
		`,"artifactType":"application/vnd.amazon.soci.index.v2+json","platform":{"os":"linux","architecture":"amd64","os.features":["erofs","nydus.remoteimage.v1"]}}]}`))
	f.Fuzz(func(t *testing.T, mediaType string, content []byte) {
		m, err := DecodeManifest(mediaType, content)
		if err != nil {
			return
		}
		if m.Descriptor.Digest != digest.FromBytes(content) || m.Descriptor.Size != int64(len(content)) || !isManifest(m.Descriptor.MediaType) {
			t.Errorf("descriptor %+v", m.Descriptor)
		}
		for _, d := range slices.Concat(m.Files, m.Manifests) {
			if d.Digest.Validate() != nil || d.Size < 0 {
				t.Errorf("descriptor %+v was let through", d)
			}
		}
		if len(m.Files) > maxDescriptors || len(m.Manifests) > maxDescriptors {
			t.Errorf("%d files, %d manifests", len(m.Files), len(m.Manifests))
		}
		platform := ocispec.Platform{OS: "linux", Architecture: "amd64"}
		for _, r := range Recognisers() {
			c, err := r.Recognise(t.Context(), Artifact{Manifest: m, Platform: platform, Image: m.Files, Fetch: noFetch})
			if (c == nil) == (err == nil) || (c != nil && (len(c.Layers) == 0 || c.Format != r.Format())) {
				t.Errorf("%s recognised %+v, %v", r.Format(), c, err)
			}
			in, ok := r.(InPlaceRecogniser)
			if !ok || isArtifact(m.Descriptor.MediaType) {
				continue
			}
			o := Original{Manifest: m, Platform: platform}
			if isIndex(m.Descriptor.MediaType) && len(m.Manifests) > 0 {
				o = Original{Index: m, Manifest: &Manifest{Descriptor: m.Manifests[0], Annotations: m.Annotations}, Platform: platform}
			}
			if c, err = in.RecogniseInPlace(o); (c == nil) == (err == nil) || (c != nil && (c.Artifact.Digest.Validate() != nil || c.Format != r.Format())) {
				t.Errorf("%s recognised in place %+v, %v", r.Format(), c, err)
			}
		}
	})
}

func FuzzDecodePage(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}]}`))
	f.Add([]byte(`{"referrers":null,"references":[{},{"size":-1}],"@nextLink":"x"}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		var body page
		if json.Unmarshal(content, &body) != nil {
			return
		}
		var list listing
		list.take(body, FoundORASv1)
		list.order()
		seen := map[digest.Digest]bool{}
		for _, e := range list.entries {
			if e.digest.Validate() != nil || e.size < 0 || seen[e.digest] || len(e.artifactType) > maxTypeLength {
				t.Errorf("entry %+v", e)
			}
			seen[e.digest] = true
		}
	})
}

func FuzzDecodeConfig(f *testing.F) {
	f.Add([]byte(`{"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"]}}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		c, err := decodeConfig(content)
		if err == nil && slices.ContainsFunc(c.RootFS.DiffIDs, func(d digest.Digest) bool { return d.Validate() != nil }) {
			t.Errorf("diff IDs %v", c.RootFS.DiffIDs)
		}
	})
}

func onlyAMD64() platforms.MatchComparer {
	return platforms.Only(ocispec.Platform{OS: "linux", Architecture: "amd64"})
}

func noFetch(context.Context, ocispec.Descriptor) (*Manifest, error) {
	return nil, reason.Errorf(reason.NotFound, "nothing is here")
}
