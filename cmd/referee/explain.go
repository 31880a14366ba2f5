package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/control"
	"github.com/referee-cri/referee/lazyblock/trace"
)

func journalDir(config *configs.Config) string { return filepath.Join(config.Root, "journal") }

func openJournal(config *configs.Config) (*fallback.Journal, error) {
	return fallback.OpenJournal(journalDir(config))
}

func explainCommand(load func() (*configs.Config, error)) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use:   "explain REF|ID",
		Short: "Say what was decided at the last pull of an image, and why",
		Long: `Say what was decided at the last pull of an image and why: which form was chosen,
by which policy, on whose word, what became of every other, what each step took;
what its start read, how much of it is on the node, and what the daemon does with
it now. An image has its reference, or its ID or digest as crictl shows them.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := load()
			if err != nil {
				return err
			}
			e, err := explain(cmd.Context(), config, args[0])
			if err != nil {
				return err
			}
			if output == "json" {
				return writeJSON(cmd.OutOrStdout(), e)
			}
			return e.write(cmd.OutOrStdout())
		},
	}
	outputFlag(command, &output)
	return command
}

// explanation is what is told of a pull.
type explanation struct {
	*fallback.Entry

	Startup    *startup      `json:"startup,omitempty"`
	Completion *completion   `json:"completion,omitempty"`
	Now        *statusVolume `json:"now,omitempty"`         // what the daemon says of the volume
	NowUnknown string        `json:"now_unknown,omitempty"` // why it says nothing
}

// explain gathers what the journal, the traces and the daemon know of an image.
func explain(ctx context.Context, config *configs.Config, refOrID string) (*explanation, error) {
	entry, err := fallback.ReadJournal(journalDir(config)).Last(refOrID)
	if err != nil {
		return nil, err
	}
	e := &explanation{Entry: &entry, Startup: startupOf(traceOf(config, &entry)), Completion: completionOf(config, &entry)}
	if entry.Volume != "" {
		e.ask(ctx, controlClient(config))
	}
	return e, nil
}

// askWithin is how long the daemon may take to say what it holds.
const askWithin = 5 * time.Second

// ask has the daemon, if it runs, tell of the volume.
func (e *explanation) ask(ctx context.Context, client control.Client) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	var s status
	err := client.Do(ctx, http.MethodGet, "/v1/status", func(line json.RawMessage) error { return json.Unmarshal(line, &s) })
	i := slices.IndexFunc(s.Volumes, func(v statusVolume) bool { return v.ID == e.Volume })
	switch {
	case errors.Is(err, control.ErrNoDaemon):
		e.NowUnknown = "the daemon does not run"
	case err != nil:
		e.NowUnknown = oneLine(err)
	case i < 0:
		e.NowUnknown = "the volume is gone"
	default:
		e.Now = &s.Volumes[i]
	}
}

func (e *explanation) write(w io.Writer) error {
	if err := e.Entry.WriteText(w); err != nil {
		return err
	}
	if e.Startup != nil {
		fmt.Fprintln(w, "\n"+e.Startup.text())
	}
	if e.Completion != nil {
		fmt.Fprintln(w, "\n"+e.Completion.text())
	}
	if e.Volume == "" {
		return nil
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if e.Now == nil {
		fmt.Fprintf(t, "now\tnot known: %s\n", e.NowUnknown)
	} else {
		fmt.Fprintf(t, "now\t%s\n", e.Now.text())
	}
	return t.Flush()
}

// text is one line about a volume.
func (v *statusVolume) text() string {
	text := fmt.Sprintf("%s, %s of %s here", v.state(), size(v.Cached), size(v.Size))
	if v.Mounted {
		text += fmt.Sprintf(", fetched %s in %s since it was opened", size(v.Fetched), counted(int(v.Requests), "request"))
	}
	return text
}

// startup is what is known about starts of the form that was attached.
type startup struct {
	Recordings int           `json:"recordings"` // starts that have added to the trace
	Ranges     int           `json:"ranges"`
	Bytes      int64         `json:"bytes"`
	From       string        `json:"from,omitempty"`     // "referrer": another node recorded what it began with
	Replayed   *trace.Replay `json:"replayed,omitempty"` // the last time
}

func startupOf(t *trace.Trace) *startup {
	if t == nil {
		return nil
	}
	return &startup{Recordings: t.Recordings, Ranges: len(t.Ranges), Bytes: t.Bytes(), From: t.From, Replayed: t.Replayed}
}

func (s *startup) text() string {
	text := fmt.Sprintf("start-up trace: %s, %s, of %s", counted(s.Ranges, "range"), size(s.Bytes), counted(s.Recordings, "start"))
	if s.From == trace.FromReferrer {
		text += ", begun by another node's"
	}
	if r := s.Replayed; r != nil {
		text += fmt.Sprintf("\nlast replayed %s: %s, %s, %.2f s", r.Time.Format(time.DateTime+" MST"), counted(r.Requests, "request"), size(r.Bytes), r.Seconds)
		if r.Error != "" {
			text += fmt.Sprintf(", ended by %q", r.Error)
		}
	}
	return text
}
