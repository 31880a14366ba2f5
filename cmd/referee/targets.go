package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/referee-cri/referee/internal/conversion"
	"github.com/referee-cri/referee/lazyblock/convert/stargz"
	"github.com/referee-cri/referee/lazyblock/format/overlaybd"
)

// targetFlags say what an image is converted to.
type targetFlags struct {
	to         string
	algorithm  string
	overlaybd  conversion.Overlaybd
	chunkSize  int
	prioritize string
	soci       conversion.SOCI
	plainDisk  bool
}

// defaultBlockSize is the largest that every overlaybd reader takes. Against
// 4096 it makes a layer's index an eighth as long, which a node fetches before
// anything else, and a 1.3 GB image 17 % smaller.
const defaultBlockSize = 32 << 10

// targetNames are what --to takes.
//
//nolint:gochecknoglobals // a constant table
var targetNames = []string{"overlaybd", "estargz", "zstd-chunked", "soci", "soci-v2", "erofs", "disk"}

// flagTargets are the formats that a flag is for; one that is not here is for all.
//
//nolint:gochecknoglobals // a constant table
var flagTargets = map[string][]string{
	"algorithm":   {"overlaybd"},
	"block-size":  {"overlaybd"},
	"legacy-oras": {"overlaybd"},
	"chunk-size":  {"estargz", "zstd-chunked"},
	"prioritize":  {"estargz", "zstd-chunked"},

	"span-size":      {"soci", "soci-v2"},
	"min-layer-size": {"soci", "soci-v2"},
	"uncompressed":   {"disk"},
}

//nolint:gochecknoglobals // a constant table
var algorithms = map[string]overlaybd.Algorithm{"lz4": overlaybd.LZ4, "zstd": overlaybd.Zstd}

func (f *targetFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.to, "to", "overlaybd", "format to build: "+strings.Join(targetNames, ", "))
	flags.BoolVar(&f.overlaybd.LegacyORAS, "legacy-oras", false, "overlaybd: publish as an ORAS artifact manifest (dadi.image.v1)")
	flags.StringVar(&f.algorithm, "algorithm", "zstd", "overlaybd: block compression: zstd is smaller, lz4 is what the original tools write")
	flags.IntVar(&f.overlaybd.BlockSize, "block-size", defaultBlockSize, "overlaybd: bytes compressed as one block; the original tools write 4096")
	flags.IntVar(&f.chunkSize, "chunk-size", 4<<20, "estargz, zstd-chunked: bytes of a file that are compressed as one")
	flags.StringVar(&f.prioritize, "prioritize", "", "estargz, zstd-chunked: file with the paths that a start reads, one a line, in order")
	flags.Int64Var(&f.soci.SpanSize, "span-size", conversion.DefaultSpanSize, "soci, soci-v2: bytes of plain data from one place where reading can begin to the next")
	flags.Int64Var(&f.soci.MinLayerSize, "min-layer-size", conversion.DefaultMinLayerSize, "soci, soci-v2: layers of fewer bytes get no table")
	flags.BoolVar(&f.plainDisk, "uncompressed", false, "disk: leave the disk as it is instead of compressing it in seekable zstd")
}

// target returns what the flags say.
func (f *targetFlags) target(flags *pflag.FlagSet) (conversion.Target, error) {
	if !slices.Contains(targetNames, f.to) {
		return nil, fmt.Errorf("--to %s: expected one of %s", f.to, strings.Join(targetNames, ", "))
	}
	var stray error
	flags.Visit(func(flag *pflag.Flag) {
		if formats := flagTargets[flag.Name]; formats != nil && !slices.Contains(formats, f.to) {
			stray = fmt.Errorf("--%s is for %s only, not for %s", flag.Name, strings.Join(formats, " and "), f.to)
		}
	})
	if stray != nil {
		return nil, stray
	}
	switch f.to {
	case "estargz":
		return f.stargz(stargz.EStargz)
	case "zstd-chunked":
		return f.stargz(stargz.ZstdChunked)
	case "erofs":
		return conversion.NewErofs(), nil
	case "disk":
		return conversion.NewDisk(!f.plainDisk), nil
	case "soci", "soci-v2":
		return f.tables()
	default:
		var known bool
		if f.overlaybd.Algorithm, known = algorithms[f.algorithm]; !known {
			return nil, fmt.Errorf("--algorithm %s: expected lz4 or zstd", f.algorithm)
		}
		return f.overlaybd, nil
	}
}

// Bounds of a chunk: smaller ones make tables of contents longer than what they
// are of, larger ones are what lazy readers refuse to hold in memory.
const (
	minChunkSize = 4 << 10
	maxChunkSize = 64 << 20
)

func (f *targetFlags) stargz(format stargz.Format) (conversion.Target, error) {
	if f.chunkSize < minChunkSize || f.chunkSize > maxChunkSize {
		return nil, fmt.Errorf("--chunk-size %d: expected %d to %d bytes", f.chunkSize, minChunkSize, maxChunkSize)
	}
	target := conversion.Stargz{Format: format, ChunkSize: f.chunkSize}
	if f.prioritize == "" {
		return target, nil
	}
	list, err := os.ReadFile(f.prioritize)
	if err != nil {
		return nil, fmt.Errorf("--prioritize: %w", err)
	}
	for line := range strings.Lines(string(list)) {
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			target.Prioritized = append(target.Prioritized, line)
		}
	}
	return target, nil
}

// Bounds of a span: smaller ones make tables larger than the layers, larger ones are
// what lazy readers refuse to inflate for one read.
const (
	minSpanSize = 64 << 10
	maxSpanSize = 16 << 20
)

func (f *targetFlags) tables() (conversion.Target, error) {
	if f.soci.SpanSize < minSpanSize || f.soci.SpanSize > maxSpanSize {
		return nil, fmt.Errorf("--span-size %d: expected %d to %d bytes", f.soci.SpanSize, minSpanSize, maxSpanSize)
	}
	if f.to == "soci-v2" {
		return conversion.SOCIv2{SOCI: f.soci}, nil
	}
	return f.soci, nil
}
