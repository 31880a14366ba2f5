package link

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// lane is one direction of a link: a queue of limited length in front of a wire
// of limited rate, then a constant delay.
type lane struct {
	delay time.Duration
	rate  float64 // bits per second; 0 is unlimited
	limit int     // bytes that may wait for the wire
	loss  float64 // share of parcels that the wire loses

	parcels chan parcel

	mu   sync.Mutex
	free time.Time // when the wire has sent all that was accepted

	bytes, count, dropped atomic.Int64
}

// parcel is what one read took in, with the moment it is due at the other end.
type parcel struct {
	data []byte
	due  time.Time
	to   func([]byte)
}

// maxParcels bounds the memory of a lane of unlimited rate.
const maxParcels = 16384

func newLane(shape Shape) *lane {
	return &lane{
		delay: shape.RTT / 2, rate: shape.BitsPerSecond, limit: shape.queueBytes(), loss: shape.Loss,
		parcels: make(chan parcel, maxParcels),
	}
}

// admit reserves the wire for size bytes and tells when they arrive; false when
// the queue is full or the wire loses them.
func (l *lane) admit(now time.Time, size int) (due time.Time, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.loss > 0 && rand.Float64() < l.loss {
		return time.Time{}, false
	}
	start := now
	if l.free.After(now) {
		start = l.free
	}
	if l.rate > 0 {
		if waiting := start.Sub(now).Seconds() * l.rate / 8; waiting > 0 && int(waiting)+size > l.limit {
			return time.Time{}, false
		}
		start = start.Add(time.Duration(float64(size) * 8 / l.rate * float64(time.Second)))
		l.free = start
	}
	return start.Add(l.delay), true
}

// send copies data into the lane, or drops it. wire is its size on the wire.
func (l *lane) send(data []byte, wire int, to func([]byte)) {
	due, ok := l.admit(time.Now(), wire)
	if !ok {
		l.dropped.Add(1)
		return
	}
	select {
	case l.parcels <- parcel{append([]byte(nil), data...), due, to}:
		l.bytes.Add(int64(wire))
		l.count.Add(1)
	default:
		l.dropped.Add(1)
	}
}

// deliver hands over parcels when they are due, until stop closes. Parcels are
// due in the order in which they were accepted, so one timer is enough; those
// that are late already leave at once.
func (l *lane) deliver(stop <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-stop:
			return
		case p := <-l.parcels:
			if wait := time.Until(p.due); wait > 0 {
				timer.Reset(wait)
				select {
				case <-stop:
					return
				case <-timer.C:
				}
			}
			p.to(p.data)
		}
	}
}

func (l *lane) traffic() Traffic {
	return Traffic{Packets: l.count.Load(), Bytes: l.bytes.Load(), Dropped: l.dropped.Load()}
}
