package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/referee-cri/referee/e2e/compare"
	"github.com/referee-cri/referee/internal/regtest"
)

// Memory is what the daemon and the keeper of its FUSE connection hold with so
// many lazy images attached. They run the same binary, so resident sizes may not
// be added up; proportional sizes may.
type Memory struct {
	Images    int
	Processes int
	Daemon    int64 // bytes resident, of the daemon alone
	PSS       int64 // bytes, of all processes
}

// settleTime is how long the daemon is left alone before its memory is read; the
// collector returns memory to the kernel in the background.
const settleTime = 5 * time.Second

// measureMemory attaches lazy images of three layers of 4 MiB and reads them
// with nothing else than what a pull reads.
func measureMemory(ctx context.Context, progress io.Writer, bed *compare.Bed, l compare.Link) ([]Memory, error) {
	var images []compare.Image
	for i := range 10 {
		image, err := bed.PublishSynthetic(ctx, fmt.Sprintf("memory%d", i), regtest.ImageSpec{Layers: 3, LayerSize: 4 << 20, Seed: int64(100 + i)})
		if err != nil {
			return nil, err
		}
		images = append(images, image)
	}
	if err := bed.Chill(ctx, compare.Lazy); err != nil {
		return nil, err
	}
	var out []Memory
	attached := 0
	for _, count := range []int{0, 1, 10} {
		for ; attached < count; attached++ {
			if err := bed.Pull(ctx, images[attached], l); err != nil {
				return nil, err
			}
		}
		select {
		case <-time.After(settleTime):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		m, err := memoryOf(bed)
		if err != nil {
			return nil, err
		}
		m.Images = count
		fmt.Fprintf(progress, "memory with %d images: %.1f MiB\n", count, mib(m.PSS))
		out = append(out, m)
	}
	return out, bed.Remove(ctx, l, images...)
}

// memoryOf sums the daemon and the processes it has started.
func memoryOf(bed *compare.Bed) (Memory, error) {
	var m Memory
	daemon := fmt.Sprintf("/proc/%d", bed.Referee.PID())
	executable, err := os.Readlink(filepath.Join(daemon, "exe"))
	if err != nil {
		return m, fmt.Errorf("find daemon: %w", err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return m, err
	}
	for _, process := range processes {
		environment, _ := os.ReadFile(filepath.Join(process, "environ")) // it may have ended
		if exe, _ := os.Readlink(filepath.Join(process, "exe")); exe != executable || !bytes.Contains(environment, []byte("="+bed.Node.Dir()+"\x00")) {
			continue
		}
		m.Processes++
		pss, err := rollup(process, "Pss:")
		if err != nil {
			return m, err
		}
		m.PSS += pss
	}
	m.Daemon, err = rollup(daemon, "Rss:")
	return m, err
}

// rollup reads one field of /proc/PID/smaps_rollup.
func rollup(process, name string) (int64, error) {
	text, err := os.ReadFile(filepath.Join(process, "smaps_rollup"))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) == 3 && fields[0] == name {
			n, err := strconv.ParseInt(fields[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("read memory: no %s of %s", name, process)
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }
