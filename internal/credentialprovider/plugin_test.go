package credentialprovider_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/referee-cri/referee/internal/credentialprovider"
	"github.com/referee-cri/referee/internal/eventually"
	"github.com/referee-cri/referee/internal/registry"
)

func TestPluginIsAskedAsByTheKubelet(t *testing.T) {
	t.Parallel()
	s := newStage(t, plug{name: "acr", match: "*.azurecr.io"})
	s.answer("acr", "Image", "", map[string]string{"*.azurecr.io": "gwen:s3cret"})
	p := s.start()
	if len(s.asked()) != 0 {
		t.Error("asked before anybody wanted credentials")
	}
	want(t, p, "team.azurecr.io/app", "gwen:s3cret")
	want(t, p, "docker.io/library/redis")
	wantAsked := []string{`acr get-credentials --now {"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"team.azurecr.io/app"}`}
	if diff := cmp.Diff(wantAsked, s.asked()); diff != "" {
		t.Error(diff)
	}
}

func TestAnswersAreRememberedByTheirKey(t *testing.T) {
	t.Parallel()
	images := []string{"a.example/x", "a.example/x", "a.example/y", "b.example/x", "a.example/x"}
	for kind, runs := range map[string]int{"Image": 3, "Registry": 2, "Global": 1} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, plug{name: "p", match: "*.example"})
			s.answer("p", kind, "", map[string]string{"*.example": "u:p"})
			p := s.start()
			for _, image := range images {
				want(t, p, image, "u:p")
			}
			if n := len(s.asked()); n != runs {
				t.Errorf("%d runs, want %d", n, runs)
			}
		})
	}
}

func TestAnswersExpire(t *testing.T) {
	t.Parallel()
	s := newStage(t, plug{name: "p", match: "a.example"})
	p := s.start()

	s.answer("p", "Image", "0s", map[string]string{"a.example": "u:1"}) // "If set to 0, the kubelet will not cache"
	want(t, p, "a.example/x", "u:1")
	s.answer("p", "Image", "200ms", map[string]string{"a.example": "u:2"})
	before := time.Now()
	offers := p.Credentials(t.Context(), "a.example/x", "")
	if diff := cmp.Diff([]string{"u:2"}, logins(offers)); diff != "" {
		t.Error(diff)
	}
	if expires := offers[0].Expires; expires.Before(before.Add(200*time.Millisecond)) || expires.After(time.Now().Add(200*time.Millisecond)) {
		t.Errorf("expires %s after the question", expires.Sub(before))
	}
	s.answer("p", "Image", "", map[string]string{"a.example": "u:3"})
	eventually.True(t, "the answer expires", func() bool {
		return logins(p.Credentials(t.Context(), "a.example/x", ""))[0] == "u:3"
	})
	s.answer("p", "Image", "", map[string]string{"a.example": "u:4"})
	want(t, p, "a.example/x", "u:3") // the default is an hour
}

func TestOneRunServesAllWhoWait(t *testing.T) {
	t.Parallel()
	for name, image := range map[string]func(int) string{
		"for one image":               func(int) string { return "a.example/x" },
		"for many of one registry":    func(i int) string { return fmt.Sprintf("a.example/x%d", i) },
		"though it fails for another": func(i int) string { return fmt.Sprintf("a.example/x%d", i) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, plug{name: "p", match: "a.example", mode: "gate"})
			wanted := []string{"u:p"}
			if strings.Contains(name, "fails") {
				s.write(s.answerFile("p"), "{}")
				wanted = nil
			} else {
				s.answer("p", "Registry", "", map[string]string{"a.example": "u:p"})
			}
			gate := s.answerFile("p") + ".gate"
			if err := syscall.Mkfifo(gate, 0o600); err != nil {
				t.Fatal(err)
			}
			p := s.start()
			var asking sync.WaitGroup
			for i := range 20 {
				asking.Go(func() { want(t, p, image(i), wanted...) })
			}
			eventually.True(t, "the plugin runs", func() bool { return len(s.asked()) > 0 })
			open, err := os.OpenFile(gate, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_ = open.Close()
			asking.Wait()
			if n := len(s.asked()); n != 1 {
				t.Errorf("%d runs, want 1", n)
			}
		})
	}
}

func TestTroubleMeansNoCredentials(t *testing.T) {
	t.Parallel()
	const secret = "s3cret-on-stdout"
	good := answerText(t, "Image", "", map[string]string{"a.example": "gwen:" + secret})
	for name, tc := range map[string]struct {
		mode, answer, log string
	}{
		"exit status":        {"fail", good, "exit status 1; it says: cannot sign in"},
		"hangs":              {"hang", good, "no answer in time"},
		"floods":             {"flood", good, "longer than 1 MiB"},
		"nothing":            {"", "", "no CredentialProviderResponse"},
		"garbage":            {"", secret, "no CredentialProviderResponse"},
		"more than one":      {"", good + good, "no CredentialProviderResponse"},
		"wrong types":        {"", strings.Replace(good, `"gwen"`, "12345678", 1), "no CredentialProviderResponse"},
		"another kind":       {"", strings.Replace(good, "Response", secret, 1), "kind is not"},
		"another version":    {"", strings.Replace(good, "k8s.io/v1", "k8s.io/v1beta1", 1), "apiVersion is not"},
		"another cache key":  {"", strings.Replace(good, `"Image"`, `"`+secret+`"`, 1), "cacheKeyType is none"},
		"an absurd duration": {"", strings.Replace(good, "{", `{"cacheDuration":"`+secret+`",`, 1), "no CredentialProviderResponse"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, plug{name: "p", match: "a.example", mode: tc.mode})
			s.write(s.answerFile("p"), tc.answer)
			s.opts.Timeout = 20 * time.Second
			if tc.mode == "hang" {
				s.opts.Timeout = 3 * time.Second // enough to start
			}
			p := s.start()
			for range 3 {
				want(t, p, "a.example/x")
			}
			if n := len(s.asked()); n != 1 {
				t.Errorf("%d runs: a failure is not run again at once", n)
			}
			text := logged(s.logs)
			if n := s.logs.FilterMessage("credential provider plugin gives no credentials").Len(); n != 1 {
				t.Errorf("logged %d times", n)
			}
			if !strings.Contains(text, tc.log) || strings.Contains(text, secret) {
				t.Errorf("log: %s", text)
			}
			if tc.mode == "hang" {
				wantGone(t, s.log()+".child")
			}
		})
	}
}

// wantGone waits until the process whose id is in the file has ended.
func wantGone(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the plugin's child ends", func() bool {
		stat, err := os.ReadFile("/proc/" + string(text) + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ") // nobody may be there to reap it
	})
}

func TestFailedPluginIsRunAgainLater(t *testing.T) {
	t.Parallel()
	s := newStage(t, plug{name: "p", match: "a.example"})
	s.opts.RetryAfter = time.Millisecond
	p := s.start()
	want(t, p, "a.example/x")
	s.answer("p", "Image", "", map[string]string{"a.example": "u:p"})
	eventually.True(t, "the plugin is run again", func() bool {
		return len(p.Credentials(t.Context(), "a.example/x", "")) == 1
	})
}

func TestCallerDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	s := newStage(t, plug{name: "p", match: "a.example", mode: "hang"})
	s.opts.Timeout = time.Hour
	p := s.start()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if offers := p.Credentials(ctx, "a.example/x", ""); offers != nil {
		t.Errorf("offers %v", offers)
	}
	eventually.True(t, "the plugin has a child", func() bool {
		text, err := os.ReadFile(s.log() + ".child")
		return err == nil && len(text) > 0
	})
	if err := p.Close(); err != nil { // ends the run
		t.Fatal(err)
	}
	wantGone(t, s.log()+".child")
	want(t, p, "a.example/y")
	if n := len(s.asked()); n != 1 {
		t.Errorf("%d runs, want none after Close", n-1)
	}
}

func TestMostSpecialKeyComesFirst(t *testing.T) {
	t.Parallel()
	s := newStage(t, plug{name: "one", match: "a.example"}, plug{name: "two", match: "*.example/team"})
	s.answer("one", "Image", "", map[string]string{
		"*.example": "glob:1", "a.example": "host:1", "a.example/team/app": "path:1", "b.example": "other:1", "a.example:5000": "port:1",
		"https://a.example/v1/": "scheme:1", "a.example/team/app/deep": "deep:1", "*.example/": "", "a.exa[mple": "broken:1",
	})
	s.answer("two", "Image", "", map[string]string{"a.example": "host:2", "*.example": "glob:1"})
	offers := logins(s.start().Credentials(t.Context(), "a.example/team/app", ""))
	// "a.example" and "https://a.example/v1/" are one key to the kubelet: either may come first.
	if len(offers) > 2 && offers[1] == "scheme:1" {
		offers[1], offers[2] = offers[2], offers[1]
	}
	if diff := cmp.Diff([]string{"path:1", "host:1", "scheme:1", "host:2", "glob:1"}, offers); diff != "" {
		t.Error(diff)
	}
}

func TestDockerHubHasAnOldName(t *testing.T) {
	t.Parallel()
	s := newStage(t, plug{name: "hub", match: "docker.io"})
	s.answer("hub", "Global", "", map[string]string{"https://index.docker.io/v1/": "u:p"})
	p := s.start()
	want(t, p, "docker.io/library/redis", "u:p")
	s.answer("hub", "Global", "", map[string]string{"https://index.docker.io/v1/": "u:p", "docker.io/library": "u:q"})
	s.configure(plug{name: "hub", match: "docker.io", extra: "# changed"})
	want(t, p, "docker.io/library/redis", "u:q")
}

func TestRefusedAnswerIsForgotten(t *testing.T) {
	t.Parallel()
	s := newStage(t, plug{name: "p", match: "*.example"})
	s.opts.RetryAfter = 100 * time.Millisecond
	p := s.start()
	s.answer("p", "Global", "", map[string]string{"*.example": "u:old"})
	old := registry.Credentials{Username: "u", Password: "old"}
	asked := time.Now()
	want(t, p, "a.example/x", "u:old")
	if p.Refused("b.example/y", old) && time.Since(asked) < s.opts.RetryAfter {
		t.Error("a fresh answer is forgotten: the plugin has just been run")
	}
	s.answer("p", "Global", "", map[string]string{"*.example": "u:new"})
	eventually.True(t, "the answer is old enough to be forgotten", func() bool {
		return p.Refused("b.example/y", old) || logins(p.Credentials(t.Context(), "b.example/y", ""))[0] == "u:new"
	})
	want(t, p, "b.example/y", "u:new")
	if p.Refused("b.example/y", old) {
		t.Error("credentials that are not remembered are forgotten")
	}
}

func TestTokenProvidersAreLeftOut(t *testing.T) {
	t.Parallel()
	s := newStage(t, plug{name: "sa", match: "a.example", extra: `
  tokenAttributes: {serviceAccountTokenAudience: x, cacheType: Token, requireServiceAccount: false}`},
		plug{name: "node", match: "a.example"})
	s.answer("node", "Image", "", map[string]string{"a.example": "u:p"})
	want(t, s.start(), "a.example/x", "u:p")
	if text := logged(s.logs); !strings.Contains(text, "left out") || !strings.Contains(text, "sa") || !strings.Contains(text, s.opts.Config) {
		t.Errorf("log: %s", text)
	}
	if err := credentialprovider.Check(s.opts); err == nil || !strings.Contains(err.Error(), `provider "sa": tokenAttributes`) {
		t.Errorf("check: %v", err)
	}
}

func TestChangedFilesAreNoticed(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	if err := os.Remove(s.opts.Config); err != nil {
		t.Fatal(err)
	}
	p := s.start()
	want(t, p, "a.example/x") // no configuration
	s.answer("p", "Global", "", map[string]string{"a.example": "u:1"})
	s.configure(plug{name: "p", match: "a.example"})
	want(t, p, "a.example/x", "u:1") // there is one

	s.answer("p", "Global", "", map[string]string{"a.example": "u:2"})
	want(t, p, "a.example/x", "u:1") // remembered
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.write(filepath.Join(s.opts.BinDir, "wrapper"), "#!/bin/sh\nexec "+self+" \"$@\"\n")
	if err := os.Chmod(filepath.Join(s.opts.BinDir, "wrapper"), 0o700); err != nil { //nolint:gosec // it is to be run
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(s.opts.BinDir, "wrapper"), filepath.Join(s.opts.BinDir, "p")); err != nil {
		t.Fatal(err)
	}
	want(t, p, "a.example/x", "u:2") // another plugin: nothing is remembered

	s.write(s.opts.Config, "providers: {")
	want(t, p, "a.example/x", "u:2") // broken: the one before
	want(t, p, "a.example/x", "u:2")
	if n := s.logs.FilterMessage("credential provider configuration is not usable").Len(); n != 2 { // absent, broken
		t.Errorf("told %d times:\n%s", n, logged(s.logs))
	}
}
