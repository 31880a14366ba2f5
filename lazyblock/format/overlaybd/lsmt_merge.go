package overlaybd

import "slices"

// mergeLayers returns one index for a stack of layers, bottom first: for every
// sector the topmost layer that has it, mapped or zeroed, wins (spec 4.7).
// Zeroed segments have then done their work and are left out: what has no
// segment reads as zeros.
func mergeLayers(layers [][]segment) []segment {
	return slices.Clip(slices.DeleteFunc(mergeRange(layers, 0), segment.zeroed))
}

// mergeRange halves the stack, so that n layers cost log n passes.
func mergeRange(layers [][]segment, first int) []segment {
	if len(layers) == 1 {
		numbered := make([]segment, len(layers[0]))
		for i, s := range layers[0] {
			numbered[i] = s.withLayer(first)
		}
		return numbered
	}
	half := len(layers) / 2
	return overlay(mergeRange(layers[:half], first), mergeRange(layers[half:], first+half))
}

// overlay puts upper over lower; both are ordered and disjoint.
func overlay(lower, upper []segment) []segment {
	out := make([]segment, 0, len(lower)+len(upper))
	var rest segment // what is left of the lower segment in hand
	held := false
	take := func() bool {
		if !held && len(lower) > 0 {
			rest, lower, held = lower[0], lower[1:], true
		}
		return held
	}
	for _, u := range upper {
		for take() && rest.start() < u.start() {
			if rest.end() <= u.start() {
				out, held = append(out, rest), false
				continue
			}
			out = append(out, rest.cut(rest.start(), u.start()))
			rest = rest.cut(u.start(), rest.end())
		}
		for take() && rest.start() < u.end() {
			if rest.end() <= u.end() {
				held = false
				continue
			}
			rest = rest.cut(u.end(), rest.end())
		}
		out = append(out, u)
	}
	for take() {
		out, held = append(out, rest), false
	}
	return out
}
