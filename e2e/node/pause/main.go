// Command pause is the only program of the pause image: it holds a pod's
// namespaces until it is told to end. `pause say WORDS` prints them, so that the
// image also serves to test a node. It runs no goroutines of its own.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "say" {
		fmt.Println(strings.Join(os.Args[2:], " "))
		return
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	fmt.Println("pausing")
	<-stop
}
