package regtest

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// tokenPath is the token server's endpoint, on the registry's own listener.
const tokenPath = "/token"

// AuthKind is a way of proving who asks.
type AuthKind string

// The ways. The zero value lets everyone in.
const (
	AuthNone  AuthKind = ""
	AuthBasic AuthKind = "basic"
	AuthToken AuthKind = "token" // bearer tokens for a scope, from the realm named in the challenge
)

// Auth says who may do what.
type Auth struct {
	Kind      AuthKind
	Username  string
	Password  string
	Refresh   string        // a refresh (identity) token that the token server takes as well
	Anonymous bool          // AuthToken: pull tokens are given to everyone
	TokenTTL  time.Duration // 0: 5 minutes, as registries commonly do
}

func (a Auth) proves(username, password string) bool {
	return username == a.Username && password == a.Password && a.Password != ""
}

// tokenServer gives tokens and checks them.
type tokenServer struct {
	mu     sync.Mutex
	tokens map[string]grant
}

type grant struct {
	scopes  []string // "repository:redis:pull,push"
	expires time.Time
}

// RevokeTokens voids every token given so far.
func (r *Registry) RevokeTokens() {
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	clear(r.tokens.tokens)
}

// serve answers both token requests in use: GET with basic authentication
// (distribution's token specification) and POST of a form (its OAuth2 variant).
func (s *tokenServer) serve(w http.ResponseWriter, req *http.Request, auth Auth) {
	if err := req.ParseForm(); err != nil {
		writeError(w, http.StatusBadRequest, "UNSUPPORTED", err.Error())
		return
	}
	username, password, given := req.BasicAuth()
	if req.Method == http.MethodPost {
		username, password, given = req.PostForm.Get("username"), req.PostForm.Get("password"), true
	}
	proven := auth.proves(username, password) ||
		auth.Refresh != "" && req.PostForm.Get("refresh_token") == auth.Refresh
	scopes := splitScopes(req.Form["scope"])
	if !proven && (given || !auth.Anonymous) {
		writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "wrong credentials")
		return
	}
	if !proven {
		scopes = slices.DeleteFunc(scopes, func(s string) bool { return !strings.HasSuffix(s, ":pull") })
	}
	ttl := auth.TokenTTL
	if ttl == 0 {
		ttl = 5 * time.Minute
	}
	token := rand.Text()
	s.mu.Lock()
	if s.tokens == nil {
		s.tokens = map[string]grant{}
	}
	s.tokens[token] = grant{scopes, time.Now().Add(ttl)}
	s.mu.Unlock()
	writeJSON(w, "application/json", map[string]any{
		"token": token, "access_token": token, "expires_in": max(int(ttl.Seconds()), 1),
		"issued_at": time.Now().UTC().Format(time.RFC3339),
	})
}

func splitScopes(params []string) []string {
	var scopes []string
	for _, p := range params {
		scopes = append(scopes, strings.Fields(p)...)
	}
	return scopes
}

// authorise answers 401 with a challenge and returns false where the request
// does not prove what it needs.
func (s *tokenServer) authorise(w http.ResponseWriter, req *http.Request, ep endpoint, auth Auth, origin string) bool {
	switch auth.Kind {
	case AuthBasic:
		if user, pass, ok := req.BasicAuth(); ok && auth.proves(user, pass) {
			return true
		}
		w.Header().Set("Www-Authenticate", `Basic realm="regtest"`)
	case AuthToken:
		need := neededScope(req, ep)
		if s.allows(req.Header.Get("Authorization"), need) {
			return true
		}
		challenge := fmt.Sprintf(`Bearer realm="%s%s",service="regtest"`, origin, tokenPath)
		if need != "" {
			challenge += `,scope="` + need + `"`
		}
		w.Header().Set("Www-Authenticate", challenge)
	default:
		return true
	}
	writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return false
}

func neededScope(req *http.Request, ep endpoint) string {
	if ep.repo == "" {
		return ""
	}
	if req.Method == http.MethodGet || req.Method == http.MethodHead {
		return "repository:" + ep.repo + ":pull"
	}
	return "repository:" + ep.repo + ":pull,push"
}

func (s *tokenServer) allows(header, need string) bool {
	token, ok := strings.CutPrefix(header, "Bearer ")
	if !ok {
		return false
	}
	s.mu.Lock()
	g, known := s.tokens[token]
	s.mu.Unlock()
	if !known || time.Now().After(g.expires) {
		return false
	}
	return need == "" || slices.ContainsFunc(g.scopes, func(have string) bool { return covers(have, need) })
}

// covers tells whether the scope have grants every action of need.
func covers(have, need string) bool {
	haveName, haveActions, _ := cutLast(have, ":")
	needName, needActions, _ := cutLast(need, ":")
	granted := strings.Split(haveActions, ",")
	for action := range strings.SplitSeq(needActions, ",") {
		if !slices.Contains(granted, action) && !slices.Contains(granted, "*") {
			return false
		}
	}
	return haveName == needName
}
