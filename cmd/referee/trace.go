package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/atomicfile"
	"github.com/referee-cri/referee/internal/conversion"
	"github.com/referee-cri/referee/lazyblock/trace"
	"github.com/referee-cri/referee/negotiate/publish"
)

func traceCommand(load func() (*configs.Config, error)) *cobra.Command {
	command := &cobra.Command{
		Use:   "trace",
		Short: "Show what starts of an image read, and share it with other nodes",
	}
	command.AddCommand(traceShowCommand(load), traceExportCommand(load), tracePushCommand(load))
	return command
}

func traceShowCommand(load func() (*configs.Config, error)) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use:   "show REF",
		Short: "Print what starts of the form that the last pull attached have read",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := recorded(load, args[0])
			if err != nil {
				return err
			}
			if output == "json" {
				return writeJSON(cmd.OutOrStdout(), t)
			}
			return writeTrace(cmd.OutOrStdout(), t)
		},
	}
	outputFlag(command, &output)
	return command
}

func writeTrace(w io.Writer, t *trace.Trace) error {
	var text strings.Builder
	fmt.Fprintf(&text, "artifact %s\n%s\n", t.Artifact, startupOf(t).text())
	for _, r := range t.Ranges {
		fmt.Fprintf(&text, "%.19s  %d bytes at %d\n", t.Layers[r.Layer].Digest, r.Length, r.Offset)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func traceExportCommand(load func() (*configs.Config, error)) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use:   "export REF",
		Short: "Write the trace for `referee convert --with-trace` or `referee trace push --file`",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := recorded(load, args[0])
			if err != nil {
				return err
			}
			data, err := t.Export()
			if err != nil {
				return err
			}
			if output == "" || output == "-" {
				_, err = cmd.OutOrStdout().Write(data)
				return err
			}
			return atomicfile.Write(output, data, 0o644)
		},
	}
	command.Flags().StringVarP(&output, "file", "o", "", "file to write (default: standard output)")
	return command
}

func tracePushCommand(load func() (*configs.Config, error)) *cobra.Command {
	var file string
	opts := conversion.Options{UserAgent: "referee/" + version}
	command := &cobra.Command{
		Use:   "push REF",
		Short: "Attach the trace to the form it was recorded of, for other nodes to find",
		Long: `Attach the trace to the form it was recorded of, as a referrer in the repository
of REF: this node's, or one that was exported. Nodes that attach the form for the
first time replay it.

It logs in as docker does.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := readTrace(file)
			if err == nil && t == nil {
				t, err = recorded(load, args[0])
			}
			if err != nil {
				return err
			}
			named, err := reference.ParseDockerRef(args[0])
			if err != nil {
				return fmt.Errorf("parse reference %s: %w", args[0], err)
			}
			pushed, err := pushTrace(cmd.Context(), named.Name(), t, opts)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s attached to %s (%d ranges, %d bytes)\n", pushed.Digest, t.Artifact, len(t.Ranges), t.Bytes())
			return err
		},
	}
	command.Flags().StringVar(&file, "file", "", "trace to attach (default: the one this node recorded)")
	command.Flags().BoolVar(&opts.PlainHTTP, "plain-http", false, "speak HTTP to the registry")
	return command
}

// recorded returns the trace of the form that the last pull of ref attached.
func recorded(load func() (*configs.Config, error), ref string) (*trace.Trace, error) {
	config, err := load()
	if err != nil {
		return nil, err
	}
	entry, err := fallback.ReadJournal(journalDir(config)).Last(ref)
	if err != nil {
		return nil, err
	}
	t := traceOf(config, &entry)
	if t == nil || len(t.Ranges) == 0 {
		return nil, fmt.Errorf("no start of %s was recorded on this node", cmp.Or(entry.Reference, ref))
	}
	return t, nil
}

// readTrace reads a trace that was exported; nil for no file.
func readTrace(file string) (*trace.Trace, error) {
	if file == "" {
		return nil, nil
	}
	t, err := trace.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return t, nil
}

// pushWith attaches a trace to that of what was just made which it is of.
func pushWith(ctx context.Context, t *trace.Trace, made []conversion.Attached, opts conversion.Options) error {
	var digests []string
	for _, one := range made {
		if one.Artifact.Digest == t.Artifact {
			_, err := pushTrace(ctx, cmp.Or(one.Reference, opts.Destination, opts.Source), t, opts)
			return err
		}
		digests = append(digests, one.Artifact.Digest.String())
	}
	return fmt.Errorf("--with-trace: it is of artifact %s, and what was made is %s", t.Artifact, strings.Join(digests, ", "))
}

// pushTrace attaches t to its artifact, which is in the repository.
func pushTrace(ctx context.Context, repository string, t *trace.Trace, opts conversion.Options) (ocispec.Descriptor, error) {
	data, err := t.Export()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	repo, err := conversion.OpenRepository(repository, opts)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	form, err := formOf(ctx, repo, t)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	config := ocispec.DescriptorEmptyJSON
	return publish.Attach(ctx, repo, ocispec.Manifest{
		ArtifactType: trace.MediaType,
		Config:       ocispec.Descriptor{MediaType: config.MediaType, Digest: config.Digest, Size: config.Size},
		Layers:       []ocispec.Descriptor{{MediaType: trace.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}},
		Subject:      &form,
		Annotations:  map[string]string{ocispec.AnnotationCreated: time.Now().UTC().Format(time.RFC3339)},
	}, config.Data, data)
}

// formOf returns the descriptor of the form that t is of, as the registry has it.
func formOf(ctx context.Context, repo *remote.Repository, t *trace.Trace) (ocispec.Descriptor, error) {
	found, err := repo.Resolve(ctx, t.Artifact.String())
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("look for the form that the trace is of: %w", err)
	}
	return ocispec.Descriptor{MediaType: found.MediaType, Digest: found.Digest, Size: found.Size}, nil
}
