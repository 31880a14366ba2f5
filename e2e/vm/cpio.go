package vm

import (
	"fmt"
	"io"
	"os"
	"path"
	"sort"
)

// archive is the content of an initramfs: the kernel reads a cpio archive in the
// "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	files map[string]archived
}

type archived struct {
	data []byte
	mode uint32
}

// File modes of the archive's entries.
const (
	modeDir     = 0o040755
	modeProgram = 0o100755
)

func newArchive() *archive { return &archive{files: make(map[string]archived)} }

// add puts data at name, an absolute path, and makes the directories above it.
func (a *archive) add(name string, data []byte) {
	a.files[name[1:]] = archived{data: data, mode: modeProgram}
	a.addDir(path.Dir(name))
}

// addDir makes a directory and those above it.
func (a *archive) addDir(name string) {
	for ; name != "/"; name = path.Dir(name) {
		a.files[name[1:]] = archived{mode: modeDir}
	}
}

// copy puts a file of this machine at the same path.
func (a *archive) copy(name string) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("copy to initramfs: %w", err)
	}
	a.add(name, data)
	return nil
}

// writeTo writes the archive; directories come before what is in them.
func (a *archive) writeTo(w io.Writer) error {
	names := make([]string, 0, len(a.files))
	for name := range a.files {
		names = append(names, name)
	}
	sort.Strings(names)
	for i, name := range names {
		if err := writeEntry(w, i+1, name, a.files[name]); err != nil {
			return fmt.Errorf("write initramfs: %w", err)
		}
	}
	return writeEntry(w, 0, "TRAILER!!!", archived{})
}

// writeEntry writes a header of 13 hexadecimal fields after the magic, the name
// and the data, both padded to four bytes.
func writeEntry(w io.Writer, inode int, name string, f archived) error {
	_, err := fmt.Fprintf(w, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s",
		inode, f.mode, 0, 0, 1, 0, len(f.data), 0, 0, 0, 0, len(name)+1, 0, name)
	if err != nil {
		return err
	}
	const header = 110
	if _, err := w.Write(make([]byte, 1+pad(header+len(name)+1))); err != nil {
		return err
	}
	if _, err := w.Write(f.data); err != nil {
		return err
	}
	_, err = w.Write(make([]byte, pad(len(f.data))))
	return err
}

func pad(n int) int { return (4 - n%4) % 4 }
