// Package images builds real container images from Debian packages, as OCI
// layouts, because the end-to-end tests, the demo and the benchmarks must not
// depend on an image hub. Layers are made as image builders make them: a command
// runs in a copy of the layers below, and what it changed becomes a gzip tar with
// whiteouts.
//
// It owns .cache/images of the checkout, where layers and layouts are kept under
// a hash of their recipe. Packages come from wherever the machine's apt is
// configured to get them. It never talks to a registry.
//
// Goroutines: none that outlive a call.
package images
