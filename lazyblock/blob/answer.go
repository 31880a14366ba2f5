package blob

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/referee-cri/referee/internal/reason"
	"github.com/referee-cri/referee/internal/registry"
)

// shortBlob is the size up to which a whole blob is read to get a part of it,
// where the server ignores Range.
const shortBlob = 1 << 20

// checkAnswer verifies by its header that resp begins with bytes that were asked
// for: want from off. A host whose answer does not is passed over for the next.
func checkAnswer(resp *registry.Response, desc ocispec.Descriptor, off int64, want int) error {
	if encoding := resp.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return reason.Errorf(reason.RegistryError, "%s answered with content encoding %.20q", resp.Host, encoding)
	}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		return checkPartial(resp, desc, off, want)
	case http.StatusOK:
		return checkWhole(resp, desc, want)
	default:
		return reason.Errorf(reason.RegistryError, "%s answered a range request with status %d", resp.Host, resp.StatusCode)
	}
}

func checkPartial(resp *registry.Response, desc ocispec.Descriptor, off int64, want int) error {
	got, err := parseContentRange(resp.Header.Get("Content-Range"))
	if err != nil {
		return reason.Errorf(reason.RegistryError, "answer of %s: %w", resp.Host, err)
	}
	switch {
	case got.total >= 0 && got.total != desc.Size:
		return reason.Errorf(reason.SizeMismatch, "%s has %d bytes, the descriptor says %d", resp.Host, got.total, desc.Size)
	case got.first != off || got.length() > int64(want):
		return reason.Errorf(reason.RegistryError, "%s answered with bytes %d-%d where %d from %d were asked for",
			resp.Host, got.first, got.last, want, off)
	case resp.ContentLength >= 0 && resp.ContentLength != got.length():
		return reason.Errorf(reason.RegistryError, "%s sends %d bytes as a range of %d", resp.Host, resp.ContentLength, got.length())
	}
	return nil
}

// checkWhole takes an answer that ignores Range, where it does no harm: the
// whole was wanted, or it is so short that skipping its beginning costs nothing.
// Otherwise the read fails, even from offset 0: a device whose every read means
// a download of the blob's beginning is worse than an ordinary pull.
func checkWhole(resp *registry.Response, desc ocispec.Descriptor, want int) error {
	if resp.ContentLength >= 0 && resp.ContentLength != desc.Size {
		return reason.Errorf(reason.SizeMismatch, "%s has %d bytes, the descriptor says %d", resp.Host, resp.ContentLength, desc.Size)
	}
	if desc.Size > shortBlob && int64(want) != desc.Size {
		return reason.Errorf(reason.NoRange, "%s ignores Range", resp.Host)
	}
	return nil
}

// seekAnswer brings the body of a checked answer to offset off and returns how
// many of the wanted bytes follow: a server may answer with less of a range than
// was asked for.
func seekAnswer(resp *registry.Response, off int64, want int) (have int, err error) {
	if resp.StatusCode == http.StatusPartialContent {
		got, err := parseContentRange(resp.Header.Get("Content-Range"))
		return int(got.length()), err
	}
	if _, err := io.CopyN(io.Discard, resp.Body, off); err != nil {
		if errors.Is(err, io.EOF) { // not where the blob ends
			err = io.ErrUnexpectedEOF
		}
		return 0, fmt.Errorf("skip to offset %d: %w", off, err)
	}
	return want, nil
}

// reasonedRead adds which bytes were being read. Where the server has no such
// range, the blob there is shorter than its descriptor says.
func reasonedRead(desc ocispec.Descriptor, off int64, n int, err error) error {
	err = fmt.Errorf("read %d bytes at %d of blob %s: %w", n, off, desc.Digest, err)
	if status, ok := errors.AsType[*registry.StatusError](err); ok && status.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return &reason.Error{Code: reason.SizeMismatch, Err: err}
	}
	return err
}
