package report

import (
	"fmt"
	"math"

	"github.com/dustin/go-humanize"

	"github.com/referee-cri/referee/lazyblock/trace"
)

// How the map of a form is drawn. A cell stands for so many bytes that all layers
// together have about maxCells.
const (
	columns   = 96
	maxCells  = 2400
	cellSize  = 9 // pixels, with the gap
	shades    = 6 // of time, the first earliest
	leastCell = 64 << 10
)

// layer is one blob of the form as the map shows it.
type layer struct {
	Name          string
	Size          int64
	Read          int64
	Share         float64 // of it read, percent
	Width, Height int     // pixels
	Cells         []cell  // those of which something was read
	Empty         []strip // all of them, by row
}

type cell struct {
	X, Y  int
	Shade int
	Title string
}

// strip is a row of cells.
type strip struct{ Y, Width int }

// blockMap is the map of a start, and what its shades mean.
type blockMap struct {
	Layers []layer
	Cell   int64    // bytes of a cell
	Shades []string // the time at which each ends
	Timed  bool     // it is known when ranges were read
}

// mapOf draws which parts of the form's blobs were read, and when.
func mapOf(t *trace.Trace) *blockMap {
	var total int64
	for _, l := range t.Layers {
		total += l.Size
	}
	m := &blockMap{Cell: max(roundUp(total/maxCells), leastCell)}
	last := 0.0
	for _, r := range t.Ranges {
		last = max(last, r.At)
	}
	m.Timed = last > 0
	for i := range shades {
		m.Shades = append(m.Shades, fmt.Sprintf("%.2g s", last*edge(i+1)))
	}
	for i, l := range t.Layers {
		m.Layers = append(m.Layers, m.layer(l, of(t.Ranges, i), last))
	}
	return m
}

// edge is the part of the whole time at which shade i begins: most happens early.
func edge(i int) float64 { return math.Pow(float64(i)/shades, 2) }

func shadeOf(at, last float64) int {
	for i := 1; i < shades; i++ {
		if at < last*edge(i) {
			return i - 1
		}
	}
	if last == 0 {
		return 0
	}
	return shades - 1
}

func of(ranges []trace.Range, layer int) []trace.Range {
	var list []trace.Range
	for _, r := range ranges {
		if r.Layer == layer {
			list = append(list, r)
		}
	}
	return list
}

func (m *blockMap) layer(l trace.Layer, ranges []trace.Range, last float64) layer {
	cells := int((l.Size + m.Cell - 1) / m.Cell)
	rows := (cells + columns - 1) / columns
	drawn := layer{Name: short(l.Digest.String()), Size: l.Size, Width: columns * cellSize, Height: rows * cellSize}
	for row := range rows {
		drawn.Empty = append(drawn.Empty, strip{row * cellSize, min(columns, cells-row*columns) * cellSize})
	}
	first := make(map[int]float64) // the time at which each cell was read first
	for _, r := range ranges {
		drawn.Read += r.Length
		for c := int(r.Offset / m.Cell); c <= int((r.Offset+r.Length-1)/m.Cell); c++ {
			if at, known := first[c]; !known || r.At < at {
				first[c] = r.At
			}
		}
	}
	for c := range cells {
		if at, read := first[c]; read {
			title := fmt.Sprintf("%s at %s", size(m.Cell), size(int64(c)*m.Cell))
			if m.Timed {
				title += fmt.Sprintf(", read after %.2f s", at)
			}
			drawn.Cells = append(drawn.Cells, cell{c % columns * cellSize, c / columns * cellSize, shadeOf(at, last), title})
		}
	}
	drawn.Share = percent(drawn.Read, l.Size)
	return drawn
}

// roundUp returns the least power of two that is at least n.
func roundUp(n int64) int64 {
	power := int64(1)
	for power < n {
		power *= 2
	}
	return power
}

func percent(part, whole int64) float64 { return 100 * float64(part) / float64(max(whole, 1)) }

// size is a number of bytes for people.
func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
