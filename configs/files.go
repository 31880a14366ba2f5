package configs

import "embed"

// Files are the files an operator copies, by their name in this folder.
//
//go:embed config.toml referee.service referee.socket kubelet.conf crictl.yaml bootstrap.sh grafana/referee.json prometheus/rules.yaml
var Files embed.FS

// DefaultTOML is config.toml: every key with its default, commented. It parses
// to exactly [Default].
//
//go:embed config.toml
var DefaultTOML []byte
