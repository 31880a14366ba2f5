package main

import (
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine is where the numbers come from.
type Machine struct {
	CPU        string
	CPUs       int
	MemoryMiB  int64
	Kernel     string
	Containerd string `json:",omitempty"` // "" where none was needed
	Load       string // when the run began
	Time       time.Time
}

func thisMachine() Machine {
	m := Machine{CPUs: runtime.NumCPU(), Time: time.Now().UTC().Truncate(time.Second)}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.MemoryMiB = int64(info.Totalram) * int64(info.Unit) >> 20
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		_, after, _ := strings.Cut(string(text), "model name")
		line, _, _ := strings.Cut(after, "\n")
		m.CPU = strings.Trim(line, "\t :")
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load, _, _ = strings.Cut(string(text), " ")
	}
	return m
}
