package registry

import (
	"context"
	"slices"
	"sync/atomic"
	"time"
)

// maxAsks is how often one source is asked before all are found wanting: once,
// and once more for what it had remembered too long.
const maxAsks = 2

// keepTime is how long credentials past their date are kept where their source
// has no others for the moment.
const keepTime = time.Minute

// offers are what one host may be shown for one repository, best first: what the
// request brought, what each source has, and nothing at all.
//
// Credentials of the request that were never accepted are simply wrong, and the
// request fails. Those that have served once have expired since, so the sources
// take over: a volume is read long after the pull that brought the secret.
type offers struct {
	request    Credentials  // zero: none for this host
	proven     *atomic.Bool // a host has answered to the request's credentials
	sources    []Source
	repository string // "registry/path"
	host       string

	current *candidate // being presented; nil: nothing yet
	stage   int        // whose turn is next: 0 the request's, 1… the sources', then anonymous
	queue   []candidate
	asked   []int         // by source, in this round
	refused []Credentials // in this round
}

// candidate is an offer and where it is from.
type candidate struct {
	Offer
	source int // index; -1: not from a source
}

// next moves to the next offer; false: the last was refused.
func (o *offers) next(ctx context.Context) bool {
	for {
		for len(o.queue) > 0 {
			c := o.queue[0]
			o.queue = o.queue[1:]
			if !slices.Contains(o.refused, c.Credentials) {
				o.current = &c
				return true
			}
		}
		switch {
		case o.stage == 0:
			if !o.request.Anonymous() {
				o.queue = []candidate{{Offer{Credentials: o.request}, -1}}
			}
		case o.stage == 1 && !o.request.Anonymous() && !o.proven.Load():
			return false
		case o.stage <= len(o.sources):
			o.ask(ctx, o.stage-1)
		case o.stage == len(o.sources)+1:
			o.queue = []candidate{{source: -1}}
		default:
			return false
		}
		o.stage++
	}
}

func (o *offers) ask(ctx context.Context, source int) {
	if o.asked == nil {
		o.asked = make([]int, len(o.sources))
	}
	if o.asked[source] == maxAsks {
		return
	}
	o.asked[source]++
	for _, offer := range o.sources[source].Credentials(ctx, o.repository, o.host) {
		o.queue = append(o.queue, candidate{offer, source})
	}
}

// refuse notes that the host does not take the current offer.
func (o *offers) refuse() {
	if o.current == nil {
		return
	}
	o.refused = append(o.refused, o.current.Credentials)
	source := o.current.source
	if source >= 0 && o.sources[source].Refused(o.repository, o.current.Credentials) {
		o.queue = nil // what else it said is as old
		o.stage = min(o.stage, source+1)
	}
}

// renew asks the source of the current offer again when that is past its date.
// True: it has another.
func (o *offers) renew(ctx context.Context, now time.Time) bool {
	if o.current == nil || o.current.source < 0 || o.current.Expires.IsZero() || now.Before(o.current.Expires) {
		return false
	}
	source := o.current.source
	found := o.sources[source].Credentials(ctx, o.repository, o.host)
	switch {
	case ctx.Err() != nil:
		return false
	case len(found) == 0:
		o.current.Expires = now.Add(keepTime)
		return false
	}
	for _, offer := range found {
		if offer.Credentials == o.current.Credentials {
			o.current.Expires = offer.Expires
			return false
		}
	}
	o.current = &candidate{found[0], source}
	return true
}

// settle ends a round: the current offer was accepted. When it is refused one
// day, everything else is tried from the top.
func (o *offers) settle() { o.stage, o.queue, o.asked, o.refused = 0, nil, nil, nil }

// reset begins anew, after everything has been refused.
func (o *offers) reset() {
	o.settle()
	o.current = nil
}

// from names where the current offer is from.
func (o *offers) from() string {
	switch {
	case o.current == nil:
		return ""
	case o.current.source >= 0:
		return o.sources[o.current.source].Name()
	case o.current.Credentials.Anonymous():
		return "nobody"
	default:
		return "the request"
	}
}
