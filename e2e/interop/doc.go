// Package interop tests that other projects' programs and libraries and Referee
// understand each other through a registry: the oras and cosign command lines,
// notation-go, and registries with and without the referrers API.
//
// It owns no code of the product and needs no node: what is tested is what lies in
// a registry afterwards, and what either side makes of it. Programs run in an
// environment of their own and reach nothing but the loopback interface.
package interop
