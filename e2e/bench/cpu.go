package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of CPU times in /proc (USER_HZ, 100 on every architecture
// that Linux has for Go).
const clockTick = time.Second / 100

// nodeCPU is the CPU time that the living processes of a node and their ended
// children have used: containerd, shims, the daemons; containers are not counted.
func nodeCPU(dir string) (time.Duration, error) {
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, process := range processes {
		environment, err := os.ReadFile(filepath.Join(process, "environ"))
		if err != nil || !bytes.Contains(environment, []byte("="+dir+"\x00")) {
			continue // ended, or another's
		}
		stat, err := os.ReadFile(filepath.Join(process, "stat"))
		if err != nil {
			continue
		}
		used, err := cpuOf(string(stat))
		if err != nil {
			return 0, fmt.Errorf("%s: %w", process, err)
		}
		sum += used
	}
	return sum, nil
}

// cpuOf reads what a process and its children have used from its line in /proc
// (proc_pid_stat(5), fields 14 to 17).
func cpuOf(stat string) (used time.Duration, err error) {
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:]) // the name before may have spaces
	const first, count = 14 - 3, 4
	if len(fields) < first+count {
		return 0, fmt.Errorf("read CPU time: %d fields after the name, expected at least %d", len(fields), first+count)
	}
	for _, field := range fields[first : first+count] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read CPU time: %w", err)
		}
		used += time.Duration(ticks) * clockTick
	}
	return used, nil
}
