package nbd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Device is a connected nbd device that bears an identifier.
type Device struct {
	Index   uint32
	Backend string
}

// Path is the device node.
func (d Device) Path() string { return devicePath(d.Index) }

// Disconnect ends the device: its readers get EIO from now on.
func (d Device) Disconnect() error { return disconnect(d.Index) }

// Find returns the devices whose identifier begins with prefix, whoever serves
// them, or nobody.
func Find(prefix string) ([]Device, error) { return find("/sys/block", prefix) }

func find(sysBlock, prefix string) ([]Device, error) {
	paths, err := filepath.Glob(filepath.Join(sysBlock, "nbd*", "backend"))
	if err != nil {
		return nil, fmt.Errorf("list nbd devices: %w", err)
	}
	var devices []Device
	for _, path := range paths {
		number := strings.TrimPrefix(filepath.Base(filepath.Dir(path)), "nbd")
		index, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			continue // not a whole device
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // just disconnected
		}
		if err != nil {
			return nil, fmt.Errorf("read nbd identifier: %w", err)
		}
		if backend := strings.TrimSuffix(string(data), "\n"); strings.HasPrefix(backend, prefix) {
			devices = append(devices, Device{Index: uint32(index), Backend: backend})
		}
	}
	return devices, nil
}

func devicePath(index uint32) string { return fmt.Sprintf("/dev/nbd%d", index) }
