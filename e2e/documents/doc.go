// Package documents finds what the checkout's documents tell people to type, so that
// tests can run all of it.
//
// A fenced block whose language is sh, or console for a transcript with "$ " before each
// command, holds commands. The word after the language names who runs it; [Runners]
// says which test that is. The few commands that nobody runs are in [NotRun], with the
// reason. The package's test fails for a command that is neither, and for a command in
// any other block.
//
// It never runs a command itself, and runs no goroutines.
package documents
