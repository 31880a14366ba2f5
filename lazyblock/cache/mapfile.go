package cache

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// A map file, all numbers little-endian:
//
//	 0  8  magic
//	 8  8  size of the blob
//	16  4  block size
//	20  4  flags: 1 sealed, 2 the rest is zeros
//	24 16  id of the data file
//	40  .  one bit a block, in 64-bit words, lowest bit first
//	 .  32 SHA-256 of all that and of the name of the blob's directory
//
// The name in the checksum ties a map to its blob, the id to its data file: a
// map is never believed about another file that has come to the same place.
const (
	mapMagic  = "RFMAP\x00\x00\x01"
	mapHeader = 40
)

const (
	// flagSealed says that nothing is missing any more.
	flagSealed = 1
	// flagZeros says, of a sealed one, that blocks which are not in the map are zeros.
	flagZeros = 2
)

type dataID [16]byte

// mapFile is a decoded map.
type mapFile struct {
	size      int64
	blockSize int64
	id        dataID
	sealed    bool // nothing is missing
	zeros     bool // what is not in words is zeros
	words     []uint64
}

var errMap = errors.New("not a map of this blob")

func (m *mapFile) blocks() int64 { return (m.size + m.blockSize - 1) / m.blockSize }

// mapLength is the length of a map file.
func mapLength(size, blockSize int64) int64 {
	return mapHeader + 8*bitmapWords((size+blockSize-1)/blockSize) + sha256.Size
}

func (m *mapFile) encode(name string) []byte {
	raw := make([]byte, 0, mapLength(m.size, m.blockSize))
	raw = append(raw, mapMagic...)
	raw = binary.LittleEndian.AppendUint64(raw, uint64(m.size))
	raw = binary.LittleEndian.AppendUint32(raw, uint32(m.blockSize))
	var flags uint32
	if m.sealed {
		flags |= flagSealed
	}
	if m.zeros {
		flags |= flagZeros
	}
	raw = binary.LittleEndian.AppendUint32(raw, flags)
	raw = append(raw, m.id[:]...)
	for _, word := range m.words {
		raw = binary.LittleEndian.AppendUint64(raw, word)
	}
	sum := mapSum(raw, name)
	return append(raw, sum[:]...)
}

// decodeMap takes raw as the map of a blob of that size in the directory name,
// or returns errMap. It allocates no more than raw is long.
func decodeMap(raw []byte, name string, size, blockSize int64) (*mapFile, error) {
	if int64(len(raw)) != mapLength(size, blockSize) || string(raw[:8]) != mapMagic {
		return nil, fmt.Errorf("%w: %d bytes long", errMap, len(raw))
	}
	body, sum := raw[:len(raw)-sha256.Size], raw[len(raw)-sha256.Size:]
	if want := mapSum(body, name); !bytes.Equal(sum, want[:]) {
		return nil, fmt.Errorf("%w: wrong checksum", errMap)
	}
	m := &mapFile{size: size, blockSize: blockSize, id: dataID(body[24:40])}
	if binary.LittleEndian.Uint64(body[8:]) != uint64(size) || int64(binary.LittleEndian.Uint32(body[16:])) != blockSize {
		return nil, fmt.Errorf("%w: other size", errMap)
	}
	flags := binary.LittleEndian.Uint32(body[20:])
	if flags&^(flagSealed|flagZeros) != 0 || flags == flagZeros {
		return nil, fmt.Errorf("%w: unknown flags %#x", errMap, flags)
	}
	m.sealed, m.zeros = flags&flagSealed != 0, flags&flagZeros != 0
	m.words = make([]uint64, (len(body)-mapHeader)/8)
	for i := range m.words {
		m.words[i] = binary.LittleEndian.Uint64(body[mapHeader+8*i:])
	}
	if n := m.blocks(); n%64 != 0 && m.words[n/64]>>(n%64) != 0 {
		return nil, fmt.Errorf("%w: blocks beyond its end", errMap)
	}
	if m.sealed && !m.zeros && m.bytes() != size {
		return nil, fmt.Errorf("%w: sealed and not whole", errMap)
	}
	return m, nil
}

func mapSum(body []byte, name string) [sha256.Size]byte {
	h := sha256.New()
	h.Write(body)
	h.Write([]byte(name))
	return [sha256.Size]byte(h.Sum(nil))
}

// bytes is how much of the blob the map says is there.
func (m *mapFile) bytes() int64 {
	var blocks int
	for _, word := range m.words {
		blocks += bits.OnesCount64(word)
	}
	total := int64(blocks) * m.blockSize
	if n := m.blocks(); n > 0 && m.words[(n-1)/64]>>((n-1)%64)&1 == 1 {
		total -= n*m.blockSize - m.size // the last block is shorter
	}
	return total
}
