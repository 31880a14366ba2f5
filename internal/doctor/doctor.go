// Package doctor looks at a node and says what about it keeps images from being
// lazy, what that means and what to do.
//
// It owns the checks, one small function each, and the report. It changes
// nothing but what it takes back at once (a mount of a tiny file system in a
// directory of its own, a snapshot that is prepared and removed), and works
// without the daemon as well as with it.
//
// Goroutines: one for each check of [Run], which waits for them all.
package doctor

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// Level says how bad a finding is.
type Level string

// The levels, from best to worst.
const (
	Good     Level = "good"
	Degraded Level = "degraded" // it works, with less than it could
	Bad      Level = "bad"      // pulls are ordinary, or fail
)

// worse ranks levels.
func (l Level) rank() int {
	switch l {
	case Good:
		return 0
	case Degraded:
		return 1
	default:
		return 2
	}
}

// Finding is one thing that was looked at.
type Finding struct {
	Check  string `json:"check"`
	Level  Level  `json:"level"`
	Found  string `json:"found"`            // what is so
	Means  string `json:"means,omitempty"`  // what follows from it; of what is good: nothing
	Remedy string `json:"remedy,omitempty"` // what to do
}

func good(format string, args ...any) Finding {
	return Finding{Level: Good, Found: fmt.Sprintf(format, args...)}
}

func degraded(found, means, remedy string) Finding {
	return Finding{Level: Degraded, Found: found, Means: means, Remedy: remedy}
}

func bad(found, means, remedy string) Finding {
	return Finding{Level: Bad, Found: found, Means: means, Remedy: remedy}
}

// Check looks at one thing. It returns when ctx ends.
type Check interface {
	Name() string
	Look(ctx context.Context) []Finding
}

// checkTimeout bounds one check: what takes longer is broken as well.
const checkTimeout = 20 * time.Second

// Report is all that was found, in the order of the checks.
type Report struct {
	Version  string    `json:"version"` // of the program that looked
	Level    Level     `json:"level"`   // the worst
	Findings []Finding `json:"findings"`
}

// Run makes all checks, side by side.
func Run(ctx context.Context, version string, checks []Check) *Report {
	found := make([][]Finding, len(checks))
	var looking sync.WaitGroup // waited for here
	for i, check := range checks {
		looking.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, checkTimeout)
			defer cancel()
			found[i] = check.Look(ctx)
		})
	}
	looking.Wait()
	r := &Report{Version: version, Level: Good, Findings: []Finding{}}
	for i, check := range checks {
		for _, f := range found[i] {
			f.Check = check.Name()
			r.Findings = append(r.Findings, f)
			if f.Level.rank() > r.Level.rank() {
				r.Level = f.Level
			}
		}
	}
	return r
}

// ExitStatus is that of `referee doctor`: 0 for good, 1 for bad, 2 for degraded.
func (r *Report) ExitStatus() int {
	switch r.Level {
	case Good:
		return 0
	case Degraded:
		return 2
	default:
		return 1
	}
}

// WriteText writes a line for each finding, and under those that are not good
// what they mean and what to do.
func (r *Report) WriteText(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	count := map[Level]int{}
	for _, f := range r.Findings {
		count[f.Level]++
		fmt.Fprintf(table, "%s\t%s\t%s\n", f.Level, f.Check, oneLine(f.Found))
		if f.Means != "" {
			fmt.Fprintf(table, "\t\t  so: %s\n", oneLine(f.Means))
		}
		if f.Remedy != "" {
			fmt.Fprintf(table, "\t\t  do: %s\n", oneLine(f.Remedy))
		}
	}
	fmt.Fprintf(table, "\nreferee %s: %d good, %d degraded, %d bad\n", r.Version, count[Good], count[Degraded], count[Bad])
	return table.Flush()
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
