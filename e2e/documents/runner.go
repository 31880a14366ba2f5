package documents

import "strings"

// Who runs commands.
const (
	Publish  = "publish"  // a machine that publishes: an image, a registry, cosign, oras
	Node     = "node"     // a node with containerd, the daemon and an image pulled lazily
	Checkout = "checkout" // the checkout itself
	Helm     = "helm"     // Helm's library, before a cluster that agrees to everything
)

// Runner is a test that runs all blocks of its name.
type Runner struct{ Folder, Test string }

// Runners are the tests that run commands.
func Runners() map[string]Runner {
	return map[string]Runner{
		Publish:  {"e2e/interop", "TestDocumentedPublishing"},
		Node:     {"e2e", "TestDocumentedOnNode"},
		Checkout: {"e2e", "TestDocumentedInCheckout"},
		Helm:     {"charts", "TestDocumentedCommands"},
	}
}

// NotRun says why commands that begin so are run by no test.
func NotRun() map[string]string {
	return map[string]string{
		"make test":          "it would run itself",
		"make bench":         "it takes a quarter of an hour of a quiet machine; e2e/bench has tests of its own",
		"go run ./e2e/bench": "as make bench",
	}
}

// reasonNotRun is why a command is not run; "": it is.
func reasonNotRun(command string) string {
	for begin, reason := range NotRun() {
		if command == begin || strings.HasPrefix(command, begin+" ") {
			return reason
		}
	}
	return ""
}
