// Package e2e tests the whole on a real node: containerd, runc, a registry over
// HTTP, kernel mounts. It knows only what a user has: the binary, its
// configuration, its sockets.
//
// Packages below it are tools: node (containerd and the daemon as processes),
// images (real images from Debian packages), link (a shaped network link),
// tools (what has to be built or installed first). Package interop holds the tests
// of what other projects' programs make of what lies in a registry.
package e2e
