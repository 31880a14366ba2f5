package install

import (
	"bytes"
	"testing"

	"go.yaml.in/yaml/v3"
)

// Whatever a file holds: a setting is made or refused, reads back, and is taken
// back without a trace but for a last line that had no end.
func FuzzSetting(f *testing.F) {
	for _, text := range []string{
		"", "# nothing\n", "a: 1\nkey: old # why\n", "key:\n", "key: 'x'\nb: |\n  y\n", "key: |\n  x\n", "{key: x}", "a: 1\n---\nb: 2\n",
		"KUBELET_EXTRA_ARGS=--a\n", "KUBELET_EXTRA_ARGS=\"--key=old --b\"\n", "X='--key old'", "é: \"ü\"\nkey: \"z\"\r\n", "key: &a x\nb: *a\n",
	} {
		f.Add([]byte(text), true)
		f.Add([]byte(text), false)
	}
	f.Fuzz(func(t *testing.T, text []byte, isYAML bool) {
		setting := Setting{Syntax: commandFlag, Key: "key", Value: "unix:///run/x.sock"}
		if isYAML {
			setting.Syntax = yamlKey
		}
		changed, err := setting.set(text)
		if err != nil {
			return
		}
		if isYAML {
			var read map[string]any
			if err := yaml.Unmarshal(changed, &read); err != nil || read["key"] != setting.Value {
				t.Fatalf("%q became %q: %v, %v", text, changed, read, err)
			}
		}
		again, err := setting.unset(changed)
		if err != nil {
			t.Fatalf("%q became %q and cannot be taken back: %v", text, changed, err)
		}
		if isYAML && !bytes.Equal(bytes.TrimRight(again, "\n"), bytes.TrimRight(text, "\n")) {
			t.Fatalf("%q became %q and then %q", text, changed, again)
		}
	})
}
