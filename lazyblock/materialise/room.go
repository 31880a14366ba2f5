package materialise

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrNoRoom says that the file system has too little room for the layers.
var ErrNoRoom = errors.New("no room on the file system")

// maxReserve is the most that is kept free without being asked, in bytes.
const maxReserve = 8 << 30

// room watches the free space of a file system. It is what bounds the unpacking:
// nobody states how long a layer is uncompressed, a ratio that no honest layer
// exceeds does not exist (zeros compress a thousandfold), and what a bomb can
// harm here is the disk.
type room struct {
	dir     string
	reserve int64 // bytes; 0: by the file system's size
}

// left is how many bytes may still be written.
func (r room) left() (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(r.dir, &fs); err != nil {
		return 0, fmt.Errorf("look for free space at %s: %w", r.dir, err)
	}
	reserve := r.reserve
	if reserve == 0 {
		reserve = min(int64(fs.Blocks)*fs.Bsize/20, maxReserve)
	}
	return max(int64(fs.Bavail)*fs.Bsize-reserve, 0), nil
}

// need fails unless n bytes may be written.
func (r room) need(n int64) error {
	left, err := r.left()
	if err == nil && left < n {
		err = fmt.Errorf("%w: %d bytes are free to use, %d are needed", ErrNoRoom, left, n)
	}
	return err
}

// noRoom recognises a full disk whoever met it.
func noRoom(err error) error {
	if errors.Is(err, ErrNoRoom) || !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNoRoom, err)
}
