package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// How a setting is written.
const (
	yamlKey     = "yaml-key"     // a key at the top of a YAML document
	commandFlag = "command-flag" // --key=value among a program's arguments, in an environment file or a unit
)

// Setting is one value in somebody else's file, as it is to be and as it was.
type Setting struct {
	Syntax string `json:"syntax"`
	Key    string `json:"key"`
	Value  string `json:"value"`
	Had    bool   `json:"had"`           // the key was there
	Was    string `json:"was,omitempty"` // its value then, as it was written
}

// set returns text with the setting made, and remembers what it was.
func (s *Setting) set(old []byte) ([]byte, error) {
	if s.Syntax == commandFlag {
		return s.setFlag(old)
	}
	return s.setYAML(old)
}

// unset returns text with the setting as it was. Where the value is no longer
// what set made it, text is returned as it is: it is somebody else's by now.
func (s *Setting) unset(now []byte) ([]byte, error) {
	if s.Syntax == commandFlag {
		return s.unsetFlag(now)
	}
	return s.unsetYAML(now)
}

// strangeBreak ends a line for YAML and for nobody else.
var strangeBreak = regexp.MustCompile("\r(?:[^\n]|$)|[\u0085\u2028\u2029]")

// topLevel is the one mapping of a YAML document.
func topLevel(text []byte) (*yaml.Node, error) {
	if strangeBreak.Match(text) {
		return nil, errors.New("read YAML: lines end with something else than a newline")
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document, second yaml.Node
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) { // nothing but comments
		return &yaml.Node{Kind: yaml.MappingNode}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read YAML: %w", err)
	}
	if !errors.Is(decoder.Decode(&second), io.EOF) {
		return nil, errors.New("read YAML: there is more than one document")
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode || root.Style&yaml.FlowStyle != 0 {
		return nil, errors.New("read YAML: the document is not a list of keys, one a line")
	}
	return root, nil
}

// valueOf is the value of a key, nil where there is none.
func valueOf(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// stringAt is the text value of a top-level key.
func stringAt(text []byte, key string) (string, error) {
	root, err := topLevel(text)
	if err != nil {
		return "", err
	}
	if value := valueOf(root, key); value != nil {
		return value.Value, nil
	}
	return "", nil
}

func (s *Setting) setYAML(old []byte) ([]byte, error) {
	root, err := topLevel(old)
	if err != nil {
		return nil, err
	}
	value := valueOf(root, s.Key)
	var changed []byte
	if value == nil {
		s.Had, s.Was = false, ""
		changed = append(ended(old), s.line()...)
	} else {
		from, to, err := span(old, value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Key, err)
		}
		s.Had, s.Was = true, string(old[from:to])
		written := s.Value
		if from > 0 && old[from-1] == ':' { // the key had no value
			written = " " + written
		}
		changed = spliced(old, from, to, written)
	}
	switch value, err := stringAt(changed, s.Key); {
	case err != nil:
		return nil, fmt.Errorf("set %s: %w", s.Key, err)
	case value != s.Value:
		return nil, fmt.Errorf("set %s: it reads as %q afterwards", s.Key, value)
	}
	return changed, s.onlyDifference(old, changed)
}

func (s *Setting) unsetYAML(now []byte) ([]byte, error) {
	root, err := topLevel(now)
	if err != nil {
		return nil, err
	}
	value := valueOf(root, s.Key)
	if value == nil || value.Value != s.Value {
		return now, nil
	}
	from, to, err := span(now, value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Key, err)
	}
	var changed []byte
	if s.Had {
		if s.Was == "" && now[from-1] == ' ' { // the key had no value
			from--
		}
		changed = spliced(now, from, to, s.Was)
	} else {
		start := bytes.LastIndexByte(now[:from], '\n') + 1
		end := len(now)
		if i := bytes.IndexByte(now[to:], '\n'); i >= 0 {
			end = to + i + 1
		}
		changed = spliced(now, start, end, "")
	}
	return changed, s.onlyDifference(now, changed)
}

func (s *Setting) line() string { return s.Key + ": " + s.Value + "\n" }

// ended is a copy of text whose last line is whole.
func ended(text []byte) []byte {
	text = bytes.Clone(text)
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	return text
}

func spliced(text []byte, from, to int, with string) []byte {
	return append(append(bytes.Clone(text[:from]), with...), text[to:]...)
}

// span is where a scalar of one line stands in text.
func span(text []byte, value *yaml.Node) (from, to int, err error) {
	if value.Kind != yaml.ScalarNode || value.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 || value.Anchor != "" {
		return 0, 0, fmt.Errorf("line %d: it is not plain text on one line", value.Line)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	if value.Line > len(lines) {
		return 0, 0, fmt.Errorf("line %d is not there", value.Line)
	}
	for _, line := range lines[:value.Line-1] {
		from += len(line)
	}
	line := string(lines[value.Line-1])
	// Columns count characters.
	column := len(string([]rune(line)[:min(value.Column-1, len([]rune(line)))]))
	from += column
	for _, written := range []string{`"` + value.Value + `"`, "'" + value.Value + "'", value.Value} {
		if strings.HasPrefix(line[column:], written) {
			return from, from + len(written), nil
		}
	}
	return 0, 0, fmt.Errorf("line %d: it is not plain text on one line", value.Line)
}

// onlyDifference makes sure that two documents mean the same but for the key.
func (s *Setting) onlyDifference(before, after []byte) error {
	var old, changed map[string]any
	if err := yaml.Unmarshal(before, &old); err != nil {
		return fmt.Errorf("read YAML: %w", err)
	}
	if err := yaml.Unmarshal(after, &changed); err != nil {
		return fmt.Errorf("set %s: the file cannot be read afterwards: %w", s.Key, err)
	}
	delete(old, s.Key)
	delete(changed, s.Key)
	if !reflect.DeepEqual(old, changed) {
		return fmt.Errorf("set %s: other keys would change with it", s.Key)
	}
	return nil
}

// extraArguments is the variable of the packages' units that is an operator's own.
var extraArguments = regexp.MustCompile(`(?m)^(KUBELET_EXTRA_ARGS=)(["']?)([^"'\n]*)(["']?)[ \t]*$`)

// written is the flag with its value as text has it, in either form.
func (s *Setting) written() *regexp.Regexp {
	return regexp.MustCompile(`(--` + regexp.QuoteMeta(s.Key) + `[= ])([^\s"'\\]*)`)
}

func (s *Setting) setFlag(old []byte) ([]byte, error) {
	if at := s.written().FindSubmatchIndex(old); at != nil {
		s.Had, s.Was = true, string(old[at[4]:at[5]])
		return spliced(old, at[4], at[5], s.Value), nil
	}
	s.Had, s.Was = false, ""
	at := extraArguments.FindSubmatchIndex(old)
	if at == nil {
		return append(ended(old), "KUBELET_EXTRA_ARGS="+s.flag()+"\n"...), nil
	}
	// Quotes, where there are none and a second argument needs them.
	arguments, quote := strings.TrimRight(string(old[at[6]:at[7]]), " \t"), string(old[at[4]:at[5]])
	if arguments != "" {
		arguments += " "
		if quote == "" {
			quote = `"`
		}
	}
	return spliced(old, at[4], at[9], quote+arguments+s.flag()+quote), nil
}

func (s *Setting) flag() string { return "--" + s.Key + "=" + s.Value }

func (s *Setting) unsetFlag(now []byte) ([]byte, error) {
	at := s.written().FindSubmatchIndex(now)
	if len(at) == 0 || string(now[at[4]:at[5]]) != s.Value {
		return now, nil
	}
	if s.Had {
		return spliced(now, at[4], at[5], s.Was), nil
	}
	from := at[2]
	for from > 0 && now[from-1] == ' ' {
		from--
	}
	return spliced(now, from, at[5], ""), nil
}
