package notation_test

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/referee-cri/referee/negotiate/publish/notation"
)

// What is signed has to be in the registry; what it is signed with is looked at
// first.
func ExampleSign() {
	repo, err := remote.NewRepository("registry.example/team/app")
	if err != nil {
		fmt.Println(err)
		return
	}
	var form ocispec.Descriptor // as publish.Push returned it
	_, err = notation.Sign(context.Background(), repo, form, notation.Options{KeyFile: "builder.key", Envelope: notation.EnvelopeCOSE})
	fmt.Println(err)
	// Output: a key file with a certificate file, or a signing plugin, is needed
}
