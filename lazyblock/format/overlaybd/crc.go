package overlaybd

import "hash/crc32"

// blockSeed is where the register of a block's CRC starts; digests and index
// CRCs start at 0 (spec section 0).
const blockSeed = 100007

// Checksum is the CRC with which overlaybd protects headers and indexes, in other
// files than layers too.
func Checksum(p []byte) uint32 { return rawCRC(0, p) }

// rawCRC is CRC-32C without the inversions before and after: the register
// starts at seed and comes back as it is.
func rawCRC(seed uint32, p []byte) uint32 {
	return ^crc32.Update(^seed, crc32.MakeTable(crc32.Castagnoli), p)
}
