package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/referee-cri/referee/e2e/compare"
	"github.com/referee-cri/referee/internal/regtest"
)

// Crowd is pulls through Referee at the same time, over the first link, from cold.
type Crowd struct {
	Name  string
	Pulls int
	Took  Durations     // of those that succeeded
	All   time.Duration // until the last was answered
	Lazy  int           // images that came the lazy way
	// Requests that the registry had, and those of them that were containerd's.
	Requests, Containerd int
	Errors               []string `json:",omitempty"`
}

// The crowds. The second is compared with the first.
const (
	alone       = "one pull"
	sameImage   = "one image"
	otherImages = "different images"

	crowdSize   = 50
	aimRequests = 1.2 // times those of one pull, of Referee for many pulls of one image
)

// measureCrowds pulls small images: what is measured is not the link.
func measureCrowds(ctx context.Context, progress io.Writer, bed *compare.Bed, report *Report) error {
	var images []compare.Image
	for i := range crowdSize {
		image, err := bed.PublishSynthetic(ctx, fmt.Sprintf("crowd%d", i), regtest.ImageSpec{Layers: 3, LayerSize: 1 << 20, Seed: int64(1000 + i)})
		if err != nil {
			return err
		}
		images = append(images, image)
	}
	same := make([]compare.Image, crowdSize)
	for i := range same {
		same[i] = images[0]
	}
	for _, c := range []struct {
		name   string
		images []compare.Image
	}{{alone, images[:1]}, {sameImage, same}, {otherImages, images}} {
		crowd, err := pullTogether(ctx, bed, c.images, report.Links[0])
		if err != nil {
			return fmt.Errorf("pull %s at once: %w", c.name, err)
		}
		crowd.Name = c.name
		fmt.Fprintf(progress, "%d pulls at once, %s: %.3f s, %d errors\n", crowd.Pulls, c.name, crowd.All.Seconds(), len(crowd.Errors))
		report.Crowds = append(report.Crowds, crowd)
	}
	return nil
}

// pullTogether pulls all images at once. Each pull has its goroutine, which is
// waited for.
func pullTogether(ctx context.Context, bed *compare.Bed, images []compare.Image, l compare.Link) (Crowd, error) {
	crowd := Crowd{Pulls: len(images)}
	if err := bed.Chill(ctx, compare.Lazy); err != nil {
		return crowd, err
	}
	bed.Registry.ResetRequests()
	var mu sync.Mutex
	var pulls sync.WaitGroup
	began := time.Now()
	for _, image := range images {
		pulls.Go(func() {
			_, err := bed.Lazy.Pull(ctx, image.Ref(l), nil)
			took := time.Since(began)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				crowd.Errors = append(crowd.Errors, err.Error())
				return
			}
			crowd.Took = append(crowd.Took, took)
		})
	}
	pulls.Wait()
	crowd.All = time.Since(began)
	for _, request := range bed.Registry.Requests() {
		crowd.Requests++
		if strings.HasPrefix(request.UserAgent, "containerd/") {
			crowd.Containerd++
		}
	}
	distinct := map[string]compare.Image{}
	for _, image := range images {
		distinct[image.Name] = image
	}
	var errs []error
	for _, image := range distinct {
		lazy, err := bed.WasLazy(ctx, image, l, began)
		if lazy {
			crowd.Lazy++
		}
		errs = append(errs, err, bed.Lazy.Remove(ctx, image.Ref(l)))
	}
	return crowd, errors.Join(append(errs, bed.Remove(ctx, l))...)
}

func (r *Report) writeCrowds(out io.Writer) {
	if len(r.Crowds) == 0 {
		return
	}
	row, flush := table(out, fmt.Sprintf("Pulls at the same time, %s (the link), from cold, seconds", r.Links[0].Name),
		"of", "pulls", "errors", "lazy images", "p50", "p99", "all", "requests, Referee's", "containerd's", "aim", "")
	defer flush()
	var own float64
	for _, c := range r.Crowds {
		asked := float64(c.Requests - c.Containerd)
		aim, met := "no error", len(c.Errors) == 0
		switch c.Name {
		case alone:
			own = asked
		case sameImage:
			aim, met = fmt.Sprintf("no error, <= %.1fx the requests", aimRequests), met && asked <= aimRequests*own
		}
		row(c.Name, fmt.Sprint(c.Pulls), fmt.Sprint(len(c.Errors)), fmt.Sprint(c.Lazy), fmt.Sprintf("%.3f", c.Took.median().Seconds()),
			fmt.Sprintf("%.3f", quantile(c.Took, 0.99).Seconds()), fmt.Sprintf("%.3f", c.All.Seconds()),
			fmt.Sprintf("%.0f", asked), fmt.Sprint(c.Containerd), aim, verdict(met))
	}
}
