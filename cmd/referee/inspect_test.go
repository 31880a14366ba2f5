package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/internal/testdata"
)

// TestInspect asks a registry, where there is no node.
func TestInspect(t *testing.T) {
	t.Parallel()
	reg := regtest.New(t, regtest.Options{})
	if _, err := reg.LoadLayout("tiny", filepath.Join(testdata.Dir(t, "reference"), "tiny")); err != nil {
		t.Fatal(err)
	}
	config := `version = 1
[registry]
config_path = "` + t.TempDir() + `"
[[policy]]
match = ["**/tiny"]
formats = ["overlaybd"]
min_size = "0B"
`
	out, err := referee(t, config, "inspect", reg.Ref("tiny", "tiny"), "--platform", "linux/amd64")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"policy: **/tiny", "* overlaybd: would be used", "- turbooci: format-not-allowed", "- soci: format-not-allowed",
		"sigstore-bundle signature", "cosign signature", "lazy, as overlaybd", " bytes in 4 blobs",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("does not say %q:\n%s", want, out)
		}
	}
	out, err = referee(t, config, "inspect", reg.Ref("tiny", "tiny"), "--platform", "linux/amd64", "--output", "json")
	var told struct {
		Outcome  string
		Format   string
		Manifest struct{ Attached []json.RawMessage }
	}
	if err != nil || json.Unmarshal([]byte(out), &told) != nil || told.Outcome != "lazy" || told.Format != "overlaybd" || len(told.Manifest.Attached) < 6 {
		t.Errorf("%v, as JSON:\n%s", err, out)
	}
	if out, err = referee(t, config, "inspect", reg.Ref("tiny", "absent")); err == nil {
		t.Errorf("an absent image was inspected:\n%s", out)
	}
}
