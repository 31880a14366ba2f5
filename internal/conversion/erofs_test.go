package conversion_test

import (
	"encoding/json"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/conversion"
	"github.com/referee-cri/referee/internal/regtest"
)

func TestFileSystemsAreAttached(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		target       conversion.Target
		artifactType string
		mediaType    string
		layers       int
	}{
		"erofs":               {conversion.NewErofs(), "application/vnd.erofs.layer.v1", "application/vnd.erofs.layer.v1", 4},
		"disk":                {conversion.NewDisk(false), "application/vnd.referee.disk.v1", "application/vnd.referee.disk.layer.v1.raw", 1},
		"disk, seekable zstd": {conversion.NewDisk(true), "application/vnd.referee.disk.v1", "application/vnd.referee.disk.layer.v1.raw+zstd", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := regtest.New(t, regtest.Options{})
			copyTag(t, load(t), reg, "tiny")
			original, _ := fetch[ocispec.Manifest](t, reg.Ref("app", "tiny"))
			var artifacts []digest.Digest
			for range 2 {
				made, err := conversion.Run(t.Context(), conversion.Options{Source: reg.Ref("app", "tiny"), To: tc.target, TempDir: t.TempDir()})
				if err != nil || len(made) != 1 {
					t.Fatalf("made %+v, %v", made, err)
				}
				artifacts = append(artifacts, made[0].Artifact.Digest)
			}
			if artifacts[0] != artifacts[1] {
				t.Errorf("two conversions gave %v", artifacts)
			}
			_, manifest := fetch[ocispec.Manifest](t, reg.Host()+"/app@"+artifacts[0].String())
			var config ocispec.Image
			if err := json.Unmarshal(fetchBytes(t, reg, manifest.Config), &config); err != nil {
				t.Fatal(err)
			}
			if manifest.ArtifactType != tc.artifactType || manifest.Subject == nil || manifest.Subject.Digest != original.Digest {
				t.Errorf("manifest %+v", manifest)
			}
			if len(manifest.Layers) != tc.layers || len(config.RootFS.DiffIDs) != tc.layers || config.Architecture != "amd64" {
				t.Errorf("layers %+v, config %+v", manifest.Layers, config)
			}
			for i, layer := range manifest.Layers {
				if layer.MediaType != tc.mediaType || layer.Digest != config.RootFS.DiffIDs[i] {
					t.Errorf("layer %d is %+v, diff ID %s", i, layer, config.RootFS.DiffIDs[i])
				}
			}
			if p := plan(t, reg.Ref("app", "tiny"), "linux/amd64"); !p.Lazy() || p.Chosen.Format != tc.target.Name() || p.Chosen.Artifact.Digest != artifacts[0] {
				t.Errorf("a node finds %+v: %s %s", p.Chosen, p.Reason, p.Detail)
			}
		})
	}
}
