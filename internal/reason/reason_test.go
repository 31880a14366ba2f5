package reason_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/referee-cri/referee/internal/reason"
)

func TestOf(t *testing.T) {
	t.Parallel()
	coded := reason.Errorf(reason.NoRange, "status %d", 200)
	for name, tc := range map[string]struct {
		err  error
		want reason.Code
	}{
		"no error":                      {nil, reason.None},
		"nobody knew the cause":         {io.ErrUnexpectedEOF, reason.Internal},
		"a code":                        {coded, reason.NoRange},
		"a code under other errors":     {fmt.Errorf("read: %w", fmt.Errorf("fetch: %w", coded)), reason.NoRange},
		"a code beside another error":   {errors.Join(io.ErrClosedPipe, coded), reason.NoRange},
		"the caller went away":          {fmt.Errorf("wait: %w", context.Canceled), reason.Cancelled},
		"time was up":                   {fmt.Errorf("wait: %w", context.DeadlineExceeded), reason.BudgetExceeded},
		"time was up, and a code knows": {reason.Wrap(reason.RegistryUnreachable, context.DeadlineExceeded), reason.RegistryUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := reason.Of(tc.err); got != tc.want {
				t.Errorf("Of(%v) = %q, want %q", tc.err, got, tc.want)
			}
		})
	}
}

func TestWrap(t *testing.T) {
	t.Parallel()
	if err := reason.Wrap(reason.Internal, nil); err != nil {
		t.Errorf("no error became %v", err)
	}
	first := reason.Wrap(reason.NotFound, io.EOF)
	if first.Error() != io.EOF.Error() || !errors.Is(first, io.EOF) {
		t.Errorf("the code changed the error to %q", first)
	}
	// The code nearest to the cause stays, however often and deep it is wrapped.
	again := reason.Wrap(reason.GraftFailed, fmt.Errorf("graft: %w", first))
	if got := reason.Of(reason.Wrap(reason.Internal, again)); got != reason.NotFound {
		t.Errorf("Of = %q, want the first code", got)
	}
	if want := "graft: EOF"; again.Error() != want {
		t.Errorf("error reads %q, want %q", again, want)
	}
	if err := reason.Errorf(reason.SizeMismatch, "blob: %w", io.EOF); !errors.Is(err, io.EOF) || reason.Of(err) != reason.SizeMismatch {
		t.Errorf("Errorf lost something: %v", err)
	}
}
