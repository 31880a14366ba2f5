// Package fallback decides, for every pull, whether the lazy way may be tried,
// what it may cost, and what is said about it afterwards.
//
// It owns the order of the steps of one pull ([Guard]), their time limits, the
// breakers that leave a failing registry or format alone for a while, and the
// [Journal] of decisions that `referee explain` reads. The steps themselves
// are done elsewhere, behind [Planner] and [Node].
//
// It never fails a pull, never asks a registry anything, never mounts. Whatever
// goes wrong ends as an ordinary pull with a reason code, and before a pull goes
// the ordinary way the node is shielded: a placeholder of ours among its chains
// would be taken for an unpacked layer.
//
// Goroutines: every step runs on one of its own, so that one that hangs costs
// its limit and no more. [Guard.Close] waits for those that are late.
package fallback
