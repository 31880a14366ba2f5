package nydus

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/referee-cri/referee/internal/reason"
)

// stretchRow spells a row of a stretch.
func stretchRow(in, window uint64, stored, size, windowSize uint32, bits byte) []byte {
	le := binary.LittleEndian
	row := le.AppendUint64(nil, in)
	row = le.AppendUint64(row, 0)
	row = le.AppendUint64(row, window)
	row = le.AppendUint32(row, stored)
	row = le.AppendUint32(row, size)
	row = le.AppendUint32(row, windowSize)
	return append(row, 0, bits, 0, 0)
}

func TestStretchesAreBounded(t *testing.T) {
	t.Parallel()
	windows := make([]byte, 40_000)
	sound := stretchRow(10, 0, 100, 100, 30_000, 0)
	for name, tc := range map[string]struct {
		row  []byte
		says string
	}{
		"sound":                  {stretchRow(10, 30_000, 100, 100, 10_000, 7), ""},
		"a window of another":    {stretchRow(10, 0, 100, 100, 30_000, 0), "30000 bytes before"},
		"a window outside":       {stretchRow(10, 1<<63, 100, 100, 10_000, 0), "10000 bytes before"},
		"a window at the end":    {stretchRow(10, 30_001, 100, 100, 10_000, 0), "10000 bytes before"},
		"a long window":          {stretchRow(10, 0, 100, 100, 32<<10+1, 0), "32769 bytes before"},
		"long, stored":           {stretchRow(10, 0, 1<<30, 100, 0, 0), "1073741824 bytes at 10"},
		"long, inflated":         {stretchRow(10, 0, 100, 1<<30, 0, 0), "inflates to 1073741824"},
		"bits before the file":   {stretchRow(0, 0, 100, 100, 0, 1), "at 0"},
		"more bits than a byte":  {stretchRow(10, 0, 100, 100, 0, 8), "8 bits"},
		"beyond all files":       {stretchRow(1<<63, 0, 100, 100, 0, 0), "stretch of 100 bytes"},
		"nothing before nothing": {stretchRow(10, 40_000, 1, 1, 0, 0), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var list blobList
			err := list.parseStretches(append(sound[:len(sound):len(sound)], tc.row...), windows)
			if tc.says == "" {
				if err != nil || list.cuts.Len() != 2 || len(list.batches) != 2 {
					t.Errorf("%d stretches, %v", len(list.batches), err)
				}
				return
			}
			if reason.Of(err) != reason.FormatCorrupt || !strings.Contains(fmt.Sprint(err), tc.says) {
				t.Errorf("error %v, want one that says %q", err, tc.says)
			}
		})
	}
}
