// Package report draws one pull as a page: what was decided, how long each step
// took, which parts of the form its start read and when, and what was fetched
// against what an ordinary pull would have.
//
// It owns the page's looks. The page is one file with no script, font or picture
// from elsewhere, and follows the reader's choice of light or dark. It never asks
// anybody: what it draws is handed to it.
//
// Goroutines: none.
package report
