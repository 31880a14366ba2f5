package report

import (
	"time"

	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/lazyblock/trace"
)

// Data is what a page is made of.
type Data struct {
	Made    time.Time
	Version string // of the program
	Node    string

	Entry    *fallback.Entry
	Trace    *trace.Trace // nil: no start was recorded
	Volume   *Volume      // nil: the daemon says nothing of it
	Unknown  string       // why it does not
	Complete string       // how much of the form is here, in a sentence; "": not known
	Ordinary *Ordinary    // nil: no pull to compare with
}

// Volume is the form on the node now.
type Volume struct {
	State    string
	Size     int64 // bytes of the form
	Here     int64 // of them on the node
	Fetched  int64 // bytes since it was opened
	Requests int64
}

// Ordinary is a pull in which containerd fetched the layers, from the same registry
// and by this node.
type Ordinary struct {
	Reference string
	Time      time.Time
	Bytes     int64         // of its layers
	Took      time.Duration // containerd's part
}

// Compare returns the latest of entries, the newest first, that was an ordinary pull
// from the registry host of e and fetched layers; nil if there is none.
func Compare(e *fallback.Entry, entries []fallback.Entry) *Ordinary {
	for i := range entries {
		other := &entries[i]
		if other.Outcome != fallback.Ordinary || other.Reason == reason.AlreadyPresent || other.ImageBytes < least || hostOf(other.Reference) != hostOf(e.Reference) ||
			other.Forward == nil || other.Forward.Error != "" || other.Repeated > 0 || len(other.Materialised) > 0 {
			continue
		}
		if took := other.Steps.Forward.Duration(); took > 0 {
			return &Ordinary{Reference: other.Reference, Time: other.Time, Bytes: other.ImageBytes, Took: took}
		}
	}
	return nil
}

// least is how much a pull must have fetched to say something of the speed.
const least = 1 << 20

// guess is how long an ordinary pull of n bytes would take at that speed.
func (o *Ordinary) guess(n int64) time.Duration {
	return time.Duration(float64(o.Took) * float64(n) / float64(o.Bytes))
}
