// Command stargz is the eStargz half of the benchmarks' comparison: the proxy
// snapshotter of the stargz-snapshotter project with the settings that it ships,
// and that project's own image conversion. Its main package is in no module that
// a proxy serves, which is why this one exists.
//
//	stargz serve ROOT SOCKET CONFIG
//	stargz convert LAYOUT [FILES]
//
// serve answers on SOCKET until SIGTERM and leaves its mounts, as a restart does.
// convert adds to an OCI layout the eStargz form of the first image in it and
// prints the descriptor of that form; FILES lists paths, one a line, that a start
// reads, in that order.
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
		fmt.Fprintln(os.Stderr, "stargz:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 4 && args[0] == "serve":
		return serve(ctx, args[1], args[2], args[3])
	case len(args) == 2 && args[0] == "convert":
		return convert(ctx, args[1], "")
	case len(args) == 3 && args[0] == "convert":
		return convert(ctx, args[1], args[2])
	default:
		return errors.New("usage: stargz serve ROOT SOCKET CONFIG | stargz convert LAYOUT [FILES]")
	}
}
