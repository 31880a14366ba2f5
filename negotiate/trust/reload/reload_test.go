package reload_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/zap/zaptest"

	"github.com/referee-cri/referee/negotiate/trust/reload"
)

// TestTrustFollowsItsFile walks a file through what happens to files.
func TestTrustFollowsItsFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	read := func() (string, error) {
		data, err := os.ReadFile(path)
		if err == nil && string(data) == "broken" {
			err = errors.New("not a key")
		}
		return string(data), err
	}
	look := func() string {
		data, err := os.ReadFile(path)
		if err != nil {
			return "absent"
		}
		return "=" + string(data)
	}
	write := func(text string) func() error {
		return func() error { return os.WriteFile(path, []byte(text), 0o600) }
	}
	if err := write("a")(); err != nil {
		t.Fatal(err)
	}
	store, err := reload.Load(look, read, zaptest.NewLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		do   func() error
		want string
		gone bool
	}{
		{"as loaded", func() error { return nil }, "a", false},
		{"changed", write("b"), "b", false},
		{"half-written", write("broken"), "b", false},
		{"taken away", func() error { return os.Remove(path) }, "", true},
		{"still away", func() error { return nil }, "", true},
		{"back, half-written", write("broken"), "", true},
		{"back", write("c"), "c", false},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		got, err := store.Current()
		if got != step.want || (err != nil) != step.gone {
			t.Errorf("%s: %q, %v; want %q, gone %t", step.name, got, err, step.want, step.gone)
		}
		if step.gone && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v does not say what is missing", step.name, err)
		}
	}
}
