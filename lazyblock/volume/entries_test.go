package volume

import "testing"

func TestEntriesGoWithTheirLastPin(t *testing.T) {
	t.Parallel()
	m := &Manager{volumes: make(map[string]*entry)}
	a, again := m.pin("a"), m.pin("a")
	last := a.pinned
	m.unpin(a)
	if a != again || m.volumes["a"] != a {
		t.Error("an entry went although it is pinned")
	}
	m.unpin(again)
	if len(m.volumes) != 0 {
		t.Errorf("%d entries left", len(m.volumes))
	}
	if m.untouched("a", last) != true {
		t.Error("nobody touched it")
	}
	mounted := m.pin("a")
	m.set(mounted, &opened{})
	m.unpin(mounted)
	if m.volumes["a"] != mounted {
		t.Error("an entry went although it is mounted")
	}
	if m.untouched("a", last) {
		t.Error("a pin was overlooked because the entry is a new one")
	}
}
