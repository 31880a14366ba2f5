package stargz

import (
	"archive/tar"
	"path"

	"github.com/referee-cri/referee/internal/reason"
)

// links are the hard links of a layer, by name, as the library will see them: the last
// entry of a name counts.
type links map[string]string

// note takes the next entry of the layer.
func (l links) note(header *tar.Header) {
	if header.Typeflag == tar.TypeLink {
		l[cleaned(header.Name)] = cleaned(header.Linkname)
	} else if len(l) > 0 {
		delete(l, cleaned(header.Name))
	}
}

// cleaned is a name as the library compares names: relative to the root, "" for it.
func cleaned(name string) string { return path.Clean("/" + name)[1:] }

// maxMoves bounds how far the library recurses to move a file to the front: to its
// parents, and to what it is a link to. It has no bound of its own (stargz-snapshotter
// 0.19), so that links which lead to each other would end the process.
const maxMoves = 8192

// check refuses prioritized files that the library cannot move.
func (l links) check(prioritized []string) error {
	movable := map[string]bool{"": true}
	for _, name := range prioritized {
		if !l.follow(cleaned(name), movable, 0) {
			return reason.Errorf(reason.ArtifactInvalid, "prioritized file %.256q: hard links that lead to each other, or more than %d to follow", name, maxMoves)
		}
	}
	return nil
}

func (l links) follow(name string, movable map[string]bool, moves int) bool {
	if movable[name] {
		return true
	}
	if moves == maxMoves || !l.follow(cleaned(path.Dir(name)), movable, moves+1) {
		return false
	}
	if target, isLink := l[name]; isLink && !l.follow(target, movable, moves+1) {
		return false
	}
	movable[name] = true
	return true
}
