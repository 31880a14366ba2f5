package cache

import "sync/atomic"

// Stats is what a Store holds now and has done since it was opened.
type Stats struct {
	Bytes, Limit int64 // on disk, and at most; 0: no limit
	InUse        int64 // of Bytes, of open blobs
	Scratch      int64 // of Bytes, of scratch files
	Blobs        int

	Hits, Misses        int64 // reads that found everything here, and that waited
	HitBytes, MissBytes int64 // that they returned
	Evictions           int64 // blobs removed to make room
	EvictedBytes        int64
	RefusedBytes        int64 // fetched, and not kept for want of room
	Waiting             int64 // readers that wait for a registry now
}

// counts is the part of Stats that grows.
type counts struct {
	hits, misses, hitBytes, missBytes     atomic.Int64
	evictions, evictedBytes, refusedBytes atomic.Int64
}

// Stats returns the numbers of now. It takes time in proportion to the blobs.
func (s *Store) Stats() Stats {
	c := &s.counts
	stats := Stats{
		Limit: s.opts.MaxBytes,
		Hits:  c.hits.Load(), Misses: c.misses.Load(), HitBytes: c.hitBytes.Load(), MissBytes: c.missBytes.Load(),
		Evictions: c.evictions.Load(), EvictedBytes: c.evictedBytes.Load(), RefusedBytes: c.refusedBytes.Load(),
		Waiting: s.waits.now.Load(),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	stats.Bytes, stats.Scratch, stats.Blobs = s.bytes, s.scratch(), len(s.entries)
	for _, e := range s.entries {
		if e.refs > 0 || e.closing != nil {
			stats.InUse += e.bytes
		}
	}
	return stats
}
