package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"

	"github.com/referee-cri/referee/internal/reason"
)

// maxErrorBody is how much of an error answer is kept.
const maxErrorBody = 4 << 10

// ErrNoHost says that no configured host has the capability asked for.
var ErrNoHost = errors.New("no host has the capability")

// StatusError is an answer other than 2xx.
type StatusError struct {
	Method     string
	URL        string // without query and user
	StatusCode int
	Header     http.Header
	Body       []byte // its first 4 KiB
	Host       string // the host asked, which may have redirected
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("%s %s: %d %s", e.Method, e.URL, e.StatusCode, http.StatusText(e.StatusCode))
	if codes := e.Codes(); len(codes) > 0 {
		text += " (" + strings.Join(codes, ", ") + ")"
	}
	return text
}

// errorCode is the form of the codes in distribution-spec 1.1, "Error Codes".
var errorCode = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,63}$`)

// Codes returns the distribution-spec error codes of the body, such as
// NAME_UNKNOWN; none if it has another form.
func (e *StatusError) Codes() []string {
	var body struct {
		Errors []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
	if json.Unmarshal(e.Body, &body) != nil {
		return nil
	}
	var codes []string
	for _, one := range body.Errors {
		if errorCode.MatchString(one.Code) && len(codes) < 4 {
			codes = append(codes, one.Code)
		}
	}
	return codes
}

// newStatusError keeps what is worth keeping of resp and closes it.
func newStatusError(resp *http.Response, host string) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // what could be read is what there is to tell
	_ = resp.Body.Close()                                          // costs at most the connection
	return reason.Wrap(codeOfStatus(resp.StatusCode), &StatusError{
		Method:     resp.Request.Method,
		URL:        redact(resp.Request.URL),
		StatusCode: resp.StatusCode,
		Header:     resp.Header,
		Body:       body,
		Host:       host,
	})
}

func codeOfStatus(status int) reason.Code {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return reason.Unauthorized
	case http.StatusNotFound, http.StatusGone:
		return reason.NotFound
	default:
		return reason.RegistryError
	}
}

// errClosed is what net/http calls EOF.
var errClosed = errors.New("connection closed without an answer")

// transportError turns net/http's error, which quotes signed URLs, into ours.
func transportError(method string, asked *url.URL, err error) error {
	at := redact(asked)
	if urlErr, ok := errors.AsType[*url.Error](err); ok {
		if u, perr := url.Parse(urlErr.URL); perr == nil {
			at = redact(u) // perhaps of a redirect
		}
		err = urlErr.Err
	}
	if errors.Is(err, io.EOF) { // to readers of blobs that is where the bytes end
		err = errClosed
	}
	return fmt.Errorf("%s %s: %w", method, at, err)
}

// tokenError says why no token could be had, without the query of its URL.
func tokenError(err error) error {
	if status, ok := errors.AsType[remoteerrors.ErrUnexpectedStatus](err); ok {
		at := "token server"
		if u, perr := url.Parse(status.RequestURL); perr == nil {
			at = redact(u)
		}
		code := reason.Unauthorized
		if status.StatusCode >= 500 || status.StatusCode == http.StatusTooManyRequests {
			code = reason.RegistryError
		}
		return reason.Errorf(code, "fetch token: %s %s: %d %s", status.RequestMethod, at, status.StatusCode, http.StatusText(status.StatusCode))
	}
	if urlErr, ok := errors.AsType[*url.Error](err); ok {
		u, perr := url.Parse(urlErr.URL)
		if perr != nil {
			u = &url.URL{}
		}
		return reason.Wrap(reason.RegistryUnreachable, fmt.Errorf("fetch token: %w", transportError(urlErr.Op, u, urlErr.Err)))
	}
	return reason.Errorf(reason.Unauthorized, "authorize: %w", err)
}

// redact leaves out what may be a secret: the query and the user.
func redact(u *url.URL) string {
	plain := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	if u.RawQuery != "" {
		return plain.String() + "?(hidden)"
	}
	return plain.String()
}
