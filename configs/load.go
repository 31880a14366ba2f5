package configs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// maxFile bounds what Load reads: a configuration is a few kilobytes, and the
// path may have been mistyped to point at anything.
const maxFile = 1 << 20

// Load reads the file at path over the defaults and validates the result. Its
// error names every unknown key, the first unreadable value, or every problem
// of [Config.Validate], with the file and, where TOML knows it, line and column. A
// missing file is an error that is fs.ErrNotExist.
func Load(path string) (*Config, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("load configuration: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("load configuration: %w", err)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("load configuration: %s is larger than %d bytes", path, maxFile)
	}
	return Parse(path, text)
}

// Parse is [Load] for text that is in memory already; name stands for it in errors.
func Parse(name string, text []byte) (*Config, error) {
	config := Default()
	config.Version = 0 // so that a file must say which version it is
	decoder := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := decoder.Decode(config); err != nil {
		return nil, located(name, err)
	}
	if err := config.Validate(); err != nil {
		return nil, &InvalidError{Name: name, Err: err}
	}
	return config, nil
}

// InvalidError is a file that can be read and must not be used.
type InvalidError struct {
	Name string // the file
	Err  error  // what Validate returned
}

func (e *InvalidError) Error() string { return fmt.Sprintf("%s:\n%s", e.Name, e.Err) }

// Unwrap returns what Validate returned.
func (e *InvalidError) Unwrap() error { return e.Err }

// removed says what became of keys that earlier versions had.
var removed = map[string]string{
	"registry.legacy_oras": ": use legacy_oras in a [[policy]] block",
}

// located rewrites go-toml's errors as name:line:column: key: what.
func located(name string, err error) error {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) {
		var all []error
		for i := range unknown.Errors {
			row, column := unknown.Errors[i].Position()
			key := dotted(unknown.Errors[i].Key())
			all = append(all, fmt.Errorf("%s:%d:%d: unknown key %s%s", name, row, column, key, removed[key]))
		}
		return errors.Join(all...)
	}
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		row, column := bad.Position()
		if key := dotted(bad.Key()); key != "" {
			return fmt.Errorf("%s:%d:%d: %s: %w", name, row, column, key, err)
		}
		return fmt.Errorf("%s:%d:%d: %w", name, row, column, err)
	}
	return fmt.Errorf("%s: %w", name, err)
}

func dotted(key toml.Key) string { return strings.Join(key, ".") }
