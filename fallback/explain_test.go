package fallback_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/reason"
)

func TestTextOfAnOrdinaryPull(t *testing.T) {
	t.Parallel()
	e := entry(ref)
	later := noon.Add(time.Hour)
	e.Outcome, e.Reason, e.Sentence, e.Volume = fallback.Ordinary, reason.ProbeFailed, "read / of the volume: input/output error", ""
	e.Requests, e.Steps.Prepare = 3, 0.035
	e.Forward.Error = "rpc error: code = Unavailable"
	e.Warnings = []string{"shield the pull: shielding did not return within 2s: context deadline exceeded"}
	e.Repeated, e.RepeatedAt = 2, &later
	e.Rejected = []fallback.Rejected{
		{Artifact: digest.FromString("a"), Format: "nydus", Reason: reason.NotAttachable, Detail: "no driver for it here"},
		{Artifact: digest.FromString("b"), Reason: reason.NoMatch, Detail: "an application/spdx+json document"},
	}
	e.Omitted = 5
	want := "" +
		"reference   registry.example/app:1\n" +
		"pulled      2026-11-23 12:00:00 UTC\n" +
		"outcome     ordinary\n" +
		"reason      probe-failed: read / of the volume: input/output error\n" +
		"image       " + config.String() + "\n" +
		"manifest    " + manifest.String() + "\n" +
		"artifact    " + digest.FromString("artifact").String() + ", overlaybd, found by tag-schema\n" +
		"policy      built-in: no block matches the repository\n" +
		"prepared    35ms before containerd was asked\n" +
		"took        negotiate 12.3ms, open 3ms, mount 2ms, graft 12ms, forward 80ms\n" +
		"fetched     2700 bytes in 3 requests while preparing\n" +
		"containerd  failed: rpc error: code = Unavailable\n" +
		"repeated    2 times, last 2026-11-23 13:00:00 UTC, image in place\n" +
		"warning     shield the pull: shielding did not return within 2s: context deadline exceeded\n" +
		"\n" +
		"not taken\n" +
		"  nydus    sha256:ca978112ca1b  not-attachable  no driver for it here\n" +
		"  unknown  sha256:3e23e8160039  no-match        an application/spdx+json document\n" +
		"  and 5 more\n"
	var text strings.Builder
	if err := e.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, text.String()); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
}

// Names and units of the JSON are what scripts rely on.
func TestJSONNames(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(entry(ref))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"time": "2026-11-23T12:00:00Z", "reference": ref, "manifest": manifest.String(), "config": config.String(), "resolved": "2026-11-23T12:00:00Z",
		"outcome": "lazy", "format": "overlaybd", "artifact": digest.FromString("artifact").String(), "found": "tag-schema", "volume": "volume-1",
		"fetched_bytes": 2700.0, "forward": map[string]any{},
		"steps": map[string]any{"negotiate_seconds": 0.0123, "open_seconds": 0.003, "mount_seconds": 0.002, "graft_seconds": 0.012, "forward_seconds": 0.08},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
}

func ExampleEntry_WriteText() {
	e := fallback.Entry{
		Time: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), Reference: "registry.example/app:1",
		Outcome: fallback.Ordinary, Reason: reason.NoReferrers, Sentence: "nothing is attached to this image",
		Steps: fallback.Steps{Negotiate: 0.021, Forward: 4.2}, Forward: &fallback.Forward{},
	}
	if err := e.WriteText(os.Stdout); err != nil {
		panic(err)
	}
	// Output:
	// reference   registry.example/app:1
	// pulled      2026-11-23 12:00:00 UTC
	// outcome     ordinary
	// reason      no-referrers: nothing is attached to this image
	// took        negotiate 21ms, forward 4.2s
	// containerd  done
}
