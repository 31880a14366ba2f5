package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/negotiate"
	"github.com/referee-cri/referee/negotiate/policy"
)

// holds is what the configuration says about one reference.
type holds struct {
	Reference          string   `json:"reference"`
	Disabled           string   `json:"disabled,omitempty"` // the pattern that keeps it from being looked at
	Block              *int     `json:"block"`              // null: the built-in policy
	Pattern            string   `json:"pattern,omitempty"`
	Formats            []string `json:"formats"`  // the preferred first
	MinSize            int64    `json:"min_size"` // bytes
	RequireSignature   bool     `json:"require_signature"`
	Trust              []string `json:"trust"`
	LegacyORAS         string   `json:"legacy_oras"`
	ForeignFilesystems string   `json:"foreign_filesystems"`
}

func whatHolds(config *configs.Config, named reference.Named) *holds {
	compiled := policy.Compile(policyBlocks(config), rules(&configs.Policy{}), nil)
	h := &holds{Reference: named.String(), Trust: []string{}, LegacyORAS: "off", ForeignFilesystems: "allow"}
	h.Disabled, _ = fallback.CompilePatterns(config.Disabled).Match(named)
	said := &configs.Policy{}
	if block, pattern, found := compiled.Find(named.Name()); found {
		h.Block, h.Pattern = &block, pattern
		said = &config.Policy[block]
	}
	readers := surroundings(config).Readers
	h.Formats = []string{}
	for _, r := range negotiate.Recognisers() {
		if slices.Contains(readers, r.Format()) {
			h.Formats = append(h.Formats, r.Format())
		}
	}
	if said.Formats != nil {
		h.Formats = *said.Formats
	}
	h.MinSize, h.RequireSignature = said.MinBytes(), said.RequireSignature
	h.Trust = append(h.Trust, said.Trust...)
	if said.LegacyORAS != "" {
		h.LegacyORAS = said.LegacyORAS
	}
	if said.ForeignFilesystems != "" {
		h.ForeignFilesystems = said.ForeignFilesystems
	}
	return h
}

func (h *holds) write(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n", h.Reference)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-20s "+format+"\n", append([]any{name}, args...)...)
	}
	if h.Disabled != "" {
		line("disabled", "by %q: pulled the ordinary way, whatever follows", h.Disabled)
	}
	if h.Block == nil {
		line("policy", "built in: no block matches")
	} else {
		line("policy", "policy[%d], by %q", *h.Block, h.Pattern)
	}
	if len(h.Formats) == 0 {
		line("formats", "none: pulled the ordinary way")
		return
	}
	line("formats", "%s", strings.Join(h.Formats, ", "))
	size, _ := configs.Size{Bytes: h.MinSize}.MarshalText() // never fails
	line("min_size", "%s", size)
	line("require_signature", "%t", h.RequireSignature)
	if len(h.Trust) > 0 {
		line("trust", "%s", strings.Join(h.Trust, ", "))
	}
	line("legacy_oras", "%s", h.LegacyORAS)
	line("foreign_filesystems", "%s", h.ForeignFilesystems)
}
