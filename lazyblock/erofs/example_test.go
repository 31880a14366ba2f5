package erofs_test

import (
	"context"
	"fmt"
	"log"
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
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	disk, err := os.Create(filepath.Join(dir, "disk"))
	if err != nil {
		log.Fatal(err)
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
				log.Fatal(err)
			}
			if err := layer.Add(name, in); err != nil {
				log.Fatal(err)
			}
		}
		if err := data.Flush(); err != nil {
			log.Fatal(err)
		}
		if err := tree.Apply(layer); err != nil {
			log.Fatal(err)
		}
		layout, err := tree.Layout(erofs.LayoutOptions{Start: data.Next()})
		if err != nil {
			log.Fatal(err)
		}
		if err := layout.Write(context.Background(), disk); err != nil {
			log.Fatal(err)
		}
		next = layout.End()
		fmt.Println(layout.Inodes(), "inodes,", next, "blocks")
	}
	// Output:
	// 4 inodes, 4 blocks
	// 3 inodes, 5 blocks
}
