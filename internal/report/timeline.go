package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/lazyblock/trace"
)

// The charts' places, in pixels.
const (
	chartWidth = 864
	labelWidth = 96
	barHeight  = 16
	barStep    = 24
	axisHeight = 22
	curveTop   = 14
	curveHigh  = 150
)

// bar is one step of a pull.
type bar struct {
	Name, Took    string
	X, Width, Y   float64
	TextX         float64
	Anchor, Class string
}

// tick is a mark on an axis.
type tick struct {
	X    float64
	Text string
}

// timeline is the steps of a pull on one axis.
type timeline struct {
	Width, Height, Axis, Left int
	Bars                      []bar
	Ticks                     []tick
}

// span is a step with where it begins, in seconds after the request came.
type span struct {
	name        string
	begin, took float64
	class       string
}

// spans puts the steps where they were. The journal has their lengths: what follows
// what is known, and that grafting ends the preparation.
func spans(s fallback.Steps) []span {
	var list []span
	at := 0.0
	add := func(name string, begin, took float64, class string) {
		if took > 0 {
			list = append(list, span{name, begin, took, class})
		}
	}
	add("present", at, float64(s.Present), "ours")
	at += float64(s.Present)
	add("negotiate", at, float64(s.Negotiate), "ours")
	at += float64(s.Negotiate)
	add("open", at, float64(s.Open), "ours")
	add("mount", at+float64(s.Open), float64(s.Mount), "ours")
	prepared := max(float64(s.Prepare), at+float64(s.Open+s.Mount))
	if s.Graft > 0 {
		add("graft", max(prepared-float64(s.Graft), at), float64(s.Graft), "ours")
	}
	add("shield", max(prepared-float64(s.Shield), at), float64(s.Shield), "ours")
	add("forward", prepared, float64(s.Forward), "theirs")
	add("confirm", prepared+float64(s.Forward-s.Confirm), float64(s.Confirm), "ours")
	if s.Materialise > 0 {
		add("materialise", prepared, float64(s.Materialise), "ours")
	}
	return list
}

func timelineOf(s fallback.Steps) *timeline {
	list := spans(s)
	if len(list) == 0 {
		return nil
	}
	end := 0.0
	for _, p := range list {
		end = max(end, p.begin+p.took)
	}
	scale := float64(chartWidth-labelWidth-70) / end
	t := &timeline{Width: chartWidth, Axis: len(list)*barStep + 4, Height: len(list)*barStep + 4 + axisHeight, Left: labelWidth}
	for i, p := range list {
		b := bar{
			Name: p.name, Took: seconds(p.took), X: labelWidth + p.begin*scale, Width: max(p.took*scale, 2), Y: float64(i * barStep), Class: p.class,
		}
		b.TextX, b.Anchor = b.X+b.Width+6, "start"
		t.Bars = append(t.Bars, b)
	}
	t.Ticks = ticks(end, labelWidth, scale)
	return t
}

// ticks marks round times up to end.
func ticks(end, left, scale float64) []tick {
	step := math.Pow(10, math.Floor(math.Log10(end)))
	for _, part := range []float64{10, 5, 2} {
		if end/(step/part) <= 8 {
			step /= part
			break
		}
	}
	var list []tick
	for i := 0; float64(i)*step <= end*1.0001; i++ {
		list = append(list, tick{left + float64(i)*step*scale, seconds(float64(i) * step)})
	}
	return list
}

// curve is how the bytes that a start has read grow with time.
type curve struct {
	Width, Height, Axis, Left int
	Line, Area                string // of an SVG path
	Ticks                     []tick
	Levels                    []level
}

// level is a mark on the axis of bytes.
type level struct {
	Y    float64
	Text string
}

// curveOf draws the recorded reads, nil where it is not known when they were.
func curveOf(t *trace.Trace) *curve {
	type step struct {
		at    float64
		bytes int64
	}
	var steps []step
	for _, r := range t.Ranges {
		steps = append(steps, step{r.At, r.Length})
	}
	slices.SortStableFunc(steps, func(a, b step) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		default:
			return 0
		}
	})
	if len(steps) == 0 || steps[len(steps)-1].at == 0 {
		return nil
	}
	end, total := steps[len(steps)-1].at, t.Bytes()
	x := float64(chartWidth-labelWidth-20) / end
	y := float64(curveHigh) / float64(total)
	c := &curve{Width: chartWidth, Axis: curveTop + curveHigh, Height: curveTop + curveHigh + axisHeight, Left: labelWidth, Ticks: ticks(end, labelWidth, x)}
	var line strings.Builder
	fmt.Fprintf(&line, "M%d %d", labelWidth, c.Axis)
	var sum int64
	for _, s := range steps {
		fmt.Fprintf(&line, "H%.1f", labelWidth+s.at*x)
		sum += s.bytes
		fmt.Fprintf(&line, "V%.1f", float64(c.Axis)-float64(sum)*y)
	}
	c.Line = line.String()
	c.Area = c.Line + fmt.Sprintf("V%dH%dZ", c.Axis, labelWidth)
	for _, part := range []int64{2, 1} {
		c.Levels = append(c.Levels, level{float64(c.Axis) - float64(total/part)*y, size(total / part)})
	}
	return c
}

// seconds is a time for people.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d == 0:
		return "0"
	case d < time.Millisecond:
		return fmt.Sprintf("%.0f µs", s*1e6)
	case d < time.Second:
		return fmt.Sprintf("%.3g ms", s*1e3)
	default:
		return fmt.Sprintf("%.3g s", s)
	}
}
