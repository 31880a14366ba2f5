// Package testdata finds reference data that lies beside the checkout and is
// read in place, never copied into the repository, and reads OCI layouts.
package testdata

import (
	"os"
	"path/filepath"
	"testing"
)

// EnvDir names the environment variable that points at the reference data.
// Without it, `shared/testdata` in a parent directory of the working directory is used.
const EnvDir = "REFEREE_TESTDATA"

// Dir returns the path of the reference set name ("overlaybd", "reference", …).
// Where the data is absent the test is skipped and says so.
func Dir(t testing.TB, name string) string {
	t.Helper()
	for _, candidate := range candidates() {
		dir := filepath.Join(candidate, name)
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
	}
	t.Skipf("reference data %q is absent: set %s to the folder that holds it", name, EnvDir)
	return ""
}

func candidates() []string {
	if dir := os.Getenv(EnvDir); dir != "" {
		return []string{dir}
	}
	wd, err := os.Getwd()
	if err != nil {
		return nil
	}
	var found []string
	for dir := wd; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		found = append(found, filepath.Join(dir, "shared", "testdata"))
	}
	return found
}
