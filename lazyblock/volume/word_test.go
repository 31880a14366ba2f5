package volume_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/lazyblock/volume"
)

func mountWord(t *testing.T, m *volume.Manager, spec volume.Spec) {
	t.Helper()
	release, _, err := m.Mount(t.Context(), spec, registry.Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	release()
}

func TestWordsOutliveTheDaemon(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager(t)
	spec := specOf("a", "b")
	spec.Chain, spec.Word = digest.FromString("chain"), json.RawMessage(`{"signer":["x",{"y":1}]}`)
	mountWord(t, m, spec)
	var group sync.WaitGroup
	for i := range 8 { // each twice, at the same time
		group.Go(func() {
			if err := m.Vouch(t.Context(), spec.ID(), fmt.Sprintf("registry.test/%d", i/2), nil); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	w.restart(false)
	m = w.manager(t)
	if err := m.Restore(t.Context(), []string{spec.ID()}); err != nil {
		t.Fatal(err)
	}
	got, err := m.Recorded(spec.ID())
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Vouchers) != 4 {
		t.Errorf("vouchers are %q, want each of four once", got.Vouchers)
	}
	got.Vouchers = nil
	if diff := cmp.Diff(spec, got); diff != "" {
		t.Errorf("record changed (-written +read):\n%s", diff)
	}
	if err := m.Vouch(t.Context(), spec.ID(), spec.Repository, json.RawMessage(`"newer"`)); err != nil {
		t.Fatal(err)
	}
	if got, err = m.Recorded(spec.ID()); err != nil || string(got.Word) != `"newer"` || len(got.Vouchers) != 4 {
		t.Errorf("after a newer word: %s, %q, %v", got.Word, got.Vouchers, err)
	}
}

func TestWordsThatWouldBreakARecordAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager(t)
	spec := specOf("a")
	mountWord(t, m, spec)
	for name, word := range map[string]string{
		"too long": `"` + strings.Repeat("x", volume.MaxWord) + `"`, "not JSON": `{`, "nothing": ``,
	} {
		bad := specOf("b")
		bad.Word = json.RawMessage(word)
		if name != "nothing" {
			if _, _, err := m.Mount(t.Context(), bad, registry.Credentials{}); err == nil {
				t.Errorf("%s: mounted", name)
			}
		}
		if err := m.Vouch(t.Context(), spec.ID(), "registry.test/b", bad.Word); err == nil {
			t.Errorf("%s: vouched", name)
		}
	}
	for i := range 256 {
		if err := m.Vouch(t.Context(), spec.ID(), fmt.Sprintf("registry.test/%d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Vouch(t.Context(), spec.ID(), "registry.test/one-too-many", nil); err == nil {
		t.Error("the record grows without bounds")
	}
	if err := m.Vouch(t.Context(), specOf("unknown").ID(), "registry.test/a", nil); err == nil {
		t.Error("vouched for a volume that is not on record")
	}
	w.expect(t, m, spec)
}

func TestRecordOfAnEarlierVersionHasNoWord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager(t)
	spec := specOf("a")
	record := fmt.Sprintf(`{"format": "plain", "repository": "registry.test/app", "reference": "registry.test/app:1",
		"artifact": {"mediaType": "x", "digest": %q, "size": 1}, "layers": [{"mediaType": %q, "digest": %q, "size": %d}]}`,
		digest.FromString("artifact"), spec.Layers[0].MediaType, spec.Layers[0].Digest, spec.Layers[0].Size)
	if err := os.WriteFile(w.record(spec), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Restore(t.Context(), []string{spec.ID()}); err != nil {
		t.Fatal(err)
	}
	got, err := m.Recorded(spec.ID())
	if err != nil || got.Chain != "" || got.Vouchers != nil || got.Word != nil || got.Repository != "registry.test/app" {
		t.Errorf("read %+v, %v", got, err)
	}
}
