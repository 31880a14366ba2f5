package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/internal/control"
	"github.com/referee-cri/referee/lazyblock/host"
)

// drainEvent is one line of what `referee drain` tells.
type drainEvent struct {
	Step *drainStep `json:"step,omitempty"`
	End  *drainEnd  `json:"end,omitempty"` // the last
}

// drainStep tells of a chain whose original layers are put in place.
type drainStep struct {
	References []string      `json:"references"`
	Chain      digest.Digest `json:"chain"`
	Fetched    int64         `json:"fetched_bytes"`
	Done       bool          `json:"done"`
	Error      string        `json:"error,omitempty"`
}

// drainEnd is how the node is left.
type drainEnd struct {
	Left  []drainLeft `json:"left"`            // images that still need the daemon
	Held  []drainHeld `json:"held"`            // volumes that only running containers read
	Error string      `json:"error,omitempty"` // it ended early
}

type drainLeft struct {
	References []string      `json:"references"`
	Chain      digest.Digest `json:"chain"`
}

type drainHeld struct {
	Volume    string `json:"volume"`
	Reference string `json:"reference,omitempty"` // the image it was first attached for
}

func drainCommand(load func() (*configs.Config, error)) *cobra.Command {
	var output string
	var cancel bool
	var timeout time.Duration
	command := &cobra.Command{
		Use:   "drain [REF...]",
		Short: "Put original layers in the place of all lazy ones",
		Long: `Put the original layers of every lazy image, or of those named, in the place of
what is attached: fetched, compared with the image's diff IDs and unpacked. Then
new containers need Referee no more. Containers that run keep what they read
until they end.

Without references pulls are ordinary from now on, until --cancel or a restart of
the daemon. The exit status is 0 only if no image is left that needs the daemon.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := load()
			if err != nil {
				return err
			}
			client := controlClient(config)
			if cancel {
				return client.Do(cmd.Context(), http.MethodDelete, "/v1/drain", func(json.RawMessage) error { return nil })
			}
			query, err := drainQuery(args, timeout)
			if err != nil {
				return err
			}
			return drain(cmd, client, query, output)
		},
	}
	command.Flags().StringVar(&output, "output", "text", "text or json (a value a line)")
	command.Flags().BoolVar(&cancel, "cancel", false, "let pulls be lazy again")
	command.Flags().DurationVar(&timeout, "timeout", 0, "how long to try; 0: as long as it takes")
	return command
}

func drainQuery(refs []string, timeout time.Duration) (string, error) {
	query := url.Values{}
	for _, ref := range refs {
		named, err := reference.ParseDockerRef(ref)
		if err != nil {
			return "", fmt.Errorf("parse reference %s: %w", ref, err)
		}
		query.Add("ref", named.String())
	}
	if timeout > 0 {
		query.Set("timeout", timeout.String())
	}
	return query.Encode(), nil
}

func drain(cmd *cobra.Command, client control.Client, query, output string) error {
	end, err := drainNode(cmd.Context(), client, query, output, cmd.OutOrStdout())
	if err != nil {
		return err
	}
	return end.err()
}

// drainNode has the daemon drain, tells w how it goes, and returns how it ended.
func drainNode(ctx context.Context, client control.Client, query, output string, w io.Writer) (*drainEnd, error) {
	var end *drainEnd
	err := client.Do(ctx, http.MethodPost, "/v1/drain?"+query, func(line json.RawMessage) error {
		var event drainEvent
		if err := json.Unmarshal(line, &event); err != nil {
			return fmt.Errorf("the daemon's answer: %w", err)
		}
		if event.End != nil {
			end = event.End
		}
		if output == "json" {
			_, err := fmt.Fprintf(w, "%s\n", line)
			return err
		}
		return event.write(w)
	})
	if err == nil && end == nil {
		err = fmt.Errorf("the daemon ended before the node was drained")
	}
	return end, err
}

// err says why the node still needs the daemon for new containers; nil if it does not.
func (end *drainEnd) err() error {
	switch {
	case end.Error != "":
		return fmt.Errorf("drain: %s", end.Error)
	case len(end.Left) > 0:
		return fmt.Errorf("drain: %s still attached", counted(len(end.Left), "layer"))
	}
	return nil
}

func (e *drainEvent) write(w io.Writer) error {
	var text strings.Builder
	switch {
	case e.Step != nil && e.Step.Error != "":
		fmt.Fprintf(&text, "FAILED %s: %s\n", strings.Join(e.Step.References, ", "), e.Step.Error)
	case e.Step != nil && e.Step.Done:
		fmt.Fprintf(&text, "done %s: %d bytes fetched\n", strings.Join(e.Step.References, ", "), e.Step.Fetched)
	case e.Step != nil:
		fmt.Fprintf(&text, "%s: %d bytes\n", strings.Join(e.Step.References, ", "), e.Step.Fetched)
	case e.End != nil:
		for _, left := range e.End.Left {
			fmt.Fprintf(&text, "left: %s of %s\n", left.Chain, strings.Join(left.References, ", "))
		}
		for _, held := range e.End.Held {
			fmt.Fprintf(&text, "running containers still read volume %s %s\n", held.Volume, held.Reference)
		}
		if len(e.End.Left) == 0 && e.End.Error == "" {
			fmt.Fprintln(&text, "no image needs the daemon any more")
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// tellEvery is how often one step's progress is told.
const tellEvery = time.Second

func (d *daemonParts) handleDrain(w http.ResponseWriter, r *http.Request) {
	ctx, query := r.Context(), r.URL.Query()
	if text := query.Get("timeout"); text != "" {
		timeout, err := time.ParseDuration(text)
		if err != nil {
			control.Fail(w, http.StatusBadRequest, err)
			return
		}
		limited, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		ctx = limited
	}
	refs := query["ref"]
	if len(refs) == 0 {
		d.gate.close()
	}
	stream := control.NewStream(w)
	var told time.Time
	left, err := d.host.Drain(ctx, refs, func(step host.DrainStep) {
		if !step.Done && step.Fetched > 0 && time.Since(told) < tellEvery {
			return
		}
		told = time.Now()
		event := &drainStep{References: step.References, Chain: step.Chain, Fetched: step.Fetched, Done: step.Done}
		if step.Err != nil {
			event.Error = oneLine(step.Err)
		}
		_ = stream.Send(drainEvent{Step: event}) // without a reader ctx ends
	})
	end := d.drained(r.Context(), left, refs)
	if err != nil {
		end.Error = oneLine(err)
	}
	_ = stream.Send(drainEvent{End: end})
}

// drained tells how the node is left. Of an image that was not asked for nothing
// is left over.
func (d *daemonParts) drained(ctx context.Context, left []host.Leftover, refs []string) *drainEnd {
	end := &drainEnd{Left: []drainLeft{}, Held: []drainHeld{}}
	needed := make(map[string]bool)
	for _, l := range left {
		if len(l.References) > 0 {
			needed[l.Volume] = true
		}
		if l.Serves(refs) {
			end.Left = append(end.Left, drainLeft{l.References, l.Chain})
		}
	}
	wanted, err := d.host.Wanted(ctx)
	if err != nil {
		end.Error = oneLine(err)
	}
	for _, id := range wanted {
		if needed[id] {
			continue
		}
		held := drainHeld{Volume: id}
		if spec, err := d.volumes.Recorded(id); err == nil {
			held.Reference = spec.Reference
		}
		end.Held = append(end.Held, held)
	}
	return end
}

func (d *daemonParts) handleDrainCancel(w http.ResponseWriter, _ *http.Request) {
	d.gate.open()
	w.WriteHeader(http.StatusOK)
}
