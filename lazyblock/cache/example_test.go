package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/referee-cri/referee/internal/registry"
	"github.com/referee-cri/referee/internal/regtest"
	"github.com/referee-cri/referee/lazyblock/blob"
	"github.com/referee-cri/referee/lazyblock/cache"
)

// A blob of a registry, read through the cache: of one MiB, a read of eight
// bytes fetches a quarter, and the next read nothing.
func Example() {
	if err := readTwice(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// "referee ", requests so far: 1
	// "referee ", requests so far: 1
}

func readTwice() (err error) {
	reg, err := regtest.Start(regtest.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.Close()) }()
	desc, err := reg.PutBlob("application/octet-stream", bytes.Repeat([]byte("referee "), 1<<17))
	if err != nil {
		return err
	}
	repo, err := registry.New(registry.Options{}).Repository(reg.Host()+"/app", registry.Credentials{})
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "cache")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	store, err := cache.Open(dir, cache.Options{Guess: -1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	origin := blob.Open(repo, desc, blob.Options{})
	b, err := store.Blob(desc, origin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()

	p := make([]byte, 8)
	for _, off := range []int64{8000, 16000} {
		if _, err := b.ReadRange(context.Background(), p, off); err != nil {
			return err
		}
		fmt.Printf("%q, requests so far: %d\n", p, origin.Stats().Requests)
	}
	return nil
}
