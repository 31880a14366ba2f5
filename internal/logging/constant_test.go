package logging_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// One event has one message: what differs between two of a kind is in fields, so
// that lines can be counted and found. It also keeps texts from elsewhere, which
// could hold anything, out of messages.
func TestMessagesAreConstant(t *testing.T) {
	t.Parallel()
	logger, field := regexp.MustCompile(`(?i)log$`), regexp.MustCompile(`^[a-z][a-z_]*$`)
	seen := 0
	err := filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{".git", ".cache", "e2e", "testdata"}, entry.Name()):
			return filepath.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			f, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			literal, constant := call.Args[0].(*ast.BasicLit)
			switch {
			case slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, f.Sel.Name) && logger.MatchString(nameOf(f.X)):
				seen++
				if !constant {
					t.Errorf("%s: the message is no constant", fset.Position(call.Pos()))
				} else if strings.ContainsAny(literal.Value, "%\n") {
					t.Errorf("%s: the message %s has a verb or a line's end", fset.Position(call.Pos()), literal.Value)
				}
			case nameOf(f.X) == "zap" && constant && literal.Kind == token.STRING:
				if key := strings.Trim(literal.Value, `"`); !field.MatchString(key) {
					t.Errorf("%s: the field %q is not of the form a_b", fset.Position(call.Pos()), key)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 80 {
		t.Errorf("only %d lines found: loggers have other names now", seen)
	}
}

// nameOf is the last name of an expression such as b.opts.Log or j.log().
func nameOf(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return x.Sel.Name
	case *ast.CallExpr:
		return nameOf(x.Fun)
	default:
		return ""
	}
}
