package overlaybd

import "strings"

// UUIDFromChainID makes the UUID that converters give a layer of the first 32
// hexadecimal digits of its OCI chain ID, upper case (spec 4.1). It returns ""
// for what is not a digest.
func UUIDFromChainID(digest string) string {
	_, digits, _ := strings.Cut(digest, ":")
	if len(digits) < 32 {
		return ""
	}
	d := strings.ToUpper(digits[:32])
	uuid := d[:8] + "-" + d[8:12] + "-" + d[12:16] + "-" + d[16:20] + "-" + d[20:]
	if !isUUID(uuid) {
		return ""
	}
	return uuid
}

// isUUID says whether s is 8-4-4-4-12 upper-case hexadecimal digits.
func isUUID(s string) bool {
	if len(s) != len(zeroUUID) {
		return false
	}
	for i, c := range s {
		switch {
		case zeroUUID[i] == '-':
			if c != '-' {
				return false
			}
		case !strings.ContainsRune("0123456789ABCDEF", c):
			return false
		}
	}
	return true
}
