package nbd

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"time"
)

// loadTimeout bounds the loading of a kernel module.
const loadTimeout = 10 * time.Second

// Load has the kernel load its nbd driver. Devices are made as they are needed:
// none is made in advance.
func Load(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "modprobe", "nbd", "nbds_max=0").CombinedOutput()
	if err != nil {
		return fmt.Errorf("load module nbd: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
