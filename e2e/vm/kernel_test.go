package vm

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	t.Parallel()
	got := parseModulesDep([]byte("fs/erofs.ko: lib/crc.ko lib/base-a.ko\nlib/crc.ko: lib/base-a.ko\nlib/base-a.ko:\n"))
	want := map[string][]string{
		"erofs":  {"lib/base-a.ko", "lib/crc.ko", "fs/erofs.ko"},
		"crc":    {"lib/base-a.ko", "lib/crc.ko"},
		"base_a": {"lib/base-a.ko"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("modules (-want +got):\n%s", diff)
	}
}
