package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manyNames fills a directory so that names of all lengths fall on all block ends.
func manyNames(t *testing.T, n int) *Tree {
	t.Helper()
	tree := NewTree(Limits{})
	layer := tree.NewLayer()
	for i := range n {
		name := fmt.Sprintf("dir/%0*d", 5+i*7%251, i)
		if err := layer.Add(name, Inode{Mode: TypeFIFO | 0o600, UID: uint32(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Apply(layer); err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestDirectoriesOfAnySize(t *testing.T) {
	t.Parallel()
	for _, bits := range []uint8{9, 10, 11, 12} {
		for n := range 80 {
			writeTree(t, manyNames(t, n), LayoutOptions{BlockBits: bits})
		}
		writeTree(t, manyNames(t, 3000), LayoutOptions{BlockBits: bits})
	}
}

func TestLinksAndAttributesOfAnySize(t *testing.T) {
	t.Parallel()
	tree := NewTree(Limits{})
	layer := tree.NewLayer()
	add := func(name string, in Inode) {
		t.Helper()
		if err := layer.Add(name, in); err != nil {
			t.Fatal(err)
		}
	}
	for n := 1; n <= MaxTarget; n += 61 {
		target := strings.Repeat("t", n)
		add(fmt.Sprint("l", n), Inode{Mode: TypeSymlink, Target: target, Mtime: int64(n % 2)})
		add(fmt.Sprint("x", n), Inode{Mode: TypeSymlink, Target: target, Xattrs: Xattrs{{"security.a", target}}})
	}
	for n := 0; n <= maxXattrValue; n = n*3/2 + 1 {
		value := strings.Repeat("v", n)
		add(fmt.Sprint("f", n), Inode{Mode: TypeRegular, Xattrs: Xattrs{{"security.capability", value}, {"user.x", value}}})
		add(fmt.Sprintf("d%d/a", n), Inode{Mode: TypeFIFO})
		add(fmt.Sprint("d", n), Inode{Mode: TypeDir, Xattrs: Xattrs{{aclAccess, value}, {aclDefault, value}, {"trusted.t", value}}})
	}
	add("/", Inode{Mode: TypeDir, Xattrs: Xattrs{{"user.root", strings.Repeat("r", 60000)}}})
	if err := tree.Apply(layer); err != nil {
		t.Fatal(err)
	}
	for _, bits := range []uint8{9, 12} {
		writeTree(t, tree, LayoutOptions{BlockBits: bits})
	}
}

func TestCompactInodesHoldWhatTheyCan(t *testing.T) {
	t.Parallel()
	small := Inode{Mode: TypeRegular | 0o644, UID: 65535, GID: 65535, Size: 1<<32 - 1, Data: Extent{Block: 1}}
	for name, change := range map[string]func(*Inode){
		"owner": func(in *Inode) { in.UID++ }, "group": func(in *Inode) { in.GID++ },
		"size": func(in *Inode) { in.Size++ }, "time": func(in *Inode) { in.Mtime = 1 },
		"before 1970": func(in *Inode) { in.Mtime = -1 }, "nanoseconds": func(in *Inode) { in.Nsec = 1 },
	} {
		tree := NewTree(Limits{})
		layer := tree.NewLayer()
		large := small
		change(&large)
		for file, in := range map[string]Inode{"small": small, "large": large} {
			if err := layer.Add(file, in); err != nil {
				t.Fatal(err)
			}
		}
		if err := tree.Apply(layer); err != nil {
			t.Fatal(err)
		}
		img := writeTree(t, tree, LayoutOptions{})
		for file, format := range map[string]byte{"small": 0, "large": 1} {
			in, _ := tree.Lookup(file)
			if got := img.bytes[4096+in.place.nid*32] & 1; got != format {
				t.Errorf("%s: %s inode has version %d", name, file, got)
			}
		}
	}
}

func TestManyHardLinks(t *testing.T) {
	t.Parallel()
	tree := NewTree(Limits{})
	layer := tree.NewLayer()
	if err := layer.Add("file", Inode{Mode: TypeRegular}); err != nil {
		t.Fatal(err)
	}
	for i := range 70000 { // more than a compact inode counts
		if err := layer.Link(fmt.Sprint("links/", i), "file", Inode{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Apply(layer); err != nil {
		t.Fatal(err)
	}
	writeTree(t, tree, LayoutOptions{})
}

func TestLayoutRefusesWhatCannotBeAddressed(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in   Inode
		opts LayoutOptions
		full bool
	}{
		"data behind the last block number": {Inode{Size: 4097, Data: Extent{Block: maxBlocks - 1}}, LayoutOptions{Start: 1}, true},
		"data of eight exbibytes":           {Inode{Size: maxSize, Data: Extent{Block: 1}}, LayoutOptions{Start: 1}, true},
		"data behind its device's end":      {Inode{Size: 8193, Data: Extent{Device: 1}}, LayoutOptions{Start: 1, Devices: []DeviceSlot{{Blocks: 2}}}, true},
		"data on an unknown device":         {Inode{Size: 1, Data: Extent{Device: 2}}, LayoutOptions{Start: 1, Devices: []DeviceSlot{{Blocks: 2}}}, false},
		"metadata behind the limit":         {Inode{}, LayoutOptions{Start: 9, Limit: 9}, true},
		"metadata behind block numbers":     {Inode{}, LayoutOptions{Start: maxBlocks}, true},
		"metadata over the superblock":      {Inode{}, LayoutOptions{}, false},
		"metadata over the device table":    {Inode{}, LayoutOptions{Start: 1, Devices: make([]DeviceSlot, 30)}, false},
		"blocks of 8 KiB":                   {Inode{}, LayoutOptions{Start: 1, BlockBits: 13}, false},
		"device tag too long":               {Inode{}, LayoutOptions{Start: 1, Devices: []DeviceSlot{{Tag: strings.Repeat("t", 65)}}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := NewTree(Limits{})
			layer := tree.NewLayer()
			tc.in.Mode = TypeRegular
			if err := layer.Add("a", tc.in); err != nil {
				t.Fatal(err)
			}
			if err := tree.Apply(layer); err != nil {
				t.Fatal(err)
			}
			_, err := tree.Layout(tc.opts)
			if err == nil || errors.Is(err, ErrDiskFull) != tc.full {
				t.Errorf("got error %v", err)
			}
		})
	}
}

func TestSameTreeSameBytes(t *testing.T) {
	t.Parallel()
	first, second := writeTree(t, manyNames(t, 500), LayoutOptions{}), writeTree(t, manyNames(t, 500), LayoutOptions{})
	if !bytes.Equal(first.bytes, second.bytes) {
		t.Error("two layouts of equal trees differ")
	}
}

// TestExtraDevices mounts metadata-only images whose files lie on other devices.
func TestExtraDevices(t *testing.T) {
	t.Parallel()
	for _, bits := range []uint8{9, 12} {
		t.Run(fmt.Sprint("blocks of ", 1<<bits), func(t *testing.T) {
			t.Parallel()
			block := 1 << bits
			dir := t.TempDir()
			devices := []string{filepath.Join(dir, "one"), filepath.Join(dir, "two")}
			contents := [][]byte{bytes.Repeat([]byte("first."), 3*block), bytes.Repeat([]byte("second"), 5*block)}
			opts := LayoutOptions{BlockBits: bits}
			options := []string{}
			for i, path := range devices {
				if err := os.WriteFile(path, contents[i][:6*i*block+6*block], 0o600); err != nil {
					t.Fatal(err)
				}
				opts.Devices = append(opts.Devices, DeviceSlot{Tag: fmt.Sprint("device", i), Blocks: uint64(6*i + 6)})
				options = append(options, "device="+path)
			}
			tree := NewTree(Limits{})
			layer := tree.NewLayer()
			want := map[string][]byte{}
			for i, content := range contents {
				for n := range 5 {
					name, size := fmt.Sprintf("dir/%d-%d", i, n), n*block+n*7
					in := Inode{Mode: TypeRegular | 0o644, Size: int64(size), Data: Extent{Device: uint16(i + 1), Block: 1}}
					if err := layer.Add(name, in); err != nil {
						t.Fatal(err)
					}
					want[name] = content[block : block+size]
				}
			}
			if err := tree.Apply(layer); err != nil {
				t.Fatal(err)
			}
			img := writeTree(t, tree, opts)
			path := filepath.Join(dir, "meta")
			if err := os.WriteFile(path, img.bytes, 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.CommandContext(t.Context(), "fsck.erofs", "--extract", "--device="+devices[0], "--device="+devices[1], path).CombinedOutput(); err != nil && bits == 12 {
				t.Errorf("fsck.erofs: %v: %s", err, out) // release 1.5 knows no other block size
			}
			mnt := mountImage(t, path, strings.Join(options, ","))
			for name, content := range want {
				got, err := os.ReadFile(filepath.Join(mnt, name))
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s: %d bytes, want %d: %v", name, len(got), len(content), err)
				}
			}
		})
	}
}

// mountImage mounts from a file, without a loop device.
func mountImage(t *testing.T, path, options string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	err := unix.Mount(path, dir, "erofs", unix.MS_RDONLY, options)
	if errors.Is(err, unix.ENOTBLK) {
		t.Skip("mounting EROFS from a file needs Linux 6.12")
	}
	if err != nil {
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() {
		err := unix.Unmount(dir, 0)
		for deadline := time.Now().Add(10 * time.Second); err == unix.EBUSY && time.Now().Before(deadline); err = unix.Unmount(dir, 0) {
			runtime.Gosched() // a process forked meanwhile holds a file until it execs
		}
		if err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}
