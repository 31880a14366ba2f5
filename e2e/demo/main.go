// Command demo shows what Referee is for, with nothing faked: a real containerd
// and runc on this machine, a registry at the other end of a shaped link, an
// image built from Debian packages, `referee convert`, and then the same
// reference pulled and started twice: by containerd alone and through
// `referee serve`. A third time it is an image that nobody converted, with
// a SOCI index attached: the layers that are read are the original ones.
//
// Every figure is measured in this run. It needs root and leaves nothing behind;
// what it builds is kept in .cache for the next run.
//
// Goroutines: none of its own.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/referee-cri/referee/e2e/compare"
	"github.com/referee-cri/referee/e2e/link"
	"github.com/referee-cri/referee/e2e/node"
)

func main() {
	image := flag.String("image", "redis", "redis (71 MB), small (14 MB) or python (405 MB)")
	shape := link.Shape{}
	flag.DurationVar(&shape.RTT, "rtt", link.Region.RTT, "round-trip time to the registry")
	mbit := flag.Float64("mbit", link.Region.BitsPerSecond/1e6, "rate of the link to the registry in Mbit/s")
	flag.Parse()
	shape.BitsPerSecond = *mbit * 1e6

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := demo(ctx, os.Stdout, *image, shape)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context, out io.Writer, name string, shape link.Shape) (err error) {
	if !slices.Contains([]string{"redis", "small", "python"}, name) {
		return fmt.Errorf("no image %q: expected redis, small or python", name)
	}
	bed, err := compare.Start(ctx, out)
	if err != nil {
		return err
	}
	defer func() {
		stopErr := bed.Stop() //nolint:contextcheck // has to work when ctx has ended
		if stopErr != nil || err != nil {
			err = joinUnlessInterrupted(ctx, err, stopErr)
			return
		}
		fmt.Fprintln(out, "\nNothing is left behind: no process, mount, loop device, network device or folder.")
	}()
	fmt.Fprintf(out, "node        containerd %s, runc, and referee in front of it\n", bed.Node.Version())
	l, err := bed.AddLink(ctx, "demo", shape)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "registry    %s beyond a link of %s (measured: %s)\n", bed.Registry.Host(), shape, l.Measured)
	image, err := bed.Publish(ctx, name)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "image       %s: %d layers, %s\n", image.Ref(l), image.Layers, bytes(image.Size))
	fmt.Fprintf(out, "convert     an overlaybd form (%s) attached to it in %s; tag and digest unchanged\n", bytes(image.LazySize), seconds(image.Converted))
	indexed, err := bed.PublishAlone(ctx, image, compare.SOCIIndexed)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "index       %s: the same, not converted; a SOCI index (%s) attached to it in %s\n", indexed.Ref(l), bytes(indexed.LazySize), seconds(indexed.Converted))

	var results []compare.Result
	for _, run := range []struct {
		name  string
		way   compare.Way
		image compare.Image
	}{{"ordinary", compare.Ordinary, image}, {"overlaybd", compare.Lazy, image}, {"soci", compare.Lazy, indexed}} {
		if err := bed.Chill(ctx, run.way); err != nil {
			return err
		}
		result, err := bed.Run(ctx, run.way, run.image, l, func(c *node.Container, port int) error {
			return ask(ctx, out, run.name, name, c, port)
		})
		if err != nil {
			return err
		}
		results = append(results, result)
	}
	table(out, image, results[0], results[1], results[2])
	for _, pulled := range []compare.Image{image, indexed} {
		explained, err := bed.Explain(ctx, pulled, l)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "\n$ referee explain %s\n%s", pulled.Ref(l), explained)
	}
	return nil
}

// ask talks to the program in the container, for everyone to see that it works.
func ask(ctx context.Context, out io.Writer, way, image string, c *node.Container, port int) error {
	command := []string{"/bin/sh", "-c", "echo $(ls /usr | wc -l) entries in /usr"}
	if image == "redis" {
		command = []string{"redis-cli", "-p", strconv.Itoa(port), "ping"}
	}
	answer, err := c.Output(ctx, command...)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%-10s  in the container: %s -> %s\n", way, strings.Join(command, " "), strings.TrimSpace(answer))
	return nil
}

// table compares the ordinary pull with lazy ones, by overlaybd and by SOCI.
func table(out io.Writer, image compare.Image, ordinary, overlaybd, soci compare.Result) {
	fmt.Fprintln(out)
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	row := func(cells ...string) { fmt.Fprintln(t, strings.Join(cells, "\t")+"\t") }
	times := func(name string, of func(compare.Result) time.Duration) {
		plain := of(ordinary)
		row(name, seconds(plain), seconds(of(overlaybd)), ratio(plain, of(overlaybd)), seconds(of(soci)), ratio(plain, of(soci)))
	}
	share := func(lazy compare.Result) string {
		return fmt.Sprintf("%.1f %%", 100*float64(lazy.Bytes)/float64(image.Size))
	}
	row("", "ordinary", "overlaybd", "", "soci", "")
	times("PullImage", func(r compare.Result) time.Duration { return r.Pull })
	times("container answers after", func(r compare.Result) time.Duration { return r.Ready })
	row("fetched until then", bytes(ordinary.Bytes), bytes(overlaybd.Bytes), share(overlaybd), bytes(soci.Bytes), share(soci))
	_ = t.Flush() // standard output takes it or nobody reads it
}

func ratio(ordinary, lazy time.Duration) string {
	return fmt.Sprintf("%.1fx", ordinary.Seconds()/lazy.Seconds())
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func bytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// joinUnlessInterrupted keeps quiet about what an interrupt breaks, but not
// about what it leaves behind.
func joinUnlessInterrupted(ctx context.Context, err, stopErr error) error {
	switch {
	case ctx.Err() != nil && stopErr == nil:
		return fmt.Errorf("interrupted; nothing is left behind")
	case err == nil:
		return stopErr
	case stopErr == nil:
		return err
	default:
		return fmt.Errorf("%w\n%w", err, stopErr)
	}
}
