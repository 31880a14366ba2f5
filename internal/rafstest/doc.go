// Package rafstest writes Nydus images of RAFS version 6 from the layers of an
// ordinary image, for tests: no writer of the Nydus project is at hand.
//
// It is test support. It spells RAFS from the description of the format alone and
// shares no code with the reader that it tests; the EROFS in it is written by
// lazyblock/erofs. Original layers that it compresses have blocks that it makes bit by
// bit; where those of others have them, package gzindex tells.
package rafstest
