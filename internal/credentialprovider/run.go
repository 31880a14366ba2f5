package credentialprovider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	credentialv1 "k8s.io/kubelet/pkg/apis/credentialprovider/v1"
)

const (
	maxAnswer = 1 << 20     // bytes of an answer
	pipesWait = time.Second // for children of the plugin that keep its pipes open
)

var errAnswerTooLong = errors.New("answer is longer than 1 MiB")

// run executes the plugin once: the request on standard input, the answer from
// standard output (KEP-2133). Errors hold nothing of the answer.
func (p *provider) run(ctx context.Context, binDir, image string) (*credentialv1.CredentialProviderResponse, error) {
	request := credentialv1.CredentialProviderRequest{Image: image}
	request.Kind, request.APIVersion = "CredentialProviderRequest", p.apiVersion
	input, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	stdout, stderr := &bounded{max: maxAnswer, strict: true}, &bounded{max: maxStderr}
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, p.name), p.args...) //nolint:gosec // the node's configuration says what to run
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), stdout, stderr
	cmd.Env = append(os.Environ(), p.env...) // of two values the later wins
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // its children as well
	cmd.WaitDelay = pipesWait

	err = cmd.Run()
	answer, decodeErr := decodeAnswer(stdout.text.Bytes(), p.apiVersion)
	switch {
	case stdout.over:
		err = errAnswerTooLong
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // it is done, a child of its is not
		err = decodeErr
	}
	if err == nil {
		return answer, nil
	}
	if said := masked(stderr.text.String(), p.secrets(stdout.text.String(), answer)...); said != "" {
		return nil, fmt.Errorf("run %s for %s: %w; it says: %s", p.name, image, err, said)
	}
	return nil, fmt.Errorf("run %s for %s: %w", p.name, image, err)
}

// secrets are what must not be shown of what a plugin writes: its answer, as
// written and as meant, and what it was given.
func (p *provider) secrets(stdout string, answer *credentialv1.CredentialProviderResponse) []string {
	secrets := []string{stdout}
	if answer != nil {
		for _, auth := range answer.Auth {
			secrets = append(secrets, auth.Password)
		}
	}
	for _, v := range p.env {
		_, value, _ := strings.Cut(v, "=")
		secrets = append(secrets, value)
	}
	return secrets
}

// decodeAnswer reads a plugin's answer. Unknown fields are a later version's.
// What encoding/json says is left out: it quotes.
func decodeAnswer(text []byte, apiVersion string) (*credentialv1.CredentialProviderResponse, error) {
	answer := &credentialv1.CredentialProviderResponse{}
	if json.Unmarshal(text, answer) != nil {
		return nil, errors.New("answer is no CredentialProviderResponse in JSON")
	}
	switch {
	case answer.Kind != "CredentialProviderResponse":
		return nil, errors.New("answer: kind is not CredentialProviderResponse")
	case answer.APIVersion != apiVersion:
		return nil, fmt.Errorf("answer: apiVersion is not %s", apiVersion)
	case !slices.Contains([]credentialv1.PluginCacheKeyType{
		credentialv1.ImagePluginCacheKeyType, credentialv1.RegistryPluginCacheKeyType, credentialv1.GlobalPluginCacheKeyType,
	}, answer.CacheKeyType):
		return nil, errors.New("answer: cacheKeyType is none of Image, Registry, Global")
	}
	return answer, nil
}

// bounded keeps the first max bytes of what is written. A strict one refuses the
// rest, which ends the writer; another swallows it.
type bounded struct {
	text   bytes.Buffer
	max    int
	strict bool
	over   bool // there was more
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	room := b.max - b.text.Len()
	if len(p) <= room {
		return b.text.Write(p)
	}
	b.over = true
	b.text.Write(p[:room])
	if b.strict {
		return room, errAnswerTooLong
	}
	return len(p), nil
}
