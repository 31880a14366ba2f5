package overlaybd

import (
	"fmt"
	"strconv"
)

// tarHead returns the 1536 bytes that stock's overlaybd-commit puts before a
// payload of n bytes (spec 2.1). No tar library writes these: the member's own
// size field stays 0, numbers are padded with blanks, and most fields of the
// first header are empty.
func tarHead(n int64) []byte {
	head := make([]byte, tarPrefix)
	record := paxRecord("size", strconv.FormatInt(n, 10))

	pax := head[:tarBlock]
	copy(pax, paxName)
	copy(pax[sizeOffset:], fmt.Sprintf("%11o ", len(record)))
	sealTarHeader(pax, 'x')

	copy(head[tarBlock:], record)

	member := head[2*tarBlock:]
	copy(member, memberName)
	copy(member[100:], "100644 \x00")         // st_mode
	copy(member[108:], "     0 \x00")         // uid
	copy(member[116:], "     0 \x00")         // gid
	copy(member[sizeOffset:], "          0 ") // the PAX record has the length
	copy(member[136:], "          0 ")        // mtime
	copy(member[265:], "root")
	copy(member[297:], "root")
	sealTarHeader(member, '0')
	return head
}

// sealTarHeader fills in what makes block a tar header, the checksum last.
func sealTarHeader(block []byte, typeflag byte) {
	block[typeflagOffset] = typeflag
	copy(block[magicOffset:], "ustar\x0000")
	sum, _ := (*tarHeader)(block).sums()
	copy(block[checksumOffset:], fmt.Sprintf("%6o \x00", sum))
}

// paxRecord is "<len> <key>=<value>\n", where len counts its own digits.
func paxRecord(key, value string) string {
	rest := " " + key + "=" + value + "\n"
	for n := len(rest) + 1; ; n++ {
		if record := strconv.Itoa(n) + rest; len(record) == n {
			return record
		}
	}
}

// tarTail returns what follows a payload of n bytes: padding to a tar block
// and two zero blocks.
func tarTail(n int64) []byte {
	return make([]byte, roundUp(n, tarBlock)-n+tarFooter)
}
