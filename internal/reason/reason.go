// Package reason holds the stable codes that say why a pull, a candidate or a
// volume was not taken the lazy way.
//
// A code is attached to an error once, where the cause is known, and read back
// once, where the decision is journalled. Everything between wraps with %w and
// never looks at the code. Codes are part of the user interface (journal,
// metrics, `referee explain`): add new ones, never change the meaning of one.
package reason

import (
	"context"
	"errors"
	"fmt"
)

// Code is a stable, lower-case, hyphenated name of a cause.
type Code string

// The codes, in the order in which a pull can meet them.
const (
	None Code = "" // no reason: the lazy form was used

	// Before anything is asked.
	Disabled            Code = "disabled"             // configuration or policy says: ordinary pull
	BadRequest          Code = "bad-request"          // the request's reference cannot be parsed
	AlreadyPresent      Code = "already-present"      // containerd has the image, unpacked
	SnapshotterMismatch Code = "snapshotter-mismatch" // containerd's CRI does not use overlayfs, or its directory is out of reach
	Draining            Code = "draining"             // the node is being drained of lazy images
	BreakerOpen         Code = "breaker-open"         // this registry or format failed too often just now

	// Registry.
	BudgetExceeded      Code = "budget-exceeded"      // the time allowed for this step is used up
	Cancelled           Code = "cancelled"            // the caller went away
	RegistryUnreachable Code = "registry-unreachable" // connection, TLS or time-out
	RegistryError       Code = "registry-error"       // 5xx, or an answer that makes no sense
	Unauthorized        Code = "unauthorized"         // 401 or 403 after the token flow
	NotFound            Code = "not-found"            // the registry does not know the manifest or blob
	NoRange             Code = "no-range"             // the registry ignores Range requests

	// Discovery.
	NoReferrers     Code = "no-referrers"     // nothing is attached to this image
	NoMatch         Code = "no-match"         // something is attached, but no format known here
	OtherPlatform   Code = "other-platform"   // the form is for another platform
	LowerRanked     Code = "lower-ranked"     // another candidate was preferred
	NotAttachable   Code = "not-attachable"   // this node has no driver for the form
	DigestMismatch  Code = "digest-mismatch"  // content does not hash to its digest
	SizeMismatch    Code = "size-mismatch"    // content is not as long as its descriptor says
	SubjectMismatch Code = "subject-mismatch" // the artifact is attached to something else
	ArtifactInvalid Code = "artifact-invalid" // the artifact's manifest breaks its format's rules
	LayerMismatch   Code = "layer-mismatch"   // its layers do not fit the image's config

	// Policy and trust.
	TooSmall           Code = "too-small"           // the image is smaller than policy wants lazy ones to be
	FormatNotAllowed   Code = "format-not-allowed"  // policy does not list the format
	ForeignFilesystem  Code = "foreign-filesystem"  // policy keeps foreign file-system images from the kernel
	Unsigned           Code = "unsigned"            // policy wants a signature and there is none
	SignatureUntrusted Code = "signature-untrusted" // the signer is not trusted, has expired or was revoked
	SignatureInvalid   Code = "signature-invalid"   // the signature is broken, or of something else
	ImageDenied        Code = "image-denied"        // an image verifier of containerd's denies the image
	Quarantined        Code = "quarantined"         // a blob of the form turned out to have another content than its digest says
	Unvouched          Code = "unvouched"           // a layer stands on the word of a repository that this one does not confirm

	// Volume.
	FormatCorrupt Code = "format-corrupt" // a layer's bytes break the format
	AttachFailed  Code = "attach-failed"  // the kernel refused the mount
	ProbeFailed   Code = "probe-failed"   // the mounted volume could not be read
	GraftFailed   Code = "graft-failed"   // containerd's snapshotter refused the graft
	Internal      Code = "internal"       // none of the above: a defect of ours
)

// Meaning is a code with what it means, for documentation.
type Meaning struct {
	Code  Code
	Means string
}

// Known reports whether code is one of the above.
func Known(code Code) bool {
	for _, m := range Meanings() {
		if m.Code == code {
			return true
		}
	}
	return false
}

// Error is an error with a code.
type Error struct {
	Code Code
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *Error) Unwrap() error { return e.Err }

// Wrap attaches code to err. A nil err stays nil; an err that carries a code
// already keeps the first one, which is nearest to the cause.
func Wrap(code Code, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	return &Error{Code: code, Err: err}
}

// Errorf is fmt.Errorf with a code.
func Errorf(code Code, format string, args ...any) error {
	return Wrap(code, fmt.Errorf(format, args...))
}

// Of returns the code that err carries: None for nil, Cancelled or
// BudgetExceeded for a context's error without a code, else Internal.
func Of(err error) Code {
	var coded *Error
	switch {
	case err == nil:
		return None
	case errors.As(err, &coded):
		return coded.Code
	case errors.Is(err, context.DeadlineExceeded):
		return BudgetExceeded
	case errors.Is(err, context.Canceled):
		return Cancelled
	default:
		return Internal
	}
}
