// Package notarytest makes certificate authorities, signers, timestamps and trust
// stores for tests of Notary Project signatures.
//
// It is test support: keys live in memory, certificates say what the test wants
// them to, and whatever cannot be made fails the test. The timestamping authority
// is a real HTTP server on the loopback interface, stopped with the test.
package notarytest
