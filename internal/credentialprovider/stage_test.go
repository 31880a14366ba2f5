package credentialprovider_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/referee-cri/referee/internal/credentialprovider"
	"github.com/referee-cri/referee/internal/registry"
)

// The test binary is the plugin: each plugin of a stage is a link to it.
func TestMain(m *testing.M) {
	if mode := os.Getenv("TEST_PLUGIN"); mode != "" {
		os.Exit(beThePlugin(mode))
	}
	os.Exit(m.Run())
}

// beThePlugin notes what it was asked, in a file that its configuration names,
// and answers as that says.
func beThePlugin(mode string) int {
	asked, err := io.ReadAll(os.Stdin)
	if err != nil {
		return 3
	}
	line := fmt.Sprintf("%s %s %s\n", filepath.Base(os.Args[0]), strings.Join(os.Args[1:], " "), asked)
	log, err := os.OpenFile(os.Getenv("TEST_LOG"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 4
	}
	_, _ = log.WriteString(line)
	_ = log.Close()
	answer, _ := os.ReadFile(os.Getenv("TEST_ANSWER"))
	_, _ = os.Stdout.Write(answer)
	switch mode {
	case "fail":
		_, _ = fmt.Fprintf(os.Stderr, "cannot sign in: got %s\n%s\n", answer, os.Getenv("TEST_STDERR"))
		return 1
	case "hang": // with a child that holds the pipes
		child := exec.CommandContext(context.Background(), "sleep", "600")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if child.Start() == nil {
			_ = os.WriteFile(os.Getenv("TEST_LOG")+".child", []byte(strconv.Itoa(child.Process.Pid)), 0o600)
		}
		select {}
	case "flood":
		for line := strings.Repeat("x", 64<<10); ; {
			if _, err := os.Stdout.WriteString(line); err != nil {
				return 1
			}
		}
	case "gate": // opened by whoever writes to it
		gate, err := os.Open(os.Getenv("TEST_ANSWER") + ".gate")
		if err != nil {
			return 5
		}
		_, _ = io.ReadAll(gate)
	}
	return 0
}

// stage is a directory with a configuration, plugins, what they answer and what
// they were asked.
type stage struct {
	t    *testing.T
	dir  string
	logs *observer.ObservedLogs
	opts credentialprovider.Options
}

// plug is one provider of a stage.
type plug struct {
	name, match, mode, extra string
}

func newStage(t *testing.T, plugs ...plug) *stage {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	dir := t.TempDir()
	s := &stage{t: t, dir: dir, logs: logs, opts: credentialprovider.Options{
		Config: filepath.Join(dir, "config.yaml"), BinDir: filepath.Join(dir, "bin"), RetryAfter: time.Hour, Log: zap.New(core),
	}}
	if err := os.Mkdir(s.opts.BinDir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.configure(plugs...)
	return s
}

func (s *stage) write(path, text string) {
	s.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) configure(plugs ...plug) {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n")
	for _, p := range plugs {
		if err := os.Symlink(self, filepath.Join(s.opts.BinDir, p.name)); err != nil && !os.IsExist(err) {
			s.t.Fatal(err)
		}
		if p.mode == "" {
			p.mode = "answer"
		}
		fmt.Fprintf(&b, `
- name: %s
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: [%q]
  defaultCacheDuration: 1h
  args: [get-credentials, --now]
  env: [{name: GORACE, value: atexit_sleep_ms=0}, {name: TEST_PLUGIN, value: %q}, {name: TEST_LOG, value: %q}, {name: TEST_ANSWER, value: %q}]
%s
`, p.name, p.match, p.mode, s.log(), s.answerFile(p.name), p.extra)
	}
	s.write(s.opts.Config, b.String())
}

func (s *stage) log() string                   { return filepath.Join(s.dir, "asked") }
func (s *stage) answerFile(name string) string { return filepath.Join(s.dir, "answer-"+name) }

// answer is what the plugin will say: user names of key, each with its password.
func (s *stage) answer(name, kind, duration string, auth map[string]string) {
	s.t.Helper()
	s.write(s.answerFile(name), answerText(s.t, kind, duration, auth))
}

func answerText(t testing.TB, kind, duration string, auth map[string]string) string {
	t.Helper()
	type login struct {
		Username string `json:"username"`
		Password string `json:"password"`
	}
	logins := map[string]login{}
	for key, secret := range auth {
		user, password, _ := strings.Cut(secret, ":")
		logins[key] = login{user, password}
	}
	body := map[string]any{
		"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
		"cacheKeyType": kind, "auth": logins,
	}
	if duration != "" {
		body["cacheDuration"] = duration
	}
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (s *stage) start() *credentialprovider.Plugins {
	s.t.Helper()
	p := credentialprovider.New(s.opts)
	s.t.Cleanup(func() { _ = p.Close() })
	return p
}

// asked returns a line for each run so far.
func (s *stage) asked() []string {
	s.t.Helper()
	f, err := os.Open(s.log())
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	var lines []string
	for scan := bufio.NewScanner(f); scan.Scan(); {
		lines = append(lines, scan.Text())
	}
	return lines
}

// logged is everything that was logged, fields and all.
func logged(logs *observer.ObservedLogs) string {
	var b strings.Builder
	for _, e := range logs.All() {
		fmt.Fprintf(&b, "%s %s %v\n", e.Level, e.Message, e.ContextMap())
	}
	return b.String()
}

// logins are "user:password" of offers.
func logins(offers []registry.Offer) []string {
	var all []string
	for _, o := range offers {
		all = append(all, o.Credentials.Username+":"+o.Credentials.Password)
	}
	return all
}

func want(t *testing.T, p *credentialprovider.Plugins, image string, logs ...string) {
	t.Helper()
	if diff := cmp.Diff(logs, logins(p.Credentials(t.Context(), image, "any.host"))); diff != "" {
		t.Errorf("credentials for %s (-want +got):\n%s", image, diff)
	}
}
