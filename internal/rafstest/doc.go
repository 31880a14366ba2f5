// Package rafstest writes Nydus images of RAFS version 6 from the layers of an
// ordinary image, for tests: no writer of the Nydus project is at hand.
//
// It is test support. It spells RAFS from the description of the format alone and
// shares no code with the reader that it tests; the EROFS in it is written by
// lazyblock/erofs.
package rafstest
