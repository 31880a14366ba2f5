// Package criimage is the CRI front: one unix socket that answers as
// containerd's own would, with one difference. Before a PullImage is forwarded
// a [Preparer] is given the chance to make the image ready.
//
// # The way of one call
//
//		kubelet ── frame ──▶ Server.handle ──▶ relay ── the same frame ──▶ containerd
//		   ▲                      │                                           │
//		   │                      └─ PullImage: join a preparation, wait      │
//		   └──────────── headers, frames, trailers, status ◀──────────────────┘
//
//	  - Every method arrives in handle: the gRPC server knows no service at all,
//	    so methods and services that are not invented yet pass like the rest.
//	  - A message is a [frame], the bytes between two gRPC message headers. The
//	    codec hands over references to the receive buffers; nothing is decoded and
//	    nothing is copied.
//	  - relay opens the same method on containerd's connection with the caller's
//	    metadata, deadline and cancellation, then pumps both directions at once:
//	    requests until the caller half-closes, answers until containerd's status.
//	    At most one message a direction is held, beyond HTTP/2's windows, so a
//	    slow reader slows the writer down instead of filling our memory.
//	  - PullImage: the first frame is copied and the copy parsed. Callers that ask
//	    for the same thing at the same time share one preparation. When it has
//	    returned, or the frame made no sense, the first frame is forwarded, as
//	    received.
//	  - RemoveImage: forwarded, and then told to the Preparer.
//
// # What it never does
//
// It never changes a message, answers in containerd's place (except Unavailable
// when containerd's socket does not, and where the Preparer finds a pull unsafe)
// or retries what containerd may have seen. It knows nothing of registries,
// devices or snapshots.
//
// What does not pass, because gRPC makes it a matter of each hop: the user
// agent, message compression (gzip is understood on both sides, and undone
// here) and HTTP/2 pings.
//
// # Goroutines
//
// Beside those of gRPC: a call's handler pumps the answers, and one goroutine
// its requests; it ends when the call does. Each preparation has one, from the
// first caller to the end of settle. Shutdown waits for all of them.
package criimage
