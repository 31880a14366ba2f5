package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/referee-cri/referee/internal/control"
	"github.com/referee-cri/referee/internal/control/controltest"
)

func TestLinesArriveOneByOne(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	client, _ := controltest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stream := control.NewStream(w)
		for i := range 3 {
			_ = stream.Send(map[string]any{"n": i, "asked": r.Method + " " + r.URL.String()})
			<-next // the client has it
		}
	}))
	var got []string
	err := client.Do(t.Context(), http.MethodPost, "/v1/things?a=b", func(line json.RawMessage) error {
		got = append(got, string(line))
		next <- struct{}{}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`{"asked":"POST /v1/things?a=b","n":0}`, `{"asked":"POST /v1/things?a=b","n":1}`, `{"asked":"POST /v1/things?a=b","n":2}`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	none := func(json.RawMessage) error { return nil }
	missing := control.Client{Path: filepath.Join(t.TempDir(), "control.sock")}
	if err := missing.Do(t.Context(), http.MethodGet, "/", none); !errors.Is(err, control.ErrNoDaemon) {
		t.Errorf("without a daemon: %v", err)
	}
	client, _ := controltest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/plain" {
			http.NotFound(w, r)
			return
		}
		control.Fail(w, http.StatusConflict, errors.New("not twice"))
	}))
	if err := client.Do(t.Context(), http.MethodGet, "/", none); err == nil || !strings.Contains(err.Error(), "not twice") {
		t.Errorf("a refusal: %v", err)
	}
	if err := client.Do(t.Context(), http.MethodGet, "/plain", none); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("an unknown path: %v", err)
	}
}

func TestServeEndsWhatIsBeingAnswered(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	client, end := controltest.Serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	}))
	answered := make(chan struct{})
	go func() { // ends with the server
		defer close(answered)
		_ = client.Do(context.Background(), http.MethodGet, "/", func(json.RawMessage) error { return nil })
	}()
	<-asked
	end()
	select {
	case <-answered:
	case <-time.After(10 * time.Second):
		t.Error("a request outlives the server")
	}
}
