// Command soci is the SOCI half of the benchmarks' comparison: the proxy
// snapshotter of the soci-snapshotter project with the settings that it ships,
// and that project's own image conversion. Its main package is in no module that
// a proxy serves, which is why this one exists.
//
//	soci serve ROOT SOCKET CONFIG
//	soci convert LAYOUT
//
// serve answers on SOCKET until SIGTERM and leaves its mounts, as a restart does.
// convert adds to an OCI layout an index of the first image in it (version 2: an
// index that binds image and tables) and prints that one's descriptor.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "soci:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 4 && args[0] == "serve":
		return serve(ctx, args[1], args[2], args[3])
	case len(args) == 2 && args[0] == "convert":
		return convert(ctx, args[1])
	default:
		return errors.New("usage: soci serve ROOT SOCKET CONFIG | soci convert LAYOUT")
	}
}
