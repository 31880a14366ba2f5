// Package publish attaches an accelerated form to an image that is already in a
// registry, so that negotiate finds it, or pushes one that is an image of its own.
//
// It owns the artifact's manifest (as an OCI image manifest, or in the ORAS form
// from before OCI 1.1), the order in which things are pushed (blobs, manifest,
// listing: nothing is ever listed whose parts are not there), and the listing
// itself where the registry does not keep one. It never converts a layer, never
// changes or tags the image, and writes no time unless it is given one: the same
// form gives the same bytes, and pushing it again changes nothing.
//
// How the form is listed:
//
//   - OCI manifests: by the registry's referrers API, else under the fallback tag.
//     Some registries claim the API and do not list (ECR did): so the list itself
//     is asked afterwards, and the tag written where the form is missing from it.
//   - ORAS manifests: by the registry's ORAS endpoints, else under the same
//     fallback tag, with the ORAS media type in its entry. negotiate reads that;
//     clients of the ORAS time knew no tag, so nobody else loses anything.
//
// Two publishers that update one fallback tag at the same time can overwrite each
// other. The tag is read again after it was written, and written again if need be.
//
// Goroutines: blobs are pushed side by side, a few at a time; Push returns when
// all have ended.
package publish
