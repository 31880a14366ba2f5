// Package graft makes containerd believe that an image is unpacked although its
// file system is a mounted volume.
//
// It owns what Referee puts into containerd's overlayfs snapshotter: for the
// image's top chain ID a snapshot whose directory is a link into a bind mount of
// the volume (a graft), and for the chain IDs below it snapshots whose directory
// is a link to nothing (placeholders), which live only while a pull needs them.
// It never looks inside a volume, never decides whether an image should be lazy,
// and changes no snapshot it did not make, but for a label on those above a graft
// that is replaced, and what the caller mends in them.
//
// The life of one graft:
//
//	pull, err := grafter.Begin(ctx, chains, graft.Lazy)  // locks, lease, placeholders
//	pull.Graft(ctx, volume)                              // top chain -> volume
//	…the pull is forwarded to containerd…
//	pull.End(ctx)                                        // placeholders and lease go
//	grafter.Replace(ctx, chain, fill)                    // a plain directory takes its place
//	grafter.Clear(ctx, above, mend)                      // what was unpacked over it is mended
//
// Why each step is as it is:
//
//   - Fail closed. While a link dangles (placeholder, reboot, volume not mounted)
//     containerd fails to create a container with "stat …/fs: no such file or
//     directory" and the kubelet retries; nobody ever sees an empty root. So a
//     link is in place before the snapshot is committed.
//   - The bind lies inside the snapshot's own directory and the link is relative,
//     because for pods with a user namespace containerd clones that directory with
//     an ID mapping; a link that leaves it ends where nobody may read.
//   - Every chain is committed without a parent: a container gets one lower
//     directory, however many layers the image has.
//   - A replaced graft keeps its volume for the containers that run on it. They
//     are labelled after the exchange, so that none can be missed, and before the
//     chain stops being labelled as a graft, so that a crash loses none. What is
//     half done shows: N/fs is a directory and N/plain/tree the link it was.
//   - containerd gives directories that a layer only implies the metadata that they
//     have below, and keeps it. So what was unpacked over a graft is suspect once
//     that was replaced, until it has been mended, and is labelled with the readers.
//   - What was made is remembered in labels of containerd's own metadata, so that
//     it can neither be lost nor outlive it.
//
// Goroutines: none of its own. All methods are safe for concurrent use.
package graft
