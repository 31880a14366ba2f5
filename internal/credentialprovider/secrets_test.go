package credentialprovider_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
)

// The secrets, each of its own place.
const (
	inRequest   = "in-the-request-0001"
	inIdentity  = "in-the-identity-token-0002"
	inStdout    = "in-plugin-stdout-0003"
	inStderr    = "in-plugin-stderr-0004"
	inEnv       = "in-plugin-env-0005"
	inDocker    = "in-docker-config-0006"
	inToken     = "in-the-token-response-0007"
	inHeader    = "in-the-authorization-header-0008"
	inRedirect  = "in-the-redirect-query-0009"
	inChallenge = "in-the-realm-query-0010"
)

// TestNoSecretIsShown lets everything go wrong that can, at every place that a
// secret passes, and looks at all that is logged and returned.
func TestNoSecretIsShown(t *testing.T) {
	t.Parallel()
	elsewhere := "http://127.0.0.1:1/x?sig=" + inRedirect
	status := func(code int) regtest.Fault {
		return regtest.Fault{Status: code, Body: []byte(`{"token":"` + inToken + `","errors":[{"code":"` + inToken + `","message":"` + inToken + `"}]}`)}
	}
	redirect := regtest.Fault{Status: http.StatusTemporaryRedirect, Header: http.Header{"Location": {elsewhere}}}
	challenge := func(text string) regtest.Fault {
		return regtest.Fault{Status: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": {text}}}
	}
	for name, fault := range map[string]struct {
		path string // where it happens
		regtest.Fault
	}{
		"everything refused":           {},
		"token server refuses":         {"/token", status(401)},
		"token server is broken":       {"/token", status(500)},
		"token server says nothing":    {"/token", regtest.Fault{Drop: true}},
		"token is garbage":             {"/token", regtest.Fault{Status: 200, Body: []byte("{" + inToken)}},
		"token is good for nothing":    {"/token", regtest.Fault{Status: 200, Body: []byte(`{"token":"` + inToken + `"}`)}},
		"token server has moved":       {"/token", redirect},
		"blob has moved":               {"/v2/", redirect},
		"blob is forbidden":            {"/v2/", status(403)},
		"registry is broken":           {"/v2/", status(503)},
		"realm cannot be reached":      {"/v2/", challenge(`Bearer realm="http://127.0.0.1:1/token?key=` + inChallenge + `",service="x"`)},
		"realm cannot be parsed":       {"/v2/", challenge(`Bearer realm="http://[` + inChallenge + `/?key=` + inChallenge + `"`)},
		"a scheme that nobody knows":   {"/v2/", challenge(`Negotiate ` + inChallenge)},
		"basic, all passwords refused": {"/v2/", challenge(`Basic realm="` + inChallenge + `"`)},
	} {
		for _, mode := range []string{"answer", "fail"} {
			t.Run(name+", plugin: "+mode, func(t *testing.T) {
				t.Parallel()
				s := newSecretSite(t, mode)
				if fault.path != "" {
					fault.Match = func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, fault.path) }
					s.reg.Inject(fault.Fault)
				}
				var told strings.Builder
				for i, creds := range []registry.Credentials{
					{},
					{Username: user, Password: inRequest},
					{IdentityToken: inIdentity},
					{Auth: base64.StdEncoding.EncodeToString([]byte(user + ":" + inRequest))},
					{Auth: "%" + inRequest},
				} {
					err := s.read(s.repository(fmt.Sprint("app", i), creds))
					if err == nil {
						t.Fatal("no error")
					}
					fmt.Fprintf(&told, "%v\n%+v\n%s\n", err, err, creds)
				}
				told.WriteString(logged(s.logs))
				for _, secret := range []string{inRequest, inIdentity, inStdout, inStderr, inEnv, inDocker, inToken, inHeader, inRedirect, inChallenge} {
					for _, form := range []string{secret, secret[:10], base64.StdEncoding.EncodeToString([]byte(user + ":" + secret))} {
						if strings.Contains(told.String(), form) {
							t.Errorf("%q is shown:\n%s", form, told.String())
						}
					}
				}
				if s.logs.Len() < 2 {
					t.Errorf("nothing is logged, so nothing was tried: %s", told.String())
				}
			})
		}
	}
}

// newSecretSite is a registry that wants credentials, with wrong ones everywhere.
func newSecretSite(t *testing.T, mode string) *site {
	t.Helper()
	dir := t.TempDir()
	docker := filepath.Join(dir, "config.json")
	s := newSite(t, kinds()["token"], registry.Options{DockerConfig: docker, HostDirs: []string{dir}, ResponseHeaderTimeout: 5 * time.Second})
	login := base64.StdEncoding.EncodeToString([]byte(user + ":" + inDocker))
	s.write(docker, fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, s.reg.Host(), login))
	s.configure(plug{name: "node", match: s.reg.Host(), mode: mode, extra: "  # " + mode})
	s.edit("TEST_ANSWER", fmt.Sprintf("TEST_STDERR, value: 'token: %s of %s, %s'}, {name: TEST_ENV, value: %s}, {name: TEST_ANSWER", inStderr, inStdout, inEnv, inEnv))
	s.says(inStdout)
	host := filepath.Join(dir, s.reg.Host())
	if err := os.Mkdir(host, 0o755); err != nil {
		t.Fatal(err)
	}
	s.write(filepath.Join(host, "hosts.toml"), fmt.Sprintf("[host.%q]\n[host.%q.header]\nauthorization = %q\n", s.reg.URL(), s.reg.URL(), "Bearer "+inHeader))
	return s
}

// edit replaces something in the configuration.
func (s *stage) edit(old, replacement string) {
	s.t.Helper()
	text, err := os.ReadFile(s.opts.Config)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(s.opts.Config, strings.Replace(string(text), old, replacement, 1))
}
