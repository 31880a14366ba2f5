package source

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// ConfigWith is the image's config with the diff IDs of other layers: all fields,
// known here or not, are kept. Keys come out sorted, so equal input gives equal
// bytes.
func (s *Image) ConfigWith(layers []digest.Digest) ([]byte, error) {
	var config, rootfs map[string]json.RawMessage
	if err := json.Unmarshal(s.Config, &config); err != nil {
		return nil, fmt.Errorf("parse config: %w", err)
	}
	if err := json.Unmarshal(config["rootfs"], &rootfs); err != nil {
		return nil, fmt.Errorf("parse config's rootfs: %w", err)
	}
	var err error
	if rootfs["diff_ids"], err = compact(layers); err != nil {
		return nil, err
	}
	if config["rootfs"], err = compact(rootfs); err != nil {
		return nil, err
	}
	return compact(config)
}

// compact marshals v without escaping what HTML would mind, so that kept fields
// stay as they were.
func compact(v any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, fmt.Errorf("encode config: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
