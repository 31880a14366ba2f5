package credentialprovider

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	credentialv1 "k8s.io/kubelet/pkg/apis/credentialprovider/v1"
)

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	p := newPlugin(provider{}, &Plugins{opts: Options{Log: zap.NewNop()}})
	now := time.Now()
	key := func(i int) cacheKey { return cacheKey{credentialv1.ImagePluginCacheKeyType, fmt.Sprint(i)} }
	for i := range 3 * maxAnswers {
		p.remember(key(i), answer{expires: now.Add(time.Hour + time.Duration(i))}, now)
	}
	if n := len(p.answers); n != maxAnswers {
		t.Errorf("%d answers remembered", n)
	}
	if _, ok := p.answers[key(0)]; ok {
		t.Error("the first to expire is still there")
	}
	p.remember(key(-1), answer{expires: now.Add(24 * time.Hour)}, now.Add(12*time.Hour))
	if n := len(p.answers); n != 1 {
		t.Errorf("%d answers remembered, want the only one that has not expired", n)
	}
}

func TestMasked(t *testing.T) {
	t.Parallel()
	const jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dBjftJeZ4CVPmB92K27uhbUJU1p1rwW1gFWFOEjXk"
	for name, tc := range map[string]struct{ text, want string }{
		"plain":                {"no route to 123456789012.dkr.ecr.eu-west-1.amazonaws.com", "no route to 123456789012.dkr.ecr.eu-west-1.amazonaws.com"},
		"in the answer":        {"got hunter2-and-more today", "got *** today"},
		"part of it":           {"got ter2-an", "got ***"},
		"a short one":          {"got pw1.", "got ***."},
		"after a name":         {`{"api_key": "abc", "x": 1}`, `{\"api_key\": \"***\", \"x\": 1}`},
		"after another":        {"AWS_SECRET_TOKEN=abc", "AWS_SECRET_TOKEN=***"},
		"in a header":          {"Authorization: Basic dTpw", "Authorization: *** ***"},
		"a token":              {"sent " + jwt, "sent ***.***.***"},
		"lines and characters": {"a\nb\x1b[31m\xff", `a\nb\x1b[31m\xff`},
		"too long":             {strings.Repeat("ab ", 1000), strings.Repeat("ab ", 170) + "ab..."},
		"nothing":              {" \n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := masked(tc.text, `{"password":"hunter2-and-more"}`, "pw1", ""); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func FuzzMasked(f *testing.F) {
	f.Add("got hunter2-and-more today", "hunter2-and-more")
	f.Add("aaaaaaaa", "aa")
	f.Add("***", "*")
	f.Fuzz(func(t *testing.T, text, secret string) {
		if len(text) > maxStderr || len(secret) > 1<<10 {
			t.Skip("longer than what is kept")
		}
		shown := masked(text, secret)
		if len(shown) > 4*maxShown+3 { // quoted
			t.Errorf("%d bytes are shown", len(shown))
		}
		if len(secret) >= 4 && !strings.ContainsAny(secret, "*.\\\"") && strings.Contains(shown, secret) {
			t.Errorf("%q shows %q", shown, secret)
		}
	})
}

func FuzzDecodeAnswer(f *testing.F) {
	f.Add([]byte(`{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Image","cacheDuration":"1h","auth":{"a.example":{"username":"u","password":"p"}}}`))
	f.Add([]byte(`{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Global","auth":{"https://*/v1/":{"username":"u"}}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, text []byte) {
		answer, err := decodeAnswer(text, "credentialprovider.kubelet.k8s.io/v1")
		if (answer == nil) == (err == nil) {
			t.Fatalf("answer %v, error %v", answer, err)
		}
		if err != nil {
			return
		}
		for _, e := range entries(answer.Auth) {
			if e.credentials.Anonymous() || len(e.match.labels) == 0 {
				t.Errorf("entry %q of %q", e.key, text)
			}
		}
	})
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: p\n  matchImages: ['*.example']\n  defaultCacheDuration: 1h\n"))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		config, err := parseConfig(text)
		if err != nil {
			return
		}
		for _, one := range config.Providers {
			p, problems := checkProvider("x", one)
			if len(problems) == 0 && (p.name == "" || strings.Contains(p.name, "/") || len(p.match) == 0 || p.defaultCache < 0) {
				t.Errorf("accepted: %+v", p)
			}
		}
	})
}
