package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"

	"github.com/referee-cri/referee/configs"
	"github.com/referee-cri/referee/fallback"
	"github.com/referee-cri/referee/internal/control"
	"github.com/referee-cri/referee/lazyblock/complete"
)

// status is the daemon as it is now.
type status struct {
	Version     string             `json:"version"`
	Time        time.Time          `json:"time"`
	Driver      string             `json:"driver"`                 // "none": pulls are ordinary
	DriverError string             `json:"driver_error,omitempty"` // why there is none
	Draining    bool               `json:"draining"`
	Pulls       int                `json:"pulls_in_flight"`
	Volumes     []statusVolume     `json:"volumes"`
	Cache       statusCache        `json:"cache"`
	Disk        []statusDisk       `json:"disk"` // every byte below the state of the daemon that survives a reboot
	Breakers    []fallback.Breaker `json:"breakers"`
}

type statusVolume struct {
	ID          string        `json:"id"`
	Reference   string        `json:"reference"` // the image it was first attached for
	Format      string        `json:"format"`
	Artifact    digest.Digest `json:"artifact"`
	Mounted     bool          `json:"mounted"`
	Size        int64         `json:"size_bytes"`   // of its blobs
	Cached      int64         `json:"cached_bytes"` // of them on disk, and of its local files; volumes may share some
	Settled     bool          `json:"settled"`      // new containers read local files
	Whole       bool          `json:"whole"`        // compared with its digests: it needs no registry
	Quarantined bool          `json:"quarantined"`
	Requests    int64         `json:"requests"`      // to the registry since it was opened
	Fetched     int64         `json:"fetched_bytes"` // by them
}

type statusCache struct {
	Limit  int64 `json:"limit_bytes"`
	Cached int64 `json:"cached_bytes"`
	InUse  int64 `json:"in_use_bytes"` // of them, of mounted volumes
	Blobs  int   `json:"blobs"`

	Scratch int64 `json:"scratch_bytes"` // decoded and kept beside them in files without a name, until room is needed

	// Since the daemon started.
	Hits      int64 `json:"hit_reads"`  // that found everything here
	Misses    int64 `json:"miss_reads"` // that waited for a registry
	Evictions int64 `json:"evicted_blobs"`
	Waiting   int64 `json:"waiting_reads"` // now
}

// statusDisk is what a directory takes on its file system.
type statusDisk struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
}

func (s *status) write(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "referee %s\tdriver %s\tcache %s of %s in %s\n", s.Version, s.Driver, size(s.Cache.Cached), size(s.Cache.Limit), counted(s.Cache.Blobs, "blob"))
	fmt.Fprintf(table, "%s in flight\t%s waiting\t%s\n", counted(s.Pulls, "pull"), counted(int(s.Cache.Waiting), "read"), s.Cache.answered())
	if s.DriverError != "" {
		fmt.Fprintf(table, "no attach driver works, pulls are ordinary: %s\n", s.DriverError)
	}
	if s.Draining {
		fmt.Fprintln(table, "draining: pulls are ordinary until `referee drain --cancel`")
	}
	if len(s.Volumes) > 0 {
		fmt.Fprintln(table, "\nVOLUME\tFORMAT\tHERE\tOF\t\tFETCHED\tSTATE\tIMAGE")
	}
	for _, v := range s.Volumes {
		fmt.Fprintf(table, "%.12s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", v.ID, v.Format, size(v.Cached), size(v.Size), bar(v.Cached, v.Size), size(v.Fetched), v.state(), v.Reference)
	}
	fmt.Fprintln(table, "\nDISK")
	for _, d := range s.Disk {
		fmt.Fprintf(table, "%s\t%s\n", size(d.Bytes), d.Path)
	}
	if s.Cache.Scratch > 0 {
		fmt.Fprintf(table, "%s\tdecoded, in files without a name\n", size(s.Cache.Scratch))
	}
	if len(s.Breakers) > 0 {
		fmt.Fprintln(table, "\nFAILED LATELY\tTIMES\tLAST\tLEFT ALONE UNTIL")
	}
	for _, b := range s.Breakers {
		until := "-"
		if b.Open {
			until = b.Until.Format(time.TimeOnly)
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\n", b.Key, b.Failures, b.Last, until)
	}
	return table.Flush()
}

// answered says which part of the reads needed no registry.
func (c *statusCache) answered() string {
	reads := c.Hits + c.Misses
	if reads == 0 {
		return "no reads yet"
	}
	return fmt.Sprintf("%.1f %% of %d reads answered here", 100*float64(c.Hits)/float64(reads), reads)
}

// bar draws which part of a whole there is.
func bar(part, whole int64) string {
	const width = 10
	full := int(min(max(part, 0), whole) * width / max(whole, 1))
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}

func (v *statusVolume) state() string {
	state := "mounted"
	switch {
	case v.Quarantined:
		state = "QUARANTINED"
	case !v.Mounted:
		state = "NOT MOUNTED"
	case v.Whole:
		state = "mounted, whole"
	}
	if v.Settled && v.Mounted {
		state = "mounted, settled"
	}
	return state
}

// size is a number of bytes for people.
func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

func (d *daemonParts) handleStatus(w http.ResponseWriter, config *configs.Config) {
	s, err := d.status(config)
	if err != nil {
		control.Fail(w, http.StatusInternalServerError, err)
		return
	}
	_ = control.NewStream(w).Send(s) // nobody to tell
}

func (d *daemonParts) status(config *configs.Config) (*status, error) {
	s := &status{
		Version: version, Time: time.Now().UTC(), Driver: d.driver.Name(), Draining: d.gate.check() != nil, Pulls: d.cri.PullsInFlight(),
		Volumes: []statusVolume{}, Breakers: append([]fallback.Breaker{}, d.guard.Breakers()...),
	}
	if err := d.driver.Ready(); err != nil {
		s.DriverError = oneLine(err)
	}
	cached := make(map[digest.Digest]int64)
	now := d.cache.Stats()
	s.Cache.Limit, s.Cache.Hits, s.Cache.Misses, s.Cache.Evictions, s.Cache.Waiting = now.Limit, now.Hits, now.Misses, now.Evictions, now.Waiting
	s.Cache.Scratch = now.Scratch
	for _, blob := range d.cache.Usage() {
		cached[blob.Digest] = blob.Cached
		s.Cache.Blobs++
		s.Cache.Cached += blob.Cached
		if blob.InUse {
			s.Cache.InUse += blob.Cached
		}
	}
	specs, err := d.volumes.List()
	if err != nil {
		return nil, err
	}
	for id, spec := range specs {
		v := statusVolume{
			ID: id, Reference: spec.Reference, Format: spec.Format, Artifact: spec.Artifact.Digest,
			Mounted: d.volumes.Mounted(id), Settled: d.volumes.Settled(id), Quarantined: d.completion.Quarantined(id),
		}
		v.Requests, v.Fetched = d.volumes.Asked(id)
		for _, layer := range spec.Blobs() {
			v.Size += layer.Size
			v.Cached += cached[keyDigest(spec.Repository, layer.Digest)]
		}
		for _, device := range d.volumes.Devices(id) {
			v.Cached += cached[deviceDigest(device)]
		}
		if state, err := complete.ReadState(config.Root, id); err == nil && state != nil {
			v.Whole = state.Whole()
		}
		s.Volumes = append(s.Volumes, v)
	}
	slices.SortFunc(s.Volumes, func(a, b statusVolume) int {
		return strings.Compare(a.Reference+a.ID, b.Reference+b.ID)
	})
	s.Disk, err = diskUsage(config.Root, config.CacheDir())
	return s, err
}

// diskUsage tells what each directory below root takes, and others.
func diskUsage(root string, others ...string) ([]statusDisk, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("measure disk usage: %w", err)
	}
	var paths []string
	for _, entry := range entries {
		paths = append(paths, filepath.Join(root, entry.Name()))
	}
	for _, other := range others {
		if !slices.Contains(paths, other) {
			paths = append(paths, other)
		}
	}
	usage := make([]statusDisk, 0, len(paths))
	for _, path := range paths {
		n, err := allocated(path)
		if err != nil {
			return nil, fmt.Errorf("measure disk usage: %w", err)
		}
		usage = append(usage, statusDisk{path, n})
	}
	return usage, nil
}

// allocated is how many bytes a tree takes on its file system. What goes away
// meanwhile takes none.
func allocated(path string) (bytes int64, err error) {
	const block = 512 // the unit of st_blocks, stat(2)
	err = filepath.WalkDir(path, func(_ string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			bytes += stat.Blocks * block
		}
		return nil
	})
	return bytes, err
}
