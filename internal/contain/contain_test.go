package contain_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/referee-cri/referee/internal/contain"
	"github.com/referee-cri/referee/internal/reason"
)

func TestPanic(t *testing.T) {
	t.Parallel()
	core, logged := observer.New(zap.DebugLevel)
	log := zap.New(core)
	broken := errors.New("broken")
	if err := contain.Panic(log, "work", func() error { return broken }); !errors.Is(err, broken) || logged.Len() != 0 {
		t.Errorf("got %v, want the function's own error and no line", err)
	}
	err := contain.Panic(log, "work", func() error { panic("defect") })
	if reason.Of(err) != reason.Internal || !strings.Contains(err.Error(), "work panicked: defect") {
		t.Errorf("got %v", err)
	}
	if lines := logged.All(); len(lines) != 1 || !strings.Contains(fmt.Sprint(lines[0].ContextMap()["stack"]), "contain_test") {
		t.Errorf("logged %+v", lines)
	}
}
