package regtest

import (
	"net/http"
	"testing"

	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// Repository opens a repository of the registry at host anew: what one client
// knows, another does not. Its connections are closed when the test ends.
func Repository(t testing.TB, host, name string) *remote.Repository {
	t.Helper()
	repo, err := remote.NewRepository(host + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	repo.PlainHTTP = true
	repo.Client = &auth.Client{Client: &http.Client{Transport: transport}, Cache: auth.NewCache()}
	return repo
}
