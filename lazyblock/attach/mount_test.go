package attach

import (
	"os"
	"testing"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock"
)

func TestUnknownFileSystemsAreNotAttachable(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	err := mount("/dev/null", nil, t.TempDir(), lazyblock.Volume{FSType: "nosuchfs"})
	if reason.Of(err) != reason.NotAttachable {
		t.Errorf("error %v (%s), want %s", err, reason.Of(err), reason.NotAttachable)
	}
}
