package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/internal/conversion"
	"github.com/referee-cri/referee/lazyblock/convert"
	"github.com/referee-cri/referee/lazyblock/format/overlaybd"
	"github.com/referee-cri/referee/negotiate/publish"
)

func convertCommand(func() (*configs.Config, error)) *cobra.Command {
	opts := conversion.Options{UserAgent: "referee/" + version}
	var format, algorithm, output, traceFile string
	var signing signFlags
	command := &cobra.Command{
		Use:   "convert SRC",
		Short: "Build an accelerated form of an image and attach it as a referrer",
		Long: `Build an accelerated form of an image and attach it to that image as a referrer.

SRC is a reference in a registry (host/repository:tag) or an OCI image layout
(oci:FOLDER:TAG, with --repository saying where the image is served). The image
itself, its tag and its digest stay as they are.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "overlaybd" {
				return fmt.Errorf("--to %s: expected overlaybd", format)
			}
			var known bool
			if opts.Algorithm, known = algorithms[algorithm]; !known {
				return fmt.Errorf("--algorithm %s: expected lz4 or zstd", algorithm)
			}
			var err error
			if opts.Sign, err = signing.signer(); err != nil {
				return err
			}
			started, err := readTrace(traceFile)
			if err != nil {
				return err
			}
			opts.Source = args[0]
			progress := newProgress(cmd.ErrOrStderr())
			opts.Converting, opts.Pushing = progress.converting, progress.pushing
			attached, err := conversion.Run(cmd.Context(), opts)
			if err != nil {
				return err
			}
			if started != nil {
				if err := pushWith(cmd.Context(), started, attached, opts); err != nil {
					return err
				}
			}
			return writeAttached(cmd.OutOrStdout(), output, attached)
		},
	}
	flags := command.Flags()
	flags.StringVar(&format, "to", "overlaybd", "format to build")
	flags.StringVar(&opts.Destination, "repository", "", "repository to attach to (default: the one of SRC)")
	flags.StringSliceVar(&opts.Platforms, "platform", nil, "only these platforms, such as linux/arm64 (default: every Linux platform)")
	flags.BoolVar(&opts.LegacyORAS, "legacy-oras", false, "publish as an ORAS artifact manifest (dadi.image.v1)")
	flags.StringVar(&algorithm, "algorithm", "zstd", "block compression: zstd is smaller, lz4 is what the original overlaybd tools write")
	flags.IntVar(&opts.BlockSize, "block-size", defaultBlockSize, "bytes compressed as one block; the original tools write 4096")
	flags.BoolVar(&opts.PlainHTTP, "plain-http", false, "speak HTTP to the registry")
	flags.StringVar(&opts.TempDir, "temp-dir", "", "folder for converted layers before they are pushed")
	flags.StringVar(&traceFile, "with-trace", "", "attach this start-up trace (referee trace export) to the form it is of")
	flags.StringVar(&output, "output", "text", "text or json")
	signing.register(flags)
	return command
}

// defaultBlockSize is the largest that every overlaybd reader takes. Against
// 4096 it makes a layer's index an eighth as long, which a node fetches before
// anything else, and a 1.3 GB image 17 % smaller.
const defaultBlockSize = 32 << 10

//nolint:gochecknoglobals // a constant table
var algorithms = map[string]overlaybd.Algorithm{"lz4": overlaybd.LZ4, "zstd": overlaybd.Zstd}

// progress prints at most a line a second.
type progress struct {
	out  io.Writer
	next time.Time
}

func newProgress(out io.Writer) *progress { return &progress{out: out} }

func (p *progress) due(always bool) bool {
	now := time.Now()
	if !always && now.Before(p.next) {
		return false
	}
	p.next = now.Add(time.Second)
	return true
}

func (p *progress) converting(platform string, c convert.Progress) {
	done := c.BlobSize > 0
	if !p.due(done) {
		return
	}
	line := fmt.Sprintf("%s: layer %d of %d: read %d of %d bytes", platform, c.Layer+1, c.Layers, c.Read, c.Size)
	if done {
		line = fmt.Sprintf("%s: layer %d of %d: %d bytes", platform, c.Layer+1, c.Layers, c.BlobSize)
	}
	fmt.Fprintln(p.out, line)
}

func (p *progress) pushing(e publish.Event) {
	if !p.due(e.Done) {
		return
	}
	state := fmt.Sprintf("sent %d of %d bytes", e.Sent, e.Descriptor.Size)
	if e.Existed {
		state = "exists"
	}
	fmt.Fprintf(p.out, "push %s: %s\n", e.Descriptor.Digest, state)
}

func writeAttached(out io.Writer, format string, attached []conversion.Attached) error {
	if format == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(attached)
	}
	for _, one := range attached {
		var size int64
		for _, layer := range one.Layers {
			size += layer.Size
		}
		if _, err := fmt.Fprintf(out, "%s: %s attached to %s (%d layers, %d bytes)\n",
			one.Platform, one.Artifact.Digest, one.Subject.Digest, len(one.Layers), size); err != nil {
			return err
		}
		if one.Signature == nil {
			continue
		}
		if _, err := fmt.Fprintf(out, "%s: %s signs it\n", one.Platform, one.Signature.Digest); err != nil {
			return err
		}
	}
	return nil
}
