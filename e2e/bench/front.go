package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/referee-cri/referee/e2e/compare"
	"github.com/referee-cri/referee/e2e/node"
)

// Call is what one kind of call took, made of the same containerd at once
// directly and through Referee.
type Call struct {
	Name            string
	Direct, Proxied Durations
}

const warmupCalls = 200

// measureFront alternates direct and proxied calls, in random order, so that
// both see the same machine.
func measureFront(ctx context.Context, bed *compare.Bed, image compare.Image, l compare.Link, calls int) ([]Call, error) {
	if err := bed.Pull(ctx, image, l); err != nil {
		return nil, err
	}
	ref := image.Ref(l)
	kinds := []struct {
		name string
		do   func(*node.Client) error
	}{
		{"ImageStatus", func(c *node.Client) error { _, err := c.ImageStatus(ctx, ref); return err }},
		{"ListImages", func(c *node.Client) error { _, err := c.List(ctx); return err }},
	}
	var out []Call
	for _, kind := range kinds {
		call := Call{Name: kind.name}
		for i := range calls + warmupCalls {
			direct, proxied, err := both(bed, kind.do)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kind.name, err)
			}
			if i >= warmupCalls {
				call.Direct, call.Proxied = append(call.Direct, direct), append(call.Proxied, proxied)
			}
		}
		out = append(out, call)
	}
	return out, bed.Remove(ctx, l, image)
}

func both(bed *compare.Bed, do func(*node.Client) error) (direct, proxied time.Duration, err error) {
	timed := func(c *node.Client) (time.Duration, error) {
		began := time.Now()
		err := do(c)
		return time.Since(began), err
	}
	if rand.IntN(2) == 0 {
		if direct, err = timed(bed.Direct); err == nil {
			proxied, err = timed(bed.Lazy)
		}
		return direct, proxied, err
	}
	if proxied, err = timed(bed.Lazy); err == nil {
		direct, err = timed(bed.Direct)
	}
	return direct, proxied, err
}
