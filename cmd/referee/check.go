package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/distribution/reference"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/internal/credentialprovider"
	"github.com/referee-cri/referee/negotiate/policy"
)

func checkCommand(load func() (*configs.Config, error)) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use:   "check [REF]",
		Short: "Report every problem of the configuration, and what holds for a reference",
		Long: `Report every problem of the configuration: keys and values, policy blocks that
contradict themselves or each other or can never hold, and files of trust stores
and credential providers that cannot be used. With a reference, also say which
policy block holds for it.

The exit status is 1 where there is an error, 0 where there are warnings at most.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var named reference.Named
			if len(args) > 0 {
				var err error
				if named, err = reference.ParseDockerRef(args[0]); err != nil {
					return fmt.Errorf("parse reference %s: %w", args[0], err)
				}
			}
			result := check(load, named)
			if err := result.write(cmd.OutOrStdout(), output); err != nil {
				return err
			}
			if n := result.count(policy.Error); n > 0 {
				return fmt.Errorf("check configuration: %s", counted(n, "error"))
			}
			return nil
		},
	}
	command.Flags().StringVar(&output, "output", "text", "text or json")
	return command
}

// checked is what was found, good and bad.
type checked struct {
	OK          bool             `json:"ok"` // no errors
	Policies    int              `json:"policies"`
	Patterns    int              `json:"patterns"`
	TrustStores int              `json:"trust_stores"`
	Disabled    int              `json:"disabled"`
	Findings    []policy.Finding `json:"findings"`
	Holds       *holds           `json:"holds,omitempty"`
}

// check looks at everything that can be known without a registry.
func check(load func() (*configs.Config, error), named reference.Named) checked {
	result := checked{Findings: []policy.Finding{}}
	config, err := load()
	if err != nil {
		result.Findings = invalid(err)
		return result
	}
	blocks := policyBlocks(config)
	result.Findings = append(result.Findings, policy.Lint(blocks, surroundings(config))...)
	for i := range config.Trust {
		if _, err := loadTrust(&config.Trust[i], zap.NewNop()); err != nil {
			result.Findings = append(result.Findings, policy.Finding{Severity: policy.Error, Key: fmt.Sprintf("trust[%d]", i), Problem: oneLine(err)})
		}
	}
	if r := config.Registry; r.CredentialProviderConfig != "" {
		if err := credentialprovider.Check(credentialprovider.Options{Config: r.CredentialProviderConfig, BinDir: r.CredentialProviderBinDir}); err != nil {
			result.Findings = append(result.Findings, policy.Finding{Severity: policy.Warning, Key: "registry.credential_provider_config", Problem: oneLine(err)})
		}
	}
	result.Policies, result.TrustStores, result.Disabled = len(blocks), len(config.Trust), len(config.Disabled)
	for i := range blocks {
		result.Patterns += max(1, len(blocks[i].Match))
	}
	result.OK = result.count(policy.Error) == 0
	if named != nil {
		result.Holds = whatHolds(config, named)
	}
	return result
}

// invalid makes findings of what Load returned.
func invalid(err error) []policy.Finding {
	var unusable *configs.InvalidError
	if !errors.As(err, &unusable) {
		return []policy.Finding{{Severity: policy.Error, Problem: err.Error()}}
	}
	var all []policy.Finding
	for line := range strings.Lines(unusable.Err.Error()) {
		key, problem, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		all = append(all, policy.Finding{Severity: policy.Error, Key: key, Problem: problem})
	}
	return all
}

// oneLine is the text of an error that joins several.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func (c *checked) count(severity policy.Severity) int {
	n := 0
	for _, f := range c.Findings {
		if f.Severity == severity {
			n++
		}
	}
	return n
}

func (c *checked) write(w io.Writer, output string) error {
	if output == "json" {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(c)
	}
	var text strings.Builder
	for _, f := range c.Findings {
		key := f.Key
		if key != "" {
			key += ": "
		}
		fmt.Fprintf(&text, "%s: %s%s\n", f.Severity, key, f.Problem)
	}
	if c.OK {
		fmt.Fprintf(&text, "OK: %s with %s, %s, %s disabled", counted(c.Policies, "policy block"), counted(c.Patterns, "pattern"),
			counted(c.TrustStores, "trust store"), counted(c.Disabled, "pattern"))
		if n := c.count(policy.Warning); n > 0 {
			fmt.Fprintf(&text, "; %s", counted(n, "warning"))
		}
		text.WriteByte('\n')
	}
	if c.Holds != nil {
		c.Holds.write(&text)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
