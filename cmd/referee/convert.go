package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/internal/conversion"
	"github.com/referee-cri/referee/lazyblock/convert/source"
	"github.com/referee-cri/referee/negotiate/publish"
)

func convertCommand(func() (*configs.Config, error)) *cobra.Command {
	opts := conversion.Options{UserAgent: "referee/" + version}
	var output, traceFile string
	var everyPlatform bool
	var target targetFlags
	var signing signFlags
	command := &cobra.Command{
		Use:   "convert SRC",
		Short: "Build an accelerated form of an image and publish it",
		Long: `Build an accelerated form of an image and publish it.

SRC is a reference in a registry (host/repository:tag) or an OCI image layout
(oci:FOLDER:TAG, with --repository saying where the image is served).

A form in overlaybd, soci, erofs or disk is attached to the image as a referrer:
the image itself, its tag and its digest stay as they are. estargz, zstd-chunked
and soci-v2 stand in the image: the form is a new image, for which --tag gives a
reference, and SRC stays as it is.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if opts.To, err = target.target(cmd.Flags()); err != nil {
				return err
			}
			if everyPlatform && len(opts.Platforms) > 0 {
				return errors.New("--all-platforms and --platform exclude each other")
			}
			if opts.Sign, err = signing.signer(); err != nil {
				return err
			}
			started, err := readTrace(traceFile)
			if err != nil {
				return err
			}
			opts.Source = args[0]
			progress := newProgress(cmd.ErrOrStderr())
			opts.Converting, opts.Pushing, opts.Remark = progress.converting, progress.pushing, progress.remark
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
	flags.StringVar(&opts.Destination, "repository", "", "repository to push to (default: the one of SRC)")
	flags.StringVar(&opts.Reference, "tag", "", "estargz, zstd-chunked, soci-v2: tag or whole reference of the new image")
	flags.StringSliceVar(&opts.Platforms, "platform", nil, "only these platforms, such as linux/arm64 (default: every Linux platform)")
	flags.BoolVar(&everyPlatform, "all-platforms", false, "every Linux platform, as without --platform")
	flags.BoolVar(&opts.PlainHTTP, "plain-http", false, "speak HTTP to the registry")
	flags.StringVar(&opts.TempDir, "temp-dir", "", "folder for converted layers before they are pushed")
	flags.StringVar(&traceFile, "with-trace", "", "attach this start-up trace (referee trace export) to the form it is of")
	flags.StringVar(&output, "output", "text", "text or json")
	target.register(flags)
	signing.register(flags)
	return command
}

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

func (p *progress) converting(platform string, c source.Progress) {
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

func (p *progress) remark(text string) { fmt.Fprintln(p.out, text) }

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
	var text strings.Builder
	for _, one := range attached {
		var size int64
		for _, layer := range one.Layers {
			size += layer.Size
		}
		if one.Reference == "" {
			fmt.Fprintf(&text, "%s: %s attached to %s (%d layers, %d bytes)\n", one.Platform, one.Artifact.Digest, one.Subject.Digest, len(one.Layers), size)
		} else {
			fmt.Fprintf(&text, "%s: %s in %s is %s as %s (%d layers, %d bytes)\n",
				one.Platform, one.Artifact.Digest, one.Reference, one.Subject.Digest, one.Format, len(one.Layers), size)
		}
		if one.Signature != nil {
			fmt.Fprintf(&text, "%s: %s signs it\n", one.Platform, one.Signature.Digest)
		}
	}
	if len(attached) > 0 && attached[0].Reference != "" {
		fmt.Fprintf(&text, "%s is a new image. Of the original it keeps %s.\n", attached[0].Reference, attached[0].Keeps)
	}
	_, err := io.WriteString(out, text.String())
	return err
}
