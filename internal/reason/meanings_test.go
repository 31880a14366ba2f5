package reason_test

import (
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/referee-cri/referee/internal/reason"
)

// The codes are constants, which Go cannot list: this compares with the source.
func TestMeaningsHaveEveryCode(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("reason.go")
	if err != nil {
		t.Fatal(err)
	}
	var want, got []reason.Meaning
	for _, match := range regexp.MustCompile(`(?m)^\t\w+ +Code = "([a-z-]+)" +// (.+)$`).FindAllSubmatch(source, -1) {
		want = append(want, reason.Meaning{Code: reason.Code(match[1]), Means: string(match[2])})
	}
	got = reason.Meanings()
	if len(want) < 30 {
		t.Fatalf("only %d codes found in the source", len(want))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("meanings.go is not what reason.go says (-want +got):\n%s", diff)
	}
	for _, m := range got {
		if !reason.Known(m.Code) {
			t.Errorf("%s is not known", m.Code)
		}
	}
	if reason.Known("no-such-code") || reason.Known(reason.None) {
		t.Error("what is no code is known")
	}
}
