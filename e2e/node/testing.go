package node

import (
	"os"
	"testing"
)

// Run starts a node for a test. It is stopped when the test ends; what is then
// left behind fails the test, and of a failed test the logs are shown. Without
// root the test is skipped.
func Run(t testing.TB, opts Options) *Node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a node needs root")
	}
	n, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		containerd, referee := n.Log(), readLog(n.path("referee.log"))
		if err := n.Stop(); err != nil {
			t.Errorf("stop node: %v", err)
		}
		if t.Failed() {
			t.Logf("containerd %s logged:\n%s", n.Version(), tail(containerd, 60))
			t.Logf("referee logged:\n%s", tail(referee, 100))
		}
	})
	return n
}

// RunReferee starts the daemon for a test; the node's end is its end.
func (n *Node) RunReferee(t testing.TB, opts RefereeOptions) *Referee {
	t.Helper()
	r, err := n.StartReferee(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
