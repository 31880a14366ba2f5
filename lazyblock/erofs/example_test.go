package erofs_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/referee-cri/referee/lazyblock/erofs"
)

// A disk of two layers: the second removes what the first brought. After each
// layer the disk is a file system that `mount -o loop` takes.
func Example() {
	dir, err := os.MkdirTemp("", "erofs-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	if err := writeTwoLayers(filepath.Join(dir, "disk")); err != nil {
		fmt.Println(err)
	}
	// Output:
	// 4 inodes, 4 blocks
	// 3 inodes, 5 blocks
}

func writeTwoLayers(path string) error {
	disk, err := os.Create(path)
	if err != nil {
		return err
	}
	defer disk.Close()

	tree := erofs.NewTree(erofs.Limits{})
	next := erofs.HeadBlocks(12, 0)
	for _, files := range []map[string]string{
		{"etc/motd": "hello", "etc/issue": "never mind"},
		{"etc/.wh.issue": ""},
	} {
		layer := tree.NewLayer()
		data := erofs.NewData(disk, 12, next, 1<<20)
		for name, content := range files {
			in := erofs.Inode{Mode: erofs.TypeRegular | 0o644, Size: int64(len(content))}
			if in.Data, err = data.Append(strings.NewReader(content), in.Size); err != nil {
				return err
			}
			if err := layer.Add(name, in); err != nil {
				return err
			}
		}
		if err := data.Flush(); err != nil {
			return err
		}
		if err := tree.Apply(layer); err != nil {
			return err
		}
		layout, err := tree.Layout(erofs.LayoutOptions{Start: data.Next()})
		if err != nil {
			return err
		}
		if err := layout.Write(context.Background(), disk); err != nil {
			return err
		}
		next = layout.End()
		fmt.Println(layout.Inodes(), "inodes,", next, "blocks")
	}
	return nil
}
