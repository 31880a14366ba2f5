package main

import (
	"fmt"
	"io"
	"time"

	"github.com/referee-cri/referee/e2e/compare"
)

// aim is one line of the table of aims; it is left out where what it compares was
// not measured.
type aim struct {
	what, image, link, limit, measured string
	met                                bool
}

func (r *Report) writePullAims(out io.Writer) {
	row, flush := table(out, "Aims", "aim", "image", "link", "limit", "measured", "")
	defer flush()
	for _, a := range r.pullAims() {
		row(a.what, a.image, a.link, a.limit, a.measured, verdict(a.met))
	}
}

func (r *Report) pullAims() (aims []aim) {
	for _, image := range r.Images {
		for _, l := range r.Links {
			aims = append(aims, r.aimOfPull(image, l)...)
			aims = append(aims, r.aimsAgainstPeers(image, l)...)
		}
	}
	for _, image := range r.Images {
		if image.Size >= largeImage {
			aims = append(aims, r.aimsOfLarge(image, r.Links[len(r.Links)-1])...)
		}
	}
	for _, image := range r.Images {
		if image.Size > smallImage {
			continue
		}
		for _, l := range r.Links {
			if times, ok := r.readyTimes(image, l, lazyWarm, ordinary); ok {
				aims = append(aims, aim{
					"a small image forced to be lazy, against ordinary", image.Name, l.Name,
					fmt.Sprintf("<= %.2fx", aimSmall), fmt.Sprintf("%.2fx", times), times <= aimSmall,
				})
			}
		}
	}
	return aims
}

func (r *Report) aimOfPull(image compare.Image, l compare.Link) []aim {
	warm := r.pick(image, l, lazyWarm)
	if len(warm.pull) == 0 {
		return nil
	}
	limit := aimRoundTrips*l.Shape.RTT + aimFixed + time.Duration(image.Layers)*aimLayer
	return []aim{{
		"lazy PullImage, warm: 5 round trips + 50 ms + 6 ms a layer", image.Name, l.Name,
		fmt.Sprintf("%.3f s", limit.Seconds()), fmt.Sprintf("%.3f s", warm.pull.median().Seconds()), warm.pull.median() <= limit,
	}}
}

// aimsAgainstPeers compares daemons that have just started, each with the form of
// its own, and Referee with the form of the peer.
func (r *Report) aimsAgainstPeers(image compare.Image, l compare.Link) (aims []aim) {
	for _, c := range []struct{ ours, theirs Variant }{
		{lazyCold, stargz}, {lazyCold, soci}, {lazyTraced, stargzRecorded}, {lazyStargz, stargz}, {lazySOCI, soci},
	} {
		if times, ok := r.readyTimes(image, l, c.ours, c.theirs); ok {
			aims = append(aims, aim{
				fmt.Sprintf("ready sooner, %s against %s", c.ours, c.theirs), image.Name, l.Name,
				"> 1.00x", fmt.Sprintf("%.2fx", 1/times), times < 1,
			})
		}
	}
	return aims
}

func (r *Report) aimsOfLarge(image compare.Image, l compare.Link) (aims []aim) {
	for _, c := range []struct {
		variant, base Variant
		aim           float64
	}{{lazyWarm, ordinary, aimReady}, {lazyTraced, tuned, aimTraced}} {
		if times, ok := r.readyTimes(image, l, c.variant, c.base); ok {
			aims = append(aims, aim{
				fmt.Sprintf("ready sooner, %s against %s", c.variant, c.base), image.Name, l.Name,
				fmt.Sprintf(">= %.0fx", c.aim), fmt.Sprintf("%.2fx", 1/times), 1/times >= c.aim,
			})
		}
	}
	if bytes := r.pick(image, l, lazyTraced).bytes; len(bytes) > 0 {
		share := float64(quantile(bytes, 0.5)) / float64(image.Size)
		aims = append(aims, aim{
			"bytes until ready, " + string(lazyTraced), image.Name, l.Name,
			fmt.Sprintf("<= %.0f %%", 100*aimBytes), fmt.Sprintf("%.1f %%", 100*share), share <= aimBytes,
		})
	}
	return aims
}

// readyTimes is how many times as long as the base a variant takes until ready.
func (r *Report) readyTimes(image compare.Image, l compare.Link, variant, base Variant) (times float64, ok bool) {
	ours, theirs := r.pick(image, l, variant).ready, r.pick(image, l, base).ready
	if len(ours) == 0 || len(theirs) == 0 {
		return 0, false
	}
	return ours.median().Seconds() / theirs.median().Seconds(), true
}
