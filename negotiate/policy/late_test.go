package policy_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/policy"
)

func nopLog() *zap.Logger { return zap.NewNop() }

func broken() (negotiate.Verifier, error) {
	return nil, errors.New("read trust policy: no such file")
}

// store is a trust store that vouches for everything.
type store struct{}

func (store) Name() string { return "release" }

func (store) Accepts(kind negotiate.SignatureKind) bool {
	return kind == negotiate.SignatureNotation
}

func (store) Verify(context.Context, negotiate.Target, negotiate.Signature) (negotiate.Signer, error) {
	return negotiate.Signer{Trust: "release"}, nil
}

func TestBrokenTrustStoreVouchesForNobodyUntilItIsMended(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		loads, mended := 0, false
		core, logs := observer.New(zap.InfoLevel)
		v := policy.Loaded("release", func() (negotiate.Verifier, error) {
			loads++
			if mended {
				return store{}, nil
			}
			return broken()
		}, zap.New(core))
		verify := func() error {
			_, err := v.Verify(t.Context(), negotiate.Target{}, negotiate.Signature{Kind: negotiate.SignatureNotation})
			return err
		}
		for range 3 {
			if err := verify(); reason.Of(err) != reason.SignatureUntrusted || !strings.Contains(err.Error(), "no such file") {
				t.Errorf("a store that is not there: %v", err)
			}
		}
		if loads != 1 || v.Name() != "release" || !v.Accepts(negotiate.SignatureCosign) {
			t.Errorf("loaded %d times, name %s", loads, v.Name())
		}
		<-time.After(11 * time.Second) // of the bubble: no time passes
		if err := verify(); err == nil || loads != 2 {
			t.Errorf("after a while: %v, loaded %d times", err, loads)
		}
		mended = true
		<-time.After(11 * time.Second) // of the bubble: no time passes
		if err := verify(); err != nil || v.Accepts(negotiate.SignatureCosign) {
			t.Errorf("a mended store: %v", err)
		}
		<-time.After(11 * time.Second) // of the bubble: no time passes
		if err := verify(); err != nil || loads != 3 {
			t.Errorf("a store in use was loaded again: %v, %d", err, loads)
		}
		if n := logs.Len(); n != 2 {
			t.Errorf("%d lines logged, want one when it broke and one when it was mended: %v", n, logs.All())
		}
	})
}

func TestSoundTrustStoreIsUsedAsItIs(t *testing.T) {
	t.Parallel()
	v := policy.Loaded("release", func() (negotiate.Verifier, error) { return store{}, nil }, nopLog())
	if v != (store{}) {
		t.Errorf("it is %T", v)
	}
}
