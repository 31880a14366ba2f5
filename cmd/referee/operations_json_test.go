package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/lazyblock/trace"
	"github.com/referee-cri/referee/negotiate"
)

const module = "github.com/referee-cri/referee/"

// jsonTables tells what each command prints, field by field, with the comments that
// the fields have in the source.
func jsonTables(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for _, c := range []struct {
		command string
		prints  any
	}{
		{"explain", explanation{}},
		{"status", status{}},
		{"inspect", negotiate.Inspection{}},
		{"trace show", trace.Trace{}},
		{"config check", checked{}},
		{"log-level", logLevel{}},
		{"drain", drainEvent{}},
	} {
		comments := &fieldComments{t: t, known: make(map[string]map[string]string)}
		rows := comments.rows(reflect.TypeOf(c.prints), "", 0)
		note := ""
		if c.command == "drain" {
			note = "One value a line.\n\n"
		}
		fmt.Fprintf(&text, "### referee %s\n\n%s%s\n", c.command, note, table([]string{"name", "type", "meaning"}, rows))
	}
	return strings.TrimRight(text.String(), "\n") + "\n"
}

// fieldComments reads comments of struct fields from the source.
type fieldComments struct {
	t     *testing.T
	known map[string]map[string]string // by package path: "Type.Field" to comment
}

// maxDepth ends types that hold themselves, as a tree does.
const maxDepth = 4

func (f *fieldComments) rows(t reflect.Type, prefix string, depth int) [][]string {
	var rows [][]string
	for i := range t.NumField() {
		field := t.Field(i)
		if field.Anonymous {
			rows = append(rows, f.rows(deref(field.Type), prefix, depth)...)
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		kind, inner := jsonType(field.Type)
		rows = append(rows, []string{code(prefix + name), kind, f.of(t, field.Name)})
		if inner != nil && inner != t && depth < maxDepth && strings.HasPrefix(inner.PkgPath(), module) {
			suffix := "."
			if strings.HasPrefix(kind, "list") {
				suffix = "[]."
			}
			rows = append(rows, f.rows(inner, prefix+name+suffix, depth+1)...)
		}
	}
	return rows
}

func deref(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

// jsonType is what a field is in JSON, and the struct that it or its elements are.
func jsonType(t reflect.Type) (string, reflect.Type) {
	t = deref(t)
	switch {
	case t == reflect.TypeFor[time.Time]():
		return "time", nil
	case t == reflect.TypeFor[digest.Digest]():
		return "digest", nil
	}
	switch t.Kind() {
	case reflect.Bool:
		return "boolean", nil
	case reflect.String:
		return "text", nil
	case reflect.Slice:
		kind, inner := jsonType(t.Elem())
		return "list of " + kind, inner
	case reflect.Struct:
		return "object", t
	case reflect.Map:
		return "object", nil
	default:
		return "number", nil
	}
}

func (f *fieldComments) of(t reflect.Type, field string) string {
	path := t.PkgPath()
	if f.known[path] == nil {
		f.known[path] = f.read(path)
	}
	comment := strings.Join(strings.Fields(f.known[path][t.Name()+"."+field]), " ")
	return strings.ReplaceAll(comment, "|", `\|`)
}

func (f *fieldComments) read(path string) map[string]string {
	dir := "."
	if strings.HasPrefix(path, module) && !strings.HasSuffix(path, "/cmd/referee") {
		dir = filepath.Join("../..", strings.TrimPrefix(path, module))
	}
	found := make(map[string]string)
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		f.t.Fatalf("source of %s: %v", path, err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			f.t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok {
				for _, field := range s.Fields.List {
					for _, ident := range field.Names {
						found[spec.Name.Name+"."+ident.Name] = strings.TrimSpace(field.Doc.Text() + " " + field.Comment.Text())
					}
				}
			}
			return false
		})
	}
	return found
}
